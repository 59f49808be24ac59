"""The public face: names that must stay, and answers that must not wait for PyTorch."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import hardwood

NAMES = {
    "CachedCorpusSoftmaxLoss",
    "CorpusSoftmaxLoss",
    "DataError",
    "DynamicNegatives",
    "MarginFilter",
    "NegativesCallback",
    "RetrievalDataset",
    "RetrievalEvaluator",
    "RunConfig",
    "TargetIndex",
    "__version__",
    "encoder_arguments",
    "evaluate",
    "last_checkpoint",
    "load_encoder",
    "mine",
    "read_dataset",
    "set_threads",
    "train",
    "warmup",
}
"""A name that leaves this list breaks somebody's script; one that joins it must be kept for years."""

PACKAGES = ["comparison", "data", "drift", "encoders", "encoding", "evaluation", "losses", "mining", "negatives"]
HEAVY = ("torch", "transformers", "sentence_transformers", "numba", "datasets")


def test_the_names_at_the_top():
    assert set(hardwood.__all__) == set(dir(hardwood)) | {"__version__"} == NAMES
    assert len(NAMES) <= 25
    for name in NAMES:
        assert getattr(hardwood, name) is not None
    with pytest.raises(AttributeError, match="module 'hardwood' has no attribute 'Trainer'"):
        hardwood.Trainer  # noqa: B018


@pytest.mark.parametrize("package", [*PACKAGES, "training", "tree"])
def test_every_package_says_what_is_public(package):
    module = importlib.import_module(f"hardwood.{package}")
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


def loaded_after(code: str) -> set[str]:
    """Which heavy packages a fresh Python has loaded after ``code``, whether that exits or not."""
    script = f"""
import atexit, sys
atexit.register(lambda: print("LOADED", *[name for name in {HEAVY!r} if name in sys.modules]))
{code}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1].split()
    assert last[0] == "LOADED", done.stderr
    return set(last[1:])


def command(*words: str) -> str:
    return f"import sys; sys.argv = ['hardwood', *{words!r}]\nfrom hardwood.cli import main\nmain()"


def test_importing_hardwood_loads_nothing_heavy():
    assert loaded_after("import hardwood") == set()
    assert loaded_after("import torch") == {"torch"}, "else this test can't fail"


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("train", "--help"),
        ("compare", "--help"),
        ("train", "DATA", "--output", "out", "--negatives", "dynamc"),
        ("compare", "DATA", "--output", "out", "--negatives", "exact,dynamc"),
        ("train", "DATA", "--output", "out", "--steps", "0"),
        ("train", "DATA", "--output", "out", "--weighting", "none"),
        ("train", "DATA", "--output", "out", "--relative-margin", "95"),
        ("train", "DATA", "--output", "out", "--teacher", "kl"),
        ("train", "DATA", "--output", "out", "--unasked-prior", "2"),
        ("train", "nowhere.csv", "--output", "out"),
        ("train",),
        ("mine", "model", "DATA", "--output", "out", "--format", "parquet"),
        ("mine", "model", "DATA", "--output", "out", "--num-negatives", "0"),
        ("evaluate", "model", "nowhere.csv"),
    ],
    ids=" ".join,
)
def test_bad_settings_are_refused_before_anything_heavy_is_loaded(words: tuple[str, ...], dataset_folder: Path):
    words = tuple(str(dataset_folder) if word == "DATA" else word for word in words)
    assert loaded_after(command(*words)) == set()


def test_a_bad_option_of_a_source_needs_torch_alone(dataset_folder: Path):
    words = ("train", str(dataset_folder), "--output", "out", "--source-option", "probs=3")
    assert loaded_after(command(*words)) <= {"torch"}
