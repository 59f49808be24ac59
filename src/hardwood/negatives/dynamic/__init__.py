"""The dynamic source: a tree over all targets that follows the encoder without re-encoding the corpus.

It knows the tree (`hardwood.tree`), drift models (`hardwood.drift`) and rows of the corpus. It must not know texts,
models, the loss or the trainer.

`source` is the door. `initial_index` makes or loads the first tree; `moving_index` holds the tree and changes it,
in a thread of its own where `background` says so; `true_encodings` keeps what was last encoded and when; `staleness`
measures how far that is off, and how noisy a fresh encoding is; `schedule` decides when to refresh; `landmarks` chooses
what a refresh encodes, and `refresh` does it, with the models of motion that `drift_fits` keeps. `exclusions` says what
a draw must leave out.
"""

from hardwood.negatives.dynamic.source import DynamicNegatives

__all__ = ["DynamicNegatives"]
