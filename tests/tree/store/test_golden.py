"""Indexes that earlier versions have saved: they can be read, and say what they said then.

Nobody's index of today may become unreadable, or another index, by an upgrade. The folders in tests/golden/index were
written by `tests/golden/write_index.py` at the version that their manifest names, and are never written again.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from hardwood import TargetIndex

GOLDEN = Path(__file__).parents[2] / "golden"
FOLDERS = sorted(path.parent for path in (GOLDEN / "index").glob("*/manifest.json"))


def answers(*arguments):
    spec = importlib.util.spec_from_file_location("write_index", GOLDEN / "write_index.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.answers(*arguments)


def test_there_are_golden_indexes_of_both_dtypes() -> None:
    dtypes = {json.loads((folder / "manifest.json").read_text())["dtype"] for folder in FOLDERS}
    assert dtypes == {"float32", "bfloat16"}


@pytest.mark.parametrize("mmap", [True, False], ids=["mapped", "read"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_golden_index_says_what_it_said(folder: Path, mmap: bool) -> None:
    kept = json.loads(folder.with_suffix(".json").read_text())
    index = TargetIndex.load(folder, mmap=mmap, verify=True, threads=1)
    index.check()
    assert index.ids.tolist() == kept["ids"]
    assert index.vectors(index.ids).astype(np.float64).sum() == kept["vectors_sum"]
    said = answers(index, np.array(kept["queries"], dtype=np.float32), kept["exclude"])
    assert said.keys() == kept["answers"].keys()
    for method, parts in kept["answers"].items():
        for part, numbers in parts.items():
            # Another processor adds up in another order: float32 scores differ in their last digits, ids do not.
            tolerance = 0.0 if part in {"ids", "opened", "converged"} else 1e-5
            np.testing.assert_allclose(
                said[method][part], numbers, rtol=tolerance, atol=tolerance, err_msg=f"{method}.{part}"
            )


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_golden_index_is_saved_as_it_was(folder: Path, tmp_path: Path) -> None:
    """The format has not changed in silence: the same arrays under the same names, byte for byte."""
    TargetIndex.load(folder).save(tmp_path / "again")
    for name in ("vectors.safetensors", "nodes.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name
