"""`TargetIndex`: the tree behind one small face."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardwood.tree import _inputs
from hardwood.tree._bounds import rounding
from hardwood.tree._nodes import BLOCK
from hardwood.tree._results import Draw, Hits, LogPartition
from hardwood.tree._threads import ReadWriteLock, default_threads, split_work

if TYPE_CHECKING:
    from hardwood._ragged import RaggedRows
    from hardwood.tree._tree import Tree

    Exclude = RaggedRows | Sequence[Any] | None

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}
METRICS = ("dot", "cosine")
PROBES = 32
LEAVES_LOOKED_AT = 2048


class TargetIndex:
    """All targets' vectors in a tree that samples their softmax, bounds its partition function, and changes
    in place.

    Make one with `build` or `load`. Reading (`sample`, `search`, `log_partition`, `expectation`,
    `log_proposal`, `vectors`, ...) is safe from many threads at once; a change (`add`, `remove`, `update`,
    `repair`) waits for readers and runs alone. A call that raises has changed nothing. Queries and vectors
    may be NumPy arrays or torch tensors; results are torch tensors, on the queries' device, when the queries
    were. Scores are ``s_i = scale · x·y_i`` in float32 products, returned in float64.
    """

    def __init__(self, tree: Tree, metric: str, threads: int | None) -> None:
        self._tree, self._metric = tree, metric
        self._threads = default_threads() if threads is None else _inputs.count(threads, "threads")
        self._lock = ReadWriteLock()
        self._loaded: tuple[Path, dict[str, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # For `spawn` workers only: arrays travel, locks and file names do not.
        return {"_tree": self._tree, "_metric": self._metric, "_threads": self._threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._loaded = ReadWriteLock(), None

    @classmethod
    def build(
        cls,
        vectors: Any,
        ids: Any = None,
        *,
        dtype: str = "float32",
        metric: str = "dot",
        leaf_size: int = 64,
        seed: int = 0,
        threads: int | None = None,
        progress: bool = True,
    ) -> TargetIndex:
        """Build the tree over all vectors.

        Args:
            vectors: ``(n, d)`` array, memmap or tensor, or an iterator of such chunks (spooled to a temporary
                file first); finite, any norm up to 1e18, ``d`` from 1 to 4096.
            ids: ``(n,)`` int64, no repeats; ``0..n-1`` when left out.
            dtype: "float32", or "bfloat16" for half the memory: vectors are rounded on entry, and everything
                is exact for those.
            metric: "dot", or "cosine" to make vectors and queries unit length on entry.
            leaf_size: targets in a leaf, on average; none holds more than twice as many.
            seed: of the clustering. Same vectors, same seed: same tree.
            threads: used by this index from now on; by default, the processors this process may use.
            progress: show a bar when it takes more than a second.

        Raises:
            ValueError: for vectors that are empty, not finite or of the wrong shape, repeated ids, an unknown
            dtype or metric.
            TypeError: for what is not numbers.

        The tree is two levels of k-means: about ``sqrt(n / leaf_size)`` groups, each of as many leaves.
        """
        from hardwood.tree._make import make

        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {sorted(DTYPES)}; got {dtype!r}.")
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {METRICS}; got {metric!r}.")
        size = _inputs.count(leaf_size, "leaf_size")
        workers = default_threads() if threads is None else _inputs.count(threads, "threads")
        tree = make(vectors, ids, DTYPES[dtype], metric == "cosine", size, seed, workers, progress)
        return cls(tree, metric, threads)

    # What it is

    def __len__(self) -> int:
        return len(self._tree.ids)

    def __contains__(self, target: object) -> bool:
        if isinstance(target, bool) or not isinstance(target, (int, np.integer)):
            return False
        if not -(2**63) <= int(target) < 2**63:
            return False
        with self._lock.reading():
            return bool(self._tree.ids.find(np.array([target], dtype=np.int64))[0] >= 0)

    def __repr__(self) -> str:
        nodes = self._tree.nodes
        leaves = int((nodes.leaf_group >= 0).sum())
        return (
            f"TargetIndex({len(self):,} targets, {self.dimension} dimensions, {self.dtype}, {self._metric}; "
            f"{leaves:,} leaves in {len(nodes.group_count):,} groups)"
        )

    @property
    def dimension(self) -> int:
        """``d``."""
        return int(self._tree.nodes.rows.shape[1])

    @property
    def dtype(self) -> str:
        """How vectors are stored: "float32" or "bfloat16"."""
        return "float32" if self._tree.dtype == np.float32 else "bfloat16"

    @property
    def metric(self) -> str:
        """ "dot" or "cosine"."""
        return self._metric

    @property
    def ids(self) -> NDArray[np.int64]:
        """All ids, ascending, ``(n,)`` int64."""
        with self._lock.reading():
            return self._tree.ids.all()

    def vectors(self, ids: Any) -> NDArray[np.float32]:
        """The stored vectors of these ids, ``(len(ids), d)`` float32 (rounded to bfloat16 or made unit, if
        the index does so).

        Raises:
            KeyError: for ids that are not in the index.
        """
        from hardwood.tree._build import decoded

        wanted = _inputs.ids(ids, unique=False)
        with self._lock.reading():
            return decoded(self._tree.nodes.rows[self._rows(wanted)]).copy()

    def spread(self, count: int, seed: int = 0) -> NDArray[np.int64]:
        """Targets spread over the whole tree, for landmarks: one from each of ``count`` equal parts of all targets in
        leaf order, at a random place in its part (systematic sampling; Madow and Madow 1944).

        Neighbours lie in the same leaf or group, so a part is a neighbourhood: every region is met in proportion to
        its targets, more evenly than by independent draws.

        Args:
            count: how many; all targets where there are fewer.
            seed: same tree, same seed: same targets.

        Returns:
            ``(min(count, n),)`` int64 ids, all distinct, in leaf order.

        Raises:
            ValueError: for ``count < 1``.
            TypeError: for a count or seed that is not a whole number.
        """
        wanted, stream = _inputs.count(count, "count"), int(_inputs.seed_of(seed))
        with self._lock.reading():
            return self._tree.spread(wanted, stream)

    # Reading

    def sample(
        self,
        queries: Any,
        k: int,
        *,
        scale: float = 20.0,
        exclude: Exclude = None,
        probes: int = PROBES,
        replace: bool = True,
        exact: bool = False,
        seed: int | None = None,
        first_query: int = 0,
    ) -> Draw:
        """Draw ``k`` targets for each query from (an approximation of) the softmax over all targets, with
        known probabilities.

        The ``probes`` leaves of largest estimated mass are scored exactly; the others are drawn by their
        estimated masses, then within the leaf by exact scores. So ``log_q`` is the true log probability of
        each draw, ``mean exp(s) / q`` is unbiased for ``Z`` with any ``probes``, and with every leaf opened
        the draws are exact samples of ``P``.

        Args:
            queries: ``(B, d)``.
            k: draws for each query.
            scale: ``β > 0`` in ``s = β x·y``.
            exclude: ids that must not be drawn and do not count in ``log_z``, one list a query (a
                `RaggedRows` or a sequence of arrays). Ids that are not in the index exclude nothing. Leaves
                that hold excluded ids are always opened.
            probes: leaves opened for each query.
            replace: False draws without repeats (Gumbel top-k); see `Draw.log_weights`.
            exact: open leaves, best bounds first, until each draw is certainly an exact sample of ``P``;
                ``log_q`` is then ``s - log_z``, with ``log_z`` estimated from all that was opened. Costs from
                some hundred leaves up to all of them. With replacement only.
            seed: same seed, same draws, for any number of threads; None takes a fresh one from the system.
            first_query: the place of ``queries[0]`` in a longer list that is passed in chunks: draws depend
                on (seed, place) only.

        Raises:
            ValueError: for ``k < 1``, ``scale <= 0``, NaN, wrong dimension, an empty index, more draws
            without replacement than targets,
                a query that excludes every target.
        """
        x, size = self._queries(queries), _inputs.count(k, "k")
        beta, stream = _inputs.positive(scale, "scale"), _inputs.seed_of(seed)
        opens = _inputs.count(probes, "probes")
        if exact and not replace:
            raise ValueError(
                "exact=True draws with replacement only; leave out replace=False, "
                "or open all leaves with a large probes."
            )
        lists = _inputs.excluded(exclude, len(x))
        shape = (len(x), size)
        rows, log_q = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        scores, weights, marks = np.zeros(shape), np.zeros(shape), np.full((len(x), 3), -np.inf)
        with self._lock.reading():
            nodes, gamma = self._ready(), rounding(self.dimension)
            offsets, hidden = self._excluded_rows(lists, 1 if replace else size)
            common = (offsets, hidden, stream, first_query, gamma)
            if exact:
                from hardwood.tree._certify import draw_exact

                self._run(lambda a, b: draw_exact(nodes, x, beta, *common, a, b, rows, scores, marks), len(x))
            elif replace:
                from hardwood.tree._sample import draw_replace

                inside = self._groups(opens)
                self._run(
                    lambda a, b: draw_replace(nodes, x, beta, opens, inside, *common, a, b, rows, log_q, scores, marks),
                    len(x),
                )
            else:
                from hardwood.tree._sample import draw_without

                inside = self._groups(opens)
                self._run(
                    lambda a, b: draw_without(
                        nodes, x, beta, opens, inside, *common, a, b, rows, log_q, scores, marks, weights
                    ),
                    len(x),
                )
            drawn = nodes.row_id[rows]
        if exact:
            log_q = scores - marks[:, :1]
        if replace:
            weights = -np.log(size) - log_q
        parts = (drawn, log_q, scores, weights, *np.ascontiguousarray(marks.T))
        return Draw(*(_inputs.like(queries, part) for part in parts))

    def log_proposal(
        self, queries: Any, ids: Any, *, scale: float = 20.0, exclude: Exclude = None, probes: int = PROBES
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
        from hardwood.tree._proposal import leaf_masses, proposal

        x, beta = self._queries(queries), _inputs.positive(scale, "scale")
        opens, wanted = _inputs.count(probes, "probes"), _inputs.ids(ids, unique=False)
        lists = _inputs.excluded(exclude, len(x))
        out = np.zeros((len(x), len(wanted)))
        with self._lock.reading():
            nodes, gamma = self._ready(), rounding(self.dimension)
            rows = self._rows(wanted)
            offsets, hidden = self._excluded_rows(lists, 1)
            leaves, where = np.unique(nodes.row_leaf[rows].astype(np.int64), return_inverse=True)
            where = where.reshape(-1)
            masses = np.zeros((len(x), len(leaves)))
            self._run(lambda a, b: leaf_masses(nodes, x, beta, leaves, a, b, masses), len(leaves))
            inside = self._groups(opens)
            self._run(
                lambda a, b: proposal(
                    nodes,
                    x,
                    beta,
                    opens,
                    inside,
                    offsets,
                    hidden,
                    rows,
                    where,
                    leaves,
                    masses,
                    gamma,
                    a,
                    b,
                    out,
                ),
                len(x),
            )
        return _inputs.like(queries, out)

    def search(self, queries: Any, k: int, *, probes: int = PROBES) -> Hits:
        """The ``k`` targets of largest inner product among the ``probes`` leaves that promise most (mean
        score and three standard deviations), best first.

        Args:
            queries: ``(B, d)``.
            k: hits for each query; where the leaves looked at hold fewer, ids are -1 and scores -inf.
            probes: leaves opened; more is slower and finds more.

        Raises:
            ValueError: for ``k < 1``, NaN, wrong dimension, an empty index.
        """
        from hardwood.tree._search import search

        x, size, opens = self._queries(queries), _inputs.count(k, "k"), _inputs.count(probes, "probes")
        with self._lock.reading():
            nodes = self._ready()
            rows, scores = np.zeros((len(x), size), dtype=np.int64), np.zeros((len(x), size))
            inside = self._groups(opens)
            self._run(lambda a, b: search(nodes, x, opens, inside, a, b, rows, scores), len(x))
            found = np.where(rows >= 0, nodes.row_id[np.maximum(rows, 0)], -1)
        return Hits(_inputs.like(queries, found), _inputs.like(queries, scores))

    def log_partition(
        self,
        queries: Any,
        scale: float,
        *,
        exclude: Exclude = None,
        tolerance: float | None = None,
        budget: int | None = None,
    ) -> LogPartition:
        """``log Z`` of each query, with certified bounds.

        Opens leaves, those with the widest gap between their bounds first, until ``upper - lower <=
        tolerance`` or ``budget`` leaves are open. The bounds hold for the exact sum over the stored vectors,
        whatever the rounding of float32 products, which costs about ``1e-7 · d · scale · ‖x‖ · ‖y‖`` on
        either side and 1e-5: no tolerance below that can be reached.

        Args:
            queries: ``(B, d)``.
            scale: ``β > 0``.
            exclude: as for `sample`.
            tolerance: the gap to reach; None stops at the budget.
            budget: leaves to open at most for each query (beside those that hold excluded ids): with a
                tolerance all by default, without one 32.

        Raises:
            ValueError: as `sample`.
        """
        from hardwood.tree._certify import refine

        x, beta = self._queries(queries), _inputs.positive(scale, "scale")
        goal = -1.0 if tolerance is None else _inputs.positive(tolerance, "tolerance")
        lists = _inputs.excluded(exclude, len(x))
        marks, opened, certain = np.zeros((len(x), 3)), np.zeros(len(x), np.int64), np.zeros(len(x), np.bool_)
        with self._lock.reading():
            nodes, gamma = self._ready(), rounding(self.dimension)
            limit = PROBES if tolerance is None else len(nodes.leaf_count)
            limit = limit if budget is None else _inputs.count(budget, "budget")
            offsets, hidden = self._excluded_rows(lists, 1)
            self._run(
                lambda a, b: refine(nodes, x, beta, goal, limit, offsets, hidden, gamma, a, b, marks, opened, certain),
                len(x),
            )
        return LogPartition(
            *(_inputs.like(queries, part) for part in (*np.ascontiguousarray(marks.T), opened, certain))
        )

    def expectation(self, queries: Any, scale: float, *, exclude: Exclude = None, probes: int = PROBES) -> Any:
        """``E_P[y]`` for each query, ``(B, d)`` float32: the gradient of ``log Z`` by ``scale · x`` without
        sampling.

        Opened targets count exactly, an unopened node by its mean tilted towards the query by its covariance:
        the gradient of the estimate ``log Ẑ`` itself.

        Raises:
            ValueError: as `sample`.
        """
        from hardwood.tree._search import expect

        x, beta = self._queries(queries), _inputs.positive(scale, "scale")
        opens, lists = _inputs.count(probes, "probes"), _inputs.excluded(exclude, len(x))
        out = np.zeros((len(x), self.dimension), dtype=np.float32)
        with self._lock.reading():
            nodes, gamma = self._ready(), rounding(self.dimension)
            offsets, hidden = self._excluded_rows(lists, 1)
            inside = self._groups(opens)
            self._run(lambda a, b: expect(nodes, x, beta, opens, inside, offsets, hidden, gamma, a, b, out), len(x))
        return _inputs.like(queries, out)

    # Changing

    def add(self, ids: Any, vectors: Any) -> None:
        """Add new targets: each goes to its nearest leaf, and full leaves are split.

        Args:
            ids: ``(n,)`` int64, none of them in the index.
            vectors: ``(n, d)``.

        Raises:
            ValueError: for ids already here or repeated, lengths that differ, vectors that are not finite;
            nothing is changed.
        """
        new, block = self._pairs(ids, vectors)
        with self._lock.writing():
            known = self._tree.ids.find(new) >= 0
            if known.any():
                raise ValueError(
                    f"id {int(new[known][0])} is already in the index ({int(known.sum())} such). "
                    "Use update() for these."
                )
            if not len(new):
                return
            if len(self._tree.ids):
                self._tree.add(new, block, self._threads)
            else:
                from hardwood.tree._make import from_array

                self._tree = from_array(block, new, self._tree.dtype, self._tree.leaf_size, 0, self._threads)

    def remove(self, ids: Any) -> None:
        """Take targets out of the index.

        Raises:
            KeyError: for ids that are not here; nothing is changed.
            ValueError: for repeated ids.
        """
        gone = _inputs.ids(ids)
        with self._lock.writing():
            self._rows(gone)
            if len(gone):
                self._tree.remove(gone, self._threads)

    def update(self, ids: Any, vectors: Any) -> int:
        """Write new vectors for targets that are here, and make everything true again: means, radii, and the
        leaf, where a nearer one pays.

        Returns:
            How many targets moved to another leaf.

        Raises:
            KeyError: for ids that are not here; nothing is changed.
            ValueError: for repeated ids, lengths that differ, vectors that are not finite; nothing is
            changed.
        """
        known, block = self._pairs(ids, vectors)
        with self._lock.writing():
            rows = self._rows(known)
            return self._tree.write(rows, block, self._threads) if len(rows) else 0

    def repair(self, *, factor: float = 1.15) -> dict[str, int]:
        """Bring the tree back to the shape of a fresh one where changes have worn it, and leave the rest alone.

        All statistics are recomputed. Groups whose leaves have become ``factor`` times as wide (mean squared
        distance) as when they were built, or are on average less than a third full, get new leaves; leaves of
        less than an eighth of ``leaf_size`` are dissolved into their neighbours; where that frees more than a
        quarter of the rows in use, leaves move together, in place; and when an eighth of the targets has
        changed, covariance shapes are measured anew. `stats` tells what is worn, small or idle.

        Returns:
            ``{"groups_rebuilt", "leaves_merged", "rows_given_back", "groups"}``: what was done, and of how many
            groups.

        Raises:
            ValueError: for a factor that is not positive.
        """
        limit = _inputs.positive(factor, "factor")
        with self._lock.writing():
            if not len(self._tree.ids):
                return {"groups_rebuilt": 0, "leaves_merged": 0, "rows_given_back": 0, "groups": 0}
            return self._tree.repair(limit, self._threads)

    # Keeping

    def stats(self) -> dict[str, float]:
        """Sizes and quality of the tree in plain numbers; see docs/tree.md for what to make of them."""
        from hardwood.tree._check import stats

        with self._lock.reading():
            return stats(self._tree)

    def check(self) -> None:
        """Verify every invariant of the tree and, if it was loaded and the folder is still the same, the
        checksum of its vectors.

        Raises:
            RuntimeError: naming what is not as it must be.
            DataError: for a file that is damaged.
        """
        from hardwood.tree._check import check

        with self._lock.reading():
            check(self._tree)
            if self._loaded is not None:
                from hardwood.tree._storage import VECTORS, still, verify

                folder, manifest = self._loaded
                if still(folder, manifest):
                    verify(folder, VECTORS, manifest["files"])

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder, in place of an index that is there: safetensors files and a JSON
        manifest with checksums.

        Written beside its destination and renamed, so that a crash leaves the old index or the new one.

        Raises:
            DataError: if something that is not an index is there.
        """
        from hardwood.tree._storage import save

        with self._lock.reading():
            save(self._tree, self._metric, Path(folder))

    @classmethod
    def load(
        cls, folder: str | Path, *, mmap: bool = True, verify: bool = False, threads: int | None = None
    ) -> TargetIndex:
        """Read an index back.

        Args:
            folder: what `save` wrote.
            mmap: map the vectors instead of reading them: instant, and pages come as they are needed. Changes
                stay in memory (copy on write); the folder changes only by `save`.
            verify: also check the vectors against their checksum (reads all of them); the rest is always
                checked. `check` does it too.
            threads: as in `build`.

        Raises:
            DataError: if the folder is missing, foreign, of another version, cut short or damaged; it names
            the file.
        """
        from hardwood.tree._storage import load

        tree, metric, manifest = load(Path(folder), mmap, verify)
        index = cls(tree, metric, threads)
        index._loaded = (Path(folder).absolute(), manifest)
        return index

    # Inside

    def _queries(self, x: Any) -> Any:
        return _inputs.queries(x, self.dimension, self._metric == "cosine")

    def _pairs(self, ids: Any, vectors: Any) -> tuple[Any, Any]:
        numbers, block = _inputs.ids(ids), _inputs.vectors(vectors, self.dimension, "vectors")
        if len(numbers) != len(block):
            raise ValueError(f"{len(numbers)} ids for {len(block)} vectors.")
        return numbers, _inputs.normalised(block) if self._metric == "cosine" else block

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

    def _groups(self, probes: int) -> int:
        """How many groups to look into: those of an eighth of the leaves; in small trees of more, up to 2 048 leaves, the
        more the more are opened (scoring so many centroids costs less than what it would miss); and of twice
        ``probes``."""
        nodes = self._tree.nodes
        G, L = len(nodes.group_count), max(1, len(nodes.group_leaves))
        leaves = max(L // 8, min(LEAVES_LOOKED_AT, LEAVES_LOOKED_AT // 2 + 32 * probes), 2 * probes)
        return min(G, max(1, -(-leaves * G // L)))

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
        # Pieces as large as all threads having one allows: queries looked at together share products.
        split_work(task, size, self._threads, least=max(1, min(BLOCK, size // self._threads)))
