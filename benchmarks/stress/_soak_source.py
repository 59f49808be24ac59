"""The dynamic source beside a twin that remembers every true encoding, while a fake encoder drifts for ever."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from benchmarks.stress._soak_world import Record
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.negatives import Cost, NegativeSource, Request, make_source

DRIFTS = ("nystrom", "linear", "corrector", "stale")
TARGETS, DIMENSION, BATCH, DRAWS, SCALE = 1200, 16, 8, 8, 10.0


def unit(vectors: Tensor) -> Tensor:
    """Rows at length 1."""
    return torch.nn.functional.normalize(vectors, dim=1)


class DriftingTargets:
    """Targets whose encoder is a rotation that goes on, after a smooth bend that comes and goes."""

    def __init__(self, seed: int, cost: Cost) -> None:
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(30, DIMENSION, generator=generator)
        noise = 0.5 * torch.randn(TARGETS, DIMENSION, generator=generator)
        self.start = unit(centres[torch.arange(TARGETS) % 30] + noise)
        self.bend = torch.randn(DIMENSION, DIMENSION, generator=generator)
        skew = torch.randn(DIMENSION, DIMENSION, generator=generator)
        self.skew = 0.01 * (skew - skew.T)
        self.num_targets, self.dimension, self.device = TARGETS, DIMENSION, torch.device("cpu")
        self.log_prior, self.has_dropout = None, False
        self.cost = cost
        self.move(0)

    def move(self, step: int) -> None:
        """Where everybody is at this step."""
        turn = torch.linalg.matrix_exp((step % 10_000) * self.skew)
        amount = 0.3 * float(np.sin(step / 40))
        self.vectors = unit((self.start + amount * torch.tanh(self.start @ self.bend)) @ turn)

    def encode(self, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """As the loss does."""
        for block in (torch.arange(TARGETS) if rows is None else rows).split(256):
            self.cost.targets_reencoded += len(block)
            yield block, self.vectors[block].clone()


class SourceSoak:
    """Steps of a run without end: every draw, every write-back and every refresh compared with the twin."""

    def __init__(self, seed: int, record: Record, folder: Path) -> None:
        self.seed, self.record, self.folder = seed, record, folder
        self.rng = np.random.default_rng(seed)
        self.cost = Cost()
        self.targets = DriftingTargets(seed, self.cost)
        self.step, self.refreshes = 0, 0
        self._begin()

    def _begin(self) -> None:
        """A new run, with the next drift model."""
        self.options = {
            "start_step": self.step, "refresh_every": 9, "refresh_when": 0.05, "refresh_spacing": 3, "landmarks": 64,
            "refresh_reencode": int(self.rng.choice([0, 40])), "refresh_drift": DRIFTS[self.step // 200 % len(DRIFTS)],
            "leaf_size": 16, "probes": 4, "index_dtype": str(self.rng.choice(["float32", "bfloat16"])),
        }  # fmt: skip
        self.source = self._new()
        self.true = self.targets.vectors  # the twin: each target's last true encoding, once there is one

    def _new(self) -> NegativeSource:
        source = make_source("dynamic", **self.options)
        source.attach(self.targets, self.cost)
        return source

    def _must(self, good: object, what: str) -> None:
        if not good:
            self.record.difference(f"dynamic source, step {self.step}, {self.options}: {what}")

    def run(self, steps: int) -> None:
        """So many steps."""
        for _ in range(steps):
            if self.step % 200 == 0 and self.step:
                self._begin()
            self._one_step()
            self.step += 1
            if self.step % 50 == 0:
                self._resume()

    def _one_step(self) -> None:
        self.targets.move(self.step)
        before = self.cost.targets_reencoded
        self.source.begin_step(self.step)
        inside = self.source
        if encoded := self.cost.targets_reencoded - before:
            self._refreshed(encoded)
        request = self._request()
        draw = self.source.sample(request)
        self._judge(request, draw)
        rows = torch.unique(torch.cat([request.positives, draw.ids.flatten()]))
        fresh = self.targets.vectors[rows]
        inside.observe(request, draw, rows, fresh)
        self.true[rows] = fresh
        kept = fresh.bfloat16().float() if self.options["index_dtype"] == "bfloat16" else fresh
        self._must(torch.equal(inside.stored_vectors(rows), kept), "what was written back is not what is stored")  # type: ignore[attr-defined]
        self._must(np.isfinite(list(inside.diagnostics().values())).all(), "the staleness is not finite")
        self.record.call("source step")

    def _refreshed(self, encoded: int) -> None:
        inside = self.source._moving.true  # type: ignore[attr-defined]
        if encoded >= TARGETS:
            self.true = self.targets.vectors.clone()
        else:
            # The landmarks were encoded; of the others, those that are not what the twin remembers.
            now = torch.from_numpy(inside.read(np.arange(TARGETS)))
            changed = (now != self.true).any(dim=1)
            self._must(torch.equal(now[changed], self.targets.vectors[changed]), "a true encoding that never was")
            self._must(int(changed.sum()) <= encoded, "more encodings than were made")
            self.true = now
            self.refreshes += 1
            self.record.call("refresh")
        self._must(len(inside.history) <= inside.max_periods, "too many periods are kept")
        index = self.source._moving.index  # type: ignore[attr-defined]
        try:
            index.check()
        except Exception as error:  # whatever is wrong is what we are here for
            self._must(False, f"check(): {error!r}")
        self._must(np.array_equal(index.ids, np.arange(TARGETS)), "targets were lost")

    def _request(self) -> Request:
        positives = torch.from_numpy(self.rng.integers(0, TARGETS, BATCH))
        noise = torch.from_numpy(self.rng.normal(size=(BATCH, DIMENSION)).astype(np.float32))
        further = self.rng.integers(0, TARGETS, BATCH)
        exclude = RaggedRows.from_pairs(
            np.tile(np.arange(BATCH), 2), np.concatenate([positives.numpy(), further]), BATCH
        )
        queries = unit(self.targets.vectors[positives] + 0.3 * noise)
        return Request(queries, positives, DRAWS, SCALE, exclude, None, int(self.rng.integers(2**31)))

    def _judge(self, request: Request, draw) -> None:  # type: ignore[no-untyped-def]
        for query in range(BATCH):
            hidden = np.isin(draw.ids[query].numpy(), request.exclude[query])
            self._must(not hidden.any(), "an excluded target was drawn")
        stored = self.source.stored_vectors(torch.arange(TARGETS)).double()  # type: ignore[attr-defined]
        scores = SCALE * request.queries.double() @ stored.T
        for query in range(BATCH):
            scores[query, request.exclude[query]] = -torch.inf
        log_z = torch.logsumexp(scores, dim=1)
        s = scores.gather(1, draw.ids)
        self._must(torch.isfinite(s).all() and torch.isfinite(draw.log_q).all(), "a draw is not finite")
        self._must(torch.allclose(draw.log_weights, -draw.log_q - np.log(DRAWS), atol=1e-5), "weights are not 1/kq")
        self.record.ratio("dynamic source", (s + draw.log_weights.double() - log_z[:, None]).exp().sum(dim=1).numpy())

    def _resume(self) -> None:
        """A checkpoint, read into a new source, which must draw the same and goes on in place of the old one."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.source.save_state(self.folder)
        resumed = self._new()
        resumed.load_state(self.folder)
        request = self._request()
        old, new = self.source.sample(request), resumed.sample(request)
        self._must(torch.equal(old.ids, new.ids) and torch.equal(old.log_q, new.log_q), "resumed, it draws otherwise")
        self.source = resumed
        self.record.call("source saved and resumed")
