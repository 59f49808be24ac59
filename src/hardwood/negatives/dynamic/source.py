"""Negatives from the dynamic tree, which is kept true while the encoder moves without re-encoding the corpus."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hardwood import losses
from hardwood._ragged import RaggedRows
from hardwood.errors import DataError
from hardwood.negatives._part import part_of
from hardwood.negatives.agreement import Agreement, Found, alone
from hardwood.negatives.base import STATE_FILE, NegativeSource
from hardwood.negatives.checkpoint_tensors import expect, read_state
from hardwood.negatives.cost import Cost
from hardwood.negatives.dynamic.drift_fits import DriftFits
from hardwood.negatives.dynamic.exclusions import exclusions
from hardwood.negatives.dynamic.initial_index import encoded_index, has_prior_of, loaded_index, saved_index
from hardwood.negatives.dynamic.landmarks import oldest, spread_over
from hardwood.negatives.dynamic.moving_index import MovingIndex
from hardwood.negatives.dynamic.schedule import RefreshSchedule
from hardwood.negatives.dynamic.staleness import Staleness, noise_sums, staleness_sums
from hardwood.negatives.dynamic.true_encodings import TRUE_DTYPES, TrueEncodings
from hardwood.negatives.exact import masked_log_proposal
from hardwood.negatives.records import NO_TARGET, Draw, Request, Targets, encoded_rows, log_prior_of

_INDEX_FOLDER = "index"
_MANY = 100_000
"""Targets from which on refreshes by need are rarer, unless ``refresh_growth`` is given."""

_LEAST_PROBES = 32
"""Of a tree over one of several shards."""

_SETTINGS = (
    "start_step",
    "refresh_every",
    "refresh_when",
    "refresh_spacing",
    "refresh_growth",
    "rebuild_when",
    "landmarks",
    "reencode",
    "drift",
    "predict_below",
    "write_back",
    "repair",
    "probes",
    "leaf_size",
    "index",
    "index_dtype",
    "true_dtype",
    "overlap",
    "seed",
)


class DynamicNegatives(NegativeSource):
    """Softmax samples from a tree over all targets that follows the encoder (Monath et al., AISTATS 2023).

    The corpus is encoded once. From then on three mechanisms keep the tree true, each of which can be turned off:

    - write-back: each step's fresh encodings of positives and negatives, which cost nothing extra, go into the tree,
      less what dropout explains;
    - refresh: a fixed set of landmarks is encoded anew, a drift model is fitted on how they moved, and everybody's
      motion since their own last true encoding is predicted and written into the tree;
    - repair: parts of the tree that the motion has degraded are rebuilt.

    Where the encoder moves so far that predictions fail, as in the first steps of one that is trained from scratch, the
    corpus can be encoded once more (``rebuild_when``).

    Everything is kept in host memory, for n targets in d dimensions: the tree (``4 n d`` bytes, half in bfloat16, and
    its nodes) and the true encodings (``4 n d`` bytes, half in bfloat16, and 2 n), beside the landmarks' of at most
    twelve refreshes; while it is built another ``4 n d`` in passing, and in a refresh ``8 n`` and two blocks of 16,384
    predictions.
    Staleness is measured in every step on what was written back, and logged.

    Args:
        start_step: the step at which the corpus is encoded, and of the first draw.
        refresh_every: optimiser steps between two refreshes; ``None``: no refresh by the clock.
        refresh_when: refresh when the running cosine error of stored encodings passes this; ``None``: no refresh by
            need (and with ``refresh_every`` ``None`` too, none at all). What dropout alone does to encodings
            is measured (on 64 targets in each refresh), and subtracted.
        refresh_spacing: optimiser steps at least between two refreshes by need;
        refresh_growth: and this share of the steps since ``start_step``. ``None``: 0.1; from 100,000 targets on 0.5,
            since predicting so many takes as long as many steps.
        rebuild_when: encode the corpus anew, instead of a refresh, when the running cosine error passes this in spite
            of all refreshes; at the earliest after as many steps as there were before the last encoding, so that a
            run of any length has few of them. ``None``: never. 0.25 halves the error where an encoder is trained from
            scratch on many short texts; what is learnt is the same (docs/training.md).
        landmarks: targets encoded in a refresh, spread evenly over the tree's leaves.
        reencode: further targets encoded in a refresh: those whose true encodings are the oldest.
        drift: name of a drift model (`hardwood.drift.DRIFT_MODELS`); ``"stale"`` predicts no motion.
        predict_below: a refresh predicts nothing from landmarks half of which are told by the others with a mean cosine
            error above this: so wrong a prediction is no better for training than the last true encoding, and costs
            time (docs/training.md). ``None``: it always predicts.
        write_back: whether fresh encodings are written into the tree.
        repair: whether a refresh repairs the tree.
        probes: leaves opened for each query. More than `TargetIndex` takes by default: of 200,000 targets MRR@10
            was better by 0.003 than with 32, for twice the time of a draw (docs/training.md).
        leaf_size: targets in a leaf, on average.
        index: folder of a saved `hardwood.tree.TargetIndex` to begin with instead of encoding the corpus. Its ids are
            rows of the corpus and its vectors are taken for the model's encodings at ``start_step``; dtype and (unless
            its targets have another prior) leaf size are its own.
        index_dtype: how the tree keeps vectors, ``"float32"`` or ``"bfloat16"``.
        true_dtype: how true encodings are kept, likewise.
        overlap: whether the tree is changed in a thread while the accelerator works: write-back during the backward
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
        refresh_every: int | None = None,
        refresh_when: float | None = 0.02,
        refresh_spacing: int = 10,
        refresh_growth: float | None = None,
        rebuild_when: float | None = None,
        landmarks: int = 512,
        reencode: int = 0,
        drift: str = "nystrom",
        predict_below: float | None = 0.25,
        write_back: bool = True,
        repair: bool = True,
        probes: int = 128,
        leaf_size: int = 64,
        index: str | None = None,
        index_dtype: str = "float32",
        true_dtype: str = "float32",
        overlap: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(start_step=start_step)
        for option, count in (("landmarks", landmarks), ("probes", probes), ("leaf_size", leaf_size)):
            if count < 1:
                raise ValueError(f"{option} must be at least 1, got {count}")
        for option, number in (("reencode", reencode), ("seed", seed)):
            if number < 0:
                raise ValueError(f"{option} must be 0 or more, got {number}")
        for option, dtype in (("index_dtype", index_dtype), ("true_dtype", true_dtype)):
            if dtype not in TRUE_DTYPES:
                raise ValueError(f"{option} must be one of {', '.join(TRUE_DTYPES)}, got {dtype!r}")
        _check_drift(drift)
        if predict_below is not None and not predict_below > 0:
            raise ValueError(f"predict_below is a cosine error above 0, such as 0.25, got {predict_below}")
        self.refresh_every = refresh_every
        self.refresh_when = refresh_when
        self.refresh_spacing = refresh_spacing
        self.refresh_growth = refresh_growth
        self.rebuild_when = rebuild_when
        self.landmarks = landmarks
        self.reencode = reencode
        self.drift = drift
        self.predict_below = predict_below
        self.write_back = write_back
        self.repair = repair
        self.probes = probes
        self.leaf_size = leaf_size
        self.index = index
        self.index_dtype = index_dtype
        self.true_dtype = true_dtype
        self.overlap = overlap
        self.seed = seed
        self._moving: MovingIndex | None = None
        self._is_lost = False  # the last build failed, with what was there before given up
        self._is_exact = False  # the tree holds what the very weights of this step gave
        self._excluded = RaggedRows.empty(0)
        self._has_targets = torch.zeros(0, dtype=torch.bool)
        self._schedule = self._new_schedule(num_targets=0)

    def attach(self, targets: Targets, cost: Cost) -> None:
        super().attach(targets, cost)
        self._forget()
        self._schedule = self._new_schedule(targets.num_targets)

    def warm_up(self) -> None:
        """Compile the tree's kernels, or load them: half a minute the first time on a machine."""
        from hardwood.tree import warmup

        warmup()

    def for_shard(self, number: int, num_shards: int) -> DynamicNegatives:
        if self.index is not None and num_shards > 1:
            raise ValueError(
                f"index={self.index!r} is a tree over the whole corpus, which can't be divided into {num_shards} "
                "shards: leave it out, or give each process a whole tree (shards='replicated', --shards replicated)"
            )
        parts = {
            "landmarks": max(1, part_of(self.landmarks, number, num_shards)),
            "reencode": part_of(self.reencode, number, num_shards),
            # A shard's tree is smaller, but its shape is as rough: fewer opened leaves than these cost quality.
            "probes": max(min(self.probes, _LEAST_PROBES), -(-self.probes // num_shards)),
        }
        return DynamicNegatives(**{**self.settings(), **parts})

    def begin_step(self, step: int) -> None:
        alone(self.beginning(step))

    def beginning(self, step: int) -> Agreement:
        if step < self.start_step:
            return
        self._wait()
        self._is_exact = False
        if self._moving is None:
            # What an index of another day says is of use at the beginning alone.
            folder = None if self._is_lost else self.index
            self._moving = yield from self._build(folder)
            self._is_lost, self._is_exact = False, folder is None
            self._schedule.built(step)
        elif self._schedule.rebuild_is_due(step):
            # What is there is given up first: two trees may be more than fits.
            self._forget()
            self._is_lost = True
            self._moving = yield from self._build()
            self._is_lost, self._is_exact = False, True
            self._schedule.built(step)
        elif self._schedule.refresh_is_due(step):
            yield from self._refresh(self._moving, step)
            self._schedule.refreshed(step)
        if self._attached().has_dropout:
            self._schedule.begin_step(step)
        self._moving.begin_step()

    def is_ready(self, step: int) -> bool:
        return super().is_ready(step) and self._moving is not None

    def sample(self, request: Request) -> Draw:
        self._wait()
        with self.cost.timed("sample"):
            self._excluded, self._has_targets = exclusions(self._built(), request, self.probes)
            drawn = self._built().sample(
                request.queries.cpu(),
                request.num_negatives,
                scale=request.scale,
                exclude=self._excluded,
                probes=self.probes,
                bounds=False,
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
        """``s + log π - log Z_hat`` with the stored encodings, as if every leaf had been opened.

        That is the truth for targets of opened leaves, and off by the error of the leaf's estimated mass for all
        others: `TargetIndex.log_proposal` is exact, and costs as much as brute force.
        """
        with self.cost.timed("sample"):
            stored = self.stored_vectors(ids).to(request.queries.device)
            scores = losses.scores(request.queries, stored, request.scale)
            # The exclusions of the draw hold what the filter found; the ceiling itself forbids nothing more.
            drawn_with = dataclasses.replace(request, exclude=self._excluded, ceiling=None)
            log_prior = log_prior_of(self._attached(), ids)
            return masked_log_proposal(scores, draw.log_z, drawn_with, ids, log_prior).to(ids.device)

    def observe(self, request: Request, draw: Draw, rows: Tensor, vectors: Tensor) -> None:
        alone(self.observing(request, draw, rows, vectors))

    def observing(self, request: Request, draw: Draw, rows: Tensor, vectors: Tensor) -> Agreement:
        if self._moving is None:
            return
        self._wait()
        with self.cost.timed("index"):
            ids, fresh = rows.cpu(), vectors.float().cpu()
            stored = self.stored_vectors(rows).to(vectors.device)
            sums = staleness_sums(request, draw, rows, stored, vectors.float())
        wants_noise = self._schedule.wants_noise
        # Where the tree is exact, noise is all that is between stored and fresh.
        again = wants_noise and not self._is_exact
        noise = noise_sums(self._attached(), ids, fresh) if again else sums[:2]
        everyone = yield sums, noise
        all_sums, all_noise = (torch.stack(parts).sum(dim=0) for parts in zip(*everyone, strict=True))
        if wants_noise:
            self._schedule.noise_measured(float(all_noise[1] / all_noise[0].clamp(min=1)))
        with self.cost.timed("index"):
            self._schedule.observe(Staleness.of_sums(all_sums), is_refreshing=self._moving.is_refreshing)
        self._moving.learn(ids.numpy(), fresh.numpy(), write_back=self.write_back, noise=self._schedule.noise)

    def diagnostics(self) -> dict[str, float]:
        cosine, score, rank = self._schedule.staleness.astuple()
        return {"stale_cosine_error": cosine, "stale_score_error": score, "stale_rank_changes": rank}

    def finish(self) -> None:
        if self._moving is not None:
            self._moving.complete()

    def save_state(self, folder: Path) -> None:
        self._wait()
        moving = self._moving
        if self._is_lost or not (moving is None or moving.is_whole):
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
            self._take_up(state, saved_index(inside, self._attached()))

    def state_dict(self) -> dict[str, Tensor]:
        """All but the tree, which `save_state` writes beside it."""
        if self._moving is None:
            return {}
        self._wait()
        state = self._moving.true.state_dict() | self._schedule.state_dict() | self._moving.state_dict()
        return state | {f"drift.{name}": tensor for name, tensor in self._moving.fits.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing but the empty state of a run that has not begun.

        Raises:
            ValueError: for another: without its tree it is of no use.
        """
        if state:
            raise ValueError("the dynamic source's state is of use with its tree alone: call load_state(folder)")

    def _take_up(self, state: dict[str, Tensor], index: Any) -> None:
        targets = self._attached()
        drift = {name.removeprefix("drift."): tensor for name, tensor in state.items() if name.startswith("drift.")}
        own = {name: tensor for name, tensor in state.items() if not name.startswith("drift.")}
        own.setdefault("noise", torch.zeros(2, dtype=torch.float64))  # checkpoints of before have none
        layout = RefreshSchedule.layout | MovingIndex.layout
        expect(own, TrueEncodings.layout(targets.num_targets, targets.dimension) | layout, self.name)
        TrueEncodings.check_state(own)
        if not has_prior_of(index, targets):
            raise ValueError(
                "the checkpoint's tree was built with another prior over targets: resume with the unasked_prior and "
                "the training pairs that it was made with"
            )
        moving = self._moved(index, TrueEncodings.from_state(state))
        moving.fits.load_state_dict(drift)
        moving.load_state_dict(own)
        self._schedule.load_state_dict(own)
        self._moving, self._is_lost = moving, False

    def _new_schedule(self, num_targets: int) -> RefreshSchedule:
        growth = (0.1 if num_targets < _MANY else 0.5) if self.refresh_growth is None else self.refresh_growth
        return RefreshSchedule(
            every=self.refresh_every,
            when=self.refresh_when,
            spacing=self.refresh_spacing,
            growth=growth,
            rebuild_when=self.rebuild_when,
        )

    def _forget(self) -> None:
        if self._moving is not None:
            self._moving.give_up()
        self._moving, self._is_lost = None, False

    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SETTINGS}

    def _build(self, folder: str | None = None) -> Generator[Found, list[Found], MovingIndex]:
        """Encode the corpus, or read its encodings of this step, and make tree and true encodings of them."""
        targets = self._attached()
        if folder is None:
            index, encodings = encoded_index(targets, self.cost, leaf_size=self.leaf_size, dtype=self.index_dtype)
        else:
            index, encodings = loaded_index(folder, targets, self.cost, leaf_size=self.leaf_size)
        with self.cost.timed("index"):
            landmarks = spread_over(index, self.landmarks, self.seed)
            true = TrueEncodings(encodings, landmarks, dtype=self.true_dtype)
        everyone = yield (torch.from_numpy(true.history[0]),)
        true.share_landmarks(np.concatenate([found.numpy() for (found,) in everyone]))
        return self._moved(index, true)

    def _moved(self, index: Any, true: TrueEncodings) -> MovingIndex:
        """Both, kept together."""
        device = self._attached().device
        overlap = device.type != "cpu" if self.overlap is None else self.overlap
        fits = DriftFits(self.drift, self.predict_below, device)
        return MovingIndex(index, true, fits, self.cost, repair=self.repair, overlap=overlap)

    def _refresh(self, moving: MovingIndex, step: int) -> Agreement:
        """Encode the landmarks and the oldest; what all others have become is predicted from these."""
        moving.complete()
        landmarks = moving.true.landmarks
        # One period further than the landmarks, which are encoded anyway, nothing is old.
        periods = moving.true.period.copy()
        periods[landmarks] = len(moving.true.history)
        renewed = oldest(moving.index, periods, self.reencode, self._schedule.last_refresh)
        ids = np.concatenate([landmarks, renewed])
        shares = moving.most_shares(self._schedule.shares(step) if moving.overlap else 1)
        fresh = encoded_rows(self._attached(), ids)
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
        """What the tree holds now for rows of the corpus ``ids`` ``(m,)``: ``(m, d)`` float32, on the CPU."""
        self._wait()
        return torch.from_numpy(self._built().vectors(ids.cpu().numpy()))

    def _wait(self) -> None:
        """Until nothing is under way in the thread; a refresh may have shares left for the steps to come."""
        if self._moving is not None:
            self._moving.wait()

    def _true_log_proposal(self, request: Request) -> Tensor:
        """``(B, n)`` float32: the exact log-probability of every target for each query."""
        with self.cost.timed("sample"):
            everything = np.arange(self._attached().num_targets)
            log_q = self._built().log_proposal(
                request.queries.cpu(), everything, scale=request.scale, exclude=self._excluded, probes=self.probes
            )
            return log_q.float().masked_fill(~self._has_targets[:, None], -torch.inf)

    def _built(self) -> Any:
        if self._moving is None:
            raise RuntimeError(f"the tree is not built yet: begin_step(step) builds it from step {self.start_step} on")
        return self._moving.index


def _check_drift(name: str) -> None:
    from hardwood.drift import DRIFT_MODELS

    if name not in DRIFT_MODELS:
        raise ValueError(f"no drift model is called {name!r}; there are {', '.join(DRIFT_MODELS)}")
