"""The tensors of a checkpoint: written with a checksum, and held against what is needed before they are used.

One small language says what is needed: a name, the types that a tensor may have, and its shape. A size is a number, or
a word that stands for the same number wherever it occurs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hardwood.errors import DataError

FLOATS = (torch.float32, torch.bfloat16)
INTEGERS = (torch.int64,)

_BLOCK = 1 << 24

Size = int | str
Wanted = tuple[tuple[torch.dtype, ...], tuple[Size, ...]]
"""Types that a tensor may have, and its shape."""


def write_state(state: dict[str, Tensor], path: Path) -> None:
    """A safetensors file of ``state``, with a checksum of everything in it."""
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
    save_file(tensors, path, metadata={"sha256": _digest(tensors)})


def read_state(path: Path) -> dict[str, Tensor]:
    """What `write_state` wrote.

    Raises:
        DataError: there is no such file, it is not safetensors, or not what was written.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError("there is no such file: the checkpoint is not whole.", path)
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, ValueError, OverflowError, KeyError, AttributeError) as error:
        raise DataError(f"is not a readable safetensors file ({error}): it is damaged.", path) from None
    if about.get("sha256") != _digest(state):
        raise DataError("does not match its checksum: it is damaged. Resume from another checkpoint.", path)
    return state


def expect(state: Mapping[str, Tensor], wanted: Mapping[str, Wanted], way_out: str, **sizes: int) -> None:
    """Whether a state has these tensors, and no others, with finite numbers.

    Args:
        state: the tensors of a checkpoint.
        wanted: what is needed, by name.
        way_out: what to do about it, for the message.
        sizes: of words that stand in the shapes; others stand for whatever is found first.

    Raises:
        ValueError: naming the first that is missing, left over, or of another kind.
    """
    if set(state) != set(wanted):
        raise ValueError(f"the checkpoint holds {sorted(state)} where {sorted(wanted)} are needed: {way_out}")
    for name, (dtypes, shape) in wanted.items():
        tensor = state[name]
        if tensor.dtype not in dtypes:
            types = " or ".join(map(str, dtypes))
            raise ValueError(f"the checkpoint's {name!r} is of {tensor.dtype}, but {types} is needed: {way_out}")
        fits = tensor.ndim == len(shape)
        for size, found in zip(shape, tensor.shape, strict=False):
            fits = fits and found == (size if isinstance(size, int) else sizes.setdefault(size, found))
        if not fits:
            needed = ", ".join(str(size if isinstance(size, int) else sizes.get(size, size)) for size in shape)
            raise ValueError(
                f"the checkpoint's {name!r} has the shape {tuple(tensor.shape)}, but this data and these options need "
                f"({needed}): {way_out}"
            )
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise ValueError(f"the checkpoint's {name!r} holds NaN or infinite numbers: {way_out}")


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite; a block at a time, since a corpus's encodings are among them."""
    return all(bool(torch.isfinite(block).all()) for block in tensor.reshape(-1).split(_BLOCK))


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        if tensor.numel():  # of no numbers there is no view as bytes
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
