"""A short form of ``benchmarks/stress/soak.py``: it finds nothing, and would find something if it were there."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardwood import TargetIndex


@pytest.fixture
def soak() -> Any:
    from benchmarks.stress import soak

    return soak


def options(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"minutes": 0.0, "seed": 5, "changes": 12, "steps": 12, "threads": 2, "epochs_an_index": 1, **changes}
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(4))
def test_a_short_soak_finds_nothing(soak: Any, monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    monkeypatch.setattr(soak, "SETTINGS", soak.SETTINGS[kind:])
    record = soak.Record()
    rows = soak.soak(options(changes=40), record)
    assert record.differences == []
    assert len(rows) == 1
    assert record.calls["check"] == 1
    assert record.calls["refresh"] > 0
    assert {"update", "add", "remove", "source step"} < record.calls.keys()


@pytest.mark.parametrize("fault", ["vector", "id", "bounds", "exclude"])
def test_the_soak_would_see_it(soak: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The guard: one stored number, one id, a bound or an exclusion that is wrong is a difference."""
    record = soak.Record()
    world = soak.World(soak.Setting(dimension=6), 3, record, tmp_path / "index", targets=600)
    world.update()
    world.verify()
    assert record.differences == []
    reader, sample = soak.Reader(world, 1), TargetIndex.sample
    if fault == "vector":
        world.index._tree.nodes.rows[world.index._tree.ids.find(np.array([77]))[0], 2] += np.float32(1e-3)
        world.verify()
    elif fault == "id":
        world.index.remove([77])
        reader.members()
    elif fault == "bounds":
        monkeypatch.setattr(
            TargetIndex,
            "sample",
            lambda self, *a, **k: (d := sample(self, *a, **k))._replace(log_z_lower=d.log_z_upper),
        )
        for _ in range(3):
            reader.sample()
    else:
        monkeypatch.setattr(TargetIndex, "sample", lambda self, *a, **k: sample(self, *a, **{**k, "exclude": None}))
        monkeypatch.setattr(reader, "_exclude", lambda count: [world.state.ids[:-50]] * count)
        for _ in range(3):
            reader.sample()
    assert record.differences
