"""An index as a folder: two safetensors files and a manifest with version, shapes and checksums. Nothing is
ever unpickled.

The folder is written beside its destination and put in its place, so a crash leaves either the old index or the new
one. The vectors' file can be mapped instead of read: then only its size and header are checked, until `verify`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hardwood._files import folder_written_whole, recover
from hardwood._json import read_object
from hardwood._version import __version__
from hardwood.errors import DataError
from hardwood.tree._inputs import DTYPES, MAX_DIMENSION, METRICS
from hardwood.tree.arrays.nodes import LAYOUT, Nodes, group_lists, lengthened, spare_rows
from hardwood.tree.arrays.prior import SPREAD
from hardwood.tree.arrays.projection import Projection
from hardwood.tree.change.tree import Tree
from hardwood.tree.store.validate import REFERENCE, TYPES, check_arrays, check_vectors, read_header

FORMAT, VERSION = "hardwood.tree", 1
MANIFEST, VECTORS, NODES = "manifest.json", "vectors.safetensors", "nodes.safetensors"
FACTS = ("metric", "leaf_size", "targets", "dimension", "dtype")
PRIOR = "log_prior_in_last_column"
PROJECTION = "projection"
PIECE = 1 << 24
_READ_AT_ONCE = 1 << 16
"""Rows."""


def save(tree: Tree, metric: str, has_prior: bool, projection: Projection | None, folder: Path) -> None:
    """Writes the index to ``folder``, in place of an index that is there.

    Raises:
        DataError: if something else than an index is there.
    """
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError("is there already and is not an index; choose another name.", folder)
    with folder_written_whole(folder) as fresh:
        nodes, used = tree.nodes, tree.used
        small: dict[str, NDArray[Any]] = {}
        for name, array in LAYOUT.items():
            if array.stored is not None:
                values = getattr(nodes, name)
                small[array.stored] = values[:used] if array.shape[0] == "R" else values
        small[REFERENCE] = tree.reference
        if projection is not None:
            small[PROJECTION] = projection.matrix
        files = {
            VECTORS: write_arrays(fresh / VECTORS, {"rows": nodes.rows[:used]}),
            NODES: write_arrays(fresh / NODES, small, _facts(tree, metric, has_prior)),
        }
        manifest = {
            "format": FORMAT, "version": VERSION, "hardwood": __version__,
            **_facts(tree, metric, has_prior), "files": files,
        }  # fmt: skip
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2))


def _facts(tree: Tree, metric: str, has_prior: bool) -> dict[str, Any]:
    """What an index is, beside its arrays. It stands in the manifest, for people and programs, and in the nodes' file,
    whose checksum the manifest has: so neither can change alone. ``dimension`` is the length of a row; where its last
    number is the prior, a fact says so."""
    return {
        "metric": metric, "leaf_size": tree.leaf_size, "targets": len(tree.ids),
        "dimension": int(tree.nodes.rows.shape[1]), "dtype": "float32" if tree.dtype == np.float32 else "bfloat16",
        **({PRIOR: SPREAD} if has_prior else {}),
    }  # fmt: skip


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]], facts: dict[str, Any] | None = None) -> dict[str, Any]:
    """A safetensors file, written piece by piece (the library would want every byte in memory twice). Returns
    its size and checksum."""
    names = {np.dtype(kind): name for name, kind in TYPES.items()}
    about = {name: str(value) for name, value in (facts or {}).items()}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, **about}}
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
    manifest = read_object(path)
    if manifest.get("format") != FORMAT:
        raise DataError(f"does not describe a {FORMAT} index.", path)
    if type(manifest.get("version")) is not int or manifest["version"] != VERSION:
        raise DataError(f"has format version {str(manifest.get('version'))[:40]}; this hardwood reads {VERSION}.", path)
    wanted = {"files": dict, "metric": str, "leaf_size": int, "targets": int, "dimension": int, "dtype": str}
    for key, kind in wanted.items():
        if type(manifest.get(key)) is not kind:
            raise DataError(f"lacks {key!r}: the index is damaged.", path)
    for key, allowed in (("metric", METRICS), ("dtype", tuple(DTYPES))):
        if manifest[key] not in allowed:
            raise DataError(f"has {manifest[key][:40]!r} as {key}; it must be one of {', '.join(allowed)}.", path)
    if not 1 <= manifest["leaf_size"] < 2**31:
        raise DataError("has a leaf_size out of range: the index is damaged.", path)
    if PRIOR in manifest and (manifest[PRIOR] != SPREAD or manifest["dimension"] < 2):
        raise DataError(f"has {str(manifest[PRIOR])[:40]!r} as {PRIOR}; this hardwood reads {SPREAD}.", path)
    for name in (VECTORS, NODES):
        entry = manifest["files"].get(name)
        if (
            not isinstance(entry, dict)
            or type(entry.get("bytes")) is not int
            or not isinstance(entry.get("sha256"), str)
        ):
            raise DataError(f"lacks the size and checksum of {name}: the index is damaged.", path)
        if not (folder / name).is_file():
            raise DataError("is missing: the index is damaged.", folder / name)
        size = (folder / name).stat().st_size
        if size != entry["bytes"]:
            raise DataError(
                f"has {size} bytes instead of {entry['bytes']}: it was cut short or changed.", folder / name
            )
    return manifest


def read_arrays(path: Path, mapped: bool, spare: int = 0) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays of a safetensors file, mapped copy-on-write, or read with ``spare`` further rows of noughts; and its
    metadata."""
    entries, about = read_header(path)
    arrays: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file:
        for name, kind, shape, at in entries:
            size = math.prod(shape)
            # Numbers that begin at odd places can't be mapped for kernels; ours never do.
            if mapped and size and at % np.dtype(kind).itemsize == 0:
                arrays[name] = np.memmap(path, dtype=kind, mode="c", offset=at, shape=shape)
            else:
                file.seek(at)
                arrays[name] = _read(file, np.dtype(kind), shape, spare)
    return arrays, about


def _read(file: IO[bytes], kind: np.dtype[Any], shape: tuple[int, ...], spare: int) -> NDArray[Any]:
    if not spare:
        return np.fromfile(file, dtype=kind, count=math.prod(shape)).reshape(shape)
    array = np.zeros((shape[0] + spare, *shape[1:]), kind)
    for begin in range(0, shape[0], _READ_AT_ONCE):
        part = array[begin : min(begin + _READ_AT_ONCE, shape[0])]
        part[:] = np.fromfile(file, dtype=kind, count=part.size).reshape(part.shape)
    return array


def load(folder: Path, mapped: bool, everything: bool) -> tuple[Tree, str, bool, Projection | None, dict[str, Any]]:
    """The tree, its metric, whether its targets have a prior, what reduces vectors, and its manifest.

    Checks everything but the vectors' bytes, and these too where asked.
    """
    recover(folder)
    if not folder.is_dir():
        raise DataError("there is no such folder.", folder)
    manifest = _manifest(folder)
    verify(folder, NODES, manifest["files"])
    if everything:
        verify(folder, VECTORS, manifest["files"])
    small, about = read_arrays(folder / NODES, mapped=False)
    facts = [*FACTS, PRIOR] if PRIOR in manifest or PRIOR in about else FACTS
    if {name: about.get(name) for name in facts} != {name: str(manifest.get(name)) for name in facts}:
        raise DataError("disagrees with nodes.safetensors: the index is damaged.", folder / MANIFEST)
    used = len(small.get("row_id", ()))
    spare = 0 if mapped else spare_rows(used)
    rows = read_arrays(folder / VECTORS, mapped, spare)[0].get("rows")

    def fail(what: str) -> DataError:
        return DataError(f"its files do not belong together ({what}): the index is damaged.", folder)

    if rows is None or rows.dtype != DTYPES[manifest["dtype"]] or rows.shape[1:] != (manifest["dimension"],):
        raise fail("its vectors are not what the manifest says")
    projection = _projection(small.pop(PROJECTION, None), rows.shape[1] - (PRIOR in manifest), fail)
    check_arrays(small, rows[: len(rows) - spare], fail)
    offsets, leaves = group_lists(small["leaf_group"], len(small["group_count"]))
    kept = {name: small[array.stored] for name, array in LAYOUT.items() if array.stored is not None}
    if spare:
        of_rows = [name for name in kept if LAYOUT[name].shape[0] == "R"]
        kept |= {name: lengthened(name, kept[name], used, used + spare) for name in of_rows}
    # A plain array over the mapping: kernels are compiled for those.
    nodes = Nodes(rows=rows.view(np.ndarray), group_offsets=offsets, group_leaves=leaves, **kept)
    if everything:
        check_vectors(nodes, folder / VECTORS)
    tree = Tree(nodes, used, manifest["leaf_size"], small[REFERENCE])
    if len(tree.ids) != manifest["targets"] or not tree.ids.are_distinct():
        raise fail("an id stands twice, or some are missing")
    return tree, manifest["metric"], PRIOR in manifest, projection, manifest


def _projection(matrix: NDArray[Any] | None, dimension: int, fail: Callable[[str], DataError]) -> Projection | None:
    """What reduces vectors to the ``dimension`` of the rows, if anything does."""
    if matrix is None:
        return None
    if matrix.dtype != np.float32 or matrix.ndim != 2 or len(matrix) != dimension or matrix.shape[1] > MAX_DIMENSION:
        raise fail("the projection is not one to the dimensions of its vectors")
    try:
        return Projection(matrix)
    except ValueError:
        raise fail("the projection's rows are not orthonormal") from None
