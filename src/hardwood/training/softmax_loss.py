"""The loss for ``SentenceTransformerTrainer``: cross entropy over the whole corpus, from a few negatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hardwood import _checks, losses
from hardwood.data import RetrievalDataset
from hardwood.encoders import document_prompt, has_router
from hardwood.encoding import similarity_of
from hardwood.negatives import (
    Cost,
    MarginFilter,
    NegativeSource,
    Request,
    UniformNegatives,
    log_prior_of,
    make_source,
)
from hardwood.ranks import Ranks
from hardwood.training._announced import check_announced
from hardwood.training._citation import CITATION
from hardwood.training._embedding import EncodingModule, Features
from hardwood.training._limits import (
    DEFAULT_UNASKED_PRIOR,
    DEFAULT_UNASKED_PUSH,
    WEIGHTINGS,
    Shards,
    Weighting,
    check_draws,
    check_margin_filter,
    check_shards,
)
from hardwood.training._stepping import SteppingModule
from hardwood.training.batch.arrivals import ArrivalCheck
from hardwood.training.batch.candidates import Candidates, candidates_of
from hardwood.training.batch.features import check_finite, check_scores, text_columns_of
from hardwood.training.batch.labels import check_rows, rows_of
from hardwood.training.batch.margin_watch import check_margin
from hardwood.training.batch.same_model import check_same_model
from hardwood.training.checkpoint.fingerprint import data_fingerprint
from hardwood.training.corpus.suspects import SuspectedNegatives
from hardwood.training.corpus.targets import CorpusTargets
from hardwood.training.corpus.tokens import TargetFeatures
from hardwood.training.corpus.unasked import UnaskedTargets
from hardwood.training.estimate.draws import candidate_weights, strategies_of
from hardwood.training.estimate.exclusions import Exclusions
from hardwood.training.estimate.one_batch import (
    as_one_pass,
    batch_of_all,
    encoded_together,
    refuse_sharded_weights,
)
from hardwood.training.estimate.requests import request_of
from hardwood.training.estimate.terms import LossTerms
from hardwood.training.estimate.weights import Strategy, tempering_of
from hardwood.training.estimate.widths import checked_widths, refuse_wrappers, terms_at_widths
from hardwood.training.second_model.guide import Guide, as_guide, settings_of
from hardwood.training.second_model.judge import Judge
from hardwood.training.second_model.teacher import Teacher, Teaching, settings_of_teacher

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer


class CorpusSoftmaxLoss(EncodingModule, SteppingModule):
    """Cross entropy of each query's positive against *every* target of the corpus, estimated from drawn negatives.

    Each step, inside the forward pass: the queries are encoded; the source draws negatives with these very encodings;
    the drawn targets are encoded with gradient, each once however often it was drawn; and all of them, with the batch's
    positives, are candidates of every query, weighed so that the sum estimates the softmax's denominator over the whole
    corpus (`hardwood.losses`). Known positives of a query never count against it, nor does the query's own document
    (the target that has its id or its text).

    Use it like any loss of sentence-transformers, with ``dataset.training_pairs()`` as the training set: its ``label``
    column says which query and which target a pair is. Add `NegativesCallback` to count optimiser steps under
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
            ratios tempered in training: a bias for less variance), ``"own"`` (each query its own draws),
            ``"uncorrected"`` (all candidates count once: the usual practice, biased). ``None``: what
            `NegativeSource.weighting` says.
        unasked_prior: what a target counts in ``Z`` that no query of the split asks for, above 0 and at most 1; a
            target that is asked for counts 1. Such targets are never pulled, so they must be pushed less, or queries
            for them fail later (`hardwood.training.corpus.unasked`). 1: the plain softmax over the corpus.
        unasked_push: the share of the gradient that moves the encodings of such targets, from 0 to 1. At 0 they are
            encoded without gradient, which saves time and memory.
        margin: filter against false negatives.
        split: the split trained on; its positives are excluded.
        target_prompt: put before each drawn target, and before targets that the source has encoded. Default: what the
            trainer puts before positives, if `NegativesCallback` is there, else the model's document prompt.
            Positives that arrive with another one are an error.
        seed: of the draws.
        encode_batch_size: texts a forward pass where the source has targets encoded, without gradient.
        uniform_negatives: uniform draws a query beside the source's, from the first step on; weighed together with them
            as one mixture (`hardwood.training.estimate.weights`), so that no target weighs more than they alone would
            give it.
        hardest: of the source's draws for a query, only so many with the highest scores of the encoder as it is count,
            and those that no query keeps count for none (`hardwood.training.estimate.hardest`). All are encoded;
            uniform draws stay. It makes the estimate of Z too small, the more so the more is dropped. ``None``: all
            count.
        symmetric: the mean of two directions: query to targets as above, and target to queries, which are those of the
            batch without those that the target is known to answer.
        matryoshka_dims: widths at which the loss is taken, all with one draw at full width; the loss is their sum
            (Kusupati et al., 2022, arXiv:2205.13147). ``None``: the full width.
        matryoshka_weights: what each width counts; 1 by default.
        guide: a second model that tells false negatives from hard ones, or a `Guide` with its settings.
        teacher: scores that are a target beside the cross entropy, given ones or the guide's.
        shards: what several processes (torchrun, ``accelerate launch``) do with the corpus: ``"divided"``, each encodes
            and keeps a part of it, or ``"replicated"``, each a copy, which is quicker for small ones. In both the loss,
            its gradient and the draws are those of the whole batch of all processes. It is of no effect on one process.
        num_shards: into how many shards the corpus is divided, at least one a process; draws are a function of it, and
            not of the number of processes. ``None``: one a process.

    Raises:
        ValueError: for an argument out of range or an unknown source.
        TypeError: ``margin`` is no `MarginFilter`, ``model`` no ``SentenceTransformer``, or ``dataset`` no
            `RetrievalDataset`.

    References:
        Monath, Zaheer, Allen and McCallum, AISTATS 2023 (arXiv:2303.15311).
    """

    def __init__(
        self,
        model: SentenceTransformer,
        dataset: RetrievalDataset,
        negatives: NegativeSource | str = "dynamic",
        *,
        num_negatives: int = 8,
        scale: float = 20.0,
        weighting: Weighting | None = None,
        unasked_prior: float = DEFAULT_UNASKED_PRIOR,
        unasked_push: float = DEFAULT_UNASKED_PUSH,
        margin: MarginFilter | None = None,
        split: str = "train",
        target_prompt: str | None = None,
        seed: int = 0,
        encode_batch_size: int = 256,
        uniform_negatives: int = 0,
        hardest: int | None = None,
        symmetric: bool = False,
        matryoshka_dims: Sequence[int] | None = None,
        matryoshka_weights: Sequence[float] | None = None,
        guide: Guide | SentenceTransformer | CrossEncoder | None = None,
        teacher: Teacher | None = None,
        shards: Shards = "divided",
        num_shards: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(dataset, RetrievalDataset):
            raise TypeError(
                f"dataset must be a RetrievalDataset, got a {type(dataset).__name__}: make one of pairs with "
                "RetrievalDataset.from_pairs, or with read_dataset"
            )
        check_draws(num_negatives, uniform_negatives, hardest)
        _checks.at_least(1, encode_batch_size, "encode_batch_size")
        check_margin_filter(margin)
        _checks.positive(scale, "scale")
        self.model = model
        self.num_negatives = num_negatives
        self.scale = scale
        self.margin = MarginFilter() if margin is None else margin
        self.seed = seed
        self.similarity = similarity_of(model)
        check_margin(self.margin, self.similarity)
        self.cost = Cost()
        self.source = make_source(negatives) if isinstance(negatives, str) else negatives
        self.shards, self.num_shards = check_shards(shards, num_shards), num_shards
        self.weighting = self.source.weighting if weighting is None else weighting
        _checks.one_of(WEIGHTINGS, self.weighting, "weighting")
        self._given_prompt = target_prompt
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
        self._unasked = UnaskedTargets(
            dataset.known_positives(split), len(dataset.corpus), prior=unasked_prior, push=unasked_push
        )
        self.targets.log_prior = self._unasked.log_prior
        self.source.attach(self.targets, self.cost)
        self.uniform_negatives = uniform_negatives
        self.hardest = hardest
        self._uniform = UniformNegatives()
        self._uniform.attach(self.targets, self.cost)
        self.symmetric = symmetric
        self.widths = checked_widths(matryoshka_dims, matryoshka_weights, self.targets.dimension)
        second = as_guide(guide)
        self.judge = None if second is None else Judge(second, dataset.queries, dataset.corpus, self.cost, model)
        self._teaching = Teaching.of(teacher, second, scale)
        self._arrivals = ArrivalCheck(self._target_features, dataset.corpus)
        self.suspects = SuspectedNegatives(len(dataset.corpus))
        self._exclusions = Exclusions(self.margin, self.judge, self.suspects, hardest)
        self._queries = dataset.queries
        self._known = dataset.never_negatives(split)
        self._known_in_evaluation = dataset.never_negatives(*dataset.splits)
        self._looked_at = 0  # which model, by its id

    def get_config_dict(self) -> dict[str, Any]:
        """The settings, for the model card that sentence-transformers writes; a resumed run must have them too."""
        return {
            "negatives": self.source.name,
            # A path says nothing to whoever reads the card, and a checkpoint holds the tree itself.
            "negatives_options": {name: value for name, value in self.source.settings().items() if name != "index"},
            "num_negatives": self.num_negatives,
            "scale": self.scale,
            "weighting": self.weighting,
            "unasked_prior": self._unasked.prior,
            "unasked_push": self._unasked.push,
            **dataclasses.asdict(self.margin),
            "target_prompt": self.target_prompt,
            "seed": self.seed,
            "uniform_negatives": self.uniform_negatives,
            "hardest": self.hardest,
            "symmetric": self.symmetric,
            "matryoshka_dims": [width for width, _ in self.widths],
            "matryoshka_weights": [weight for _, weight in self.widths],
            **settings_of(None if self.judge is None else self.judge.guide),
            **settings_of_teacher(self._teaching),
        }

    @property
    def citation(self) -> str:
        """What to cite, for the model card."""
        return CITATION

    def _data_fingerprint(self) -> str:
        """A hash of corpus, queries and what is no negative of them: a checkpoint belongs to its data."""
        return data_fingerprint([self.targets.corpus, self._queries], self._known)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None) -> dict[str, Tensor]:
        """Loss of a batch of (query, positive) pairs, with given negatives beside them or without.

        Args:
            sentence_features: the features of queries, of their positives, and of any columns of given negatives.
            labels: int64, ``(B, 2)`` query rows and target rows, as ``training_pairs()`` has them, or ``(B, 2 + m)``
                with a target row for each of m given negatives, as ``label_pairs()`` has them.

        Returns:
            `LossTerms` ``{"log_partition", "positive_score"}``, scalars whose sum is the loss (with ``symmetric`` there
            is ``"query_log_partition"`` too), and the source's diagnostics, which the trainer logs beside them.

        Raises:
            ValueError: labels or columns that are not those of ``training_pairs()``, a loss that trains without a
                `NegativesCallback` beside others that have one, texts that are not what they
                would be as drawn targets, scores that overflow, or an encoding that is not finite; names the text. The
                source has not observed the step then.
        """
        ranks = self.meet_ranks()
        figures: dict[str, float] = {}

        def work() -> dict[str, Tensor]:
            terms, found = self._terms(sentence_features, labels, ranks)
            figures.update(found)
            return terms

        if id(self.model) != self._looked_at:  # the trainer has wrapped it
            refuse_sharded_weights(self.model)
            self._looked_at = id(self.model)
        refuse_wrappers(self.model, self.targets.model)
        check_same_model(self.model, self.targets.model)
        with ranks.during("in a training step"):
            terms = as_one_pass(self.model, work)
        return LossTerms(terms, figures)

    def _terms(
        self, sentence_features: Iterable[Features], labels: Tensor | None, ranks: Ranks
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The loss of the batch of all processes, in its terms, and figures for the log."""
        query_features, target_features = text_columns_of(sentence_features)
        query_rows, target_rows = rows_of(labels, 1 + len(target_features))
        check_rows(query_rows, target_rows, len(self._queries), self.targets.num_targets)
        for features, rows in zip(target_features, target_rows.T, strict=True):
            self._arrivals.check(features, rows)
        is_training = torch.is_grad_enabled() and self.targets.model.training
        if is_training:
            check_announced(self.targets.model, self)
        if is_training and not self._steps_are_announced:
            self._begin_step(self._step + 1)
        device = self.targets.device
        queries = self._embed_features(query_features, len(query_rows), device)
        given = torch.cat([self._embed_features(features, len(query_rows), device) for features in target_features])
        queries, given, query_rows, target_rows = batch_of_all(
            ranks,
            queries,
            given,
            query_rows,
            target_rows,
            kind=(len(self._queries), self.targets.num_targets, is_training),
        )
        given_rows = target_rows.T.ravel()  # all positives, then all first negatives, ...
        check_finite(queries, query_rows, self._queries, "query", self._step)
        check_finite(given, given_rows, self.targets.corpus, "target", self._step)
        known = self._known if is_training else self._known_in_evaluation
        positives = given[: len(query_rows)]
        positive_rows = np.ascontiguousarray(target_rows[:, 0])
        request = request_of(
            queries.detach().float(),
            positives.detach().float(),
            positive_rows,
            known.take(query_rows),
            num_negatives=self.num_negatives,
            scale=self.scale,
            margin=self.margin,
            seed=self._seed_of_draws(is_training),
        )
        strategies = strategies_of(
            self.source,
            self._uniform,
            request,
            is_ready=self.source.is_ready(self._step),
            uniform_negatives=self.uniform_negatives,
        )
        candidates = candidates_of(
            given,
            torch.from_numpy(given_rows).to(queries.device),
            [strategy.draw for strategy in strategies],
            len(queries),
            lambda drawn: self._embed_drawn(drawn, given, ranks),
        )
        check_finite(candidates.encodings, candidates.ids, self.targets.corpus, "target", self._step)
        terms = self._cross_entropy(queries, candidates, request, strategies, query_rows, is_training)
        if is_training:
            self.cost.texts_encoded += len(query_rows) + len(given_rows) + len(candidates.drawn)
            # Last of all: a source that writes these into its index must not change the proposal under the weights.
            self.source.observe(request, strategies[0].draw, candidates.ids, candidates.encodings.detach())
        figures = self.source.diagnostics() | self._exclusions.figures()
        return terms, figures | ({} if self._teaching is None else self._teaching.figures())

    def _embed_drawn(self, drawn: Tensor, like: Tensor, ranks: Ranks) -> Tensor:
        """Encodings of drawn targets, each made by one process, with gradient where it counts."""
        return self._unasked.embed(
            drawn, lambda rows: encoded_together(rows, lambda some: self._embed_targets(some, like=like), ranks)
        )

    def _cross_entropy(
        self,
        queries: Tensor,
        candidates: Candidates,
        request: Request,
        strategies: list[Strategy],
        query_rows: np.ndarray,
        is_training: bool,
    ) -> dict[str, Tensor]:
        scores = losses.scores(queries, candidates.encodings, self.scale)
        check_scores(scores, self.scale, self._step)
        drawing = [strategy for strategy in strategies if strategy.num_draws]
        log_prior = log_prior_of(self.targets, candidates.drawn)
        options: dict[str, Any] = {"weighting": self.weighting, "source": self.source, "log_prior": log_prior}
        log_weights, weights = candidate_weights(candidates, drawing, scores, **options)
        counted = self._exclusions.apply(
            log_weights, scores.detach(), candidates, request, strategies, query_rows, is_training=is_training
        )
        log_weights = counted.log_weights
        # In evaluation the estimate stays without bias.
        is_tempered = self.weighting == "tempered" and is_training
        if is_tempered and weights is not None and drawing[0] is strategies[0]:
            log_weights = log_weights + tempering_of(weights, drawing, candidates, scores.detach(), log_weights)
        both = counted.known if self.symmetric else None
        taught = None if self._teaching is None else self._teaching.term(query_rows, candidates, counted.judged)
        options = {"scale": self.scale, "similarity": self.similarity, "taught": taught}
        return terms_at_widths(self.widths, queries, candidates, scores, log_weights, both, **options)
