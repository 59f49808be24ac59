"""Which runs a comparison is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hardwood import _checks
from hardwood.negatives.registry import SOURCES
from hardwood.training.job.config import RunConfig

EQUAL_BATCH = "equal batch"
EQUAL_TEXTS = "equal texts"
BUDGETS = (EQUAL_BATCH, EQUAL_TEXTS)
"""What is held equal: (query, positive) pairs a step, or texts encoded with gradient a step.

Only the in-batch source differs between the two: it encodes ``2 B`` texts a step where the others encode up to
``B (2 + k)``, so in the second budget it gets a batch of ``B (1 + k/2)``. That is what the others encode at most: a
target drawn twice is encoded once, so the budget favours in-batch training, never the others.
"""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        negatives: the source's name.
        budgets: the budgets that it counts in.
        config: its settings, the seed and a folder of its own among them.
    """

    negatives: str
    budgets: tuple[str, ...]
    config: RunConfig


def plan_runs(base: RunConfig, sources: Sequence[str], num_seeds: int) -> list[PlannedRun]:
    """The runs that compare ``sources``, seed by seed.

    Args:
        base: settings that all share; its ``output`` is the folder of the comparison, its ``seed`` the first seed.
            Options
            of the base's own source apply to that source; all others have their defaults.
        sources: names of sources.
        num_seeds: runs a source and budget.

    Raises:
        ValueError: an unknown or repeated source, or no seed.
    """
    check_plan(sources, num_seeds)
    if base.negatives_options and base.negatives not in sources:
        raise ValueError(
            f"the options {base.negatives_options} are those of {base.negatives!r} negatives, which are not compared: "
            "name them among the sources, or leave the options out"
        )
    planned = []
    for seed in range(base.seed, base.seed + num_seeds):
        for name in sources:
            if name == "in-batch":
                larger = _batch_of_as_many_texts(base)
                planned.append(_planned(base, name, (EQUAL_BATCH,), seed, base.sizes.pairs))
                planned.append(_planned(base, name, (EQUAL_TEXTS,), seed, larger))
            else:
                planned.append(_planned(base, name, BUDGETS, seed, base.sizes.pairs))
    return planned


def check_plan(sources: Sequence[str], num_seeds: int) -> None:
    """``ValueError`` for an unknown or repeated source, or no seed."""
    for name in sources:
        if name not in SOURCES:
            raise ValueError(f"no source of negatives is called {name!r}; there are {', '.join(SOURCES)}")
    if not sources or len(set(sources)) != len(sources):
        raise ValueError(f"name each source to compare once, got {', '.join(sources) or 'none'}")
    _checks.at_least(1, num_seeds, "the number of seeds")


def _batch_of_as_many_texts(base: RunConfig) -> int:
    """The batch with which in-batch training encodes as many texts a step; uniform draws beside it are in both."""
    texts = 2 + base.sizes.draws + base.uniform_negatives
    return round(base.sizes.pairs * texts / (2 + base.uniform_negatives))


def _planned(base: RunConfig, name: str, budgets: tuple[str, ...], seed: int, batch_size: int) -> PlannedRun:
    suffix = f"-batch{batch_size}" if batch_size != base.sizes.pairs else ""
    config = dataclasses.replace(
        base,
        output=str(Path(base.output) / "runs" / f"{name}{suffix}-seed{seed}"),
        negatives=name,
        negatives_options=base.negatives_options if name == base.negatives else {},
        seed=seed,
        batch_size=batch_size,
        num_negatives=base.sizes.draws,
    )
    return PlannedRun(name, budgets, config)
