"""The tensors of a checkpoint: written with a checksum, and checked before a source uses them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hardwood.errors import DataError

FLOATS = (torch.float32, torch.bfloat16)
INTEGERS = (torch.int64,)

Wanted = tuple[tuple[torch.dtype, ...], tuple["int | None", ...]]
"""Types that a tensor may have, and its shape: None for any size of at least 1, `ANY` for any."""

ANY = -1


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
            about = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, ValueError, OverflowError, KeyError, AttributeError) as error:
        raise DataError(f"is not a readable safetensors file ({error}): it is damaged.", path) from None
    # Checkpoints of before had no metadata at all.
    if about is not None and about.get("sha256") != _digest(state):
        raise DataError("does not match its checksum: it is damaged. Resume from another checkpoint.", path)
    return state


def expect(state: Mapping[str, Tensor], wanted: Mapping[str, Wanted], source: str) -> None:
    """Whether a state has these tensors, and no others, with finite numbers.

    Raises:
        ValueError: naming the first that is missing, left over, or of another kind.
    """
    way_out = f"resume with the data, model and options that these {source!r} negatives were saved with"
    if set(state) != set(wanted):
        raise ValueError(f"the checkpoint holds {sorted(state)} where {sorted(wanted)} are needed: {way_out}")
    for name, (dtypes, shape) in wanted.items():
        tensor = state[name]
        fits = tensor.ndim == len(shape) and tensor.dtype in dtypes
        for wants, has in zip(shape, tensor.shape, strict=False):
            fits = fits and (has >= 1 if wants is None else wants in (ANY, has))
        if not fits:
            needed = tuple("any" if wants in (None, ANY) else wants for wants in shape)
            raise ValueError(
                f"the checkpoint's {name} are {tuple(tensor.shape)} of {tensor.dtype}, but this corpus and model need "
                f"{needed}: {way_out}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"the checkpoint's {name} hold NaN or infinite numbers: resume from an earlier one")


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
