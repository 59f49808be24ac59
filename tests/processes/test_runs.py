"""Whole runs of two processes: resumed, resumed by one, and what they leave behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.conftest import make_dataset

from hardwood.ranks import Ranks, refuse_several_processes
from hardwood.training import last_checkpoint, train

from .launch import run
from .runs import GLOBAL_BATCH, NUM_SHARDS, SAVE_EVERY, STEPS, retrieved, settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    make_dataset().save(made / "data")
    run(2, ["-m", "tests.processes.runs", str(made)], timeout=500)
    return made


def _weights(run_folder: Path) -> np.ndarray:
    (tensors,) = (load_file(path) for path in (run_folder / "model").rglob("*.safetensors"))
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


@pytest.mark.slow
def test_resumed_by_as_many_it_ends_with_the_same_weights(folder: Path) -> None:
    assert np.array_equal(_weights(folder / "broken"), _weights(folder / "unbroken"))


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    """The same run by one process, with as many shards."""
    train(settings(folder, "one", 1), quiet=True)
    return folder / "one"


@pytest.mark.slow
def test_one_process_with_the_whole_batch_trains_the_same(folder: Path, one: Path) -> None:
    np.testing.assert_allclose(_weights(one), _weights(folder / "unbroken"), atol=2e-4)
    costs = [json.loads((folder / name / "metrics.json").read_text())["cost"] for name in ("one", "unbroken")]
    for name in ("targets_reencoded", "texts_encoded"):
        assert costs[0][name] == costs[1][name]


@pytest.mark.slow
def test_the_reports_map_has_the_trees_of_all_processes(folder: Path, one: Path) -> None:
    of_one, of_two = (json.loads((run / "trace.json").read_text()) for run in (one, folder / "unbroken"))
    assert of_one["tree"]["trees"] == of_two["tree"]["trees"] == NUM_SHARDS
    leaves = [np.array([leaf[:4] for leaf in trace["tree"]["leaves"]]) for trace in (of_one, of_two)]
    np.testing.assert_allclose(*leaves, atol=2e-3)
    assert leaves[0][:, 2].sum() == of_one["targets_in_corpus"]
    assert leaves[0][:, 3].sum() == pytest.approx(1, abs=0.03)


@pytest.mark.slow
def test_resumed_by_another_number_it_goes_on_where_it_was(folder: Path) -> None:
    with pytest.raises(ValueError, match=f"global_batch was {GLOBAL_BATCH}, is {GLOBAL_BATCH // 2}"):
        train(settings(folder, "elsewhere", 2), resume=True, quiet=True)
    # Its shards are those of the checkpoint, where nothing else is asked for.
    train(settings(folder, "elsewhere", 1, num_shards=None), resume=True, quiet=True)
    np.testing.assert_allclose(_weights(folder / "elsewhere"), _weights(folder / "unbroken"), atol=2e-4)


@pytest.mark.slow
def test_another_number_of_shards_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=f"shards was {NUM_SHARDS}, is 3"):
        train(settings(folder, "unbroken", 1, num_shards=3), resume=True, quiet=True)


@pytest.mark.slow
def test_a_checkpoint_without_a_ranks_files_is_not_whole(folder: Path, tmp_path: Path) -> None:
    places = ("hardwood/shard-0001/source.safetensors", "hardwood/shard-0000/index", "rng_state_1.pth")
    for number, lost in enumerate(places):
        copy = tmp_path / str(number)
        shutil.copytree(folder / "unbroken" / "checkpoints", copy)
        assert last_checkpoint(copy) == copy / f"checkpoint-{STEPS}"
        path = copy / f"checkpoint-{STEPS}" / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert last_checkpoint(copy) == copy / f"checkpoint-{SAVE_EVERY}"


def test_a_file_that_the_first_process_does_not_see_is_named(tmp_path: Path) -> None:
    from hardwood.training.checkpoint.seal import check_arrived, sizes_of

    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "rng_state_0.pth").write_bytes(b"1234")
    seen = sizes_of([checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth"], checkpoint)
    assert seen == {"rng_state_0.pth": 4}
    check_arrived(checkpoint, [seen, {}])
    for late in ({"rng_state_1.pth": 4}, {"rng_state_0.pth": 9}):
        with pytest.raises(ValueError, match=r"rank 1 has written .* on a disk that all machines share"):
            check_arrived(checkpoint, [seen, late])


@pytest.mark.slow
def test_evaluation_and_mining_are_those_of_one_process_to_the_byte(folder: Path) -> None:
    expected = retrieved(Ranks.alone())
    ties = (np.diff(expected["scores"], axis=1) == 0).mean()
    assert ties > 0.3
    for rank in range(2):
        found = dict(np.load(folder / f"retrieved-2-{rank}.npz"))
        assert set(found) == set(expected)
        for name in expected:
            assert found[name].dtype == expected[name].dtype, name
            assert found[name].tobytes() == expected[name].tobytes(), name


def test_compare_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_several_processes("compare")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="is for one process, and 2 were started"):
        refuse_several_processes("compare")
