"""What users pass, checked before anything is touched: every failure names what was received and the way
out."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood._ragged import RaggedRows
from hardwood.tree.arrays.nodes import Floats, Ints
from hardwood.tree.arrays.prior import LARGEST
from hardwood.tree.compiled.numeric import jit

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}
METRICS = ("dot", "cosine")
MAX_DIMENSION = 4096
# Squared norms must fit float32 while clusters are sought; larger vectors belong into the scale.
MAX_NORM = 1e18
MAX_SCALE = 1e100


def is_tensor(x: Any) -> bool:
    """Whether ``x`` is a torch tensor; torch is not imported to find out."""
    return type(x).__module__.split(".")[0] == "torch" and hasattr(x, "detach")


def to_numpy(x: Any) -> NDArray[Any]:
    """An array of anything array-like, torch tensors of any device and float type among it."""
    if is_tensor(x):
        x = x.detach().cpu()
        return np.asarray(x.float().numpy() if x.is_floating_point() else x.numpy())
    return np.asarray(x)


def like(x: Any, values: NDArray[Any]) -> Any:
    """``values`` as a torch tensor on the device of ``x`` if that is one, else as they are."""
    if not is_tensor(x):
        return values
    import torch

    return torch.from_numpy(values).to(x.device)


def finite(block: NDArray[Any], name: str, first: int = 0) -> Floats:
    """A block of vectors as contiguous float32, all finite and none beyond `MAX_NORM`."""
    with np.errstate(over="ignore"):
        out = np.ascontiguousarray(block, dtype=np.float32)
    # One sum of squares a row finds NaN, infinities and rows too large at once.
    squares = np.einsum("ij,ij->i", out, out, dtype=np.float64) if out.size else np.zeros(len(out))
    bad = np.flatnonzero(~(squares <= MAX_NORM**2))
    if len(bad):
        row, norm = int(bad[0]), float(np.sqrt(squares[bad[0]]))
        if np.isfinite(norm):
            raise ValueError(
                f"{name}[{row + first}] has norm {norm:.3g}, beyond {MAX_NORM:.0e}. Divide the vectors by a constant "
                "and multiply the scale by it."
            )
        raise ValueError(
            f"{name}[{row + first}] holds NaN or infinite numbers ({len(bad)} such rows). "
            "Remove these rows or find what made them."
        )
    return out


def vectors(x: Any, dimension: int | tuple[int, int] | None, name: str) -> Floats:
    """A matrix of finite vectors, ``(n, d)`` float32; ``dimension``: how many, or which two are possible."""
    array = to_numpy(x)
    if array.dtype == object or array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be numbers, got dtype {array.dtype}.")
    check_shape(array.shape, dimension, name)
    return finite(array, name)


def check_shape(shape: tuple[int, ...], dimension: int | tuple[int, int] | None, name: str) -> None:
    """Two axes, and as many columns as the index has dimensions."""
    if len(shape) != 2:
        raise ValueError(f"{name} must have shape (n, d), got {tuple(shape)}. A single vector v is v[None, :].")
    if isinstance(dimension, tuple) and shape[1] not in dimension:
        reduced, full = dimension
        raise ValueError(
            f"{name} has {shape[1]} dimensions; this index keeps {reduced} of {full}, and takes vectors of {full} "
            f"or of {reduced}."
        )
    if isinstance(dimension, int) and shape[1] != dimension:
        raise ValueError(f"{name} has {shape[1]} dimensions; this index holds vectors of {dimension}.")
    if not 1 <= shape[1] <= MAX_DIMENSION:
        raise ValueError(f"{name} has {shape[1]} dimensions; an index takes 1 to {MAX_DIMENSION}.")


@jit
def all_finite(x):  # type: ignore[no-untyped-def]
    """Whether a float32 matrix is finite throughout: NumPy's steps to that take longer than a short search should."""
    bad, most = 0, np.finfo(np.float32).max
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            bad += not abs(x[i, c]) <= most
    return bad == 0


def queries(x: Any, dimension: int | tuple[int, int], cosine: bool) -> Floats:
    """Queries as float32 ``(B, d)``, of any finite norm; unit for cosine, if they have all dimensions."""
    array = to_numpy(x)
    if array.dtype == object or array.dtype.kind not in "fiu":
        raise TypeError(f"queries must be numbers, got dtype {array.dtype}.")
    check_shape(array.shape, dimension, "queries")
    out = array
    if array.dtype != np.float32 or not array.flags.carray:  # what can't be written to would be compiled for once more
        with np.errstate(over="ignore"):
            out = np.array(array, dtype=np.float32, order="C")
    if not all_finite(out):
        bad = np.flatnonzero(~np.isfinite(out).all(axis=1))
        raise ValueError(f"queries[{int(bad[0])}] holds NaN or infinite numbers ({len(bad)} such rows).")
    return normalised(out) if cosine and not is_reduced(out, dimension) else out


def is_reduced(x: Floats, dimension: int | tuple[int, int]) -> bool:
    """Whether vectors have the first of two possible numbers of dimensions, what an index keeps of them."""
    return isinstance(dimension, tuple) and x.shape[1] == dimension[0]


def normalised(x: Floats) -> Floats:
    """Rows divided by their norms; zero rows stay zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    return (x / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)


def ids(x: Any, name: str = "ids", unique: bool = True) -> Ints:
    """int64 ids, ``(n,)``; no repeats unless allowed."""
    array = to_numpy(x)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {array.shape}.")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must be integers, got dtype {array.dtype}. Keep a table of your own keys beside the index."
        )
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} holds {array.max()}, which int64 cannot.")
    out = array.astype(np.int64)
    if unique and len(out):
        ordered = np.sort(out)
        again = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(again):
            raise ValueError(f"{name} repeats {int(ordered[again[0]])} ({len(again)} repeats). Each id may occur once.")
    return out


def log_prior(x: Any, count: int) -> Floats:
    """Log-priors as float32 ``(count,)``.

    Raises:
        ValueError: another shape, or one that is not finite or beyond `hardwood.tree.arrays.prior.LARGEST`.
        TypeError: for what is not numbers.
    """
    array = to_numpy(x)
    if array.dtype == object or array.dtype.kind not in "fiu":
        raise TypeError(f"log_prior must be numbers, got dtype {array.dtype}.")
    if array.shape != (count,):
        raise ValueError(f"log_prior must have shape ({count},), one a target, got {array.shape}.")
    bad = np.flatnonzero(~(np.abs(array) <= LARGEST))
    if len(bad):
        raise ValueError(f"log_prior[{int(bad[0])}] is {array[bad[0]]}; it must lie between ±{LARGEST:.0f}.")
    return np.asarray(array, dtype=np.float32)


def positive(x: Any, name: str) -> float:
    """A number above zero, and no larger than any scale or tolerance could be: scores must fit float64."""
    try:
        number = float(x)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {x!r}.") from None
    if not 0.0 < number < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {number}.")
    if number > MAX_SCALE:
        raise ValueError(f"{name} must be at most {MAX_SCALE:.0e}, got {number}.")
    return number


def seed_of(seed: int | None) -> np.uint64:
    """64 bits from the user's seed, or from the system when there is none."""
    if seed is None:
        return np.uint64(int.from_bytes(os.urandom(8), "little"))
    try:
        return np.uint64(operator.index(seed) & 0xFFFFFFFFFFFFFFFF)
    except TypeError:
        raise TypeError(f"seed must be a whole number or None, got {seed!r}.") from None


def excluded(exclude: RaggedRows | Sequence[Any] | None, size: int) -> RaggedRows:
    """One list of ids for each of ``size`` queries."""
    if exclude is None:
        return RaggedRows.empty(size)
    if isinstance(exclude, RaggedRows):
        rows = exclude
    else:
        parts = [ids(part, f"exclude[{i}]", unique=False) for i, part in enumerate(exclude)]
        offsets = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
        rows = RaggedRows(offsets, np.concatenate([np.zeros(0, np.int64), *parts]))
    if len(rows) != size:
        raise ValueError(
            f"exclude has {len(rows)} lists for {size} queries. Give one list of ids a query, empty where none."
        )
    return rows
