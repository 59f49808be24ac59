"""Real commands, killed (SIGKILL) while they write. For hundreds of kills: benchmarks/stress/kills.py."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hardwood.training import last_checkpoint

from .conftest import TRAIN, end_of

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def killed_when(seen: Path, *words: object) -> None:
    """Start the command and kill it as soon as the file is there."""
    process = subprocess.Popen([sys.executable, "-m", "hardwood", *map(str, words)], env=ENVIRONMENT)
    try:
        while not seen.exists() and process.poll() is None:
            time.sleep(0.001)
    finally:
        process.kill()
    assert process.wait() == -9, "it was over before it could be killed"


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_end(dataset_folder: Path, unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoints = run / "checkpoints"
    fresh, resume = ("train", dataset_folder, "--output", run), ("train", "--resume", "--output", run, "--quiet")
    killed_when(checkpoints / "checkpoint-8" / "model.safetensors", *fresh, *TRAIN)  # while it writes the second one
    assert last_checkpoint(checkpoints) is not None
    killed_when(checkpoints / "checkpoint-12" / "hardwood", *resume)
    subprocess.run([sys.executable, "-m", "hardwood", *map(str, resume)], env=ENVIRONMENT, check=True)
    assert end_of(run) == end_of(unbroken)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-12", "checkpoint-8"]
    assert not [path for path in tmp_path.rglob(".*") if path.name.endswith((".tmp", ".old"))]


@pytest.mark.slow
def test_a_handful_of_random_kills() -> None:
    parts = ("train", "trainer", "index", "mine")
    command = [
        sys.executable,
        "-m",
        "benchmarks.stress.kills",
        "--part",
        ",".join(parts),
        "--kills",
        "4",
        "--seed",
        "1",
    ]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in parts:
        assert f"| {part} | 4 |" in done.stdout
