"""What a loss and its trainer agree on before and between steps: processes, prompts, and the steps' numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from hardwood.data import TextTable
from hardwood.negatives import Cost, NegativeSource
from hardwood.negatives.sharded import ShardedNegatives, divided
from hardwood.ranks import Ranks
from hardwood.training._limits import Shards
from hardwood.training.batch.arrivals import ArrivalCheck
from hardwood.training.batch.columns import sets_of
from hardwood.training.batch.labels import own_sets
from hardwood.training.batch.prompts import agreed_target_prompt, trainer_prompts
from hardwood.training.batch.same_model import check_same_model
from hardwood.training.corpus.targets import CorpusTargets
from hardwood.training.corpus.tokens import TargetFeatures
from hardwood.training.estimate.requests import mix

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from hardwood.training.second_model.judge import Judge


class SteppingModule(nn.Module):
    """A loss's way to its trainer: who trains along, what it puts before texts, and which step it is.

    The source of negatives is divided among the processes when training begins, and refreshed before each step.
    """

    model: SentenceTransformer
    source: NegativeSource
    targets: CorpusTargets
    cost: Cost
    judge: Judge | None
    seed: int
    shards: Shards
    num_shards: int | None
    target_prompt: str | None
    ranks: Ranks | None
    _queries: TextTable
    _given_prompt: str | None
    _target_features: TargetFeatures
    _arrivals: ArrivalCheck

    def __init__(self) -> None:
        super().__init__()
        self.ranks = None  # known when training begins: a loss may be made before its processes meet
        self._step, self._micro_step = -1, 0
        self._steps_are_announced = False

    def begin_step(self, step: int) -> None:
        """Announce optimiser step ``step`` (from 0): the source refreshes what is due.

        `NegativesCallback` calls it; a training loop of your own does so before each step.
        """
        self._steps_are_announced = True
        self._begin_step(step)

    def meet_ranks(self, num_shards: int | None = None) -> Ranks:
        """Find the processes that train together, and divide the corpus among them; all must call it at one point.

        Args:
            num_shards: those of the run that is resumed.
        """
        if self.ranks is None or num_shards is not None:
            self.ranks = Ranks.of_environment()
            whole = self.source.whole if isinstance(self.source, ShardedNegatives) else self.source
            self.source = divided(whole, self.ranks, self.shards, num_shards or self.num_shards)
            self.source.attach(self.targets, self.cost)
            self.targets.progress = self.targets.progress and self.ranks.is_first
            if self.judge is not None:
                self.judge.ranks = self.ranks
        return self.ranks

    def _start_over(self) -> None:
        """Forget what an earlier training run has left in the source; `NegativesCallback` calls it.

        Raises:
            ValueError: the trainer trains another model than the loss was made for.
        """
        check_same_model(self.model, self.targets.model)
        self._step, self.ranks = -1, None
        self.meet_ranks()

    def _meet(self, dataloader: Any, prompts: Any) -> None:
        """Check what a trainer is about to train on: that the pairs are this loss's, and what prompts they get.

        What it puts before positives, drawn targets and the source's encodings get too. `NegativesCallback` calls it.

        Args:
            dataloader: the trainer's, for training; ``None``: nothing is known of its datasets.
            prompts: of the trainer's arguments.

        Raises:
            ValueError: pairs that name other texts than their labels; prompts that are not those that the loss was
                given, or not the model's.
        """
        sets = own_sets(sets_of(dataloader), self._queries, self.targets.corpus)
        found = trainer_prompts(sets, getattr(dataloader, "collate_fn", None), prompts)
        if found is not None:
            prompt = agreed_target_prompt(self._given_prompt, self.targets.model, *found)
            self.target_prompt = self._given_prompt if prompt == self._given_prompt else prompt or None
            self._target_features.use_prompt(prompt)
        self._arrivals.start_over()

    def _begin_step(self, step: int) -> None:
        self._step = step
        self._micro_step = 0
        with self.meet_ranks().during(f"where step {step + 1} begins"):
            self.source.begin_step(step)

    def _seed_of_draws(self, is_training: bool) -> int:
        """The seed of this forward pass: a function of the run's seed, the step and the pass within it."""
        position = (self._step, self._micro_step) if is_training else (0, 2**32 - 1)
        self._micro_step += is_training
        return mix(self.seed, *position, 0)
