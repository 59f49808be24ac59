"""Negatives from a dynamic index, which is kept true while the encoder moves without re-encoding the corpus."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hardwood import _checks, losses
from hardwood._checkpoint_tensors import read_state
from hardwood.errors import DataError
from hardwood.negatives._part import part_of
from hardwood.negatives.agreement import Agreement, Found, alone
from hardwood.negatives.base import STATE_FILE, NegativeSource
from hardwood.negatives.cost import Cost
from hardwood.negatives.dynamic.divergence import Divergence, divergence_of, log_ratios, merged_ratios
from hardwood.negatives.dynamic.drawing import drawn
from hardwood.negatives.dynamic.drift_fits import DriftFits
from hardwood.negatives.dynamic.flat_index import FlatIndex
from hardwood.negatives.dynamic.index_form import IndexForm, VectorIndex
from hardwood.negatives.dynamic.initial_index import encoded_index, loaded_index, saved_index
from hardwood.negatives.dynamic.landmarks import oldest, spread_over
from hardwood.negatives.dynamic.moving_index import MovingIndex
from hardwood.negatives.dynamic.noise import Noise, noise_sums
from hardwood.negatives.dynamic.policy import RefreshPolicy
from hardwood.negatives.dynamic.reduced import ReducedTargets, fitted_projection, reduced
from hardwood.negatives.dynamic.schedule import RefreshSchedule
from hardwood.negatives.dynamic.staleness import Staleness, scores_of_draws, staleness_sums
from hardwood.negatives.dynamic.true_encodings import TrueEncodings
from hardwood.negatives.options import flat_options, parameters_of
from hardwood.negatives.records import (
    Draw,
    Request,
    Targets,
    encoded_rows,
    log_prior_of,
    masked_log_proposal,
)

if TYPE_CHECKING:
    from hardwood.tree import TargetIndex
    from hardwood.tree.arrays.projection import Projection

_INDEX_FOLDER = "index"
_LEAST_PROBES = 32  # of a tree over one of several shards
_REFRESHED_BY_NEED = RefreshPolicy()


class DynamicNegatives(NegativeSource):
    """Softmax samples from a tree over all targets that follows the encoder (Monath et al., AISTATS 2023), or from a
    matrix that does (``index_kind``).

    The corpus is encoded once. From then on three mechanisms keep the index true:

    - write-back: each step's fresh encodings of positives and negatives, which cost nothing extra, go into it, less
      what dropout explains;
    - refresh: a fixed set of landmarks is encoded anew, a drift model is fitted on how they moved, and the motion of
      all others since their own last true encodings is predicted and written into it;
    - repair: each refresh rebuilds the parts of the tree that the motion has degraded.

    In host memory are, for n targets in d dimensions (``index_dimension``): the tree (``4 n d`` bytes, half in
    bfloat16, and its nodes) and the true encodings (``4 n d`` bytes, half in bfloat16, and 2 n), beside the landmarks'
    of at most twelve refreshes; while a tree is built another ``4 n d`` in passing, unless both are in bfloat16, and in
    a refresh ``8 n`` and two blocks of 16,384 predictions. A flat index lies on ``index_device`` instead of the tree.
    Staleness is measured in every step on what was written back, and logged.

    Args:
        start_step: the step at which the corpus is encoded, and of the first draw.
        refresh: when the index is refreshed, and how all others' motion is predicted.
        landmarks: targets encoded in a refresh, spread evenly over the tree's leaves, or a flat index's regions.
        write_back: whether fresh encodings are written into the index.
        probes: leaves opened for each query. More than `TargetIndex` takes by default: of 200,000 targets MRR@10
            was better by 0.003 than with 32, for twice the time of a draw (docs/lab/sources.md). Where the corpus is
            divided into V shards, each opens ``probes / sqrt(V)`` in its own tree, and at least 32 (or as many as
            ``probes``): the proposal is then about as near to the softmax as that of one tree.
        leaf_size: targets in a leaf, on average.
        index: folder of a saved `hardwood.tree.TargetIndex` to begin with instead of encoding the corpus. Its ids are
            rows of the corpus and its vectors are taken for the model's encodings at ``start_step``; dtype and (unless
            its targets have another prior) leaf size of a tree are its own.
        index_kind: ``"tree"``; or ``"flat"``, one matrix in the tree's place, drawn from by brute force: exactly, for
            ``n d`` products a query and ``4 n d`` bytes (half in bfloat16) on ``index_device``. ``"auto"`` is flat for
            up to 10,000 targets on a CPU, where that is cheaper (docs/results/flat.md), and otherwise a tree.
        index_device: where a flat index lies, such as ``"cpu"``; ``None``: where the model is.
        index_dimension: how many of the model's dimensions tree and true encodings keep, by a
            `hardwood.tree.Projection` fitted on a sample when the corpus is encoded. What is drawn has known
            probabilities as ever, and its fresh scores are whole: weights are unbiased, and vary more. ``None``: all.
        index_dtype: how tree or flat index keep vectors, ``"float32"`` or ``"bfloat16"``.
        true_dtype: how true encodings are kept, likewise.
        overlap: whether the index is changed in a thread while the accelerator works: write-back during the backward
            pass, and a refresh a share in each step, over half the steps to the next at most. The same run gives the
            same draws each time, but not those of a run without. ``None``: if the model is on an accelerator; on a CPU
            both would want the same cores.
        seed: of the choice of landmarks.
    """

    name: ClassVar[str] = "dynamic"
    weighting: ClassVar[str] = "tempered"

    def __init__(
        self,
        *,
        start_step: int = 0,
        refresh: RefreshPolicy = _REFRESHED_BY_NEED,
        landmarks: int = 512,
        write_back: bool = True,
        probes: int = 128,
        leaf_size: int = 64,
        index: str | None = None,
        index_kind: str = "tree",
        index_device: str | None = None,
        index_dimension: int | None = None,
        index_dtype: str = "float32",
        true_dtype: str = "float32",
        overlap: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(start_step=start_step)
        _checks.at_least(1, landmarks, "landmarks")
        _checks.at_least(1, probes, "probes")
        _checks.at_least(0, seed, "seed")
        self._form = IndexForm(index_kind, index_device, index_dimension, index_dtype, true_dtype, leaf_size)
        self.refresh = refresh
        self.landmarks = landmarks
        self.write_back = write_back
        self.probes = probes
        self.leaf_size = leaf_size
        self.index = index
        self.index_kind = index_kind
        self.index_device = index_device
        self.index_dimension = index_dimension
        self.index_dtype = index_dtype
        self.true_dtype = true_dtype
        self.overlap = overlap
        self.seed = seed
        self._moving: MovingIndex | None = None
        self._divergence: Divergence | None = None  # of the last step
        self._is_exact = False  # the index holds what the very weights of this step gave
        self._schedule, self._noise = RefreshSchedule(refresh, num_targets=0), Noise()

    def attach(self, targets: Targets, cost: Cost) -> None:
        self._form.check(targets)
        super().attach(targets, cost)
        if self._moving is not None:
            self._moving.give_up()
        self._moving = None
        self._schedule, self._noise = RefreshSchedule(self.refresh, targets.num_targets), Noise()

    def warm_up(self, progress: bool | None = None) -> None:
        """Compile the tree's kernels, or load them: half a minute the first time on a machine."""
        if self._form.kind_for(self.targets) == "flat":
            return
        from hardwood.tree import warmup

        warmup(training=True, dtype=self.index_dtype, progress=progress)

    def for_shard(self, number: int, num_shards: int) -> DynamicNegatives:
        if self.index is not None and num_shards > 1:
            raise ValueError(
                f"index={self.index!r} is a tree over the whole corpus, which can't be divided into {num_shards} "
                "shards: leave it out, or give each process a whole tree (shards='replicated', --shards replicated)"
            )
        parts = {
            "landmarks": max(1, part_of(self.landmarks, number, num_shards)),
            "refresh": dataclasses.replace(self.refresh, reencode=part_of(self.refresh.reencode, number, num_shards)),
            # V trees that open as many leaves in all draw from something further off the softmax than one: each takes
            # its share of a query's leaves whether the best are there or not (docs/lab/sources.md).
            "probes": max(min(self.probes, _LEAST_PROBES), math.ceil(self.probes / math.sqrt(num_shards))),
        }
        return DynamicNegatives(**{**self._arguments(), **parts})

    def begin_step(self, step: int) -> None:
        alone(self.beginning(step))

    def beginning(self, step: int) -> Agreement:
        if step < self.start_step:
            return
        self._wait()
        self._is_exact = False
        if self._moving is None:
            self._moving = yield from self._build()
            self._is_exact = self.index is None
            self._schedule.built(step)
            self._noise.built()
        elif self._schedule.refresh_is_due(step, self._noise.level):
            yield from self._refresh(self._moving, step)
            self._schedule.refreshed(step)
            self._noise.refreshed()
        if self._attached().has_dropout:
            self._noise.begin_step(self._schedule.steps_since_build(step))
        self._moving.begin_step()

    def is_ready(self, step: int) -> bool:
        return super().is_ready(step) and self._moving is not None

    def sample(self, request: Request) -> Draw:
        self._wait()
        with self.cost.timed("sample"):
            return drawn(self._built(), request, self.probes)

    def log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        """``s + log π - log Z_hat`` with the stored encodings, as if every leaf had been opened.

        That is the truth for a flat index. Of a tree it is for targets of opened leaves, and off by the error of the
        leaf's estimated mass for all others: `TargetIndex.log_proposal` is exact, and costs as much as brute force.
        """
        with self.cost.timed("sample"):
            stored = self.stored_vectors(ids).to(request.queries.device)
            scores = losses.scores(reduced(request.queries, self._projection), stored, request.scale)
            # What a tree's draw left out holds what the filter found; the ceiling itself forbids nothing more.
            drawn_with = request
            if draw.exclude is not None:
                drawn_with = dataclasses.replace(request, exclude=draw.exclude, ceiling=None)
            log_prior = log_prior_of(self._attached(), ids)
            return masked_log_proposal(scores, draw.log_z, drawn_with, ids, log_prior).to(ids.device)

    def observe(self, request: Request, draw: Draw, rows: Tensor, vectors: Tensor) -> None:
        alone(self.observing(request, draw, rows, vectors))

    def observing(self, request: Request, draw: Draw, rows: Tensor, vectors: Tensor) -> Agreement:
        if self._moving is None:
            return
        self._wait()
        with self.cost.timed("index"):
            kept, stored = reduced(vectors, self._projection), self.stored_vectors(rows).to(vectors.device)
            ids, fresh = rows.cpu(), kept.float().cpu()
            asked = dataclasses.replace(request, queries=reduced(request.queries, self._projection))
            old, new = (scores_of_draws(asked, draw, rows, one) for one in (stored, kept))
            sums = staleness_sums(stored, kept.float(), old, new)
            whole = new if self._projection is None else scores_of_draws(request, draw, rows, vectors)
            ratios = log_ratios(draw, old, whole, log_prior_of(self._attached(), draw.ids))
        # Where the index is exact, noise is all that is between stored and fresh.
        again = self._noise.is_wanted and not self._is_exact
        noise = noise_sums(self._kept_targets(), ids, fresh) if again else sums[:2]
        everyone = yield sums, noise, *ratios
        all_sums, all_noise = (torch.stack([found[part] for found in everyone]).sum(dim=0) for part in range(2))
        if self._noise.is_wanted:
            self._noise.measured(float(all_noise[1] / all_noise[0].clamp(min=1)))
        with self.cost.timed("index"):
            self._divergence = divergence_of(*merged_ratios([found[2:] for found in everyone]))
            self._schedule.observe(Staleness.of_sums(all_sums), is_refreshing=self._moving.is_refreshing)
        self._moving.learn(ids.numpy(), fresh.numpy(), write_back=self.write_back, noise=self._noise.level)

    def diagnostics(self) -> dict[str, float]:
        cosine, score, rank = self._schedule.staleness.astuple()
        figures = {"stale_cosine_error": cosine, "stale_score_error": score, "stale_rank_changes": rank}
        return figures | ({} if self._divergence is None else self._divergence.figures())

    def finish(self) -> None:
        if self._moving is not None:
            self._moving.complete()

    def save_state(self, folder: Path) -> None:
        self._wait()
        moving = self._moving
        if moving is not None and not moving.is_whole:
            raise RuntimeError(
                "the dynamic source's last change failed half-way, and its state is not saved: resume from the last "
                "whole checkpoint"
            )
        super().save_state(folder)
        if moving is not None:
            moving.index.save(folder / _INDEX_FOLDER)

    def load_state(self, folder: Path) -> None:
        state, inside = read_state(folder / STATE_FILE), folder / _INDEX_FOLDER
        if bool(state) != inside.exists():
            missing = inside if state else folder / STATE_FILE
            raise DataError("is missing or empty, and the rest is there: the checkpoint is not whole.", missing)
        if state:
            self._resume(state, saved_index(inside, self._attached(), self._form))

    def tree(self) -> TargetIndex | None:
        """The tree that it draws from, for looking at; ``None``: it is not built yet, or the index is flat."""
        from hardwood.tree import TargetIndex

        self._wait()
        index = None if self._moving is None else self._moving.index
        return index if isinstance(index, TargetIndex) else None

    def state_dict(self) -> dict[str, Tensor]:
        """All but the index, which `save_state` writes beside it."""
        if self._moving is None:
            return {}
        self._wait()
        state = self._moving.true.state_dict() | self._moving.state_dict()
        state |= self._schedule.state_dict() | self._noise.state_dict()
        return state | {f"drift.{name}": tensor for name, tensor in self._moving.fits.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing but the empty state of a run that has not begun.

        Raises:
            ValueError: for another: without its index it is of no use.
        """
        if state:
            raise ValueError("the dynamic source's state is of use with its index alone: call load_state(folder)")

    def _resume(self, state: dict[str, Tensor], index: VectorIndex) -> None:
        drift = {name.removeprefix("drift."): tensor for name, tensor in state.items() if name.startswith("drift.")}
        own = {name: tensor for name, tensor in state.items() if not name.startswith("drift.")}
        true = TrueEncodings.layout(len(index), index.dimension)
        self._expect(own, true | MovingIndex.layout | RefreshSchedule.layout | Noise.layout)
        TrueEncodings.check_state(own)
        moving = self._moved(index, TrueEncodings.from_state(state))
        moving.fits.load_state_dict(drift)
        moving.load_state_dict(own)
        self._schedule.load_state_dict(own)
        self._noise.load_state_dict(own)
        self._moving = moving

    def settings(self) -> dict[str, Any]:
        return flat_options(self._arguments())

    def _arguments(self) -> dict[str, Any]:
        """The constructor's arguments, each kept under its own name."""
        return {name: getattr(self, name) for name in parameters_of(DynamicNegatives)}

    def _build(self) -> Generator[Found, list[Found], MovingIndex]:
        """Encode the corpus, or read its encodings of this step, and make index and true encodings of them."""
        targets = self._attached()
        if self.index is None:
            kept: Targets = targets
            if self.index_dimension is not None:
                kept = ReducedTargets(targets, (yield from fitted_projection(targets, self.index_dimension, self.seed)))
            index, encodings = encoded_index(kept, self.cost, self._form)
        else:
            index, encodings = loaded_index(self.index, targets, self.cost, self._form)
        with self.cost.timed("index"):
            landmarks = spread_over(index, self.landmarks, self.seed)
            true = TrueEncodings(encodings, landmarks, dtype=self.true_dtype)
        everyone = yield (torch.from_numpy(true.history[0]),)
        true.share_landmarks(np.concatenate([found.numpy() for (found,) in everyone]))
        return self._moved(index, true)

    def _moved(self, index: VectorIndex, true: TrueEncodings) -> MovingIndex:
        """Both, kept together."""
        device = self._attached().device
        overlap = device.type != "cpu" if self.overlap is None else self.overlap
        fits = DriftFits(self.refresh.drift, self.refresh.predict_below, device)
        return MovingIndex(index, true, fits, self.cost, overlap=overlap)

    def _refresh(self, moving: MovingIndex, step: int) -> Agreement:
        """Encode the landmarks and the oldest; what all others have become is predicted from these."""
        moving.complete()
        landmarks = moving.true.landmarks
        # One period further than the landmarks, which are encoded anyway, nothing is old.
        periods = moving.true.period.copy()
        periods[landmarks] = len(moving.true.history)
        renewed = oldest(moving.index, periods, self.refresh.reencode, self._schedule.last_refresh)
        ids = np.concatenate([landmarks, renewed])
        shares = moving.most_shares(self._schedule.shares(step) if moving.overlap else 1)
        fresh = encoded_rows(self._kept_targets(), ids)
        sizes = np.bincount(periods, minlength=len(moving.true.history) + 1)
        own = torch.from_numpy(fresh[: len(landmarks)]), torch.from_numpy(sizes), torch.tensor(shares)
        everyone = yield own
        moving.refresh(
            ids,
            fresh,
            shares=min(int(each) for *_, each in everyone),
            of_all_shards=np.concatenate([found.numpy() for found, *_ in everyone]),
            sizes=np.sum([found.numpy() for _, found, _ in everyone], axis=0),
        )

    def stored_vectors(self, ids: Tensor) -> Tensor:
        """What the index holds now for rows of the corpus ``ids`` ``(m,)``: ``(m, d)`` float32, in the dimensions that
        it keeps, on the CPU; from a flat index where that lies."""
        self._wait()
        index = self._built()
        return index.rows(ids) if isinstance(index, FlatIndex) else torch.from_numpy(index.vectors(ids.cpu().numpy()))

    @property
    def _projection(self) -> Projection | None:
        """From the model's dimensions to those that are kept."""
        return None if self._moving is None else self._moving.index.projection

    def _kept_targets(self) -> Targets:
        """The corpus, with encodings in the dimensions that are kept."""
        targets = self._attached()
        return targets if self._projection is None else ReducedTargets(targets, self._projection)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._arguments().items())})"

    def _wait(self) -> None:
        """Until nothing is under way in the thread; a refresh may have shares left for the steps to come."""
        if self._moving is not None:
            self._moving.wait()

    def _built(self) -> VectorIndex:
        if self._moving is None:
            raise RuntimeError(f"the index is not built yet: begin_step(step) builds it from step {self.start_step} on")
        return self._moving.index
