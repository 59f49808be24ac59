"""What is noted of a training while it runs, for its report: bounded, seeded, and without any effect on it."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardwood._files import written_whole
from hardwood._json import read_object, stamped, without_stamp
from hardwood._ragged import RaggedRows
from hardwood.errors import DataError
from hardwood.report._paired import Ranks, compare_ranks, first_ranks, reciprocal_ranks
from hardwood.report._texts import FORMAT, LOG, MOST_BYTES, SUSPECTS, TRACE, VERSION, Named

if TYPE_CHECKING:
    from hardwood.data import Judgements, RetrievalDataset
    from hardwood.training import CorpusSoftmaxLoss

STATE = "trace.json"
"""In a checkpoint: what was noted until then, by rows and without any text."""

_WATCHED = 32
_NEGATIVES = 12
_MOMENTS = (0.0, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the steps at which snapshots are taken: close to each other at first, where most happens."""
_MOST_SNAPSHOTS = 16  # a run that is resumed to be longer has further ones
_MOST_REFRESHES = 1000
_MOVED = 20


class Trace:
    """Notes what a report shows: negatives of 32 fixed queries at some eight steps, refreshes, the first positives'
    ranks before and after training, and a map of the tree.

    It changes nothing in the training: no weight, no draw, no random stream, no cost that the run reports. The file is
    at most 5 MB. In checkpoints it is kept by rows, without texts.

    In a script of your own give it to `NegativesCallback`; when training ends, the folder has ``report.html``.

    Args:
        dataset: the loss's.
        folder: where to write when training ends; ``None``: nothing is written until `write`.
        split: trained on; the 32 queries are of it.
        texts: whether texts are in the file and the page, or ids alone.
        seed: of the choice of queries, and of their draws.

    Attributes:
        seconds: what it took so far, by part: ``base_evaluation``, ``snapshots``, ``tree_map``.
        seconds_in_training: what it took since training began in this process.
    """

    def __init__(
        self,
        dataset: RetrievalDataset,
        folder: str | Path | None = None,
        *,
        split: str = "train",
        texts: bool = True,
        seed: int = 0,
    ) -> None:
        self.dataset, self.split, self.texts, self.seed = dataset, split, texts, seed
        self.folder = None if folder is None else Path(folder)
        judgements = dataset.split(split).with_positives()
        count = min(_WATCHED, len(judgements))
        generator = np.random.Generator(np.random.PCG64(seed))
        places = np.sort(generator.choice(len(judgements), count, replace=False))
        self._queries = judgements.queries[places]
        offsets = judgements.positives.offsets
        self._positives = judgements.positives.values[offsets[places]]
        self._exclude: RaggedRows | None = None
        self._ranks: dict[str, dict[str, Ranks]] = {"base": {}, "trained": {}}
        self._measures: dict[str, dict[str, Any]] = {"base": {}, "trained": {}}
        self._loss: CorpusSoftmaxLoss | None = None
        self._begin()

    def _begin(self) -> None:
        self._snapshots: list[dict[str, Any]] = []
        self._refreshes: list[list[int]] = []
        self._refreshes_seen, self._noted_each = 0, 1
        self._reencoded = 0
        self._num_steps = self._steps_done = self._first_step = 0
        self._leaves: dict[str, Any] | None = None
        self.seconds = {"base_evaluation": 0.0, "snapshots": 0.0, "tree_map": 0.0}
        self.seconds_in_training = 0.0

    # What `NegativesCallback` calls

    def start(self, loss: CorpusSoftmaxLoss, num_steps: int, first_step: int = 0) -> None:
        """A training of ``num_steps`` begins, or goes on at ``first_step``: then `load_state` follows."""
        base_seconds = self.seconds["base_evaluation"]
        self._begin()
        self.seconds["base_evaluation"] = base_seconds
        self._loss, self._num_steps, self._first_step = loss, num_steps, first_step
        self._reencoded = loss.cost.targets_reencoded
        known = self.dataset.never_negatives(self.split).take(self._queries)
        rows = np.concatenate([known.row_ids(), np.arange(len(self._positives))])
        self._exclude = RaggedRows.from_pairs(
            rows, np.concatenate([known.values, self._positives]), len(self._positives)
        )

    def begin_step(self, step: int) -> float:
        """The source is ready for ``step`` (from 0). Gives the seconds that this took, which are not the step's."""
        from hardwood.report._snapshots import take_snapshot, unnoticed

        loss = self._loss
        if loss is None or self._exclude is None:
            return 0.0
        self._note_refresh(step, loss.cost.targets_reencoded - self._reencoded)
        if not self._is_due(step) or not loss.source.is_ready(step):
            return 0.0
        before = self.seconds["snapshots"]
        with self._timed("snapshots"), unnoticed(loss.cost):
            found = take_snapshot(
                loss, self.dataset.queries, self._queries, self._positives, self._exclude, _NEGATIVES, self.seed
            )
        self._snapshots.append({"step": step, "queries": found})
        return self.seconds["snapshots"] - before

    def end_step(self, step: int) -> None:
        """``step`` (from 0) is done."""
        self._steps_done = step + 1
        if self._loss is not None:
            self._reencoded = self._loss.cost.targets_reencoded

    def finish(self, history: Sequence[dict[str, Any]], *, writes: bool = True) -> None:
        """Training has ended; in a script the folder gets trace, log, suspects and page. All processes call it.

        Args:
            history: the trainer's log.
            writes: this process is the one that writes.
        """
        from hardwood.report._leaves import map_of_leaves
        from hardwood.report._snapshots import unnoticed

        loss = self._loss
        if loss is None:
            return
        with self._timed("tree_map"), unnoticed(loss.cost):
            self._leaves = map_of_leaves(loss, self.dataset.queries, self._queries, self.seed)
        if self.folder is None or not writes:
            return
        from hardwood.report.run import write_report

        with written_whole(self.folder / LOG) as temporary:
            temporary.write_text(json.dumps(list(history), indent=1))
        opinion = None if loss.judge is None else loss.judge.opinion
        loss.suspects.write(self.folder / SUSPECTS, self.dataset, self.split, opinion=opinion)
        self.write(self.folder)
        write_report(self.folder)

    def save_state(self, folder: Path) -> None:
        """What was noted so far, into a checkpoint."""
        state = {
            "snapshots": self._snapshots,
            "refreshes": self._refreshes,
            "refreshes_seen": self._refreshes_seen,
            "noted_each": self._noted_each,
            "first_step": self._first_step,
            "seconds": self.seconds,
            "base": {"measures": self._measures["base"], "ranks": _as_lists(self._ranks["base"])},
            "queries": self._queries.tolist(),
        }
        with written_whole(folder / STATE) as temporary:
            temporary.write_text(json.dumps(stamped(state)), encoding="utf-8")

    def load_state(self, folder: Path) -> None:
        """Load what `save_state` wrote, once the loss has its own costs again. A checkpoint without it, or of other
        queries, is no error: the report then begins here, and a warning says so."""
        if self._loss is not None:
            self._reencoded = self._loss.cost.targets_reencoded
        state = self._read(folder / STATE)
        if state is None:
            return
        self._snapshots, self._refreshes = state["snapshots"], state["refreshes"]
        self._refreshes_seen, self._noted_each = state["refreshes_seen"], state["noted_each"]
        self._first_step = state["first_step"]
        self.seconds = {**self.seconds, **state["seconds"]}
        self._take_base(state)

    # What a run calls

    def has_base(self, checkpoint_state: Path | None) -> bool:
        """Whether a checkpoint's state (its folder) has the base model's ranks, so that they need no evaluation; they
        are taken from it."""
        state = None if checkpoint_state is None else self._read(checkpoint_state / STATE, quiet=True)
        if state is None or not state["base"]["ranks"]:
            return False
        self._take_base(state)
        return True

    def measure(self, which: str, evaluate: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """Note a model's measures, and of each query the rank of its first positive.

        Args:
            which: ``"base"`` or ``"trained"``.
            evaluate: `hardwood.evaluation.evaluate_splits` with all arguments but ``observe``, which it is called with.

        Returns:
            What ``evaluate`` gave.
        """
        ranks: dict[str, Ranks] = {}

        def observe(name: str, ranking: NDArray[np.int64], judgements: Judgements) -> None:
            ranks[name] = first_ranks(ranking, judgements)

        began = time.perf_counter()
        measures = evaluate(observe=observe)
        if which == "base":
            self.seconds["base_evaluation"] += time.perf_counter() - began
        self._ranks[which], self._measures[which] = ranks, measures
        return measures

    def write(self, folder: str | Path) -> Path:
        """Write ``trace.json``: everything that the page needs beside the run's other files, at most 5 MB.

        Args:
            folder: of the run.
        """
        path = Path(folder) / TRACE
        for length in (600, 300, 150, 80, 0):
            content = json.dumps(self._content(length), ensure_ascii=False, separators=(",", ":")).encode()
            if len(content) <= MOST_BYTES:
                break
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
        return path

    def _content(self, length: int) -> dict[str, Any]:
        queries = Named(self.dataset.queries, length if self.texts else 0)
        targets = Named(self.dataset.corpus, length if self.texts else 0)
        snapshots = [
            {
                "step": snapshot["step"],
                "queries": [
                    {**one, "negatives": [[targets.place(row), *rest] for row, *rest in one["negatives"]]}
                    for one in snapshot["queries"]
                ],
            }
            for snapshot in self._snapshots
        ]
        leaves = None
        if self._leaves is not None:
            short = [[*numbers, [targets.place(row) for row in rows]] for *numbers, rows in self._leaves["leaves"]]
            leaves = {**self._leaves, "leaves": short}
        watched = [
            {"query": queries.place(query), "positive": targets.place(positive)}
            for query, positive in zip(self._queries.tolist(), self._positives.tolist(), strict=True)
        ]
        splits = self._splits(queries, targets)
        return {
            "format": FORMAT,
            "version": VERSION,
            "seed": self.seed,
            "data": self.dataset.name,
            "targets_in_corpus": len(self.dataset.corpus),
            "split": self.split,
            "has_texts": self.texts and length > 0,
            "steps": self._steps_done,
            "first_step": self._first_step,
            "knows_scores": self._loss is not None and self._loss.source.knows_scores,
            "negatives": None if self._loss is None else self._loss.source.name,
            "scale": None if self._loss is None else self._loss.scale,
            "watched": watched,
            "snapshots": snapshots,
            "refreshes": self._refreshes,
            "refreshes_seen": self._refreshes_seen,
            "splits": splits,
            "tree": leaves,
            "seconds": {part: round(seconds, 3) for part, seconds in self.seconds.items()},
            "queries": queries.content(),
            "targets": targets.content(),
        }

    def _splits(self, queries: Named, targets: Named) -> dict[str, Any]:
        """Measures of both models by split, as far as they were taken, and what lies between them."""
        names = dict.fromkeys([*self._measures["base"], *self._measures["trained"]])
        taken = [which for which in ("base", "trained") if self._measures[which]]
        found: dict[str, Any] = {name: {which: self._measures[which].get(name) for which in taken} for name in names}
        for name in self._ranks["base"].keys() & self._ranks["trained"].keys():
            before, after = (self._ranks[which][name] for which in ("base", "trained"))
            if len(before) != len(after):
                continue
            found[name]["compared"] = compare_ranks(before, after, self.seed)
            found[name]["moved"] = self._moved(name, before, after, queries, targets)
            groups = self.dataset.seen_and_unseen(name, self.split)
            for group, places in groups.items():
                if f"{name}/{group}" in found:
                    part = compare_ranks(before[places], after[places], self.seed)
                    found[f"{name}/{group}"]["compared"] = part
        return found

    def _moved(self, name: str, before: Ranks, after: Ranks, queries: Named, targets: Named) -> dict[str, Any]:
        """The queries that have gained and lost most, ``[query, first positive, rank before, rank after]``."""
        judgements = self.dataset.split(name)
        gains = reciprocal_ranks(after) - reciprocal_ranks(before)
        order = np.argsort(-gains, kind="stable")
        found = {}
        for kind, places in (("won", order[:_MOVED]), ("lost", order[::-1][:_MOVED])):
            found[kind] = [
                [
                    queries.place(int(judgements.queries[place])),
                    targets.place(int(judgements.positives[place][0])) if len(judgements.positives[place]) else None,
                    int(before[place]),
                    int(after[place]),
                ]
                for place in places.tolist()
                if (gains[place] > 0) == (kind == "won") and gains[place] != 0
            ]
        return found

    def _is_due(self, step: int) -> bool:
        if len(self._snapshots) >= _MOST_SNAPSHOTS:
            return False
        last = self._snapshots[-1]["step"] if self._snapshots else -1
        moments = {round(share * (self._num_steps - 1)) for share in _MOMENTS}
        return any(last < moment <= step for moment in moments)

    def _note_refresh(self, step: int, reencoded: int) -> None:
        """Mark steps before which targets were encoded; of very many each second one is forgotten, time and again."""
        if reencoded <= 0:
            return
        if self._refreshes_seen % self._noted_each == 0:
            self._refreshes.append([step, reencoded])
        self._refreshes_seen += 1
        if len(self._refreshes) > _MOST_REFRESHES:
            self._refreshes, self._noted_each = self._refreshes[::2], 2 * self._noted_each

    def _take_base(self, state: dict[str, Any]) -> None:
        base = state["base"]
        if not self._ranks["base"]:
            self._measures["base"] = base["measures"]
            self._ranks["base"] = {name: np.array(ranks, dtype=np.int16) for name, ranks in base["ranks"].items()}

    def _read(self, path: Path, *, quiet: bool = False) -> dict[str, Any] | None:
        try:
            state = without_stamp(read_object(path), path)
            if state.get("queries") != self._queries.tolist():
                raise DataError("was made with other queries", path)
        except (DataError, OSError) as error:
            if not quiet:
                warnings.warn(f"the report begins where the run was resumed: {error}", stacklevel=3)
            return None
        return state

    @contextmanager
    def _timed(self, part: str) -> Any:
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self.seconds[part] += took
            self.seconds_in_training += took


def _as_lists(ranks: dict[str, Ranks]) -> dict[str, list[int]]:
    return {name: values.tolist() for name, values in ranks.items()}
