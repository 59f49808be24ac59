"""Where negatives come from: one interface, many sources.

Knows ids (rows of the corpus) and vectors; must not know texts, models or the trainer. A source is given queries as
vectors and answers with targets, the probability with which it drew each, and its normaliser, so that a loss can weigh
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardwood._lazy import lazily

if TYPE_CHECKING:
    from hardwood.negatives.base import NegativeSource
    from hardwood.negatives.cache import CacheNegatives
    from hardwood.negatives.cost import Cost
    from hardwood.negatives.dynamic import DynamicNegatives, RefreshPolicy
    from hardwood.negatives.exact import ExactNegatives, PeriodicNegatives, StaticNegatives
    from hardwood.negatives.in_batch import InBatchNegatives
    from hardwood.negatives.margin import MarginFilter
    from hardwood.negatives.pool import PoolNegatives
    from hardwood.negatives.records import Draw, Request, Targets, log_prior_of, seen_mask
    from hardwood.negatives.registry import SOURCES, make_source
    from hardwood.negatives.uniform import UniformNegatives

__all__ = [
    "SOURCES",
    "CacheNegatives",
    "Cost",
    "Draw",
    "DynamicNegatives",
    "ExactNegatives",
    "InBatchNegatives",
    "MarginFilter",
    "NegativeSource",
    "PeriodicNegatives",
    "PoolNegatives",
    "RefreshPolicy",
    "Request",
    "StaticNegatives",
    "Targets",
    "UniformNegatives",
    "log_prior_of",
    "make_source",
    "seen_mask",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "CacheNegatives": "hardwood.negatives.cache",
        "Cost": "hardwood.negatives.cost",
        "Draw": "hardwood.negatives.records",
        "DynamicNegatives": "hardwood.negatives.dynamic",
        "ExactNegatives": "hardwood.negatives.exact",
        "InBatchNegatives": "hardwood.negatives.in_batch",
        "MarginFilter": "hardwood.negatives.margin",
        "NegativeSource": "hardwood.negatives.base",
        "PeriodicNegatives": "hardwood.negatives.exact",
        "PoolNegatives": "hardwood.negatives.pool",
        "RefreshPolicy": "hardwood.negatives.dynamic",
        "Request": "hardwood.negatives.records",
        "SOURCES": "hardwood.negatives.registry",
        "StaticNegatives": "hardwood.negatives.exact",
        "Targets": "hardwood.negatives.records",
        "UniformNegatives": "hardwood.negatives.uniform",
        "log_prior_of": "hardwood.negatives.records",
        "make_source": "hardwood.negatives.registry",
        "seen_mask": "hardwood.negatives.records",
    },
)
