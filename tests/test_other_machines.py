"""Other people's machines: locale, paths, hash seeds, optimised Python, and folders that can't be written.

Each run trains the same small encoder, which must come out the same, byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hardwood

pytestmark = pytest.mark.slow
SETTINGS = "--negatives uniform --num-negatives 3 --steps 4 --dimension 8 --batch-size 16 --save-every 2"
KERNEL = """
import numpy as np
from hardwood.tree.compiled.numeric import unit
print(unit(np.array([3, 0, 4], np.float32), np.empty(3, np.float32)))
"""
# What decides where Python, Numba and others keep things, and which alphabet they know.
FORGET = (
    "HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "NUMBA_CACHE_DIR",
    "HF_HOME",
    "MPLCONFIGDIR",
    "PYTHONUTF8",
    "LC_ALL",
)


def run(
    *arguments: object,
    python: tuple[str, ...] = (sys.executable,),
    cwd: Path | None = None,
    expect: int = 0,
    **changes: str,
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in FORGET}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [*python, *map(str, arguments)],
        env={**kept, "PYTHONPATH": path, "HOME": os.environ.get("HOME", "/"), **changes},
        cwd=cwd, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def train(data: Path, output: Path, **options: object) -> str:
    """A hash of the trained weights."""
    run("-m", "hardwood", "train", data, "--output", output, *SETTINGS.split(), **options)
    (weights,) = (output / "model").rglob("model.safetensors")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained_here(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return train(dataset_folder, tmp_path_factory.mktemp("here") / "run", PYTHONHASHSEED="1")


@pytest.fixture
def powerless() -> tuple[str, ...]:
    """A Python that heeds the modes of folders, which root's does not."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return (sys.executable,)
    drop = ("setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override")
    if shutil.which("setpriv") is None or subprocess.run([*drop, "true"], check=False, capture_output=True).returncode:
        pytest.skip("root can write everywhere, and there is no setpriv to make it powerless")
    return (*drop, sys.executable)


def test_an_ascii_locale_other_alphabets_another_hash_seed_and_optimised_python(
    dataset_folder: Path, tmp_path: Path, trained_here: str
) -> None:
    folder = tmp_path / "a path with spaces and ελληνικά"
    data, output = folder / "δεδομένα", folder / "μοντέλο"
    shutil.copytree(dataset_folder, data)
    changes = {"LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "2"}
    assert train(data, output, python=(sys.executable, "-O"), **changes) == trained_here
    mined = folder / "αρνητικά.jsonl"
    run("-m", "hardwood", "mine", output / "model", data, "--num-negatives", 2, "--output", mined, **changes)
    assert len(mined.read_text(encoding="utf-8").splitlines()) == 60


def test_a_process_that_takes_names_for_ascii_says_so_at_once(
    dataset_folder: Path, tmp_path: Path, trained_here: str
) -> None:
    """Python turns to UTF-8 by itself in an ASCII locale, unless it is told not to."""
    changes = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert train(dataset_folder, tmp_path / "run", **changes) == trained_here
    told = run("-m", "hardwood", "train", dataset_folder, "--output", tmp_path / "μοντέλο", expect=2, **changes)
    assert "set PYTHONUTF8=1" in told.stderr
    assert not (tmp_path / "μοντέλο").exists()


def test_nothing_but_the_output_can_be_written(
    dataset_folder: Path, tmp_path: Path, trained_here: str, powerless: tuple[str, ...]
) -> None:
    """Neither the package's folder, nor home, nor the current folder."""
    site, home = tmp_path / "site", tmp_path / "home"
    shutil.copytree(
        Path(hardwood.__file__).parent, site / "hardwood", ignore=shutil.ignore_patterns("__pycache__", "*.nb[ci]")
    )
    home.mkdir()
    folders = [home, site, *(path for path in site.rglob("*") if path.is_dir())]
    before = {path: path.stat().st_mtime_ns for path in folders}
    for path in folders:
        path.chmod(0o555)
    try:
        settings = {"HOME": str(home), "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])}
        done = run("-c", KERNEL, python=powerless, cwd=home, **settings)
        assert done.stdout.strip() == "5.0"
        assert "set NUMBA_CACHE_DIR" in done.stderr
        kept = {**settings, "NUMBA_CACHE_DIR": str(tmp_path / "code")}
        assert "NUMBA_CACHE_DIR" not in run("-c", KERNEL, python=powerless, cwd=home, **kept).stderr
        assert list((tmp_path / "code").rglob("*.nbc"))
        weights = train(dataset_folder, tmp_path / "run", python=powerless, cwd=home, **settings)
        assert weights == trained_here
        assert {path: path.stat().st_mtime_ns for path in folders} == before
    finally:
        for path in folders:
            path.chmod(0o755)
