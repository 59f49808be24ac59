"""Saving and loading: the same index back, damage found, a crash half-way harmless."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import naive
import numpy as np
import pytest
from safetensors import safe_open

from hardwood import DataError, TargetIndex, _files


@pytest.fixture(params=["float32", "bfloat16"])
def index(request):
    vectors = naive.clusters(500, 8)
    built = TargetIndex.build(vectors, ids=np.arange(500) * 7 - 100, dtype=request.param, leaf_size=8, progress=False)
    built.remove(np.arange(20) * 7 - 100)
    built.update(vectors[:1] * -2, [600])
    return built


def assert_same(a, b):
    x = naive.clusters(4, 8, seed=3)
    assert len(a) == len(b)
    assert (a.dtype, a.metric) == (b.dtype, b.metric)
    for left, right in zip(a.sample(x, 9, seed=1), b.sample(x, 9, seed=1), strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(a.vectors(a.ids), b.vectors(b.ids))


@pytest.mark.parametrize("mmap", [True, False])
def test_round_trip(index, tmp_path, mmap):
    index.save(tmp_path / "a" / "index")
    loaded = TargetIndex.load(tmp_path / "a" / "index", mmap=mmap, verify=True)
    loaded.check()
    assert_same(index, loaded)
    before = {p.name: p.read_bytes() for p in (tmp_path / "a" / "index").iterdir()}
    loaded.update(naive.clusters(50, 8, seed=4), loaded.ids[:50])
    loaded.add(naive.clusters(2, 8, seed=5), [10**12, -(10**12)])
    loaded.check()
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "a" / "index").iterdir()}
    loaded.save(tmp_path / "a" / "index")  # over the folder it is mapped from
    assert_same(loaded, TargetIndex.load(tmp_path / "a" / "index"))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["index"]
    assert_same(index, pickle.loads(pickle.dumps(index)))  # noqa: S301 - what `spawn` does


def test_files_are_plain_safetensors(index, tmp_path):
    index.save(tmp_path / "index")
    with safe_open(tmp_path / "index" / "vectors.safetensors", framework="pt") as file:
        rows = file.get_tensor("rows")
    assert str(rows.dtype) == f"torch.{index.dtype}"
    np.testing.assert_array_equal(rows.float().numpy()[index._tree.ids.find(index.ids)], index.vectors(index.ids))


def damaged(folder: Path, kind: str) -> None:
    vectors, nodes, manifest = (folder / n for n in ("vectors.safetensors", "nodes.safetensors", "manifest.json"))
    if kind.startswith("truncated"):
        path = folder / kind.split()[1]
        path.write_bytes(path.read_bytes()[:-9])
    elif kind.startswith("bit"):
        path = folder / kind.split()[1]
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(bytes(content))
    elif kind == "missing vectors":
        vectors.unlink()
    elif kind == "missing manifest":
        manifest.unlink()
    elif kind == "foreign":
        manifest.write_text('{"format": "something else"}')
    elif kind == "future":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    elif kind == "other vectors":
        vectors.write_bytes(nodes.read_bytes())
    elif kind == "header":
        content = bytearray(vectors.read_bytes())
        content[8:12] = b"!!!!"
        vectors.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "kind",
    ["truncated vectors.safetensors", "truncated nodes.safetensors", "truncated manifest.json", "bit nodes.safetensors",
     "missing vectors", "missing manifest", "foreign", "future", "other vectors", "header"],
)  # fmt: skip
def test_damage_is_found(index, tmp_path, kind):
    index.save(tmp_path / "index")
    damaged(tmp_path / "index", kind)
    with pytest.raises(DataError, match="index"):
        TargetIndex.load(tmp_path / "index")


def test_a_flipped_bit_among_the_vectors_is_found_when_asked(index, tmp_path):
    index.save(tmp_path / "index")
    damaged(tmp_path / "index", "bit vectors.safetensors")
    with pytest.raises(DataError, match="checksum"):
        TargetIndex.load(tmp_path / "index", verify=True)
    loaded = TargetIndex.load(tmp_path / "index")  # instant: sizes and the small file only
    with pytest.raises(DataError, match="damaged"):
        loaded.check()


def test_no_folder_and_foreign_folders(index, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        TargetIndex.load(tmp_path / "nowhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="not an index"):
        index.save(tmp_path / "mine")
    with pytest.raises(DataError, match="not an index"):
        TargetIndex.load(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def _killed_between_renames(fresh, folder):
    folder.rename(_files._aside(folder))
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_a_crash_leaves_the_old_index(index, tmp_path, monkeypatch, moment):
    index.save(tmp_path / "index")
    changed = TargetIndex.load(tmp_path / "index", mmap=False)
    changed.remove(changed.ids[:100])

    def crash(*_, **__):
        raise KeyboardInterrupt

    if moment == "writing":
        monkeypatch.setattr("hardwood.tree.store.folder.json.dumps", crash)
    else:  # where the system can't swap folders, and a kill prevents any cleaning up
        monkeypatch.setattr(_files, "_put_in_place", _killed_between_renames)
    with pytest.raises(KeyboardInterrupt):
        changed.save(tmp_path / "index")
    monkeypatch.undo()
    assert_same(index, TargetIndex.load(tmp_path / "index"))


@pytest.mark.parametrize("stale", [False, True])
def test_a_tree_that_has_shrunk_is_saved_and_loaded(tmp_path, stale):
    """Leaves that are gone may name rows beyond the end, as they did in indexes of earlier versions."""
    y = naive.clusters(4000, 8)
    index = TargetIndex.build(y, leaf_size=16, progress=False)
    index.remove(np.arange(300, 4000))
    assert index.repair()["rows_given_back"] > 0
    nodes = index._tree.nodes
    assert (nodes.leaf_group < 0).any()
    assert (nodes.leaf_start[nodes.leaf_group < 0] == 0).all()
    if stale:
        nodes.leaf_start[nodes.leaf_group < 0] = 10**6
    index.save(tmp_path / "index")
    again = TargetIndex.load(tmp_path / "index", verify=True)
    again.check()
    np.testing.assert_array_equal(again.vectors(np.arange(300)), index.vectors(np.arange(300)))
    again.add(y[300:900], np.arange(300, 900))
    again.check()
