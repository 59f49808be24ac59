"""The highest scores instead of draws, against brute force."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.negatives import NegativeSource, Request
from hardwood.negatives.records import NO_TARGET

from .conftest import BATCH, NUM_TARGETS, allowed_mask

Attached = Callable[..., NegativeSource]
RequestFor = Callable[..., Request]
WITH_TOP = pytest.mark.parametrize("name", ["exact", "static", "periodic", "pool"])


@pytest.fixture(params=["alike", "prior"])
def log_prior(request: pytest.FixtureRequest) -> NDArray[np.float32] | None:
    return None if request.param == "alike" else np.log([1, 0.1, 0.3])[np.arange(NUM_TARGETS) % 3].astype(np.float32)


def best(source: NegativeSource, request: Request, vectors: Tensor, log_prior: NDArray[np.float32] | None) -> list:
    """What each query must be given, best first, by a loop."""
    held = getattr(source, "_slot_of_row", np.zeros(NUM_TARGETS)) >= 0
    allowed = allowed_mask(request) & held
    similarities = (request.queries.double() @ vectors.double().T).numpy()
    found = []
    for row in range(BATCH):
        scores = request.scale * similarities[row] + (0 if log_prior is None else log_prior)
        ceiling = np.inf if request.ceiling is None else float(request.ceiling[row])
        usable = [t for t in range(NUM_TARGETS) if allowed[row, t] and similarities[row, t] <= ceiling]
        found.append(sorted(usable, key=lambda target: -scores[target])[: request.num_negatives])
    return found


@WITH_TOP
@pytest.mark.parametrize("has_ceiling", [False, True])
def test_each_query_is_given_its_highest_scores(
    name: str,
    has_ceiling: bool,
    attached: Attached,
    request_for: RequestFor,
    vectors: Tensor,
    log_prior: NDArray[np.float32] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hardwood.negatives.softmax_matrix._BLOCK", 8)
    monkeypatch.setattr("hardwood.negatives.softmax_matrix._SCORES_IN_CACHE", 1)  # five chunks
    source = attached(name, top=True)
    request = request_for(ceiling=torch.full((BATCH,), 0.3) if has_ceiling else None)
    draw = source.sample(request)
    wanted = best(source, request, vectors, log_prior)
    for row, ids in enumerate(draw.ids.tolist()):
        assert ids == wanted[row] + [NO_TARGET] * (8 - len(wanted[row]))
    drawn = draw.ids != NO_TARGET
    assert (draw.log_weights[drawn] == 0).all()
    assert (draw.log_weights[~drawn] == -torch.inf).all()
    assert draw.log_share == 0
    proposal = source.log_proposal(request, draw, torch.arange(NUM_TARGETS))
    torch.testing.assert_close(proposal.exp().sum(dim=1), torch.ones(BATCH))
    torch.testing.assert_close(proposal.gather(1, draw.ids.clamp(min=0))[drawn], draw.log_q[drawn])
    again = source.sample(request_for(ceiling=request.ceiling, seed=99))
    assert torch.equal(again.ids, draw.ids)


@WITH_TOP
def test_a_query_that_may_be_given_little_is_given_that(name: str, attached: Attached, request_for: RequestFor) -> None:
    source = attached(name, top=True)
    all_but_two = RaggedRows.from_pairs(
        np.repeat(np.arange(BATCH), NUM_TARGETS - 2), np.tile(np.arange(NUM_TARGETS - 2), BATCH), BATCH
    )
    ids = source.sample(request_for(exclude=all_but_two)).ids
    assert set(ids.flatten().tolist()) <= {NO_TARGET, NUM_TARGETS - 2, NUM_TARGETS - 1}
    assert (ids != NO_TARGET).sum(dim=1).max() <= 2


def test_all_targets_are_all_targets(attached: Attached, request_for: RequestFor) -> None:
    draw = attached("exact", top=True).sample(request_for(num_negatives=NUM_TARGETS))
    assert draw.exhaustive


@WITH_TOP
def test_it_is_a_setting(name: str, attached: Attached) -> None:
    assert attached(name, top=True).settings()["top"] is True
    assert attached(name).settings()["top"] is False
