"""A short form of ``python -m benchmarks.stress.fuzz``: every reader, a few dozen damaged inputs from a fixed seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.stress.fuzz import TARGETS, one

from hardwood.negatives.dynamic import moving_index

COUNTS = {"dataset": 40, "pairs": 20, "run-file": 20, "metrics": 30, "drift": 20}


def outcomes(name: str, folder: Path, count: int) -> Counter[str]:
    target = TARGETS[name](folder)
    notes = [one(target, seed=20, number=number) for number in range(count)]
    faults = [note for note in notes if "fault" in note]
    assert not faults, faults[:3]
    return Counter(note["outcome"].split(":")[0] for note in notes)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers that are not finite, where they were forged
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", COUNTS)
def test_damaged_files_are_refused_or_read_right(name: str, tmp_path: Path) -> None:
    found = outcomes(name, tmp_path, COUNTS[name])
    assert found["refused"] > 0
    assert found["accepted"] > 0  # or the test would prove nothing: a reader that refuses everything passes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["index", "forged-index", "checkpoint"])
def test_damaged_indexes_and_checkpoints_are_refused_or_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving_index, "_SMALLEST_SHARE", 1)  # as the fuzzer sets it, and put back afterwards
    found = outcomes(name, tmp_path, 250)
    assert found["refused"] > 100
    assert sum(found.values()) > found["refused"]


def test_the_fuzzer_sees_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard: a reader that loses a target, and one that breaks, are both reported."""
    from hardwood.data import RetrievalDataset
    from hardwood.data.records.table import TextTable

    target = TARGETS["dataset"](tmp_path)
    monkeypatch.setattr(type(target), "damage", lambda self, rng: None)
    assert "fault" not in one(target, 0, 0)
    rows = TextTable.fields
    monkeypatch.setattr(TextTable, "fields", lambda self, *rest: rows(self, *rest)[:-1])
    assert one(target, 0, 0)["fault"] == "corpus was read otherwise than json does"
    monkeypatch.undo()
    monkeypatch.setattr(RetrievalDataset, "load", lambda folder: np.zeros(3)[9])
    assert one(target, 0, 0)["outcome"] == "FAULT: IndexError"
