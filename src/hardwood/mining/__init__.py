"""Hard negatives of any model, for any trainer.

What it is for: finding, for each query or each (query, positive) pair of a split, the targets that a model
wrongly ranks high, and writing them as other trainers read them. What it knows: models, datasets, file
formats. What it must not know: losses, training, indexes.
"""

from __future__ import annotations

from hardwood.mining._mine import MinedNegatives, mine
from hardwood.mining._write import FORMATS, Written, write_negatives

__all__ = ["FORMATS", "MinedNegatives", "Written", "mine", "write_negatives"]
