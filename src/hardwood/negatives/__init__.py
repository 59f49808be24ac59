"""Where negatives come from: one interface, many sources.

Knows ids (rows of the corpus) and vectors; must not know texts, models or the trainer. A source is given queries as
vectors and answers with targets, the probability with which it drew each, and its normaliser, so that a loss can weigh
them.
"""

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
