"""`TargetIndex`: the tree behind one small face."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardwood import _checks
from hardwood._processors import default_threads
from hardwood._ragged import RaggedRows
from hardwood.tree import _inputs
from hardwood.tree._inputs import DTYPES, METRICS
from hardwood.tree._reading import ReadableIndex
from hardwood.tree.arrays.prior import SPREAD, with_column, with_prior
from hardwood.tree.change.repair import keep_compact, repair

if TYPE_CHECKING:
    from hardwood.tree.arrays.projection import Projection


class TargetIndex(ReadableIndex):
    """All targets' vectors in a tree that samples their softmax, bounds its partition function, and changes
    in place.

    Make one with `build` or `load`. Reading (`sample`, `sample_exact`, `search`, `log_partition`, `expectation`,
    `log_proposal`, `vectors`, ...) is safe from many threads at once; a change (`add`, `remove`, `update`,
    `repair`) waits for readers and runs alone. A call that raises has changed nothing; one that is broken off half-way
    (Ctrl-C, no memory) leaves an index that refuses everything. Queries and vectors
    may be NumPy arrays or torch tensors; results are torch tensors, on the queries' device, when the queries
    were. Scores are ``s_i = scale · x·y_i`` in float32 products, returned in float64. Built with a prior over targets,
    the softmax is ``P(i|x) = π_i exp(s_i) / Z`` with ``Z = Σ π_i exp(s_i)``: ``log π_i`` is part of the score in all
    but `search`, and every probability and bound holds for that.
    """

    @classmethod
    def build(
        cls,
        vectors: Any,
        ids: Any = None,
        *,
        log_prior: Any = None,
        dimension: int | Projection | None = None,
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
            log_prior: ``(n,)``, ``log π_i``, between ±100; ``None``: all targets are alike. It stays with its target
                through every `update`, and takes the memory of one more dimension.
            dimension: how many of the ``d`` dimensions to keep, less than ``d``, by a `Projection` fitted on a sample;
                or a projection, and then ``vectors`` may be reduced already. Bounds and probabilities are those of the
                softmax over what is kept. ``None``: all.
            dtype: "float32", or "bfloat16" for half the memory: vectors are rounded on entry, and everything
                is exact for those.
            metric: "dot", or "cosine" to make vectors and queries unit length on entry.
            leaf_size: targets in a leaf, on average; none holds more than twice as many.
            seed: of the clustering. Same vectors, same seed: same tree.
            threads: used by this index from now on; by default, what `hardwood.tree.set_threads` says at each
                call: the processors this process may use.
            progress: show a bar when it takes more than a second.

        Raises:
            ValueError: for vectors that are empty, not finite or of the wrong shape, repeated ids, an unknown
                dtype or metric.
            TypeError: for what is not numbers.

        The tree is two levels of k-means: ``n / leaf_size`` leaves in about four times the square root of as many
        groups.
        """
        from hardwood.tree._from_vectors import make

        _checks.one_of(DTYPES, dtype, "dtype")
        _checks.one_of(METRICS, metric, "metric")
        size = _checks.count(leaf_size, "leaf_size")
        workers = default_threads() if threads is None else _checks.count(threads, "threads")
        tree, projection = make(
            vectors, ids, log_prior, dimension, DTYPES[dtype], metric == "cosine", size, seed, workers, progress
        )
        return cls(tree, metric, threads, log_prior is not None, projection)

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
        """The stored vectors of these ids, ``(len(ids), d)`` float32 (reduced, rounded to bfloat16 or made unit, if
        the index does so).

        Raises:
            KeyError: for ids that are not in the index.
        """
        from hardwood.tree.arrays.bfloat16 import decoded

        wanted = _inputs.ids(ids, unique=False)
        with self._lock.reading():
            return decoded(self._tree.nodes.rows[self._rows(wanted)])[:, : self.dimension].copy()

    def log_prior(self, ids: Any) -> NDArray[np.float32]:
        """``log π`` of these ids, ``(len(ids),)`` float32 (rounded to bfloat16, if the index does so); 0 for an index
        without a prior.

        Raises:
            KeyError: for ids that are not in the index.
        """
        wanted = _inputs.ids(ids, unique=False)
        with self._lock.reading():
            rows = self._rows(wanted)
            return self._column(rows) / np.float32(SPREAD) if self._has_prior else np.zeros(len(rows), np.float32)

    def spread(self, count: int, seed: int = 0) -> NDArray[np.int64]:
        """Targets spread over the whole tree: one from each of ``count`` equal parts of all targets in leaf order, at
        an independent random place in its part (stratified sampling with one draw a stratum; Cochran 1977, chapter 5).

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
        wanted, stream = _checks.count(count, "count"), int(_inputs.seed_of(seed))
        with self._lock.reading():
            return self._tree.spread(wanted, stream)

    def leaves(self) -> RaggedRows:
        """The ids of each leaf's targets, a row a leaf that has any."""
        with self._lock.reading():
            nodes = self._tree.nodes
            used = np.flatnonzero(nodes.leaf_count > 0)
            offsets = np.concatenate([[0], np.cumsum(nodes.leaf_count[used])]).astype(np.int64)
            return RaggedRows(offsets, nodes.row_id[self._tree.live_rows(used)])

    # Changing

    def add(self, vectors: Any, ids: Any, *, log_prior: Any = None) -> None:
        """Add new targets: each goes to its nearest leaf, and full leaves are split.

        Args:
            vectors: ``(n, d)``.
            ids: ``(n,)`` int64, none of them in the index.
            log_prior: ``(n,)``, for an index that has a prior; ``None``: 0 each.

        Raises:
            ValueError: for ids already here or repeated, lengths that differ, vectors that are not finite, or a prior
                for an index without; nothing is changed.
        """
        new, block = self._pairs(vectors, ids)
        if log_prior is not None and not self._has_prior:
            raise ValueError("this index was built without log_prior, so none can be added; build it with one.")
        if self._has_prior:
            prior = np.zeros(len(new), np.float32) if log_prior is None else _inputs.log_prior(log_prior, len(new))
            block = with_prior(block, prior)
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
                with self._lock.changing("add"):
                    keep_compact(self._tree)
                    self._tree.add(new, block, self.threads)
            else:
                from hardwood.tree._from_vectors import from_array

                self._tree = from_array(block, new, self._tree.dtype, self._tree.leaf_size, 0, self.threads)

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
                with self._lock.changing("remove"):
                    keep_compact(self._tree)
                    self._tree.remove(gone, self.threads)

    def update(self, vectors: Any, ids: Any) -> int:
        """Write new vectors for targets that are here, and make everything true again: means, radii, and the
        leaf, where a nearer one pays.

        Args:
            vectors: ``(n, d)``.
            ids: ``(n,)`` int64, all of them in the index.

        Returns:
            How many targets moved to another leaf.

        Raises:
            KeyError: for ids that are not here; nothing is changed.
            ValueError: for repeated ids, lengths that differ, vectors that are not finite; nothing is
                changed.
        """
        known, block = self._pairs(vectors, ids)
        with self._lock.writing():
            rows = self._rows(known)
            if not len(rows):
                return 0
            if self._has_prior:
                block = with_column(block, self._column(rows))
            with self._lock.changing("update"):
                if keep_compact(self._tree):
                    rows = self._rows(known)
                return self._tree.write(rows, block, self.threads)

    def repair(self, *, factor: float = 1.15) -> dict[str, int]:
        """Bring the tree back to the shape of a fresh one where changes have worn it, and leave the rest alone.

        All statistics are recomputed. Groups whose leaves have become ``factor`` times as wide (mean squared
        distance) as when they were built, or are on average less than a third full, get new leaves; leaves of
        less than an eighth of ``leaf_size`` are dissolved into their neighbours; where that frees more than a
        quarter of the rows in use, leaves move together, in place; where there are twice the groups that a new tree
        would have, the smallest are dissolved; and when an eighth of the targets has
        changed, covariance shapes are measured anew. `stats` reports what is worn, small or idle.

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
            with self._lock.changing("repair"):
                return repair(self._tree, limit, self.threads)

    def enable_spill(self) -> None:
        """Show every target in a second leaf too, so that `search` finds it from both sides of a border (SOAR: Sun et
        al., NeurIPS 2023, arXiv:2404.00774): more found for the same ``probes``, and twice the targets scored.

        For an index that is searched and not changed: costs 8 bytes a target and about as long as assigning all of them
        once, is dropped by the next change, and is not saved. It does not change `sample` or any other method.
        """
        from hardwood.tree.change.spill import spilled

        with self._lock.writing():
            if len(self._tree.ids):
                self._tree.spill = spilled(self._tree, self.threads)

    def enable_sketch(self) -> None:
        """Keep a byte for each number beside the vectors, so that a draw of `sample` reads a quarter (of bfloat16:
        half) of the memory to choose among the targets of a leaf that is not opened.

        ``log_q`` is still the probability of the draw: inside such a leaf, that of a softmax over rounded scores. And
        `log_proposal` says the same. `Draw.scores`, bounds, `sample_exact` and everything else stay exact.

        For an index that is sampled with few ``probes`` and not changed: costs a byte a number (a quarter of float32
        vectors) and one pass over them, is dropped by the next change, and is not saved.
        """
        from hardwood.tree.read.sketch import sketched

        with self._lock.writing():
            if len(self._tree.ids):
                self._tree.sketch = sketched(self._tree.nodes, self.threads)

    def _column(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The last number of these rows."""
        from hardwood.tree.arrays.bfloat16 import decoded

        return decoded(np.ascontiguousarray(self._tree.nodes.rows[rows, -1:]))[:, 0]

    def _pairs(self, vectors: Any, ids: Any) -> tuple[Any, Any]:
        numbers, block = _inputs.ids(ids), _inputs.vectors(vectors, self._dimensions, "vectors")
        if len(numbers) != len(block):
            raise ValueError(f"{len(numbers)} ids for {len(block)} vectors.")
        if self._metric == "cosine" and not _inputs.is_reduced(block, self._dimensions):
            block = _inputs.normalised(block)
        return numbers, self._reduced(block)

    # Keeping

    def stats(self) -> dict[str, float]:
        """Sizes and quality of the tree in plain numbers; see docs/concepts/tree.md for what to make of them."""
        from hardwood.tree.change.check import stats

        with self._lock.reading():
            return stats(self._tree)

    def check(self) -> None:
        """Verify every invariant of the tree and, if it was loaded and the folder is still the same, the
        checksum of its vectors.

        Raises:
            DataError: naming what is damaged, in the tree or in its file.
        """
        from hardwood.tree.change.check import check

        with self._lock.reading():
            check(self._tree)
            if self._loaded is not None:
                from hardwood.tree.store.folder import VECTORS, still, verify

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
        from hardwood.tree.store.folder import save

        with self._lock.reading():
            save(self._tree, self._metric, self._has_prior, self._projection, Path(folder))

    @classmethod
    def load(
        cls, folder: str | Path, *, mmap: bool = True, verify: bool = False, threads: int | None = None
    ) -> TargetIndex:
        """Read an index back.

        Args:
            folder: what `save` wrote.
            mmap: map the vectors instead of reading them: instant, and pages come as they are needed. Changes
                stay in memory (copy on write); the folder changes only by `save`.
            verify: also check the vectors: their checksum, and that each is finite (reads all of them); the rest is
                always checked, so that no file, however it came about, can lead a kernel astray. `check` finds
                statistics that are not true of the vectors.
            threads: as in `build`.

        Raises:
            DataError: if the folder is missing, foreign, of another version, cut short or damaged; it names
                the file.
        """
        from hardwood.tree.store.folder import load

        tree, metric, has_prior, projection, manifest = load(Path(folder), mmap, verify)
        index = cls(tree, metric, threads, has_prior, projection)
        index._loaded = (Path(folder).absolute(), manifest)
        return index
