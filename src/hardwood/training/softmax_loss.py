"""The loss for ``SentenceTransformerTrainer``: cross entropy over the whole corpus, from a few negatives."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hardwood import losses
from hardwood._ragged import RaggedRows
from hardwood.encoders import document_prompt, has_router
from hardwood.encoding import similarity_of
from hardwood.negatives import Cost, Draw, MarginFilter, NegativeSource, Request, make_source, seen_mask
from hardwood.training._candidates import Candidates, columns_of, drawn_beyond, times_drawn, unique
from hardwood.training._features import check_finite, check_scores, pieces_of, to_device, two_columns
from hardwood.training._margin_watch import MarginWatch, check_margin
from hardwood.training._pairs import check_rows, other_pairs, rows_of
from hardwood.training._same_model import check_same_model
from hardwood.training._tokens import TargetFeatures
from hardwood.training.suspects import SuspectedNegatives
from hardwood.training.targets import CorpusTargets

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from hardwood.data import RetrievalDataset

Features = dict[str, Any]

_CITATION = """
@inproceedings{monath2023improving,
    title = "Improving Dual-Encoder Training through Dynamic Indexes for Negative Mining",
    author = "Monath, Nicholas and Zaheer, Manzil and Allen, Kelsey and McCallum, Andrew",
    booktitle = "Proceedings of the 26th International Conference on Artificial Intelligence and Statistics",
    series = "Proceedings of Machine Learning Research",
    volume = "206",
    pages = "9308--9330",
    year = "2023",
    url = "https://arxiv.org/abs/2303.15311",
}
"""
_OVERHEAD = 64
_ACCELERATOR_OVERHEAD = 4096
"""What a forward pass costs besides its texts, in tokens: launching a BERT's kernels takes an accelerator's host some
15 ms, in which it encodes as many."""


class LossTerms(dict[str, Tensor]):
    """What a loss returns to the trainer: terms that add up to it, and figures that are only logged.

    ``SentenceTransformerTrainer`` takes the sum of a loss dictionary's ``values()`` for the loss and logs its
    ``items()``. Here the logged figures are among the items but not among the values.
    """

    def __init__(self, terms: dict[str, Tensor], figures: dict[str, float]) -> None:
        device = next(iter(terms.values())).device
        super().__init__({**terms, **{name: torch.tensor(value, device=device) for name, value in figures.items()}})
        self._terms = list(terms.values())

    def values(self) -> list[Tensor]:  # type: ignore[override]
        """The terms of the loss alone."""
        return self._terms


class CorpusSoftmaxLoss(nn.Module):
    """Cross entropy of each query's positive against *every* target of the corpus, estimated from drawn negatives.

    Each step, inside the forward pass: the queries are encoded; the source draws negatives with these very encodings;
    the drawn targets are encoded with gradient, each once however often it was drawn; and all of them, with the batch's
    positives, are candidates of every query, weighed so that the sum estimates the softmax's denominator over the whole
    corpus (`hardwood.losses`). Known positives of a query never count against it, nor does the query's own document
    (the target that has its id or its text).

    Use it like any loss of sentence-transformers, with ``dataset.training_pairs()`` as the training set: its ``label``
    column tells the loss which query and which target a pair is. Add `NegativesCallback` to count optimiser steps under
    gradient accumulation, to have the source's state in checkpoints and its costs by part; alone, the loss takes each
    training forward pass for a step.

    The returned components sum to the loss: ``log_partition`` (the estimate of ``log Z``) and ``positive_score``
    (``-s_p``); the trainer logs both.

    Args:
        model: the encoder, towers shared or behind a ``Router``.
        dataset: corpus, queries and known positives.
        negatives: a source, or its name (`hardwood.negatives.SOURCES`).
        num_negatives: draws a query, k.
        scale: inverse temperature of the softmax.
        weighting: ``"shared"`` (multiple importance sampling over the batch's draws), ``"tempered"`` (the same, its
            ratios tempered in training: a bias for less variance), ``"own"`` (each query its own draws), ``"none"``
            (all candidates count once: the usual practice, biased). ``None``: what `NegativeSource.weighting` says.
        margin: filter against false negatives.
        split: the split trained on, whose positives are excluded.
        target_prompt: put before each drawn target; default: the model's document prompt.
        seed: of the draws.
        encode_batch_size: texts a forward pass where the source has targets encoded, without gradient.

    Raises:
        ValueError: for an argument out of range or an unknown source.
        TypeError: ``margin`` is no `MarginFilter`, or ``model`` no ``SentenceTransformer``.

    References:
        Monath, Zaheer, Allen and McCallum, AISTATS 2023 (arXiv:2303.15311).
    """

    def __init__(
        self,
        model: SentenceTransformer,
        dataset: RetrievalDataset,
        negatives: NegativeSource | str = "exact",
        *,
        num_negatives: int = 8,
        scale: float = 20.0,
        weighting: losses.Weighting | None = None,
        margin: MarginFilter | None = None,
        split: str = "train",
        target_prompt: str | None = None,
        seed: int = 0,
        encode_batch_size: int = 256,
    ) -> None:
        super().__init__()
        if num_negatives < 1:
            raise ValueError(f"num_negatives must be at least 1, got {num_negatives}")
        if encode_batch_size < 1:
            raise ValueError(f"encode_batch_size must be at least 1, got {encode_batch_size}")
        if margin is not None and not isinstance(margin, MarginFilter):
            raise TypeError(f"margin must be a MarginFilter, such as MarginFilter(absolute={margin!r}), got {margin!r}")
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.model = model
        self.num_negatives = num_negatives
        self.scale = scale
        self.margin = MarginFilter() if margin is None else margin
        self.seed = seed
        self.similarity = similarity_of(model)
        check_margin(self.margin, self.similarity)
        self._margin_watch = MarginWatch()
        self.cost = Cost()
        self.source = make_source(negatives) if isinstance(negatives, str) else negatives
        self.weighting = self.source.weighting if weighting is None else weighting
        if self.weighting not in losses.WEIGHTINGS:
            raise ValueError(f"weighting must be one of {', '.join(losses.WEIGHTINGS)}, got {self.weighting!r}")
        self.target_prompt = document_prompt(model) if target_prompt is None else target_prompt
        task = "document" if has_router(model) else None
        self._target_features = TargetFeatures(model, dataset.corpus, self.target_prompt, task)
        self.targets = CorpusTargets(
            model,
            dataset.corpus,
            self.cost,
            similarity=self.similarity,
            features=self._target_features,
            batch_size=encode_batch_size,
        )
        self.source.attach(self.targets, self.cost)
        self.suspects = SuspectedNegatives(len(dataset.corpus))
        self._queries = dataset.queries
        self._known = dataset.never_negatives(split)
        self._known_in_evaluation = dataset.never_negatives(*dataset.splits)
        self._step = -1
        self._micro_step = 0
        self.steps_are_announced = False

    def start_over(self) -> None:
        """Forget what an earlier training run has left in the source; `NegativesCallback` calls it.

        Raises:
            ValueError: the trainer trains another model than the loss was made for.
        """
        check_same_model(self.model, self.targets.model)
        self._step = -1
        self.source.attach(self.targets, self.cost)

    def get_config_dict(self) -> dict[str, Any]:
        """The settings, for the model card that sentence-transformers writes; a resumed run must have them too."""
        return {
            "negatives": self.source.name,
            # A path says nothing to whoever reads the card, and a checkpoint holds the tree itself.
            "negatives_options": {name: value for name, value in self.source.settings().items() if name != "index"},
            "num_negatives": self.num_negatives,
            "scale": self.scale,
            "weighting": self.weighting,
            "margin": dataclasses.asdict(self.margin),
            "target_prompt": self.target_prompt,
            "seed": self.seed,
        }

    @property
    def citation(self) -> str:
        """What to cite, for the model card."""
        return _CITATION

    def data_fingerprint(self) -> str:
        """A hash of corpus, queries and what is no negative of them: a checkpoint belongs to its data."""
        digest = hashlib.blake2b(digest_size=16)
        for table in (self.targets.corpus, self._queries):
            digest.update(table.fingerprint().encode())
        for array in (self._known.offsets, self._known.values):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def fault_of(self, pairs: Any) -> str | None:
        """What is wrong with a trainer's training set, in words; ``None``: nothing that a look at some pairs shows."""
        return other_pairs(pairs, self._queries, self.targets.corpus)

    def begin_step(self, step: int) -> None:
        """Announce optimiser step ``step`` (from 0): the source refreshes what is due. `NegativesCallback` calls it."""
        self.steps_are_announced = True
        self._begin_step(step)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None) -> dict[str, Tensor]:
        """Loss of a batch of (query, positive) pairs.

        Args:
            sentence_features: the features of queries, then of positives; further columns are an error.
            labels: ``(B, 2)`` int64, query rows and target rows, as ``training_pairs()`` has them.

        Returns:
            `LossTerms` ``{"log_partition", "positive_score"}``, scalars whose sum is the loss, and the source's
            diagnostics, which the trainer logs beside them.

        Raises:
            ValueError: labels or columns that are not those of ``training_pairs()``, scores that overflow, or an
                encoding that is not finite; names the text. The source has not been told of the step then.
        """
        check_same_model(self.model, self.targets.model)
        query_features, positive_features = two_columns(sentence_features)
        query_rows, positive_rows = rows_of(labels)
        check_rows(query_rows, positive_rows, len(self._queries), self.targets.num_targets)
        is_training = torch.is_grad_enabled() and self.model.training
        if is_training and not self.steps_are_announced:
            self._begin_step(self._step + 1)
        device = self.targets.device
        queries = self._embed_features(query_features, len(query_rows), device)
        positives = self._embed_features(positive_features, len(query_rows), device)
        check_finite(queries, query_rows, self._queries, "query", self._step)
        check_finite(positives, positive_rows, self.targets.corpus, "target", self._step)
        known = self._known if is_training else self._known_in_evaluation
        request = self._request(queries.detach(), positives.detach(), query_rows, positive_rows, known, is_training)
        draw = self._draw(request)

        candidates = self._candidates(positives, request, draw)
        check_finite(candidates.encodings, candidates.ids, self.targets.corpus, "target", self._step)
        terms = self._cross_entropy(queries, candidates, request, draw, query_rows if is_training else None)
        if is_training:
            self.cost.texts_encoded += 2 * len(query_rows) + len(candidates.drawn)
            # Last of all: a source that writes these into its index must not change the proposal under the weights.
            self.source.observe(request, draw, candidates.ids, candidates.encodings.detach())
        dropped = {"dropped_by_margin": self._margin_watch.dropped} if self.margin else {}
        return LossTerms(terms, self.source.diagnostics() | dropped)

    def _begin_step(self, step: int) -> None:
        self._step = step
        self._micro_step = 0
        self.source.begin_step(step)

    def _request(
        self,
        queries: Tensor,
        positives: Tensor,
        query_rows: np.ndarray,
        positive_rows: np.ndarray,
        known: RaggedRows,
        is_training: bool,
    ) -> Request:
        queries, positives = queries.float(), positives.float()
        position = (self._step, self._micro_step) if is_training else (0, 2**32 - 1)
        self._micro_step += is_training
        return Request(
            queries=queries,
            positives=torch.from_numpy(positive_rows).to(queries.device),
            num_negatives=self.num_negatives,
            scale=self.scale,
            exclude=_with_own(known.take(query_rows), positive_rows),
            ceiling=self.margin.ceiling((queries * positives).sum(dim=1)),
            seed=_mix(self.seed, *position, _rank()),
        )

    def _draw(self, request: Request) -> Draw:
        if not self.source.is_ready(self._step):
            return Draw.nothing(len(request.queries), request.queries.device)
        return self.source.sample(request)

    def _candidates(self, positives: Tensor, request: Request, draw: Draw) -> Candidates:
        """The batch's positives, each target once, then what was drawn beyond them, encoded with gradient."""
        ids, first, positive_columns = unique(request.positives)
        drawn = drawn_beyond(draw, ids)
        encodings = torch.cat([positives[first], self._embed_targets(drawn, like=positives)])
        return Candidates(torch.cat([ids, drawn]), drawn, positive_columns, encodings)

    def _cross_entropy(
        self,
        queries: Tensor,
        candidates: Candidates,
        request: Request,
        draw: Draw,
        training_rows: np.ndarray | None,
    ) -> dict[str, Tensor]:
        scores = losses.scores(queries, candidates.encodings, self.scale)
        check_scores(scores, self.scale, self._step)
        log_weights = torch.zeros_like(scores)
        if len(candidates.drawn):
            log_weights[:, -len(candidates.drawn) :] = self._drawn_log_weights(request, draw, candidates.drawn)
        # What is known to be right for a query, the query itself, or too near its positive, does not count against it.
        excluded = seen_mask(request.exclude, candidates.ids)
        if training_rows is not None:
            self._note_suspects(training_rows, candidates, scores.detach(), excluded)
        if request.ceiling is not None:
            dropped = scores.detach() > self.scale * request.ceiling[:, None]
            if training_rows is not None:
                usable = ~excluded & torch.isfinite(log_weights)
                self._margin_watch.observe(usable, dropped, was_drawn=draw.ids.numel() > 0)
            excluded |= dropped
        log_weights = log_weights.masked_fill(excluded, -torch.inf)
        # In evaluation the estimate stays without bias.
        if self.weighting == "tempered" and training_rows is not None and not draw.exhaustive:
            times = times_drawn(draw, candidates)
            log_weights = log_weights + losses.tempering(scores.detach(), log_weights, times, request.num_negatives)
        positive_scores, log_z = losses.corpus_cross_entropy(scores, candidates.positive_columns, log_weights)
        return {"log_partition": log_z.mean(), "positive_score": -positive_scores.mean()}

    def _note_suspects(self, query_rows: np.ndarray, candidates: Candidates, scores: Tensor, known: Tensor) -> None:
        """Which candidates outrank the positive of a query without being known positives of it."""
        leads = scores - scores.gather(1, candidates.positive_columns[:, None])
        batch_rows, columns = ((leads > 0) & ~known).nonzero(as_tuple=True)
        self.suspects.observe(
            query_rows[batch_rows.cpu().numpy()],
            candidates.ids[columns].cpu().numpy(),
            leads[batch_rows, columns].double().cpu().numpy(),
        )

    def _drawn_log_weights(self, request: Request, draw: Draw, drawn_ids: Tensor) -> Tensor:
        """Log-weights of the drawn candidates, ``(B, m)`` or ``(m,)``; draws among the batch's positives are dropped,
        since these are summed as they are."""
        if self.weighting == "none" or draw.exhaustive:
            return torch.zeros(len(drawn_ids), device=drawn_ids.device)
        columns, is_candidate = columns_of(draw, drawn_ids)
        log_weights = draw.log_weights.masked_fill(~is_candidate, -torch.inf)
        if self.weighting == "own":
            return losses.own_log_weights(columns, log_weights, len(drawn_ids))
        return losses.shared_log_weights(columns, log_weights, self.source.log_proposal(request, draw, drawn_ids))

    def _embed_targets(self, rows: Tensor, like: Tensor) -> Tensor:
        """Encodings of corpus rows with gradient, in the order of ``rows``."""
        if not len(rows):
            return like[:0]
        return self._embed_features(self._target_features.of(rows.cpu().numpy()), len(rows), like.device)

    def _embed_features(self, features: Features, batch_size: int, device: torch.device) -> Tensor:
        """Encodings ``(batch_size, d)`` with gradient, on ``device``, made piece by piece."""
        pieces = self._pieces(features, batch_size, device)
        encodings = torch.cat([self._embed_piece(to_device(piece, device)) for _, piece in pieces])
        if len(pieces) == 1:
            return encodings
        return encodings[torch.argsort(torch.cat([rows for rows, _ in pieces])).to(device)]

    def _pieces(self, features: Features, batch_size: int, device: torch.device) -> list[tuple[Tensor, Features]]:
        """What each forward pass encodes; see `pieces_of`."""
        return pieces_of(features, batch_size, overhead=_OVERHEAD if device.type == "cpu" else _ACCELERATOR_OVERHEAD)

    def _embed_piece(self, features: Features) -> Tensor:
        return self._embed(features)

    def _embed(self, features: Features) -> Tensor:
        embeddings = self.model(dict(features))["sentence_embedding"]  # a copy: modules write into what they are given
        # As `encode` does it: cut off what the model is told to cut, and normalise in float32.
        embeddings = embeddings[:, : self.targets.model.truncate_dim].float()
        return nn.functional.normalize(embeddings, dim=1) if self.similarity == "cosine" else embeddings


def _with_own(known: RaggedRows, own: np.ndarray) -> RaggedRows:
    """Each query's known positives and the positive at hand, which may be from another split."""
    rows = np.concatenate([known.row_ids(), np.arange(len(own))])
    return RaggedRows.from_pairs(rows, np.concatenate([known.values, own]), len(own))


def _rank() -> int:
    """This process's number under torch.distributed: each must draw for itself."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0


def _mix(*numbers: int) -> int:
    """One seed of many numbers."""
    return int(np.random.SeedSequence([n % 2**32 for n in numbers]).generate_state(1, np.uint64)[0]) >> 1
