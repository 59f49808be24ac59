"""Faults put into real runs: encoders that fail on request, disks without room, folders that can't be written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from hardwood.cli.app import app
from hardwood.data import RetrievalDataset

Fault = Callable[[torch.Tensor], torch.Tensor]

STEPS = 12
OPTIONS = ("refresh_every=5", "landmarks=20", "leaf_size=8", "probes=3")
TRAIN = ("--negatives", "dynamic", "--steps", str(STEPS), "--save-every", "4", "--batch-size", "16",
         "--dimension", "16", "--num-negatives", "4", "--device", "cpu", "--quiet", "--no-report",
         *(word for option in OPTIONS for word in ("--source-option", option)))  # fmt: skip


def hardwood(*words: object) -> Result:
    """The command, in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def said(result: Result) -> list[str]:
    """The lines on stderr; not one of them may be of a traceback."""
    assert "Traceback" not in result.output + result.stderr
    return [line for line in result.stderr.splitlines() if line.strip()]


def end_of(run: Path) -> tuple[bytes, Any, Any, bytes]:
    """What must be the same after a crash: weights, measures, counts, suspected false negatives."""
    metrics = json.loads((run / "metrics.json").read_text())
    return (
        (run / "model" / "model.safetensors").read_bytes(),
        {split: metrics[split] for split in ("dev", "test")},
        [metrics["cost"][name] for name in ("targets_reencoded", "texts_encoded")],
        (run / "suspected_false_negatives.jsonl").read_bytes(),
    )


class EncoderFault:
    """Makes the encoder of the next run fail at one of its calls.

    Attributes:
        at: the number of the call that fails, counted from 0 among those of its kind; ``None``: none does.
        training: whether calls with gradient are counted (three a step: queries, positives, drawn targets), or those
            without (encoding the corpus, landmarks, evaluation; not the few texts that a model card shows).
        fault: raises, or gives what the encoder is to give instead.
    """

    def __init__(self) -> None:
        self.at: int | None = None
        self.training = True
        self.fault: Fault = lambda embeddings: embeddings
        self.calls = 0

    def plan(self, at: int, training: bool, fault: Fault) -> None:
        self.at, self.training, self.fault, self.calls = at, training, fault, 0

    def hook(self, module: Any, arguments: Any, output: dict[str, Any]) -> dict[str, Any]:
        if self.at is None or torch.is_grad_enabled() != self.training or len(output["sentence_embedding"]) < 10:
            return output
        self.calls += 1
        if self.calls - 1 != self.at:
            return output
        self.at = None
        return {**output, "sentence_embedding": self.fault(output["sentence_embedding"])}


@pytest.fixture
def encoder_fault(monkeypatch: pytest.MonkeyPatch) -> EncoderFault:
    import hardwood.encoders
    from hardwood.training.job import run as run_module

    fault, load = EncoderFault(), hardwood.encoders.load_encoder

    def load_faulty(*words: Any, **options: Any) -> Any:
        model = load(*words, **options)
        model[0].register_forward_hook(fault.hook)
        return model

    monkeypatch.setattr(run_module, "load_encoder", load_faulty)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background it is ignored from the start
    monkeypatch.setattr(hardwood.encoders, "load_encoder", load_faulty)
    return fault


@pytest.fixture(scope="session")
def unbroken(dataset: RetrievalDataset, dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has happened to."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    result = hardwood("train", dataset_folder, "--output", run, *TRAIN)
    assert result.exit_code == 0, result.output
    return run


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """As if the disk were full: what writes more than ``size`` bytes to a file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A file system mounted at ``folder``; skips the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False) if _may_mount() else None
    if done is None or done.returncode:
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _may_mount() -> bool:
    return os.name == "posix" and os.geteuid() == 0
