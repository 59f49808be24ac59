"""Two processes that are killed while they encode their shards: each goes on with what it had."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tests.conftest import make_dataset

from hardwood.training import RunConfig
from hardwood.training.checkpoint.spool_folder import SPOOL_FOLDER, spooled

from .launch import finish, run, start
from .runs import settings
from .spooling import BLOCK

COMMAND = ["-m", "tests.processes.spooling"]


def _written(folder: Path, config: RunConfig) -> str:
    path = folder / f"{Path(config.output).name}.json"
    path.write_text(json.dumps(asdict(config)))
    return str(path)


def _same_weights(one: Path, other: Path) -> bool:
    tensors, others = (load_file(each / "model" / "model.safetensors") for each in (one, other))
    return all(np.array_equal(tensors[name].numpy(), others[name].numpy()) for name in tensors)


@pytest.mark.slow
@pytest.mark.parametrize("shards", ["divided", "replicated"])
def test_killed_in_the_first_encoding_two_processes_end_like_unbroken_ones(shards: str, tmp_path: Path) -> None:
    make_dataset().save(tmp_path / "data")
    changes = {"spool_encodings": True, "num_shards": None, "report": False, "save_every": None, "shards": shards}
    whole, broken = (settings(tmp_path, name, 2, **changes) for name in ("whole", "broken"))
    run(2, [*COMMAND, _written(tmp_path, whole), "-1", "0"])
    killed = finish(start(2, [*COMMAND, _written(tmp_path, broken), "1", "2"], HARDWOOD_RANK_TIMEOUT="20"))
    assert killed[1][0] == -9
    there = spooled(tmp_path / "broken" / "checkpoints" / SPOOL_FOLDER)
    assert there is not None
    assert [note["global_batch"] for note in there.notes] == [12] * 2
    run(2, [*COMMAND, _written(tmp_path, broken), "-1", "0"])
    assert _same_weights(tmp_path / "broken", tmp_path / "whole")
    costs = [json.loads((tmp_path / name / "metrics.json").read_text())["cost"] for name in ("broken", "whole")]
    assert costs[0]["targets_reused"] >= 2 * BLOCK
    assert costs[0]["targets_reencoded"] + costs[0]["targets_reused"] == costs[1]["targets_reencoded"]
    assert not (tmp_path / "broken" / "checkpoints" / SPOOL_FOLDER).exists()


@pytest.mark.slow
def test_one_process_goes_on_with_the_shards_of_two(tmp_path: Path) -> None:
    make_dataset().save(tmp_path / "data")
    changes = {"spool_encodings": True, "num_shards": None, "report": False, "save_every": None}
    two, one = (settings(tmp_path, "broken", processes, **changes) for processes in (2, 1))
    finish(start(2, [*COMMAND, _written(tmp_path, two), "1", "2"], HARDWOOD_RANK_TIMEOUT="20"))
    run(1, [*COMMAND, _written(tmp_path, one), "-1", "0"])
    cost = json.loads((tmp_path / "broken" / "metrics.json").read_text())["cost"]
    assert cost["targets_reused"] >= 2 * BLOCK
    run(1, [*COMMAND, _written(tmp_path, settings(tmp_path, "whole", 1, **{**changes, "num_shards": 2})), "-1", "0"])
    assert _same_weights(tmp_path / "broken", tmp_path / "whole")
