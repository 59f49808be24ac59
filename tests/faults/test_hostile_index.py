"""Folders that somebody made to look like an index: what is in them never leads a kernel out of its arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.stress._fuzz_state import sign

from hardwood import DataError, TargetIndex
from hardwood.tree.store.folder import MANIFEST, NODES, VECTORS, read_arrays, write_arrays


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vectors = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    TargetIndex.build(vectors, leaf_size=4, threads=1, progress=False).save(tmp_path / "index")
    return tmp_path / "index"


def forge(folder: Path, file: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Other arrays, with sizes and checksums that fit."""
    arrays, facts = read_arrays(folder / file, mapped=False)
    change(arrays)
    write_arrays(folder / file, arrays, {name: value for name, value in facts.items() if name != "format"})
    sign(folder)


def put(name: str, at: Any, value: float) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays[name].__setitem__(at, value)


FORGERIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "a leaf reaches out of the rows": put("leaf_start", 3, 10**6),
    "a leaf reaches out of the rows ": put("leaf_start", 3, -5),
    "a leaf reaches out of the rows  ": put("leaf_room", 3, 2**63 - 1),
    "a leaf reaches out of the rows   ": put("leaf_count", 3, 10**9),
    "a leaf belongs to no group": put("leaf_group", 2, 77),
    "two leaves overlap": lambda a: a["leaf_start"].__setitem__(1, a["leaf_start"][0]),
    "a group's count is not the sum": put("group_count", 0, 5),
    "a row names another leaf": put("row_leaf", 0, 3),
    "an id stands twice": lambda a: a["row_id"].__setitem__(1, a["row_id"][0]),
    "leaf_mean holds numbers that are not finite": put("leaf_mean", (0, 0), np.nan),
    "leaf_stats holds a negative radius": put("leaf_stats", (0, 0), -1.0),
    "leaf_stats has another count": put("leaf_stats", (0, 3), 9.0),
    "a spread is negative": put("evenly", 0, -1.0),
    "leaf_mean has the shape": lambda a: a.update(leaf_mean=a["leaf_mean"][:, :5].copy()),
    "group_mean is missing": lambda a: a.pop("group_mean"),
    "evenly is missing or of another kind": lambda a: a.update(evenly=a["evenly"].astype(np.float32)),
    "it holds other arrays": lambda a: a.update(more=np.zeros(2)),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_forged_nodes_are_refused(folder: Path, what: str) -> None:
    forge(folder, NODES, FORGERIES[what])
    with pytest.raises(DataError, match=what.strip()) as caught:
        TargetIndex.load(folder)
    assert caught.value.path == folder


def test_vectors_that_are_not_finite_are_found(folder: Path) -> None:
    forge(folder, VECTORS, put("rows", (0, 0), np.inf))
    with pytest.raises(DataError, match="not finite"):
        TargetIndex.load(folder, verify=True)
    with pytest.raises(DataError, match="not finite"):
        TargetIndex.load(folder).check()


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ([10**15, 6], None), ([10**15, 6], [0, 24 * 10**15]), ([-1, 6], None), ([2**62, 2**62], [0, 0]),
        ([3, 6], None), ([3.0, 6], None), (7, None), ([6], [8, 32]), ([0, 6], [0, 0]), ([True, 6], [0, 24]),
    ],
)  # fmt: skip
def test_a_header_can_promise_no_more_than_the_file_holds(folder: Path, shape: Any, offsets: Any) -> None:
    path = folder / VECTORS
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["rows"].update(shape=shape, **({} if offsets is None else {"data_offsets": offsets}))
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    sign(folder)
    for mmap in (True, False):
        with pytest.raises(DataError, match="damaged"):
            TargetIndex.load(folder, mmap=mmap)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "cosine"}, "disagrees with nodes"),
        ({"metric": "l2"}, "has 'l2' as metric"),
        ({"leaf_size": 0}, "leaf_size out of range"),
        ({"leaf_size": True}, "lacks 'leaf_size'"),
        ({"leaf_size": 8}, "disagrees with nodes"),
        ({"version": True}, "format version True"),
        ({"dtype": "bfloat16"}, "disagrees with nodes"),
        ({"dimension": 10**15}, "disagrees with nodes"),
        ({"files": {"../../x": {}}}, "lacks the size and checksum"),
    ],
)
def test_a_manifest_is_not_taken_at_its_word(folder: Path, change: dict[str, Any], message: str) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=message) as caught:
        TargetIndex.load(folder)
    assert caught.value.path == path


@pytest.mark.parametrize("text", ["[" * 10_000, '{"format": "hardwood.tree", "format": "hardwood.tree"}', "\xff", "[]"])
def test_a_manifest_that_is_no_plain_object(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"manifest\.json"):
        TargetIndex.load(folder)


def test_nodes_without_the_facts_of_the_manifest(folder: Path) -> None:
    arrays, _ = read_arrays(folder / NODES, mapped=False)
    write_arrays(folder / NODES, arrays)
    sign(folder)
    with pytest.raises(DataError, match=r"disagrees with nodes\.safetensors"):
        TargetIndex.load(folder)
