"""The dynamic source: an index of all targets that follows the encoder without re-encoding the corpus.

It knows the tree (`hardwood.tree`), drift models (`hardwood.drift`) and rows of the corpus. It must not know texts,
models, the loss or the trainer.

`source` is the door, `policy` what a user may say of refreshes, and `index_form` of the index: a tree
(`hardwood.tree.TargetIndex`) or a `flat_index`, and what both have in common. `initial_index` makes or loads the first;
`moving_index` holds the index and changes it, with `background` in a thread of its own; `true_encodings` keeps what was
last encoded, and when. `staleness` measures how far stored encodings are off, and `noise` how much of that is dropout;
`schedule` decides when to refresh. `landmarks` chooses what a refresh encodes, `drift_fits` fits what predicts all
others, and `refresh` writes it into the index. `reduced` brings encodings to fewer dimensions, where fewer are kept.
`drawing` puts a request to the index.
"""

from hardwood.negatives.dynamic.policy import RefreshPolicy
from hardwood.negatives.dynamic.source import DynamicNegatives

__all__ = ["DynamicNegatives", "RefreshPolicy"]
