"""Negatives from the dynamic tree, which is kept true while the encoder moves without re-encoding the corpus."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hardwood import losses
from hardwood._ragged import RaggedRows
from hardwood.negatives._draws import NO_TARGET, Draw, Request, Targets
from hardwood.negatives._landmarks import spread_over
from hardwood.negatives._motion import TrueEncodings
from hardwood.negatives._staleness import Staleness, measure_staleness
from hardwood.negatives.base import NegativeSource
from hardwood.negatives.cost import Cost
from hardwood.negatives.indexed import masked_log_proposal

_INDEX_FOLDER = "index"
_SEARCHED = 64
"""Best targets of a query among which the margin filter looks for false negatives before the draw."""

_SETTINGS = (
    "start_step",
    "refresh_every",
    "refresh_when",
    "refresh_spacing",
    "landmarks",
    "drift",
    "write_back",
    "repair",
    "probes",
    "leaf_size",
    "seed",
)


class DynamicNegatives(NegativeSource):
    """Softmax samples from a tree over all targets that follows the encoder (Monath et al., AISTATS 2023).

    The corpus is encoded once. From then on three mechanisms keep the tree true, each of which can be turned off:

    - write-back: each step's fresh encodings of positives and negatives, which cost nothing extra, go into the tree;
    - refresh: a fixed set of landmarks is encoded anew, a drift model is fitted on how they moved, and everybody's
      motion since their own last true encoding is predicted and written into the tree;
    - repair: parts of the tree that the motion has degraded are rebuilt.

    Everything is kept in host memory: the tree (``n * d`` float32 and its nodes) and the true encodings (as much
    again). Staleness is measured in every step on what was written back, and logged.

    Args:
        start_step: the step at which the corpus is encoded, and of the first draw.
        refresh_every: optimiser steps between two refreshes; ``None``: no refresh by the clock.
        refresh_when: refresh when the running cosine error of stored encodings passes this; ``None``: no refresh by
            need.
        refresh_spacing: optimiser steps at least between two refreshes by need.
        landmarks: targets encoded in a refresh, spread evenly over the tree's leaves.
        drift: name of a drift model (`hardwood.drift.DRIFT_MODELS`); ``"stale"`` predicts no motion.
        write_back: whether fresh encodings are written into the tree.
        repair: whether a refresh repairs the tree.
        probes: leaves opened for each query.
        leaf_size: targets in a leaf, on average.
        seed: of the choice of landmarks.
    """

    name: ClassVar[str] = "dynamic"

    def __init__(
        self,
        *,
        start_step: int = 20,
        refresh_every: int | None = 50,
        refresh_when: float | None = None,
        refresh_spacing: int = 10,
        landmarks: int = 512,
        drift: str = "nystrom",
        write_back: bool = True,
        repair: bool = True,
        probes: int = 32,
        leaf_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(start_step=start_step)
        counts = {"refresh_every": refresh_every, "refresh_spacing": refresh_spacing, "landmarks": landmarks}
        for option, value in {**counts, "probes": probes}.items():
            if value is not None and value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        if refresh_when is not None and not refresh_when > 0:
            raise ValueError(f"refresh_when is a cosine error above 0, such as 0.02, got {refresh_when}")
        _check_drift(drift)
        self.refresh_every = refresh_every
        self.refresh_when = refresh_when
        self.refresh_spacing = refresh_spacing
        self.landmarks = landmarks
        self.drift = drift
        self.write_back = write_back
        self.repair = repair
        self.probes = probes
        self.leaf_size = leaf_size
        self.seed = seed
        self._index: Any = None
        self._excluded = RaggedRows.empty(0)
        self._has_targets = torch.zeros(0, dtype=torch.bool)
        self._true: TrueEncodings | None = None
        self._staleness = Staleness()
        self._last_refresh = -1
        self._since_refresh = 0  # measures of staleness

    def attach(self, targets: Targets, cost: Cost) -> None:
        super().attach(targets, cost)
        self._index = self._true = None

    def begin_step(self, step: int) -> None:
        if step < self.start_step:
            return
        if self._index is None:
            self._build()
        elif self._refresh_is_due(step):
            self._refresh()
        else:
            return
        self._last_refresh, self._since_refresh = step, 0

    def is_ready(self, step: int) -> bool:
        return super().is_ready(step) and self._index is not None

    def sample(self, request: Request) -> Draw:
        with self.cost.timed("sample"):
            self._excluded, self._has_targets = self._exclusions(request)
            drawn = self._built().sample(
                request.queries.cpu(),
                request.num_negatives,
                scale=request.scale,
                exclude=self._excluded,
                probes=self.probes,
                seed=request.seed,
            )
            device = request.queries.device
            nothing = ~self._has_targets.to(device)[:, None]
            ids = drawn.ids.to(device).masked_fill(nothing, NO_TARGET)
            log_q, log_weights = (
                part.float().to(device).masked_fill(nothing, -torch.inf) for part in (drawn.log_q, drawn.log_weights)
            )
            log_z = drawn.log_z.float().to(device).masked_fill(nothing[:, 0], -torch.inf)
            draw = Draw(ids, log_q, log_z, log_weights)
        num_targets = self._attached().num_targets
        if request.num_negatives < num_targets:
            return draw
        return Draw.everything(self._true_log_proposal(request).to(device), log_z)

    def log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        """``s - log Z_hat`` with the stored encodings, as if every leaf had been opened.

        That is the truth for targets of opened leaves, and off by the error of the leaf's estimated mass for all
        others: `TargetIndex.log_proposal` is exact, and costs as much as brute force.
        """
        with self.cost.timed("sample"):
            stored = self._stored_vectors(ids).to(request.queries.device)
            scores = losses.scores(request.queries, stored, request.scale)
            # The exclusions of the draw hold what the filter found; the ceiling itself forbids nothing more.
            drawn_with = dataclasses.replace(request, exclude=self._excluded, ceiling=None)
            return masked_log_proposal(scores, draw.log_z, drawn_with, ids).to(ids.device)

    def observe(self, request: Request, draw: Draw, rows: Tensor, vectors: Tensor) -> None:
        if self._index is None or self._true is None:
            return
        with self.cost.timed("index"):
            ids, fresh = rows.cpu(), vectors.float().cpu()
            stored = self._stored_vectors(rows).to(vectors.device)
            staleness = measure_staleness(request, draw, rows, stored, vectors.float())
            # A running mean over about ten steps: one step's batch is small, and a spike is no drift. A refresh makes
            # what was measured before it void.
            self._since_refresh += 1
            self._staleness = self._staleness.blended(staleness, share=max(0.1, 1 / self._since_refresh))
            if self.write_back:
                self._true.write(ids.numpy(), fresh.numpy())
                self._index.update(ids.numpy(), fresh.numpy())

    def diagnostics(self) -> dict[str, float]:
        cosine, score, rank = self._staleness.astuple()
        return {"stale_cosine_error": cosine, "stale_score_error": score, "stale_rank_changes": rank}

    def save_state(self, folder: Path) -> None:
        super().save_state(folder)
        if self._index is not None:
            self._index.save(folder / _INDEX_FOLDER)

    def load_state(self, folder: Path) -> None:
        super().load_state(folder)
        if (folder / _INDEX_FOLDER).exists():
            from hardwood.tree import TargetIndex

            self._index = TargetIndex.load(folder / _INDEX_FOLDER, mmap=False)

    def state_dict(self) -> dict[str, Tensor]:
        if self._true is None:
            return {}
        arrays = {
            "encodings": self._true.encodings,
            "period": self._true.period,
            "landmarks": self._true.landmarks,
            "history": np.stack(self._true.history),
            "staleness": np.array(self._staleness.astuple()),
            "last_refresh": np.array([self._last_refresh, self._since_refresh]),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        targets = self._attached()
        if not state:
            return
        shape = (targets.num_targets, targets.dimension)
        if tuple(state["encodings"].shape) != shape:
            raise ValueError(
                f"the checkpoint's encodings are {tuple(state['encodings'].shape)}, but this corpus and model need "
                f"{shape}: resume with the data and model it was made with"
            )
        arrays = {name: tensor.numpy().copy() for name, tensor in state.items()}
        self._true = TrueEncodings(arrays["encodings"], arrays["landmarks"])
        self._true.period = arrays["period"]
        self._true.history = list(arrays["history"])
        self._staleness = Staleness(*arrays["staleness"].tolist())
        self._last_refresh, self._since_refresh = (int(number) for number in arrays["last_refresh"])

    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SETTINGS}

    def _exclusions(self, request: Request) -> tuple[RaggedRows, Tensor]:
        """What each query must not be given, and which queries ``(B,)`` may be given anything at all.

        Beside the request's own exclusions these are the targets above the ceiling: found by search and excluded, so
        that ``q`` is renormalised for them. What the search misses can still be drawn; the loss drops it by its fresh
        score.
        """
        exclude = request.exclude
        if request.ceiling is not None:
            hits = self._built().search(request.queries.cpu(), _SEARCHED, probes=self.probes)
            above = (hits.ids >= 0) & (hits.scores > request.ceiling.cpu()[:, None])
            queries, places = above.nonzero(as_tuple=True)
            rows = np.concatenate([exclude.row_ids(), queries.numpy()])
            values = np.concatenate([exclude.values, hits.ids[queries, places].numpy()])
            exclude = RaggedRows.from_pairs(rows, values, len(exclude))
        has_targets = exclude.counts < self._attached().num_targets
        if not has_targets.all():  # the tree refuses to draw for these: let it draw anything, and drop it
            kept = has_targets[exclude.row_ids()]
            exclude = RaggedRows.from_pairs(exclude.row_ids()[kept], exclude.values[kept], len(exclude))
        return exclude, torch.from_numpy(has_targets)

    def _refresh_is_due(self, step: int) -> bool:
        since = step - self._last_refresh
        if self.refresh_every is not None and since >= self.refresh_every:
            return True
        may = since >= self.refresh_spacing and self._since_refresh > 0
        return self.refresh_when is not None and may and self._staleness.cosine > self.refresh_when

    def _build(self) -> None:
        from hardwood.tree import TargetIndex

        targets = self._attached()
        encodings = np.empty((targets.num_targets, targets.dimension), dtype=np.float32)
        for rows, vectors in targets.encode():
            encodings[rows.numpy()] = vectors.cpu().numpy()
        with self.cost.timed("index"):
            self._index = TargetIndex.build(encodings, leaf_size=self.leaf_size, progress=False)
            self._true = TrueEncodings(encodings, spread_over(self._index, self.landmarks, self.seed))

    def _refresh(self) -> None:
        """Encode the landmarks, predict everybody, write them into the tree, repair it."""
        if self._true is None:
            return
        fresh = np.empty((len(self._true.landmarks), self._true.encodings.shape[1]), dtype=np.float32)
        for rows, vectors in self._attached().encode(torch.from_numpy(self._true.landmarks)):
            fresh[np.searchsorted(self._true.landmarks, rows.numpy())] = vectors.cpu().numpy()
        with self.cost.timed("index"):
            self._true.begin_period(fresh)
            if self.drift != "stale":
                for ids, predicted in self._true.predictions(DriftFits(self.drift)):
                    self._index.update(ids, predicted)
            else:
                self._index.update(self._true.landmarks, fresh)
            if self.repair:
                self._index.repair()

    def _stored_vectors(self, ids: Tensor) -> Tensor:
        return torch.from_numpy(self._built().vectors(ids.cpu().numpy()))

    def _true_log_proposal(self, request: Request) -> Tensor:
        """``(B, n)`` float32: the exact log-probability of every target for each query."""
        with self.cost.timed("sample"):
            everything = np.arange(self._attached().num_targets)
            log_q = self._built().log_proposal(
                request.queries.cpu(), everything, scale=request.scale, exclude=self._excluded, probes=self.probes
            )
            return log_q.float().masked_fill(~self._has_targets[:, None], -torch.inf)

    def _built(self) -> Any:
        if self._index is None:
            raise RuntimeError(f"the tree is not built yet: begin_step(step) builds it from step {self.start_step} on")
        return self._index


class DriftFits:
    """Fits a drift model for each period of one refresh.

    What a model chooses on held-out landmarks costs several times the fit itself. The landmarks are the same in each
    period, and so is where they ended: the choice made for the first period, the longest motion, serves all.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._options: dict[str, float] = {}

    def __call__(self, old: np.ndarray, new: np.ndarray) -> Any:
        from hardwood.drift import NystromDrift, make_drift

        model = make_drift(self._name, **self._options).fit(old, new)
        if isinstance(model, NystromDrift):
            self._options = model.chosen
        return model.predict


def _check_drift(name: str) -> None:
    from hardwood.drift import DRIFT_MODELS

    if name not in DRIFT_MODELS:
        raise ValueError(f"no drift model is called {name!r}; there are {', '.join(DRIFT_MODELS)}")
