"""Host memory of the dynamic and the exact source: what a corpus of n targets in d dimensions takes at its peak.

Each source runs alone in a child process, with an encoder whose random vectors move a little in every step:
it encodes the corpus, draws, writes back, and is made to refresh. What is measured is the growth of the child's own
memory (its pages, not those of mapped files) beyond what it has before the source is there. Texts and model come on
top.
The formula that `docs/guides/memory.md` calculates with is `peak_bytes`; `tests/docs/test_memory.py` holds it against
every row of the results.

    python -m benchmarks.training.memory                 # writes benchmarks/results/memory.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks._report import emit, finish, parser, watch

SIZES = ((50_000, 128), (200_000, 128), (50_000, 384), (200_000, 384), (100_000, 768), (800_000, 64))
QUICK = ((20_000, 64),)
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic": ("dynamic", {}),
    "dynamic, bfloat16": ("dynamic", {"index_dtype": "bfloat16", "true_dtype": "bfloat16"}),
    "exact": ("exact", {}),
}
MODEL: dict[str, dict[str, float]] = {
    "dynamic": {"number": 8.2, "target": 106, "dimension": 170_000, "fixed": 13e6},
    "dynamic, bfloat16": {"number": 7.8, "target": 48, "dimension": 149_000, "fixed": 5e6},
    "exact": {"number": 4.0, "target": 0, "dimension": 0, "fixed": 96e6},
}
"""Bytes for each number of the corpus's encodings, each target, each dimension, and in any case; fitted to the results.
`docs/assets/memory.js` has the same."""


def peak_bytes(source: str, targets: int, dimensions: int) -> float:
    """Host memory at the peak beyond that of process, model and texts, by the formula of the documentation."""
    model = MODEL[source]
    return targets * (model["number"] * dimensions + model["target"]) + model["dimension"] * dimensions + model["fixed"]


def main() -> None:
    arguments = options()
    if arguments.child:
        run(*arguments.child.split(";"))
        return
    rows = []
    for targets, dimensions in QUICK if arguments.quick else SIZES:
        for source in SOURCES:
            _, phases = watch("benchmarks.training.memory", "--child", f"{source};{targets};{dimensions}")
            growth = {name: phase["peak"] - phases["start"]["start"] for name, phase in phases.items()}
            vectors = 4 * targets * dimensions
            rows.append(
                {
                    "source": source,
                    "targets": targets,
                    "dimensions": dimensions,
                    "vectors (MiB)": vectors / 2**20,
                    **{f"{name} (MiB)": growth[name] / 2**20 for name in ("build", "steps", "refresh")},
                    "peak / vectors": max(growth.values()) / vectors,
                    "formula / peak": peak_bytes(source, targets, dimensions) / max(growth.values()),
                    "peak_bytes": max(growth.values()),
                }
            )
            print(rows[-1], flush=True)
    finish(arguments, "memory", rows)


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--child", help=argparse.SUPPRESS)
    return made.parse_args()


def run(source: str, targets: str, dimensions: str) -> None:
    """The child: one source through its life."""
    import torch

    from hardwood.negatives import Cost, make_source
    from hardwood.tree import warmup

    torch.set_num_threads(1)
    warmup()
    name, settings = SOURCES[source]
    if name == "dynamic":
        settings = {"refresh_when": None, "refresh_every": 4, **settings}
    corpus = Moving(int(targets), int(dimensions))
    emit("start")
    made = make_source(name, **{"start_step": 0, **settings})
    made.attach(corpus, Cost())
    emit("build")
    step(made, corpus, 0)
    emit("steps")
    for number in (1, 2, 3):
        step(made, corpus, number)
    emit("refresh")
    for number in (4, 5):
        step(made, corpus, number)
    emit("result", done=True)


def step(source: Any, corpus: Moving, number: int) -> None:
    """One training step of 64 queries with 8 draws each."""
    import numpy as np
    import torch

    from hardwood._ragged import RaggedRows
    from hardwood.negatives import Request

    corpus.step = number
    source.begin_step(number)
    positives = torch.arange(64) * (corpus.num_targets // 64)
    exclude = RaggedRows(np.arange(65, dtype=np.int64), positives.numpy())
    request = Request(corpus.of(positives), positives, 8, 20.0, exclude, seed=number)
    draw = source.sample(request)
    rows = torch.unique(torch.cat([positives, draw.ids.ravel()]))
    source.log_proposal(request, draw, rows)
    source.observe(request, draw, rows, corpus.of(rows))


class Moving:
    """A corpus without texts: a row's encoding is a cluster's centre and noise of its own, which turn."""

    log_prior = None
    has_dropout = False

    def __init__(self, num_targets: int, dimension: int) -> None:
        import torch

        self.num_targets, self.dimension, self.device, self.step = num_targets, dimension, torch.device("cpu"), 0
        generator = torch.Generator().manual_seed(0)
        self._centres = torch.randn(512, dimension, generator=generator)
        self._turn = torch.randn(512, dimension, generator=generator)

    def of(self, rows: Any) -> Any:
        """``(m, d)`` float32, of length 1."""
        import torch

        noise = torch.randn(len(rows), self.dimension, generator=torch.Generator().manual_seed(int(rows[0])))
        cluster = rows % len(self._centres)
        vectors = self._centres[cluster] + 0.05 * self.step * self._turn[cluster] + 0.7 * noise
        return torch.nn.functional.normalize(vectors, dim=1)

    def encode(self, rows: Any = None) -> Iterator[tuple[Any, Any]]:
        """As `hardwood.negatives.Targets.encode`."""
        import torch

        for block in torch.split(torch.arange(self.num_targets) if rows is None else rows, 2048):
            yield block, self.of(block)


if __name__ == "__main__":
    sys.exit(main())
