"""A corpus of plain vectors, and one request to put to every source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.negatives import SOURCES, Cost, NegativeSource, Request, make_source

NUM_TARGETS, DIMENSION, BATCH = 40, 6, 5
FLAT = "dynamic, flat"
KINDS = [*SOURCES, FLAT]
"""All sources by name, and the second of one that has two kinds of index."""


def made(name: str, **options: Any) -> NegativeSource:
    """A source of one of `KINDS`."""
    return make_source("dynamic", **{"index_kind": "flat", **options}) if name == FLAT else make_source(name, **options)


class ArrayTargets:
    """Targets whose "encoder" is a matrix that the test may change; counts like the real one."""

    def __init__(
        self, vectors: Tensor, cost: Cost, block_size: int = 16, log_prior: NDArray[np.float32] | None = None
    ) -> None:
        self.vectors = vectors
        self.log_prior = log_prior
        self.has_dropout = False
        self.num_targets = len(vectors)
        self.cost = cost
        self.block_size = block_size

    @property
    def dimension(self) -> int:
        return self.vectors.shape[1]

    @property
    def device(self) -> torch.device:
        return self.vectors.device

    def encode(self, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for block in (torch.arange(self.num_targets) if rows is None else rows).split(self.block_size):
            self.cost.targets_reencoded += len(block)
            yield block, self.vectors[block].clone()


@pytest.fixture
def vectors() -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.nn.functional.normalize(torch.randn(NUM_TARGETS, DIMENSION, generator=generator), dim=1)


@pytest.fixture
def request_for() -> Callable[..., Request]:
    generator = torch.Generator().manual_seed(11)
    queries = torch.nn.functional.normalize(torch.randn(BATCH, DIMENSION, generator=generator), dim=1)
    positives = torch.tensor([3, 9, 9, 0, 39])
    known = RaggedRows.from_pairs([0, 0, 1, 2, 2, 3, 4], [3, 4, 9, 9, 17, 0, 39], BATCH)

    def make(**changes: object) -> Request:
        settings = {
            "queries": queries,
            "positives": positives,
            "num_negatives": 8,
            "scale": 4.0,
            "exclude": known,
            "seed": 1,
        }
        return Request(**{**settings, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def log_prior() -> NDArray[np.float32] | None:
    """All targets alike, unless a module of tests says otherwise."""
    return None


@pytest.fixture
def attached(vectors: Tensor, log_prior: NDArray[np.float32] | None) -> Callable[..., NegativeSource]:
    """A source of that name, attached to the corpus and refreshed at its first step."""

    def make(name: str, **options: object) -> NegativeSource:
        if name == "cache":
            options = {"cache_size": 24, "refresh_size": 4, **options}
        if name == "pool":
            options = {"share": 0.6, "refresh_every": 2, **options}
        if name == "dynamic":  # small leaves and few of them opened: most of the mass is estimated
            options = {"leaf_size": 4, "probes": 2, "refresh_every": 2, "landmarks": 12, **options}
        if name == FLAT:
            options = {"refresh_every": 2, "landmarks": 12, **options}
        source = made(name, **options)
        cost = Cost()
        source.attach(ArrayTargets(vectors, cost, log_prior=log_prior), cost)
        source.begin_step(source.start_step)
        return source

    return make


def exact_probabilities(vectors: Tensor, request: Request, allowed: np.ndarray) -> np.ndarray:
    """The naive twin: float64 softmax over what is allowed, ``(B, n)``."""
    scores = request.scale * request.queries.double().numpy() @ vectors.double().numpy().T
    scores[~allowed] = -np.inf
    mass = np.exp(scores - scores.max(axis=1, keepdims=True))
    return mass / mass.sum(axis=1, keepdims=True)


def allowed_mask(request: Request, num_targets: int = NUM_TARGETS) -> np.ndarray:
    """``(B, n)`` bool, by a loop."""
    mask = np.ones((len(request.queries), num_targets), dtype=bool)
    for query in range(len(request.queries)):
        for row in request.exclude[query]:
            mask[query, row] = False
    return mask
