"""The rooms of `hardwood.training` know of each other what they may. Imports for annotations alone don't count."""

from __future__ import annotations

from ..rooms import circles, rooms_of, strangers

BATCH = {"_limits", "batch"}
CORPUS = BATCH | {"checkpoint", "corpus"}
ESTIMATE = CORPUS | {"second_model", "estimate"}
LOSS = ESTIMATE | {"_announced", "_citation", "_embedding", "_stepping"}
MAY_KNOW = {
    "_limits": set(),
    "_announced": set(),
    "_citation": set(),
    "evaluator": set(),
    "batch": {"_limits"},
    "checkpoint": set(),
    "corpus": {"_limits", "batch", "checkpoint"},
    "second_model": BATCH | {"checkpoint"},
    "estimate": BATCH | {"corpus", "second_model"},
    "_embedding": ESTIMATE,
    "_stepping": ESTIMATE,
    "softmax_loss": LOSS,
    "cached_loss": LOSS | {"softmax_loss"},
    "callback": LOSS | {"softmax_loss"},
    "job": LOSS | {"softmax_loss", "cached_loss", "callback", "evaluator"},
}


def test_each_room_knows_what_it_may() -> None:
    assert not strangers("training", MAY_KNOW, types=False)
    assert rooms_of("training") == set(MAY_KNOW)


def test_there_is_no_circle() -> None:
    assert not circles("training", types=False)
