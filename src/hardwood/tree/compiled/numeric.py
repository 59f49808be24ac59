"""Small pieces that every kernel shares: the compiler's settings, dot products, a quick exponential, random
numbers.

Kernels are serial and release the interpreter lock; threads are Python's (see `compiled.threads`). This survives a
fork and runs under any thread, which Numba's own threading layers do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba.extending import overload

from hardwood.tree.compiled.cache import keep

# The one set of relaxations used anywhere. Never `nnan` or `ninf`: kernels rely on infinities (an excluded
# target scores -inf).
FASTMATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})

_F = TypeVar("_F", bound=Callable[..., Any])


def jit(function: _F, inline: str = "never") -> _F:
    """Compile on first call; keep the machine code on disk where some cache folder is writable (see `cache`)."""
    options: dict[str, Any] = {
        "fastmath": set(FASTMATH), "nogil": True, "error_model": "numpy", "inline": inline,
    }  # fmt: skip
    compiled: _F = numba.njit(**options)(function)
    keep(compiled, function)
    return compiled


def inlined(function: _F) -> _F:
    """A kernel's helper, copied into its callers so that loops over it can use vector instructions."""
    return jit(function, inline="always")


def decode(value):  # type: ignore[no-untyped-def]
    """A stored number as float32: itself, the bfloat16 whose bits a uint16 holds (exact: a bfloat16 is the
    upper half), or an int8 (a sketch's)."""
    if isinstance(value, np.uint16):
        return np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return np.float32(value)


@overload(decode, inline="always")
def _decode(value):  # type: ignore[no-untyped-def]  # Numba compares this signature with the lambdas'
    if value == numba.types.int8:
        return lambda value: np.float32(value)  # noqa: PLW0108  (Numba wants a Python function)
    if isinstance(value, numba.types.Integer):
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


@inlined
def dot(x, rows, row):  # type: ignore[no-untyped-def]
    """``x · rows[row]`` in float32. One plain loop: the compiler's own unrolling beat ours (5.7 ns against
    6.9 at d = 128)."""
    total = np.float32(0.0)
    for i in range(x.shape[0]):
        total += x[i] * decode(rows[row, i])
    return total


@inlined
def exp32(x):  # type: ignore[no-untyped-def]
    """exp in float32 to about two ulps (Cephes' polynomial), 0 below -87. Written out so that loops
    vectorise: 0.2 ns against 1.9."""
    x = np.float32(x)
    y = min(max(x, np.float32(-87.0)), np.float32(88.0))
    z = np.floor(y * np.float32(1.44269504088896341) + np.float32(0.5))
    y -= z * np.float32(0.693359375)
    y -= z * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * y + np.float32(1.3981999507e-3)
    p = p * y + np.float32(8.3334519073e-3)
    p = p * y + np.float32(4.1665795894e-2)
    p = p * y + np.float32(1.6666665459e-1)
    p = p * y + np.float32(5.0000001201e-1)
    p = p * y * y + y + np.float32(1.0)
    power = np.int32((np.int32(z) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(0.0) if x < np.float32(-87.0) else p * power


@jit
def unit(x, out):  # type: ignore[no-untyped-def]
    """Writes ``x / ‖x‖`` (zeros for zero) into ``out`` and returns ``‖x‖`` in float64: no scale of input can
    overflow the scores."""
    total = 0.0
    for i in range(x.shape[0]):
        total += np.float64(x[i]) * np.float64(x[i])
    norm = np.sqrt(total)
    for i in range(x.shape[0]):
        out[i] = np.float32(np.float64(x[i]) / norm) if norm > 0.0 else np.float32(0.0)
    return norm


@inlined
def mix(key, counter):  # type: ignore[no-untyped-def]
    """A counter-based generator: 64 well mixed bits for (key, counter), by SplitMix64's finaliser (Steele et
    al. 2014) twice."""
    z = np.uint64(key) + np.uint64(counter) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    z = (z + np.uint64(0xD1B54A32D192ED03)) * np.uint64(0xAEF17502108EF2D9)
    z = (z ^ (z >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return z ^ (z >> np.uint64(32))


@inlined
def uniform(key, counter):  # type: ignore[no-untyped-def]
    """A uniform float64 in the open interval (0, 1)."""
    return (np.float64(mix(key, counter) >> np.uint64(12)) + 0.5) * 2.0**-52


@inlined
def gumbel(key, counter):  # type: ignore[no-untyped-def]
    """A standard Gumbel variate."""
    return -np.log(-np.log(uniform(key, counter)))


@inlined
def first_from(values, n, x):  # type: ignore[no-untyped-def]
    """The place of the first of the ascending ``values[:n]`` that is not below ``x``; n if all are."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if values[middle] < x:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def widest(counts):  # type: ignore[no-untyped-def]
    """The largest count, at least 1."""
    n = 1
    for i in range(counts.shape[0]):
        n = max(n, counts[i])
    return n
