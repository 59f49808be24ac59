"""The loss of W processes with B pairs each is that of one process with W x B, and so are its gradient and its draws.

To rounding: sums over queries are taken in another order where a mean over processes is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .launch import finish, run, start
from .losses import CASES, NUM_SHARDS, train

Alone = Callable[[str], dict[str, np.ndarray]]
QUICK = ["exact", "dynamic", "replicated", "few draws", "mixture", "cached", "separate towers"]
AVAILABLE = [name for name in CASES if "lora" not in name or find_spec("peft") is not None]

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, transformer_folder: Path) -> Path:
    made = tmp_path_factory.mktemp("losses")
    (made / "bert").symlink_to(transformer_folder)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """What one process finds for a case."""
    return cache(lambda name: train(CASES[name], 0, 1, folder))


def _of_ranks(folder: Path, size: int, names: list[str]) -> dict[str, list[dict[str, np.ndarray]]]:
    run(size, ["-m", "tests.processes.losses", str(folder), *names])
    return {name: [dict(np.load(folder / f"{name}-{size}-{rank}.npz")) for rank in range(size)] for name in names}


def _check(name: str, of_ranks: list[dict[str, np.ndarray]], alone: dict[str, Any]) -> None:
    for found in of_ranks:
        np.testing.assert_allclose(found["losses"], alone["losses"], rtol=2e-6, atol=2e-6, err_msg=name)
        scale = np.abs(alone["gradient"]).max()
        np.testing.assert_allclose(found["gradient"], alone["gradient"], atol=2e-5 * scale, err_msg=name)
        np.testing.assert_allclose(found["weights"], alone["weights"], atol=1e-5, err_msg=name)
        assert np.array_equal(found["weights"], of_ranks[0]["weights"]), name
        assert found["texts"] == alone["texts"], name  # as many texts of all: each candidate is encoded once


@pytest.mark.parametrize(
    ("size", "names"),
    [
        (2, QUICK),
        pytest.param(2, [name for name in AVAILABLE if name not in QUICK], marks=pytest.mark.slow),
        pytest.param(3, [*QUICK, "guide", "given"], marks=pytest.mark.slow),
    ],
)
def test_several_processes_train_as_one_does(size: int, names: list[str], folder: Path, alone: Alone) -> None:
    for name, found in _of_ranks(folder, size, names).items():
        _check(name, found, alone(name))


@pytest.mark.slow
def test_the_cases_differ_from_each_other(alone: Alone) -> None:
    # Else they would show nothing: an option that does nothing gives what "exact" gives.
    of_exact = alone("exact")["weights"]
    same = [name for name in AVAILABLE if np.array_equal(alone(name)["weights"], of_exact)]
    assert set(same) <= {"exact", "cached"}, same
    assert NUM_SHARDS == 3


@pytest.mark.slow
def test_unused_weights_that_are_not_looked_for_end_all_with_the_way_out(folder: Path) -> None:
    found = finish(start(2, ["-m", "tests.processes.losses", str(folder), "bert without search"]))
    assert [code for code, *_ in found] == [1, 1]
    spoken = [err for _, _, err in found if "Traceback" in err]
    assert len(spoken) == 1, found
    assert "passing the keyword argument `find_unused_parameters=True`" in spoken[0]
    assert "of 2" in spoken[0]


def test_weights_that_are_divided_among_processes_are_refused(tmp_path: Path) -> None:
    from torch import distributed, nn
    from torch.distributed.fsdp import fully_shard

    from hardwood.training.estimate.one_batch import refuse_sharded_weights

    model = nn.Sequential(nn.Linear(3, 2))
    refuse_sharded_weights(model)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        fully_shard(model, mesh=distributed.init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match=r"divided among the processes \(FSDPModule\).*DistributedDataParallel"):
            refuse_sharded_weights(model)
    finally:
        distributed.destroy_process_group()
