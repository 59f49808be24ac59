"""From whatever the user has to a tree: arrays, memmaps, tensors, iterators of chunks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hardwood.tree import _inputs
from hardwood.tree.arrays.nodes import Floats, Ints
from hardwood.tree.arrays.projection import SAMPLE, Projection, check_dimension
from hardwood.tree.change.tree import Tree
from hardwood.tree.construct.layout import Source, build


def make(
    vectors: Any,
    ids: Any,
    log_prior: Any,
    dimension: int | Projection | None,
    dtype: np.dtype[Any],
    cosine: bool,
    leaf_size: int,
    seed: int,
    threads: int,
    progress: bool,
) -> tuple[Tree, Projection | None]:
    """The tree over ``vectors``, checked piece by piece as it is read, and what reduces vectors for it."""
    if hasattr(vectors, "shape") or isinstance(vectors, (list, tuple)):
        array = vectors if hasattr(vectors, "shape") else np.asarray(vectors)
        return _make(array, ids, log_prior, dimension, dtype, cosine, leaf_size, seed, threads, progress)
    if not hasattr(vectors, "__iter__"):
        raise TypeError(f"vectors must be an array, a tensor or an iterator of chunks, got {type(vectors).__name__}.")
    # A file without a name: whatever becomes of this process, nothing of it stays on the disk.
    with tempfile.TemporaryFile(prefix="hardwood-", buffering=0) as file:
        return _make(
            _spool(vectors, file), ids, log_prior, dimension, dtype, cosine, leaf_size, seed, threads, progress
        )


def _spool(chunks: Any, file: Any) -> Any:
    """Chunks written one after another to a file, which is then mapped: memory holds one chunk at a time."""
    rows, width = 0, None
    for chunk in chunks:
        block = _inputs.vectors(chunk, width, "a chunk of vectors")
        width = block.shape[1]
        try:
            left = block.data.cast("B")
            while len(left):
                left = left[file.write(left) :]
        except OSError as error:
            room = f"{(rows + len(block)) * width * 4:,} bytes of vectors"
            raise OSError(
                error.errno,
                f"{error.strerror}: no room for {room} so far in {tempfile.gettempdir()}; set TMPDIR to a larger disk, "
                "or pass an array or a memmap",
            ) from error
        rows += len(block)
    if not rows or width is None:
        raise ValueError("vectors is an iterator without any rows; an index needs at least one target.")
    return np.memmap(file, dtype=np.float32, mode="r", shape=(rows, width))


def _make(
    array: Any,
    ids: Any,
    log_prior: Any,
    dimension: int | Projection | None,
    dtype: np.dtype[Any],
    cosine: bool,
    leaf_size: int,
    seed: int,
    threads: int,
    progress: bool,
) -> tuple[Tree, Projection | None]:
    _inputs.check_shape(tuple(array.shape), None, "vectors")
    n = int(array.shape[0])
    if n == 0:
        raise ValueError("vectors has no rows; an index needs at least one target.")
    if not _inputs.is_tensor(array) and array.dtype.kind not in "fiu":
        raise TypeError(f"vectors must be numbers, got dtype {array.dtype}.")
    numbers = np.arange(n, dtype=np.int64) if ids is None else _inputs.ids(ids)
    if len(numbers) != n:
        raise ValueError(f"{len(numbers)} ids for {n} vectors.")

    is_reduced = isinstance(dimension, Projection) and array.shape[1] == dimension.dimension

    def checked(block: Any) -> Floats:
        out = _inputs.finite(_inputs.to_numpy(block), "vectors")
        return _inputs.normalised(out) if cosine and not is_reduced else out

    projection = None if dimension is None else _projection(dimension, array, checked)

    def prepare(block: Any) -> Floats:
        return checked(block) if projection is None or is_reduced else projection(checked(block))

    with Bar(progress) as bar:
        prior = None if log_prior is None else _inputs.log_prior(log_prior, n)
        source = Source(array, prepare, prior, None if projection is None else projection.dimension)
        nodes, used = build(source, numbers, dtype, leaf_size, int(_inputs.seed_of(seed)), threads, bar.tick)
        return Tree(nodes, used, leaf_size), projection


def _projection(wanted: int | Projection, array: Any, checked: Callable[[Any], Floats]) -> Projection:
    """One that is given, or fitted on a sample of the vectors."""
    shape = tuple(array.shape)
    if isinstance(wanted, Projection):
        _inputs.check_shape(shape, (wanted.dimension, wanted.full_dimension), "vectors")
        return wanted
    check_dimension(wanted, shape[1])
    return Projection.fit(checked(array[:: max(1, shape[0] // SAMPLE)]), wanted)


def from_array(vectors: Floats, ids: Ints, dtype: np.dtype[Any], leaf_size: int, seed: int, threads: int) -> Tree:
    """The tree over vectors that are checked and prepared already."""
    nodes, used = build(Source(vectors, lambda x: x), ids, dtype, leaf_size, seed, threads, lambda *_: None)
    return Tree(nodes, used, leaf_size)


class Bar:
    """A progress bar (rich) that appears only when the work takes more than a second."""

    def __init__(self, wanted: bool) -> None:
        self._wanted, self._start = wanted, time.monotonic()
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    @property
    def tick(self) -> Callable[[str, int, int], None]:
        """``tick(stage, done, total)``."""
        return self._tick

    def _tick(self, stage: str, done: int, total: int) -> None:
        if not self._wanted or time.monotonic() - self._start < 1.0:
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._progress.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done)
