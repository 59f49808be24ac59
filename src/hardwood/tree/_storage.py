"""An index as a folder: two safetensors files and a manifest with version, shapes and checksums. Nothing is
ever unpickled.

The folder is written beside its destination and put in its place, so a crash leaves either the old index or the new
one. The vectors' file can be mapped instead of read: then only its size and header are checked, until `verify`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood._files import folder_written_whole, recover
from hardwood._version import __version__
from hardwood.errors import DataError
from hardwood.tree._nodes import Nodes, group_lists
from hardwood.tree._tree import Tree

FORMAT, VERSION = "hardwood.tree", 1
MANIFEST, VECTORS, NODES = "manifest.json", "vectors.safetensors", "nodes.safetensors"
TYPES = {"F32": np.float32, "BF16": np.uint16, "F64": np.float64, "I64": np.int64, "I32": np.int32}
PIECE = 1 << 24
# Nodes that can be made from the others are not stored.
DERIVED = {"rows", "group_offsets", "group_leaves"}


def save(tree: Tree, metric: str, folder: Path) -> None:
    """Writes the index to ``folder``, in place of an index that is there.

    Raises:
        DataError: if something else than an index is there.
    """
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError("is there already and is not an index; choose another name.", folder)
    with folder_written_whole(folder) as fresh:
        nodes, used = tree.nodes, tree.used
        small: dict[str, NDArray[Any]] = {name: array for name, array in nodes._asdict().items() if name not in DERIVED}
        small["row_id"], small["row_leaf"] = small["row_id"][:used], small["row_leaf"][:used]
        small["reference"] = tree.reference
        files = {
            VECTORS: _write(fresh / VECTORS, {"rows": nodes.rows[:used]}),
            NODES: _write(fresh / NODES, small),
        }
        manifest = {
            "format": FORMAT, "version": VERSION, "hardwood": __version__, "metric": metric,
            "leaf_size": tree.leaf_size,
            "targets": len(tree.ids), "dimension": int(nodes.rows.shape[1]),
            "dtype": "float32" if tree.dtype == np.float32 else "bfloat16", "files": files,
        }  # fmt: skip
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2))


def _write(path: Path, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """A safetensors file, written piece by piece (the library would want every byte in memory twice). Returns
    its size and checksum."""
    names = {np.dtype(kind): name for name, kind in TYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT}}
    at = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes],
        }  # fmt: skip
        at += array.nbytes
    text = json.dumps(header).encode()
    # The data begins at a whole number of cache lines, so that mapped vectors are aligned.
    text += b" " * (-(len(text) + 8) % 64)
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little") + text, *arrays.values()):
            data: Any = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else np.ascontiguousarray(part)
            view = memoryview(data.reshape(-1).view(np.uint8)) if len(part) else memoryview(b"")
            for start in range(0, len(view), PIECE):
                piece = view[start : start + PIECE]
                digest.update(piece)
                file.write(piece)
            size += len(view)
    return {"bytes": size, "sha256": digest.hexdigest()}


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def verify(folder: Path, name: str, files: dict[str, Any]) -> None:
    """Compares one file with its checksum."""
    if checksum(folder / name) != files[name]["sha256"]:
        raise DataError(
            "does not match its checksum: it is damaged. Take a good copy or build the index anew.",
            folder / name,
        )


def still(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the folder holds what this manifest describes, and not a later save."""
    try:
        return bool(json.loads((folder / MANIFEST).read_text()) == manifest)
    except (OSError, ValueError):
        return False


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"is not an index: it has no {MANIFEST}.", folder)
    try:
        manifest = json.loads(path.read_text())
    except ValueError:
        raise DataError("is not readable JSON: the index is damaged.", path) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"does not describe a {FORMAT} index.", path)
    if manifest.get("version") != VERSION:
        raise DataError(f"has format version {manifest.get('version')}; this hardwood reads {VERSION}.", path)
    wanted = {"files": dict, "metric": str, "leaf_size": int, "targets": int, "dimension": int, "dtype": str}
    for key, kind in wanted.items():
        if not isinstance(manifest.get(key), kind):
            raise DataError(f"lacks {key!r}: the index is damaged.", path)
    for name in (VECTORS, NODES):
        entry = manifest["files"].get(name)
        if not isinstance(entry, dict) or not isinstance(entry.get("bytes"), int) or "sha256" not in entry:
            raise DataError(f"lacks the size and checksum of {name}: the index is damaged.", path)
        if not (folder / name).is_file():
            raise DataError("is missing: the index is damaged.", folder / name)
        size = (folder / name).stat().st_size
        if size != entry["bytes"]:
            raise DataError(
                f"has {size} bytes instead of {entry['bytes']}: it was cut short or changed.", folder / name
            )
    return manifest


def _read(path: Path, mapped: bool) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file whose size is known to be right; mapped copy-on-write, or read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            raise DataError("has a damaged header.", path)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = [
                (name, TYPES[e["dtype"]], tuple(e["shape"]), int(e["data_offsets"][0])) for name, e in header.items()
            ]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise DataError("has a damaged header.", path) from None
        arrays: dict[str, NDArray[Any]] = {}
        for name, kind, shape, at in entries:
            if mapped and int(np.prod(shape)):
                arrays[name] = np.memmap(path, dtype=kind, mode="c", offset=8 + length + at, shape=shape)
            else:
                file.seek(8 + length + at)
                arrays[name] = np.fromfile(file, dtype=kind, count=int(np.prod(shape))).reshape(shape)
    return arrays


def load(folder: Path, mapped: bool, everything: bool) -> tuple[Tree, str, dict[str, Any]]:
    """The tree, its metric and its manifest. Checks everything but the vectors' bytes, and these too where
    asked."""
    recover(folder)
    if not folder.is_dir():
        raise DataError("there is no such folder.", folder)
    manifest = _manifest(folder)
    verify(folder, NODES, manifest["files"])
    if everything:
        verify(folder, VECTORS, manifest["files"])
    small = _read(folder / NODES, mapped=False)
    reference = small.pop("reference", None)
    rows = _read(folder / VECTORS, mapped).get("rows")
    expected = set(Nodes._fields) - DERIVED
    kind = np.float32 if manifest["dtype"] == "float32" else np.uint16
    if (
        rows is None or reference is None or set(small) != expected or rows.dtype != kind
        or rows.shape != (len(small["row_id"]), manifest["dimension"])
    ):  # fmt: skip
        raise DataError("its files do not belong together: the index is damaged.", folder)
    offsets, leaves = group_lists(small["leaf_group"], len(small["group_count"]))
    # A plain array over the mapping: kernels are compiled for those.
    nodes = Nodes(rows=rows.view(np.ndarray), group_offsets=offsets, group_leaves=leaves, **small)
    tree = Tree(nodes, len(small["row_id"]), manifest["leaf_size"], reference)
    if len(tree.ids) != manifest["targets"]:
        raise DataError("its files do not belong together: the index is damaged.", folder)
    return tree, manifest["metric"], manifest
