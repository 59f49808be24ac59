"""The interface that every source of negatives keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from hardwood import _checks
from hardwood._checkpoint_tensors import Wanted, expect, read_state, write_state
from hardwood._files import written_whole
from hardwood.negatives.agreement import Agreement
from hardwood.negatives.cost import Cost
from hardwood.negatives.records import Draw, Request, Targets

STATE_FILE = "source.safetensors"


class NegativeSource(ABC):
    """A source of negatives.

    The life of a source: `attach` once, then for each training step `begin_step`, any number of `sample` (one a
    micro-batch) and `observe` with what the loss has just encoded. A new source implements `sample` and
    `log_proposal`, and whichever of the hooks it needs.

    Args:
        start_step: first optimiser step (0-based) at which it draws. Before, the loss has the in-batch negatives alone:
            an untrained encoder's hard negatives are noise, and the first steps move everything.
    """

    name: ClassVar[str]
    weighting: ClassVar[str] = "shared"
    """How the loss weighs what it draws, where it has no weighting of its own (`hardwood.losses`)."""
    knows_scores: ClassVar[bool] = True
    """Whether it draws by stored encodings, so that `log_proposal` and `Draw.log_z` hold their scores."""
    is_divided: ClassVar[bool] = True
    """Whether several processes divide the corpus among them (`hardwood.negatives.sharded`); not worth it for a source
    that keeps nothing of the targets' encodings, and answers all alike on every process."""

    def __init__(self, *, start_step: int = 0) -> None:
        _checks.at_least(0, start_step, "start_step")
        self.start_step = start_step
        self.cost = Cost()
        self.targets: Targets | None = None

    def attach(self, targets: Targets, cost: Cost) -> None:
        """Give the source its corpus and the record of its costs. Encodes nothing yet."""
        if targets.num_targets < 1:
            raise ValueError("the corpus has no targets: there is nothing to draw negatives from")
        self.targets = targets
        self.cost = cost

    def for_shard(self, number: int, num_shards: int) -> NegativeSource:
        """A source of the same settings for one of several shards of the corpus, not attached yet.

        One whose options count targets of the whole corpus gives each shard its part of them.

        Args:
            number: of the shard, from 0.
            num_shards: V.

        Raises:
            ValueError: an option is of use for a whole corpus alone.
        """
        return type(self)(**self.settings())

    def begin_step(self, step: int) -> None:
        """Called before each optimiser step, ``step`` counted from 0: the moment to refresh what has become stale."""

    def beginning(self, step: int) -> Agreement:
        """As `begin_step`, of a shard that has to agree with the others on something (`hardwood.negatives.agreement`);
        a source that has nothing to agree on implements `begin_step` alone."""
        self.begin_step(step)
        yield from ()

    def is_ready(self, step: int) -> bool:
        """Whether `sample` may be called in this step."""
        return step >= self.start_step

    @abstractmethod
    def sample(self, request: Request) -> Draw:
        """Draw negatives for the queries of ``request``; its ``exclude`` never appears."""

    @abstractmethod
    def log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        """Log-probability that a single draw for query b is target ``ids[j]``, up to what the source estimates.

        Args:
            request: the request that ``draw`` answered.
            draw: the answer.
            ids: ``(m,)`` int64 rows of targets.

        Returns:
            ``(B, m)`` float32, the same whatever was drawn; minus infinity exactly where a query can't draw a target.
            In agreement with ``draw.log_q`` up to what the source estimates for speed: it decides how the queries of a
            batch share candidates, and any such function leaves the estimate of Z unbiased
            (`hardwood.losses.shared_log_weights`); the nearer the truth, the smaller its variance.
            A function of its arguments and of what the source holds now: other draws in between change nothing.
        """

    def observe(self, request: Request, draw: Draw, rows: Tensor, vectors: Tensor) -> None:
        """Receives what a training step has encoded anyway, after the last `log_proposal` about its draw.

        Args:
            request: the step's request.
            draw: the answer to it (empty before `start_step`).
            rows: ``(m,)`` int64, the batch's positives and the drawn targets, each once.
            vectors: ``(m, d)`` their fresh encodings, detached.
        """

    def observing(self, request: Request, draw: Draw, rows: Tensor, vectors: Tensor) -> Agreement:
        """As `observe`, of a shard that has to agree with the others on something; ``rows`` may be none."""
        if len(rows):
            self.observe(request, draw, rows, vectors)
        yield from ()

    def finish(self) -> None:
        """Called after the last step: what is still under way is done, or its error raised."""

    def warm_up(self, progress: bool | None = None) -> None:
        """Do what costs time just once in a process, such as compiling, before the first step is timed.

        Args:
            progress: whether to show a bar; ``None``: where errors are written to a terminal.
        """

    def diagnostics(self) -> dict[str, float]:
        """Figures for the trainer's log, the same names from the first step on; none by default."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint must hold so that a resumed run draws the same; a source may keep more, which
        `save_state` alone writes."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave; called after `attach`.

        Raises:
            ValueError: it is the state of another source, corpus or model, or not all that this source needs (then
                `load_state` is the way); this source is as it was.
        """
        if state:
            raise ValueError(f"{self.name!r} negatives keep no state, but the checkpoint holds {sorted(state)}")

    def save_state(self, folder: Path) -> None:
        """Write the state into ``folder``, which exists; by default `state_dict` as ``source.safetensors``."""
        with written_whole(folder / STATE_FILE) as temporary:
            write_state(self.state_dict(), temporary)

    def load_state(self, folder: Path) -> None:
        """Restore what `save_state` wrote; called after `attach`.

        Raises:
            DataError: the file is missing or damaged.
            ValueError: it is the state of another source, corpus or model; this source is as it was.
        """
        self.load_state_dict(read_state(folder / STATE_FILE))

    def settings(self) -> dict[str, Any]:
        """The options that made this source, for run files and checkpoints; the same as long as it lives."""
        return {"start_step": self.start_step}

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.settings().items())
        return f"{type(self).__name__}({options})"

    def _expect(self, state: Mapping[str, Tensor], wanted: Mapping[str, Wanted]) -> None:
        """Whether a checkpoint's tensors are those that this source needs."""
        expect(state, wanted, f"resume with the data, model and options that these {self.name!r} negatives had")

    def _attached(self) -> Targets:
        if self.targets is None:
            raise RuntimeError(f"{type(self).__name__} has no corpus yet: call attach(targets, cost) first")
        return self.targets
