"""Ways in which bytes, texts, JSON and arrays go wrong, by a seed."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np

TOKENS = (
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3\x28", b"\n", b"\r\n", b"\r", b"\t", b'"', b"{", b"}", b"[", b"]",
    b":", b",", b"\\ud800", b"\\u0000", b"NaN", b"-Infinity", b"1e999", b"-1", b"9223372036854775808", b"1" * 5000,
    b"null", b"true", b"[" * 2000, b'{"a":' * 500, b"_id", b"text", b"q1\td1\t1\n", b"\xe2\x80\xa8", b"&a [*a]", b"*a",
    b"!!python/object:os.system", b"!!timestamp x", b"!!int x", b"!!bool x", b"<<: ", b"? ", b"- ", b"|\n",
    b"%YAML 9.9\n", b"--- ", b"0x" + b"f" * 300,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**15, 10**400, 0.5, 1e308, float("nan"), float("inf"), "",
    "x", "../../x", "/etc/passwd", "\ud800", "a\tb", [], {}, [[]], ["x"], {"x": 1}, "9" * 50, [0, 10**15], "dot",
    "cosine", "bfloat16", "I64",
)  # fmt: skip


def bytes_mutated(rng: np.random.Generator, content: bytes, other: bytes = b"") -> bytes:
    """One to four blind changes: a bit, a byte, a piece cut, doubled, put elsewhere, taken from ``other``, a token."""
    out = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(out) + 1))
        end = min(len(out), at + int(rng.choice([1, 4, 30, 1000])))
        kind = rng.integers(0, 9)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1 and at < len(out):
            out[at] = int(rng.integers(0, 256))
        elif kind == 2:
            del out[at:end]
        elif kind == 3:
            out[at:at] = out[at:end]
        elif kind == 4:
            del out[at:]
        elif kind == 5 and other:
            begin = int(rng.integers(0, len(other)))
            out[at:end] = other[begin : begin + end - at]
        elif kind == 6:
            out[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 20)), dtype=np.uint8))
        elif kind == 7:
            lines = out.split(b"\n")
            lines.insert(int(rng.integers(0, len(lines))), lines[rng.integers(0, len(lines))])
            out = bytearray(b"\n".join(lines))
        else:
            out[at : at if rng.random() < 0.5 else end] = TOKENS[rng.integers(0, len(TOKENS))]
    return bytes(out)


def one_bit(rng: np.random.Generator, content: bytes) -> bytes:
    """One bit flipped."""
    out = bytearray(content)
    out[rng.integers(0, len(out))] ^= 1 << int(rng.integers(0, 8))
    return bytes(out)


def json_mutated(rng: np.random.Generator, value: Any) -> bytes:
    """A JSON text of ``value`` with one to three members changed, lost, renamed, or standing twice."""
    value = copy.deepcopy(value)
    for _ in range(rng.integers(1, 4)):
        holders = list(_holders(value))
        if not holders:
            break
        holder, key = holders[rng.integers(0, len(holders))]
        if holder is not None and (isinstance(holder, dict) and key not in holder):
            continue
        kind = rng.integers(0, 5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(key) + "x"] = holder.pop(key)
        elif kind == 2:
            there, name = holders[rng.integers(0, len(holders))]
            if isinstance(there, list) or name in there:
                holder[key] = copy.deepcopy(there[name])
        elif kind == 3 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = holder[key] + int(rng.choice([-1, 1, 8, 64]))
        else:
            holder[key] = copy.deepcopy(VALUES[rng.integers(0, len(VALUES))])
    text = json.dumps(value, indent=int(rng.integers(0, 3)) or None)
    if rng.random() < 0.15:  # a name twice
        inside = json.dumps(value)[1:-1]
        text = "{" + inside + ", " + inside + "}"
    return text.encode("utf-8", "surrogatepass")


def _holders(value: Any) -> Any:
    """Every place in a JSON value: the object or array, and the name or number there."""
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(places):
        yield value, key
        yield from _holders(inner)


def array_mutated(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """An array with some numbers extreme or exchanged, another shape, or another type."""
    out, kind = np.array(array), rng.integers(0, 10)
    if not out.ndim:
        return np.array(rng.choice([-1.0, 0.0, np.nan, np.inf, 5.0]), out.dtype)
    if kind < 6 and out.size:
        flat = out.reshape(-1)
        at = rng.integers(0, flat.size, int(rng.choice([1, 1, 2, 10])))
        if out.dtype.kind == "f":
            flat[at] = rng.choice(np.array([np.nan, np.inf, -np.inf, -1, 0, 1e30, -1e30, 1e-40, 7], out.dtype), len(at))
        elif out.dtype == np.uint16:  # bits of bfloat16
            flat[at] = rng.choice(np.array([0x7FC0, 0x7F80, 0xFF80, 0x7F7F, 0, 0x8000, 0x0001], np.uint16), len(at))
        else:
            info = np.iinfo(out.dtype)
            some = [
                info.max,
                info.min,
                0,
                1,
                min(info.max, out.size),
                *([-1] if info.min else []),
                *flat[rng.integers(0, flat.size, 3)].tolist(),
            ]
            flat[at] = rng.choice(np.array(some, out.dtype), len(at))
    elif kind == 6 and out.size:
        rng.shuffle(out)
    elif kind == 7:
        out = np.concatenate([out, out[-1:]]) if rng.random() < 0.5 or not len(out) else out[:-1]
    elif kind == 8:
        out = out.reshape(-1) if out.ndim > 1 and rng.random() < 0.5 else out[None]
    else:
        with np.errstate(all="ignore"):
            out = out.astype(rng.choice([np.int32, np.int64, np.float32, np.float64]))
    return np.ascontiguousarray(out)
