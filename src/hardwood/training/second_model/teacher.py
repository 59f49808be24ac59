"""Scores of a teacher as a target beside the cross entropy: soft ones (KL), or their margins (margin MSE)."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hardwood.training._limits import TeacherForm, check_teacher
from hardwood.training.batch.candidates import Candidates
from hardwood.training.second_model.guide import Guide
from hardwood.training.second_model.judge import Judged

if TYPE_CHECKING:
    import datasets

_PATIENCE = 20
"""Batches, from the first one on, without a single given score, after which scores and pairs can't belong together."""
_SPREAD = 1e-3
_MOST_TARGETS = 2**31


class TeacherScores:
    """Given scores of (query, target) pairs, kept sorted: 12 bytes each.

    Args:
        query_rows: ``(n,)`` rows of the loss's queries.
        target_rows: ``(n,)`` rows of its corpus.
        scores: ``(n,)``; of a pair that comes several times the mean counts, with a warning where they differ.

    Raises:
        ValueError: lengths that differ, or a score that is not finite.
    """

    def __init__(self, query_rows: ArrayLike, target_rows: ArrayLike, scores: ArrayLike) -> None:
        keys, values = _keys(np.asarray(query_rows), np.asarray(target_rows)), np.asarray(scores, dtype=np.float64)
        if keys.ndim != 1 or keys.shape != values.shape:
            raise ValueError(f"there must be a score for each pair, got {keys.shape} pairs and {values.shape} scores")
        if not np.isfinite(values).all():
            bad = int(np.argmin(np.isfinite(values)))
            raise ValueError(f"teacher's scores must be finite, but number {bad} of {len(values):,} is {values[bad]}")
        self._keys, place = np.unique(keys, return_inverse=True)
        counts = np.bincount(place, minlength=len(self._keys))
        means = np.bincount(place, weights=values, minlength=len(self._keys)) / np.maximum(counts, 1)
        differ = np.unique(place[np.abs(values - means[place]) > _SPREAD * np.maximum(np.abs(means[place]), 1.0)])
        if len(differ):
            warnings.warn(
                f"of {len(self._keys):,} pairs {len(differ):,} have several teacher's scores that differ: their mean "
                "counts",
                stacklevel=2,
            )
        self._scores = means.astype(np.float32)

    @classmethod
    def from_pairs(cls, pairs: datasets.Dataset, scores: Sequence[Sequence[float]]) -> TeacherScores:
        """Of n-tuples: a score for the positive and for each given negative.

        Args:
            pairs: of ``dataset.label_pairs(tuples)``; its ``label`` says which rows the texts are.
            scores: a list for each tuple, such as ``tuples["scores"]``.

        Raises:
            ValueError: no labels, or others than one score for each target of each tuple.
        """
        if "label" not in pairs.column_names:
            raise ValueError(
                f"the pairs have no label that says which rows their texts are ({', '.join(pairs.column_names)}): give "
                "those of dataset.label_pairs(tuples)"
            )
        labels, values = np.array(pairs["label"], dtype=np.int64), list(scores)
        size = labels.shape[1] - 1
        bad = next((i for i, one in enumerate(values) if not hasattr(one, "__len__") or len(one) != size), None)
        if len(values) != len(labels) or bad is not None:
            found = f"{len(values):,} lists" if bad is None else f"{values[bad]!r} for tuple {bad}"
            raise ValueError(
                f"teacher's scores must be a list of {size} for each of {len(labels):,} tuples, the positive's first "
                f"and then one for each negative (no differences), got {found}"
            )
        queries = np.repeat(labels[:, 0], size)
        return cls(queries, labels[:, 1:].ravel(), np.array(values, dtype=np.float64).ravel())

    def __len__(self) -> int:
        return len(self._keys)

    def of(self, query_rows: NDArray[np.int64], target_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``(B, C)``: the score of each query ``(B,)`` with each target ``(C,)``, NaN where there is none."""
        keys = _keys(query_rows[:, None], target_rows[None, :])
        if not len(self._keys):
            return np.full(keys.shape, np.nan, dtype=np.float32)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._scores[places], np.float32(np.nan))

    def compare(self) -> bool:
        """Whether there is a query with scores of two targets; one alone says nothing."""
        queries = self._keys // _MOST_TARGETS
        return bool((queries[1:] == queries[:-1]).any())

    def fingerprint(self) -> str:
        """A hash of all pairs and scores."""
        digest = hashlib.blake2b(self._keys.tobytes(), digest_size=16)
        digest.update(self._scores.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Teacher:
    """What scores of a teacher are used for, beside the cross entropy.

    Args:
        form: ``"kl"``: ``KL(softmax(t) || softmax(s))`` over the candidates of a query that have a teacher's score
            ``t``, with ``s`` the model's scores times the loss's scale (Lin, Yang and Lin, 2020, arXiv:2010.11386).
            ``"margin-mse"``: the squared error of ``(s_p - s_c) - (t_p - t_c)`` over those beside the positive, with
            ``s`` before the scale (Hofstaetter et al., 2020, arXiv:2010.02666). Either is a mean over the batch, in
            which a query without two scores (with one of the positive) counts 0.
        weight: what the term counts beside the cross entropy.
        scores: given scores; ``None``: those of the loss's guide, of what it judges, what it rejects among it.
        temperature: teacher's scores are divided by it. ``None``: 1; for ``"kl"`` with the scores of a bi-encoder as
            the guide, one over the loss's scale, so that both models' similarities are scaled alike.

    Raises:
        ValueError: an unknown form, a number out of range, or scores of one target a query, which compare nothing.
        TypeError: ``scores`` are no `TeacherScores`.
    """

    form: TeacherForm
    weight: float = 1.0
    scores: TeacherScores | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_teacher(self.form, self.weight, self.temperature)
        if self.scores is not None and not isinstance(self.scores, TeacherScores):
            raise TypeError(
                "the teacher's scores must be TeacherScores, such as TeacherScores.from_pairs(pairs, "
                f"tuples['scores']), got {type(self.scores).__name__}"
            )
        if self.scores is not None and not self.scores.compare():
            raise ValueError(
                f"of the {len(self.scores):,} teacher's scores no two are of one query, and one alone teaches nothing: "
                "give scores of the positive and of further targets, such as given negatives"
            )


class Teaching:
    """A teacher at work on one loss.

    Args:
        teacher: form and scores.
        guide: the loss's.
        scale: the loss's inverse temperature.

    Raises:
        ValueError: there are neither given scores nor a guide.
    """

    def __init__(self, teacher: Teacher, guide: Guide | None, scale: float) -> None:
        from sentence_transformers import SentenceTransformer

        if teacher.scores is None and guide is None:
            raise ValueError(
                f"the teacher ({teacher.form!r}) has no scores: give Teacher(scores=TeacherScores...), or the loss a "
                "guide (--guide)"
            )
        self.teacher, self.scale = teacher, scale
        cosines = teacher.scores is None and guide is not None and isinstance(guide.model, SentenceTransformer)
        default = 1 / scale if cosines and teacher.form == "kl" else 1.0
        self.temperature = default if teacher.temperature is None else teacher.temperature
        self._batches = self._num_scored = 0
        self._has_looked = False

    @classmethod
    def of(cls, teacher: Teacher | None, guide: Guide | None, scale: float) -> Teaching | None:
        """A teacher at work, if there is one.

        Raises:
            ValueError: a guide that rejects nothing while its scores are not a teacher's, and as the class.
        """
        if guide is not None and not guide.filter and (teacher is None or teacher.scores is not None):
            raise ValueError(
                "the guide has no margin, so that it rejects nothing, and its scores are no teacher's: give it a "
                "margin (0: what it scores above the positive), or the loss a Teacher without scores of its own"
            )
        return None if teacher is None else cls(teacher, guide, scale)

    def term(
        self, query_rows: NDArray[np.int64], candidates: Candidates, judged: Judged | None
    ) -> Callable[[Tensor], Tensor]:
        """The term of a step, as a function of the model's scores ``(B, C)`` (at any width) with their scale.

        Raises:
            ValueError: none of the first batches has two given scores of one query.
        """
        if self.teacher.scores is not None:
            found = torch.from_numpy(self.teacher.scores.of(query_rows, candidates.ids.cpu().numpy()))
        else:
            found = (
                judged.scores if judged is not None else torch.full((len(query_rows), len(candidates.ids)), torch.nan)
            )
        targets = found.to(candidates.encodings.device) / self.temperature
        columns, weight = candidates.positive_columns, self.teacher.weight
        counted = _comparable(targets, columns if self.teacher.form == "margin-mse" else None)
        self._num_scored = int(counted.sum())
        self._batches = -1 if self._num_scored or self._batches < 0 else self._batches + 1
        if self.teacher.scores is not None and self._batches == _PATIENCE:
            raise ValueError(
                f"in the first {_PATIENCE} batches no query has two of the {len(self.teacher.scores):,} given "
                "teacher's scores (for margin-mse its positive's and another): make them of the pairs that are trained "
                "on, TeacherScores.from_pairs(pairs, scores)"
            )
        if self._num_scored and self.teacher.form == "kl" and not self._has_looked:
            self._has_looked = True
            self._look(targets, counted)
        if self.teacher.form == "kl":
            return lambda scores: weight * soft_target_divergence(scores, targets)
        return lambda scores: weight * margin_error(scores / self.scale, targets, columns)

    def _look(self, targets: Tensor, counted: Tensor) -> None:
        """Warn of soft targets that are exactly 0: the teacher's scores lie too far apart for its temperature."""
        soft = torch.softmax(targets.masked_fill(~counted, -torch.inf), dim=1)
        vanished = int((counted & (soft == 0)).sum())
        if vanished:
            warnings.warn(
                f"{vanished:,} of {self._num_scored:,} soft targets of the first batch are exactly 0: the teacher's "
                f"scores lie too far apart for its temperature of {self.temperature:g}, and how they compare with each "
                "other is lost. Give the teacher a higher temperature",
                stacklevel=2,
            )

    def figures(self) -> dict[str, float]:
        """How many teacher's scores counted in the last batch, for the log."""
        return {"scored_by_teacher": float(self._num_scored)}


def soft_target_divergence(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean over queries of ``KL(softmax(targets) || softmax(scores))`` over what has a target; 0 for fewer than two.

    Args:
        scores: ``(B, C)`` with gradient.
        targets: ``(B, C)``, NaN where there is none.
    """
    has = torch.isfinite(targets)
    rows = has.sum(dim=1) >= 2  # of one alone, both softmaxes are 1; of none, they are not defined
    has, size = has[rows], max(len(scores), 1)
    log_p = torch.log_softmax(targets[rows].masked_fill(~has, -torch.inf), dim=1).masked_fill(~has, 0.0)
    log_q = torch.log_softmax(scores[rows].masked_fill(~has, -torch.inf), dim=1).masked_fill(~has, 0.0)
    return (has * log_p.exp() * (log_p - log_q)).sum() / size


def margin_error(scores: Tensor, targets: Tensor, positive_columns: Tensor) -> Tensor:
    """Mean over queries of the mean squared error of margins to the positive; 0 without a target for it and another.

    Args:
        scores: ``(B, C)`` with gradient.
        targets: ``(B, C)``, NaN where there is none.
        positive_columns: ``(B,)`` int64.
    """
    own = positive_columns[:, None]
    has = torch.isfinite(targets)
    others = (has & has.gather(1, own)).scatter(1, own, False)
    known = targets.nan_to_num(nan=0.0)
    errors = (scores.gather(1, own) - scores) - (known.gather(1, own) - known)
    of_queries = (others * errors.square()).sum(dim=1) / others.sum(dim=1).clamp(min=1)
    return of_queries.sum() / max(len(scores), 1)


def _comparable(targets: Tensor, positive_columns: Tensor | None) -> Tensor:
    """Which scores ``(B, C)`` count: those of a query that has two (given ``positive_columns``, its positive's too)."""
    has = torch.isfinite(targets)
    counts = has.sum(dim=1, keepdim=True) >= 2
    return has & (counts if positive_columns is None else counts & has.gather(1, positive_columns[:, None]))


def settings_of_teacher(teaching: Teaching | None) -> dict[str, Any]:
    """A teacher's settings for the model card and checkpoints, with a hash of given scores."""
    if teaching is None:
        return {"teacher": None}
    teacher = teaching.teacher
    given = "the guide's" if teacher.scores is None else teacher.scores.fingerprint()
    return {
        "teacher": teacher.form,
        "teacher_weight": teacher.weight,
        "teacher_temperature": teaching.temperature,
        "teacher_scores": given,
    }


def _keys(query_rows: NDArray[Any], target_rows: NDArray[Any]) -> NDArray[np.int64]:
    return query_rows.astype(np.int64) * _MOST_TARGETS + target_rows
