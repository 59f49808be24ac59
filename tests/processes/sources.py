"""What processes do in the tests of sources: ``python -m tests.processes.sources OUTPUT NUM_SHARDS``."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from hardwood._ragged import RaggedRows
from hardwood.negatives import Cost, Draw, NegativeSource, Request, make_source
from hardwood.negatives.sharded import ShardedNegatives
from hardwood.ranks import Ranks

NUM_TARGETS, DIMENSION, BATCH = 43, 6, 5
SOURCES: dict[str, dict[str, Any]] = {
    "static": {"start_step": 0},
    "exact": {"start_step": 0, "refresh_every": 2},
    "periodic": {"start_step": 0, "refresh_every": 3},
    "cache": {"start_step": 0, "cache_size": 25, "refresh_size": 4},
    "pool": {"start_step": 0, "share": 0.6, "refresh_every": 2},
    "dynamic": {"leaf_size": 4, "probes": 400, "refresh_every": 2, "landmarks": 12},
    "dynamic reduced": {"leaf_size": 4, "probes": 400, "refresh_every": 2, "landmarks": 12, "index_dimension": 4},
    "dynamic flat": {"index_kind": "flat", "refresh_every": 2, "landmarks": 12},
}


def made(name: str) -> NegativeSource:
    """One of `SOURCES`: the first word is its kind."""
    return make_source(name.split(maxsplit=1)[0], **SOURCES[name])


class MovingTargets:
    """Targets whose "encoder" is a matrix that moves from step to step."""

    def __init__(self, cost: Cost, log_prior: np.ndarray | None = None) -> None:
        generator = torch.Generator().manual_seed(7)
        self.start = torch.randn(NUM_TARGETS, DIMENSION, generator=generator)
        self.motion = torch.randn(DIMENSION, DIMENSION, generator=generator)
        self.log_prior, self.has_dropout, self.num_targets = log_prior, False, NUM_TARGETS
        self.dimension, self.device = DIMENSION, torch.device("cpu")
        self.cost, self.step, self.encoded = cost, 0, []

    @property
    def vectors(self) -> Tensor:
        return torch.nn.functional.normalize(self.start + 0.05 * self.step * (self.start @ self.motion), dim=1)

    def encode(self, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for block in (torch.arange(NUM_TARGETS) if rows is None else rows).split(16):
            self.encoded += block.tolist()
            yield block, self.vectors[block].clone()


def request(seed: int, **changes: Any) -> Request:
    generator = torch.Generator().manual_seed(11)
    queries = torch.nn.functional.normalize(torch.randn(BATCH, DIMENSION, generator=generator), dim=1)
    # Targets on the borders of shards among the excluded ones: the first, the last, and neighbours.
    exclude = RaggedRows.from_pairs([0, 0, 1, 2, 2, 3, 4], [3, 4, 9, 9, 17, 0, NUM_TARGETS - 1], BATCH)
    settings: dict[str, Any] = {"num_negatives": 8, "scale": 4.0, "exclude": exclude, "seed": seed}
    return Request(queries=queries, positives=torch.tensor([3, 9, 9, 0, 42]), **settings | changes)


def life(name: str, ranks: Ranks, num_shards: int, prior: bool = False, draws: int = 3) -> dict[str, Any]:
    """Several steps of a source, and what has been drawn in them."""
    cost = Cost()
    log_prior = np.log([1, 0.1, 0.3])[np.arange(NUM_TARGETS) % 3].astype(np.float32) if prior else None
    targets = MovingTargets(cost, log_prior)
    source = ShardedNegatives(made(name), ranks, num_shards)
    source.attach(targets, cost)
    digest, draw = hashlib.sha256(), Draw.nothing(BATCH, torch.device("cpu"))
    everyone = torch.arange(NUM_TARGETS)
    for step in range(6):
        targets.step = step
        source.begin_step(step)
        asked = request(step, ceiling=torch.full((BATCH,), 0.7) if step == 3 else None)
        draw = source.sample(asked)
        for tensor in (draw.ids, draw.log_q, draw.log_z, draw.log_weights):
            digest.update(tensor.numpy().tobytes())
        rows = torch.unique(draw.ids[draw.ids >= 0])[:7]
        # In the last steps all of them are of shard 0: the others have nothing to learn from.
        rows = rows if step < 4 else torch.arange(0, NUM_TARGETS, num_shards)[:3]
        source.observe(asked, draw, rows, targets.vectors[rows])
    log_q = source.log_proposal(asked, draw, everyone)
    counts = np.zeros((BATCH, NUM_TARGETS), dtype=np.int64)
    for seed in range(draws):
        ids = source.sample(request(seed + 100, num_negatives=30 if name.startswith("dynamic") else 40)).ids.numpy()
        for query in range(BATCH):
            counts[query] += np.bincount(ids[query][ids[query] >= 0], minlength=NUM_TARGETS)
    plain = request(99)
    drawn = source.sample(plain)
    proposal = source.log_proposal(plain, drawn, everyone)
    source.finish()
    return {
        "digest": np.array(digest.hexdigest()),
        "log_q": log_q.numpy(),
        "counts": counts,
        "proposal": proposal.numpy(),
        "agrees": (drawn.log_q - proposal.gather(1, drawn.ids.clamp(min=0)))[drawn.ids >= 0].abs().max().numpy(),
        "encoded": np.array(sorted(set(targets.encoded))),
        "staleness": np.array(list(source.diagnostics().values())),
        "vectors": targets.vectors.numpy(),
    }


def main(folder: Path, num_shards: int) -> None:
    distributed.init_process_group("gloo")
    ranks = Ranks.of_environment()
    for name in SOURCES:
        for prior in (False, True):
            found = life(name, ranks, num_shards, prior)
            np.savez(folder / f"{name}-{prior}-{ranks.number}.npz", **found)
    # Gathered: any number of any shapes and types, and none.
    own = [torch.arange(ranks.number * 3).view(-1, 3), torch.tensor([True]), torch.zeros(0, 4), torch.tensor(2.5)]
    for number, (rows, flag, empty, scalar) in enumerate(ranks.gather(own)):
        assert rows.shape == (number, 3)
        assert flag.dtype == torch.bool
        assert empty.shape == (0, 4)
        assert float(scalar) == 2.5
    assert ranks.tell({"rank": ranks.number}) == [{"rank": number} for number in range(ranks.size)]
    assert ranks.first(lambda: ["said", ranks.number]) == ["said", 0]
    assert ranks.mean(torch.tensor([float(ranks.number)])).item() == (ranks.size - 1) / 2
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
