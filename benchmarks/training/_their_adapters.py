"""Our loss with the signatures of sentence-transformers' losses, so that their tests can be run against it.

A test hands features to a loss, and ours must know which texts they are: what ``preprocess`` makes is remembered for as
long as its tensors live.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as theirs
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss as TheirMatryoshkaLoss
from torch import Tensor, nn
from torch.utils.checkpoint import set_checkpoint_early_stop

from hardwood import losses
from hardwood.data import RetrievalDataset
from hardwood.training import CachedCorpusSoftmaxLoss, CorpusSoftmaxLoss, Guide, Teacher, TeacherScores
from hardwood.training.batch.candidates import Candidates
from hardwood.training.second_model.teacher import Teaching

FURTHER = [f"{what} beside the {where}" for what in ("a lamp", "two cups", "the rope") for where in ("shed", "gate")]
"""Targets that no batch holds: they are drawn."""

with_drawn_targets = False
"""Whether losses draw `FURTHER`, all of them; otherwise they have the batch alone (in-batch negatives)."""


@dataclass(frozen=True)
class _Column:
    """What one call of ``preprocess`` was given."""

    ids: weakref.ref[Tensor]
    texts: list[str]
    prompt: str | None


_columns: list[_Column] = []

used: list[str] = []
"""Which of the classes below the test at hand has used."""


def forget() -> None:
    """A test begins."""
    _columns.clear()
    used.clear()


def remember_texts() -> None:
    """From now on each ``preprocess`` of texts is remembered."""
    original = SentenceTransformer.preprocess

    def remembering(self: Any, inputs: Any, prompt: str | None = None, **kwargs: Any) -> Any:
        features = original(self, inputs, prompt=prompt, **kwargs)
        if isinstance(inputs, list) and all(isinstance(text, str) for text in inputs):
            _columns.append(_Column(weakref.ref(features["input_ids"]), inputs, prompt))
        return features

    SentenceTransformer.preprocess = remembering


def _batches(sentence_features: Sequence[dict[str, Any]]) -> tuple[int, list[list[_Column]]]:
    """All batches whose features are alive, and the place of this one: one loss can take them all."""
    alive = [column for column in _columns if column.ids() is not None]
    _columns[:] = alive
    tensors = [column.ids() for column in alive]
    first = next((i for i, ids in enumerate(tensors) if ids is sentence_features[0]["input_ids"]), None)
    size = len(sentence_features)
    if first is None or any(
        ids is not features["input_ids"] for ids, features in zip(tensors[first:], sentence_features, strict=False)
    ):
        pytest.skip("features that no model has made of texts")
    begin = first % size
    groups = [alive[i : i + size] for i in range(begin, len(alive) - size + 1, size)]
    return first // size, groups


class _Spied(CachedCorpusSoftmaxLoss):
    """Shows each mini-batch's encodings twice: as they are made, and as the backward pass makes them again."""

    def watch(self, show: Any) -> None:
        self._show, self._pieces_seen, self._again = show, [], {}

    def forward(self, sentence_features: Any, labels: Tensor | None) -> dict[str, Tensor]:
        with set_checkpoint_early_stop(False):  # else the second pass ends before there are encodings
            return super().forward(sentence_features, labels)

    def _embed(self, features: dict[str, Any]) -> Tensor:
        encodings = super()._embed(features)
        place = next((i for i, seen in enumerate(self._pieces_seen) if seen is features), None)
        if place is None:
            self._pieces_seen.append(features)
            self._show(encodings)
            return encodings
        self._again[place] = encodings.detach()  # the backward pass begins with the last
        if len(self._again) == len(self._pieces_seen):
            for i in range(len(self._again)):
                self._show(self._again[i])
        return encodings


class OurLoss(nn.Module):
    """``CorpusSoftmaxLoss`` as a loss of theirs: of features, and labels that say nothing."""

    kind: type[CorpusSoftmaxLoss] = CorpusSoftmaxLoss

    def __init__(self, model: SentenceTransformer, **options: Any) -> None:
        super().__init__()
        self.model = model
        self.options: dict[str, Any] = {"unasked_prior": 1.0, "unasked_push": 1.0, **options}
        self._loss: Any = None

    def forward(self, sentence_features: Any, labels: Tensor | None) -> Tensor:
        sentence_features = list(sentence_features)
        place, batches = _batches(sentence_features)
        if self._loss is None:
            self._loss, self._dataset = self._make(batches)
        used.append(type(self).__name__)
        columns = batches[place]
        names = ["anchor", "positive", *(f"negative_{i}" for i in range(len(columns) - 2))][: len(columns)]
        tuples = datasets.Dataset.from_dict({n: c.texts for n, c in zip(names, columns, strict=True)})
        if len(columns) > 1:
            labels = torch.tensor(self._dataset.label_pairs(tuples)["label"][:])
        self._loss.model = self.model  # the trainer may have wrapped it
        return sum(self._loss(sentence_features, labels).values())

    def _make(self, batches: list[list[_Column]]) -> tuple[CorpusSoftmaxLoss, RetrievalDataset]:
        columns = [(batch * 2)[:2] for batch in batches]  # one column alone: the loss itself says what is missing
        pairs = [pair for a, p in columns for pair in zip(a.texts, p.texts, strict=True)]
        targets = [text for batch in batches for column in batch[1:] for text in column.texts]
        queries, positives = (list(column) for column in zip(*dict.fromkeys(pairs), strict=True))
        corpus = list(dict.fromkeys(targets + (FURTHER if with_drawn_targets else []))) or positives
        table = datasets.Dataset.from_dict({"anchor": queries, "positive": positives})
        dataset = RetrievalDataset.from_pairs(table, corpus=corpus)
        source = (
            {"negatives": "uniform", "num_negatives": len(corpus)} if with_drawn_targets else {"negatives": "in-batch"}
        )
        prompt = batches[0][-1].prompt
        return self.kind(self._bare(), dataset, **source, target_prompt=prompt, **self.options), dataset

    def _bare(self) -> SentenceTransformer:
        """The model inside what the trainer has wrapped around it."""
        model: Any = self.model
        while not isinstance(model, SentenceTransformer):
            model = getattr(model, "module", None) or model._orig_mod
        return model


class OurCachedLoss(OurLoss):
    """``CachedCorpusSoftmaxLoss``, with the hook by which their tests look at mini-batches."""

    kind = _Spied

    def __init__(self, model: SentenceTransformer, mini_batch_size: int = 32, **options: Any) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size, **options)

    def embed_minibatch(self, *, reps: Tensor) -> Any:
        return reps, None

    def _make(self, batches: list[list[_Column]]) -> tuple[CorpusSoftmaxLoss, RetrievalDataset]:
        loss, dataset = super()._make(batches)
        loss.watch(lambda encodings: self.embed_minibatch(reps=encodings))
        return loss, dataset


def _ranking_options(
    scale: float = 20.0,
    directions: Sequence[str] = ("query_to_doc",),
    partition_mode: str = "joint",
    hardness_mode: str | None = None,
    mini_batch_num_tokens: int | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Our options for those of ``MultipleNegativesRankingLoss``; skips the test of one that we have not."""
    others = {name: value for name, value in others.items() if name not in ("hardness_strength", "show_progress_bar")}
    if hardness_mode is not None:
        pytest.skip("no hardness weighting: hard negatives are drawn")
    if mini_batch_num_tokens is not None:
        pytest.skip("no budget of tokens: mini-batches are cut by length, mini_batch_size texts each")
    if others:
        pytest.skip(f"no option {', '.join(others)}")
    if tuple(directions) == ("query_to_doc", "doc_to_query") and partition_mode == "per_direction":
        return {"scale": scale, "symmetric": True}
    if tuple(directions) != ("query_to_doc",):
        pytest.skip("no queries among queries, no targets among targets: the softmax is that over targets")
    return {"scale": scale}


class RankingLoss(OurLoss):
    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **_ranking_options(**options))


class CachedRankingLoss(OurCachedLoss):
    def __init__(self, model: Any, mini_batch_size: int = 32, **options: Any) -> None:
        super().__init__(model, mini_batch_size, **_ranking_options(**options))


class SymmetricLoss(OurLoss):
    def __init__(self, model: Any) -> None:
        super().__init__(model, symmetric=True)


class CachedSymmetricLoss(OurCachedLoss):
    def __init__(self, model: Any, mini_batch_size: int = 32, **options: Any) -> None:
        super().__init__(model, mini_batch_size, **{**_ranking_options(**options), "symmetric": True})


def _guide_options(model: Any, guide: Any, temperature: float = 0.01, **options: Any) -> dict[str, Any]:
    _ranking_options(**options)
    other = copy.deepcopy(guide) if guide is model else guide  # a guide that trains along is refused
    return {"scale": 1 / temperature, "guide": Guide(other, within=2.0)}


class GuidedLoss(OurLoss):
    def __init__(self, model: Any, guide: Any, **options: Any) -> None:
        super().__init__(model, **_guide_options(model, guide, **options))


class CachedGuidedLoss(OurCachedLoss):
    def __init__(self, model: Any, guide: Any, mini_batch_size: int = 32, **options: Any) -> None:
        super().__init__(model, mini_batch_size, **_guide_options(model, guide, **options))

    def embed_minibatch(self, *, reps: Tensor) -> Any:
        return reps, None, None


class MegaBatchLoss(OurCachedLoss):
    """Another objective, but the same machinery: what their tests ask is that mini-batches change nothing."""

    def __init__(
        self, model: Any, use_mini_batched_version: bool = True, mini_batch_size: int = 50, **options: Any
    ) -> None:
        super().__init__(model, mini_batch_size, **_ranking_options(**options))
        if not use_mini_batched_version:
            self.kind = CorpusSoftmaxLoss  # type: ignore[assignment]
            del self.options["mini_batch_size"]

    def _make(self, batches: list[list[_Column]]) -> tuple[CorpusSoftmaxLoss, RetrievalDataset]:
        return (super() if self.kind is _Spied else super(OurCachedLoss, self))._make(batches)

    def forward(self, sentence_features: Any, labels: Tensor | None) -> Tensor:
        if len(sentence_features) > 2:
            pytest.skip("a third column holds given negatives")
        return super().forward(sentence_features, labels)


class WidthsLoss(nn.Module):
    """``MatryoshkaLoss`` around ours is our own option; around one of theirs it is theirs."""

    def __init__(
        self, model: Any, loss: nn.Module, matryoshka_dims: Sequence[int], matryoshka_weights: Any = None
    ) -> None:
        super().__init__()
        options = {"matryoshka_dims": matryoshka_dims, "matryoshka_weights": matryoshka_weights}
        if isinstance(loss, OurLoss):
            loss.options |= options
            self.loss = loss
        elif type(loss).__module__.startswith("sentence_transformers."):
            self.loss = TheirMatryoshkaLoss(model, loss, **options)
        else:  # a test of the options alone
            pair = datasets.Dataset.from_dict({"anchor": ["one", "two"], "positive": ["three", "four"]})
            used.append(type(self).__name__)
            self.loss = CorpusSoftmaxLoss(model, RetrievalDataset.from_pairs(pair), "in-batch", **options)

    @property
    def matryoshka_dims(self) -> tuple[int, ...]:
        return tuple(width for width, _ in self.loss.widths)

    @property
    def matryoshka_weights(self) -> tuple[float, ...]:
        return tuple(weight for _, weight in self.loss.widths)

    def forward(self, sentence_features: Any, labels: Tensor | None) -> Tensor:
        return self.loss(sentence_features, labels)


class TaughtLoss:
    """Our ``Teacher("kl")`` as their ``DistillKLDivLoss``: the targets of each query are its own alone."""

    def __init__(
        self, model: Any, temperature: float = 1.0, student_temperature: Any = None, teacher_temperature: Any = None
    ) -> None:
        used.append(type(self).__name__)
        pair = datasets.Dataset.from_dict({"anchor": ["one", "two"], "positive": ["three", "four"]})
        student = temperature if student_temperature is None else student_temperature
        self.temperature = temperature if teacher_temperature is None else teacher_temperature
        Teacher("kl", temperature=self.temperature)
        tiny = SentenceTransformer("sentence-transformers-testing/stsb-bert-tiny-safetensors")
        scale = 1 / student if student else float("inf")
        self.scale = CorpusSoftmaxLoss(tiny, RetrievalDataset.from_pairs(pair), "in-batch", scale=scale).scale
        self._teaching: Any = None

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        size, num = len(embeddings[0]), len(embeddings) - 1
        rows = torch.arange(size)
        tuples = {"label": [[row, *(row * num + i for i in range(num))] for row in range(size)]}
        if self._teaching is None:
            scores = TeacherScores.from_pairs(datasets.Dataset.from_dict(tuples), labels.tolist())
            self._teaching = Teaching(Teacher("kl", scores=scores, temperature=self.temperature), None, self.scale)
        encodings = torch.stack(embeddings[1:], dim=1).flatten(0, 1)
        candidates = Candidates(torch.arange(size * num), rows[:0], rows * num, encodings)
        found = losses.scores(embeddings[0], encodings, self.scale)
        return self._teaching.term(rows.numpy(), candidates, None)(found)


CACHED = {
    "CachedMultipleNegativesRankingLoss": CachedRankingLoss,
    "CachedMultipleNegativesSymmetricRankingLoss": CachedSymmetricLoss,
    "MatryoshkaLoss": WidthsLoss,
}
"""What takes the place of their losses where the other side of a comparison stays theirs."""

ALL = {
    **CACHED,
    "MultipleNegativesRankingLoss": RankingLoss,
    "MultipleNegativesSymmetricRankingLoss": SymmetricLoss,
    "GISTEmbedLoss": GuidedLoss,
    "CachedGISTEmbedLoss": CachedGuidedLoss,
    "MegaBatchMarginLoss": MegaBatchLoss,
    "DistillKLDivLoss": TaughtLoss,
}
"""What takes the place of their losses where both sides of a comparison are ours."""


def put_in_place(names: dict[str, Any]) -> None:
    """Their package gives out ours under these names; must come before tests are imported."""
    for name, replacement in names.items():
        setattr(theirs, name, replacement)
