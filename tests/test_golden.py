"""Datasets, runs and checkpoints that an earlier version wrote: they can be read, and lead to what they led to then.

The folders in tests/golden were written by `tests/golden/write.py`; golden indexes are read in tests/tree.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hardwood import DataError, RetrievalDataset, RunConfig, last_checkpoint, load_encoder

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the golden run: reading must not change the original."""
    return Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))


def writer():
    spec = importlib.util.spec_from_file_location("golden_writer", GOLDEN / "write.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_golden_dataset_says_what_it_said() -> None:
    kept = json.loads((GOLDEN / "dataset.json").read_text())
    data = RetrievalDataset.load(GOLDEN / "dataset")
    assert (len(data.corpus), len(data.queries)) == (kept["targets"], kept["queries"])
    assert [data.corpus.ids([0])[0], data.corpus.texts([0])[0]] == kept["first"]
    assert [data.corpus.fingerprint(), data.queries.fingerprint()] == kept["fingerprints"]
    assert {name: len(split) for name, split in data.splits.items()} == kept["splits"]


def test_a_golden_run_is_small_and_whole(run: Path) -> None:
    assert sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) < 300_000
    assert last_checkpoint(run / "checkpoints") == run / "checkpoints" / "checkpoint-4"
    config = RunConfig.load(run / "run.yaml")
    assert (config.negatives, config.steps, config.dimension) == ("dynamic", 4, 8)
    assert load_encoder(str(run / "model"), device="cpu").encode("a lung").shape == (8,)


@pytest.mark.skipif(np.__version__ < "2", reason="the trainer's own random state names what NumPy 1 lacks")
def test_a_golden_checkpoint_is_resumed_to_the_same_end(run: Path) -> None:
    kept = json.loads((GOLDEN / "run.json").read_text())
    found = writer().resumed(run)
    assert found["steps"] == kept["steps"] == 6
    # Another processor adds up in another order.
    assert found["weights"] == pytest.approx(kept["weights"], rel=1e-3)
    assert found["test"] == pytest.approx(kept["test"], abs=0.02)


def test_a_golden_checkpoint_with_a_changed_byte_is_refused(run: Path) -> None:
    state = run / "checkpoints" / "checkpoint-4" / "hardwood" / "source.safetensors"
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    with pytest.raises(DataError, match=r"source\.safetensors"):
        writer().resumed(run)
