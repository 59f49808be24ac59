"""Asking an index: everything that reads it and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardwood import _checks
from hardwood._processors import default_threads, given_threads
from hardwood.tree import _inputs
from hardwood.tree.arrays.bounds import rounding
from hardwood.tree.arrays.nodes import BLOCK
from hardwood.tree.arrays.prior import asking
from hardwood.tree.compiled.threads import ReadWriteLock, split_work
from hardwood.tree.results import Draw, Hits, LogPartition

if TYPE_CHECKING:
    from hardwood._ragged import RaggedRows
    from hardwood.tree.arrays.projection import Projection
    from hardwood.tree.change.tree import Tree

    Exclude = RaggedRows | Sequence[Any] | None

PROBES = 32
SCALE = 20.0
LEAVES_LOOKED_AT = 1024
"""Minimum number of leaves whose means are scored when the whole softmax is needed; the rest are estimated through
their group."""

SEARCHED_AT_LEAST, SEARCHED_A_PROBE = 64, 48
"""Leaves whose means `search` scores: it needs the best ones only (docs/lab/tree.md)."""


class ReadableIndex:
    """A tree with its lock and threads, and what can be asked of it. `TargetIndex` adds what changes and keeps it."""

    def __init__(
        self,
        tree: Tree,
        metric: str,
        threads: int | None,
        has_prior: bool = False,
        projection: Projection | None = None,
    ) -> None:
        self._tree, self._metric, self._has_prior, self._projection = tree, metric, has_prior, projection
        self._threads = None if threads is None else _checks.count(threads, "threads")
        self._lock = ReadWriteLock()
        self._loaded: tuple[Path, dict[str, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # For `spawn` workers and copies: arrays travel, locks and file names do not. A spawned worker has the number
        # of threads that was set here only if it comes with the index.
        threads = given_threads() if self._threads is None else self._threads
        kept = ("_tree", "_metric", "_has_prior", "_projection")
        return {**{name: self.__dict__[name] for name in kept}, "_threads": threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._loaded = ReadWriteLock(), None

    @property
    def dimension(self) -> int:
        """``d``, or what is kept of it (`projection`)."""
        return self._width - self._has_prior

    @property
    def projection(self) -> Projection | None:
        """What brings vectors to the dimensions that are kept; ``None`` where all are.

        With one, queries and new vectors are taken in full or reduced, and `vectors`, `expectation` and all scores are
        those of reduced vectors.
        """
        return self._projection

    @property
    def has_prior(self) -> bool:
        """Whether targets have a prior, see `TargetIndex.build`."""
        return self._has_prior

    @property
    def threads(self) -> int:
        """How many threads share its work: those it was given, or what `hardwood.tree.set_threads` says."""
        return default_threads() if self._threads is None else self._threads

    # Reading

    def sample(
        self,
        queries: Any,
        k: int,
        *,
        scale: float = SCALE,
        exclude: Exclude = None,
        probes: int = PROBES,
        replace: bool = True,
        bounds: bool = True,
        seed: int | None = None,
        first_query: int = 0,
    ) -> Draw:
        """Draw ``k`` targets for each query from (an approximation of) the softmax over all targets, with
        known probabilities.

        The ``probes`` leaves of largest estimated mass are scored exactly; the others are drawn by their
        estimated masses, then within the leaf by exact scores (after `enable_sketch`, by scores from its bytes). So
        ``log_q`` is the true log probability of each draw, ``mean exp(s) / q`` is unbiased for ``Z`` with any
        ``probes``, and with every leaf opened the draws are exact samples of ``P``.

        Args:
            queries: ``(B, d)``.
            k: draws for each query.
            scale: ``β > 0`` in ``s = β x·y``.
            exclude: ids that must not be drawn and do not count in ``log_z``, one list a query (a
                `RaggedRows` or a sequence of arrays). Ids that are not in the index exclude nothing. Leaves
                that hold excluded ids are always opened.
            probes: leaves opened for each query.
            replace: False draws without repeats (Gumbel top-k); see `Draw.log_weights`. No difference for one draw.
            bounds: False leaves ``log_z_lower`` and ``log_z_upper`` at minus and plus infinity, which saves a
                twentieth of the time, and changes no draw.
            seed: same seed, same draws, for any number of threads; None takes a fresh one from the system.
            first_query: the place of ``queries[0]`` in a longer list that is passed in chunks: draws depend
                on (seed, place) only.

        Raises:
            ValueError: for ``k < 1``, ``scale <= 0``, NaN, wrong dimension, an empty index, more draws
                without replacement than targets, a query that excludes every target.
        """
        from hardwood.tree.read.question import Question

        beta, stream = _inputs.positive(scale, "scale"), _inputs.seed_of(seed)
        x, size = self._queries(queries, beta), _checks.count(k, "k")
        opens, wanted = _checks.count(probes, "probes"), bool(bounds)
        # One draw is the same either way, and its weight of 1/q beats 1/P(perturbed > κ), whose variance is infinite.
        replace = replace or size == 1
        lists = _inputs.excluded(exclude, len(x))
        shape = (len(x), size)
        rows, log_q = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        scores, weights, marks = np.zeros(shape), np.zeros(shape), np.full((len(x), 3), -np.inf)
        with self._lock.reading():
            nodes, gamma, sketch = self._ready(), rounding(self._width), self._tree.sketch
            offsets, hidden = self._excluded_rows(lists, 1 if replace else size)
            question = Question(x, beta, opens, self._groups(opens), offsets, hidden, gamma)
            asked = (nodes, sketch, question, stream, first_query, wanted)
            if replace:
                from hardwood.tree.read.sample import draw_replace

                self._run(lambda a, b: draw_replace(*asked, a, b, rows, log_q, scores, marks), len(x))
            else:
                from hardwood.tree.read.sample_without import draw_without

                self._run(lambda a, b: draw_without(*asked, a, b, rows, log_q, scores, marks, weights), len(x))
            drawn = nodes.row_id[rows]
        if replace:
            weights = -np.log(size) - log_q
        return _draw_of(queries, drawn, log_q, scores, weights, marks)

    def sample_exact(
        self,
        queries: Any,
        k: int,
        *,
        scale: float = SCALE,
        exclude: Exclude = None,
        seed: int | None = None,
        first_query: int = 0,
    ) -> Draw:
        """Draw ``k`` targets for each query from the softmax ``P`` itself, with replacement.

        Leaves are opened, best bounds first, until each draw is certainly an exact sample of ``P``: from some hundred
        leaves up to all of them. ``log_q`` is ``s - log_z``, with ``log_z`` estimated from all that was opened.

        Args:
            queries: ``(B, d)``.
            k: draws for each query.
            scale: as for `sample`.
            exclude: as for `sample`.
            seed: as for `sample`.
            first_query: as for `sample`.

        Raises:
            ValueError: as `sample`.
        """
        from hardwood.tree.read.certify import draw_exact

        beta, stream = _inputs.positive(scale, "scale"), _inputs.seed_of(seed)
        x, size = self._queries(queries, beta), _checks.count(k, "k")
        lists = _inputs.excluded(exclude, len(x))
        rows, scores = np.zeros((len(x), size), dtype=np.int64), np.zeros((len(x), size))
        marks = np.full((len(x), 3), -np.inf)
        with self._lock.reading():
            nodes, gamma = self._ready(), rounding(self._width)
            asked = (nodes, x, beta, *self._excluded_rows(lists, 1), stream, first_query, gamma)
            self._run(lambda a, b: draw_exact(*asked, a, b, rows, scores, marks), len(x))
            drawn = nodes.row_id[rows]
        log_q = scores - marks[:, :1]
        return _draw_of(queries, drawn, log_q, scores, -np.log(size) - log_q, marks)

    def log_proposal(
        self, queries: Any, ids: Any, *, scale: float = SCALE, exclude: Exclude = None, probes: int = PROBES
    ) -> Any:
        """The log probability that one draw of `sample` for query ``b`` (same arguments) gives target
        ``ids[j]``.

        The same numbers as `Draw.log_q`, for any target: what weighting candidates shared over a batch by the
        mixture of all its queries' proposals needs (multiple importance sampling, Veach and Guibas 1995).

        Args:
            queries: ``(B, d)``.
            ids: ``(m,)``, repeats allowed.
            scale: as for `sample`.
            exclude: as for `sample`.
            probes: as for `sample`.

        Returns:
            ``(B, m)`` float64; -inf where the query excludes the target.

        Raises:
            KeyError: for ids that are not in the index.
        """
        from hardwood.tree.read.proposal import leaf_masses, proposal
        from hardwood.tree.read.question import Question

        beta = _inputs.positive(scale, "scale")
        x = self._queries(queries, beta)
        opens, wanted = _checks.count(probes, "probes"), _inputs.ids(ids, unique=False)
        lists = _inputs.excluded(exclude, len(x))
        out = np.zeros((len(x), len(wanted)))
        with self._lock.reading():
            nodes, gamma, sketch = self._ready(), rounding(self._width), self._tree.sketch
            rows = self._rows(wanted)
            offsets, hidden = self._excluded_rows(lists, 1)
            leaves, where = np.unique(nodes.row_leaf[rows].astype(np.int64), return_inverse=True)
            where = where.reshape(-1)
            masses = np.zeros((len(x), len(leaves)))
            self._run(lambda a, b: leaf_masses(nodes, sketch, x, beta, leaves, a, b, masses), len(leaves))
            question = Question(x, beta, opens, self._groups(opens), offsets, hidden, gamma)
            asked = (nodes, sketch, question, rows, where, leaves, masses)
            self._run(lambda a, b: proposal(*asked, a, b, out), len(x))
        return _inputs.like(queries, out)

    def search(self, queries: Any, k: int, *, probes: int = PROBES) -> Hits:
        """The ``k`` targets of largest inner product among the ``probes`` leaves that promise most (mean
        score and three standard deviations), best first. After `enable_spill`, leaves also show the targets near their
        borders: the same probes find more.

        Args:
            queries: ``(B, d)``.
            k: hits for each query; where the opened leaves hold fewer, ids are -1 and scores -inf.
            probes: leaves opened; more is slower and finds more.

        Raises:
            ValueError: for ``k < 1``, NaN, wrong dimension, an empty index.
        """
        from hardwood.tree.read.search import search

        x, size, opens = self._queries(queries, None), _checks.count(k, "k"), _checks.count(probes, "probes")
        with self._lock.reading():
            nodes, spill = self._ready(), self._tree.spill
            found, scores = np.empty((len(x), size), dtype=np.int64), np.empty((len(x), size))
            inside = self._groups(opens, SEARCHED_AT_LEAST + SEARCHED_A_PROBE * opens)
            self._run(lambda a, b: search(nodes, spill, x, opens, inside, a, b, found, scores), len(x))
        return Hits(_inputs.like(queries, found), _inputs.like(queries, scores))

    def log_partition(
        self,
        queries: Any,
        *,
        scale: float = SCALE,
        exclude: Exclude = None,
        tolerance: float | None = None,
        probes: int | None = None,
    ) -> LogPartition:
        """``log Z`` of each query, with certified bounds.

        Opens leaves, those with the widest gap between their bounds first, until ``upper - lower <=
        tolerance`` or ``probes`` leaves are open. The bounds hold for the exact sum over the stored vectors,
        whatever the rounding of float32 products, which costs about ``1e-7 · d · scale · ‖x‖ · ‖y‖`` on
        either side and 1e-5: no tolerance below that can be reached.

        Args:
            queries: ``(B, d)``.
            scale: as for `sample`.
            exclude: as for `sample`.
            tolerance: the gap to reach; None stops after ``probes`` leaves.
            probes: leaves to open at most for each query (beside those that hold excluded ids): with a
                tolerance all by default, without one 32.

        Raises:
            ValueError: as `sample`.
        """
        from hardwood.tree.read.certify import refine

        beta = _inputs.positive(scale, "scale")
        x = self._queries(queries, beta)
        goal = -1.0 if tolerance is None else _inputs.positive(tolerance, "tolerance")
        lists = _inputs.excluded(exclude, len(x))
        marks, opened, certain = np.zeros((len(x), 3)), np.zeros(len(x), np.int64), np.zeros(len(x), np.bool_)
        with self._lock.reading():
            nodes, gamma = self._ready(), rounding(self._width)
            limit = PROBES if tolerance is None else len(nodes.leaf_count)
            limit = limit if probes is None else _checks.count(probes, "probes")
            offsets, hidden = self._excluded_rows(lists, 1)
            self._run(
                lambda a, b: refine(nodes, x, beta, goal, limit, offsets, hidden, gamma, a, b, marks, opened, certain),
                len(x),
            )
        return LogPartition(
            *(_inputs.like(queries, part) for part in (*np.ascontiguousarray(marks.T), opened, certain))
        )

    def expectation(self, queries: Any, *, scale: float = SCALE, exclude: Exclude = None, probes: int = PROBES) -> Any:
        """``E_P[y]`` for each query, ``(B, d)`` float32: the gradient of ``log Z`` by ``scale · x`` without
        sampling.

        Opened targets count exactly, an unopened node by its mean tilted towards the query by its covariance:
        the gradient of the estimate ``log Ẑ`` itself.

        Raises:
            ValueError: as `sample`.
        """
        from hardwood.tree.read.expectation import expect
        from hardwood.tree.read.question import Question

        beta = _inputs.positive(scale, "scale")
        x = self._queries(queries, beta)
        opens, lists = _checks.count(probes, "probes"), _inputs.excluded(exclude, len(x))
        out = np.zeros((len(x), self._width), dtype=np.float32)
        with self._lock.reading():
            nodes, gamma = self._ready(), rounding(self._width)
            offsets, hidden = self._excluded_rows(lists, 1)
            question = Question(x, beta, opens, self._groups(opens), offsets, hidden, gamma)
            self._run(lambda a, b: expect(nodes, question, a, b, out), len(x))
        return _inputs.like(queries, np.ascontiguousarray(out[:, : self.dimension]))

    # Inside

    @property
    def _width(self) -> int:
        """Numbers in a row: ``d``, and one more where there is a prior."""
        return int(self._tree.nodes.rows.shape[1])

    def _queries(self, x: Any, scale: float | None = None) -> Any:
        """As kernels take them, ``(B, width)``; ``scale`` ``None``: without the prior."""
        checked = self._reduced(_inputs.queries(x, self._dimensions, self._metric == "cosine"))
        return asking(checked, scale) if self._has_prior else checked

    @property
    def _dimensions(self) -> int | tuple[int, int]:
        """Those that vectors may have."""
        return self.dimension if self._projection is None else (self.dimension, self._projection.full_dimension)

    def _reduced(self, vectors: Any) -> Any:
        """Checked vectors in the dimensions that are kept."""
        if self._projection is None or _inputs.is_reduced(vectors, self._dimensions):
            return vectors
        return self._projection(vectors)

    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = self._tree.ids.find(ids)
        if (rows < 0).any():
            unknown = ids[rows < 0]
            raise KeyError(
                f"id {int(unknown[0])} is not in the index ({len(unknown)} such). Use add() for new targets."
            )
        return rows

    def _ready(self) -> Any:
        if not len(self._tree.ids):
            raise ValueError("the index is empty; add() targets first.")
        return self._tree.nodes

    def _groups(self, probes: int, leaves: int = LEAVES_LOOKED_AT) -> int:
        """How many groups to look into: those of ``leaves`` leaves, of as many as there are groups, and of twice
        ``probes``. What the first two cost, docs/lab/tree.md has."""
        nodes = self._tree.nodes
        G, L = len(nodes.group_count), max(1, len(nodes.group_leaves))
        return min(G, max(1, -(-max(leaves, G, 2 * probes) * G // L)))

    def _excluded_rows(self, lists: RaggedRows, least: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the excluded ids, ``(offsets, rows)``, without repeats; each query must keep ``least``
        targets."""
        n = len(self._tree.ids)
        offsets, rows = np.zeros(len(lists) + 1, dtype=np.int64), np.zeros(0, dtype=np.int64)
        if len(lists.values):
            from hardwood._ragged import RaggedRows

            found = self._tree.ids.find(np.asarray(lists.values, dtype=np.int64))
            kept = RaggedRows.from_pairs(lists.row_ids()[found >= 0], found[found >= 0], len(lists))
            offsets, rows = kept.offsets, kept.values
        short = np.flatnonzero(n - np.diff(offsets) < least)
        if len(short):
            left = int(n - np.diff(offsets)[short[0]])
            raise ValueError(
                f"query {int(short[0])} has {left} targets that are not excluded, "
                f"but {least} must be drawn without repeats."
            )
        return offsets, rows

    def _run(self, task: Any, size: int) -> None:
        # As large pieces as leave one for each thread: the queries of a piece share products.
        threads = self.threads
        split_work(task, size, threads, least=max(1, min(BLOCK, size // threads)))


def _draw_of(queries: Any, ids: Any, log_q: Any, scores: Any, log_weights: Any, marks: NDArray[np.float64]) -> Draw:
    """A draw in the kind of array that the queries were; ``marks`` ``(B, 3)`` are ``log Ẑ`` and its bounds."""
    parts = (ids, log_q, scores, log_weights, *np.ascontiguousarray(marks.T))
    return Draw(*(_inputs.like(queries, part) for part in parts))
