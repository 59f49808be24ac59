"""The tree over all targets: softmax sampled and bounded, nearest targets found, and all of it kept true
while vectors change.

It knows vectors and ids. It must not know texts, models, losses or torch (tensors are taken as arrays).
"""

from __future__ import annotations

from hardwood._processors import set_threads
from hardwood.tree._warmup import warmup
from hardwood.tree.arrays.projection import Projection
from hardwood.tree.index import TargetIndex
from hardwood.tree.results import Draw, Hits, LogPartition

__all__ = ["Draw", "Hits", "LogPartition", "Projection", "TargetIndex", "set_threads", "warmup"]
