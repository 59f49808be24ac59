"""Files from strangers run no code: models, checkpoints, run files, and whatever lies in the current folder."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import hardwood
from hardwood.cli.app import app
from hardwood.comparison.plan import plan_runs
from hardwood.comparison.run import run_one
from hardwood.data import RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.training import RunConfig, train
from hardwood.training.job.yaml_file import read_settings

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")


class Payload:
    """What a pickle can do when it is read: here it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


def poison(path: Path, mark: Path) -> None:
    """Put a pickle with a payload at ``path``, and see that it would work."""
    torch.save({"state": Payload(mark)}, path)
    torch.load(path, weights_only=False)["state"].close()
    assert mark.exists()
    mark.unlink()


def code(mark: Path, name: str, base: str) -> str:
    return f"open({str(mark)!r}, 'w').close()\n{base}\nclass {name}(Base):\n    pass\n"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that is there when a stranger's code has run."""
    return tmp_path / "stranger-was-here"


def with_a_module_of_its_own(folder: Path, source: Path, mark: Path) -> None:
    """A sentence-transformers model whose modules.json names a class in the folder."""
    shutil.copytree(source, folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "stranger.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    base = "from sentence_transformers.sentence_transformer.modules import Transformer as Base"
    (folder / "stranger.py").write_text(code(mark, "Transformer", base))


def with_a_configuration_of_its_own(folder: Path, source: Path, mark: Path) -> None:
    """A transformers model whose config.json names a class in the folder."""
    shutil.copytree(source, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"auto_map": {"AutoConfig": "stranger.StrangeConfig"}, "model_type": "strange"}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "stranger.py").write_text(code(mark, "StrangeConfig", "from transformers import BertConfig as Base"))


@pytest.mark.slow
@pytest.mark.parametrize("make", [with_a_module_of_its_own, with_a_configuration_of_its_own])
def test_a_models_own_code_runs_only_when_the_user_says_so(
    make, transformer_folder: Path, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    make(tmp_path / "model", transformer_folder, mark)
    with pytest.raises(ValueError, match=r"code of its own.*--trust-remote-code"):
        load_encoder(str(tmp_path / "model"), device="cpu")
    assert not mark.exists()
    with contextlib.suppress(ValueError):  # the strange configuration makes no model, but its code has run
        load_encoder(str(tmp_path / "model"), device="cpu", trust_remote_code=True)
    assert mark.exists()


def test_weights_are_never_unpickled(dataset: RetrievalDataset, make_static, tmp_path: Path, mark: Path) -> None:
    make_static().save_pretrained(str(tmp_path / "model"))
    (weights,) = (tmp_path / "model").rglob("model.safetensors")
    weights.unlink()
    poison(weights.with_name("pytorch_model.bin"), mark)
    with pytest.raises(ValueError, match="could not load the encoder"):
        load_encoder(str(tmp_path / "model"), device="cpu")
    assert not mark.exists()


def test_weights_of_a_transformer_are_never_unpickled(transformer_folder: Path, tmp_path: Path, mark: Path) -> None:
    shutil.copytree(transformer_folder, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    poison(tmp_path / "model" / "pytorch_model.bin", mark)
    with pytest.raises(ValueError, match="could not load the encoder"):
        load_encoder(str(tmp_path / "model"), device="cpu")
    assert not mark.exists()


def config(output: Path, **changes: object) -> RunConfig:
    size = {"steps": 3, "save_every": 3, "batch_size": 16, "dimension": 8, "vocabulary_size": 300, "num_negatives": 2}
    settings = {"data": "ailments", "output": str(output), "device": "cpu", "negatives": "uniform", **size}
    return RunConfig(**(settings | changes))


@pytest.fixture(scope="module")
def run_with_checkpoint(dataset: RetrievalDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(config(folder), quiet=True, dataset=dataset)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_resuming_unpickles_nothing(
    name: str, run_with_checkpoint: Path, dataset: RetrievalDataset, tmp_path: Path, mark: Path
) -> None:
    """The trainer reads these with ``weights_only=True``, and ``training_args.bin`` not at all."""
    shutil.copytree(run_with_checkpoint, tmp_path / "run")
    (path,) = (tmp_path / "run" / "checkpoints").glob(f"*/{name}")
    poison(path, mark)
    read = name != "training_args.bin"
    with pytest.raises(Exception) if read else contextlib.suppress(Exception):  # noqa: PT011 - of whatever kind
        train(config(tmp_path / "run", steps=5), resume=True, quiet=True, dataset=dataset)
    assert not mark.exists()


@pytest.mark.parametrize("tag", ["object/apply:builtins.open [{mark}, w]", "name:builtins.open", "module:os"])
def test_a_run_file_makes_no_objects(tag: str, tmp_path: Path, mark: Path) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text(f"data: !!python/{tag.format(mark=mark)}\noutput: out\n")
    with pytest.raises(ValueError, match="is not a YAML file"):
        read_settings(settings)
    assert not mark.exists()


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_run_file_cannot_allow_code(command: str, tmp_path: Path) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text(
        f"data: {tmp_path}\noutput: {tmp_path / 'out'}\nencoder: somebody/model\ntrust_remote_code: true\n"
    )
    done = CliRunner().invoke(app, [command, "--config", str(settings)])
    assert done.exit_code == 2
    assert "add --trust-remote-code" in done.output
    if command == "train":  # it goes on, and there is no such model
        allowed = CliRunner().invoke(app, [command, "--config", str(settings), "--trust-remote-code"])
        assert "could not load the encoder 'somebody/model'" in allowed.output


def test_a_comparison_passes_the_permission_on_and_imports_nothing_from_the_current_folder(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []

    def record(command: list[str], env: dict[str, str], check: bool) -> subprocess.CompletedProcess[str]:
        seen.append((command, env))
        return subprocess.CompletedProcess(command, 1)

    base = config(tmp_path / "out", trust_remote_code=True)
    with monkeypatch.context() as patch:
        patch.setattr("hardwood.comparison.run.subprocess.run", record)
        with pytest.raises(RuntimeError):
            run_one(plan_runs(base, ["uniform"], 1)[0])
    ((command, environment),) = seen
    assert "--trust-remote-code" in command
    (tmp_path / "typer.py").write_text(f"open({str(mark)!r}, 'w').close()")
    start = command[: command.index("train")]
    ended = subprocess.run([*start, "--version"], env=environment, cwd=tmp_path, check=False, capture_output=True)
    if sys.version_info < (3, 11):  # which has no way but not to stand there
        assert mark.exists()
    else:
        assert ended.returncode == 0
        assert not mark.exists()


def test_the_package_silences_no_security_rule() -> None:
    """The rules (ruff's S, and imports that are banned) run in CI over everything; in the package none is waived."""
    for path in Path(hardwood.__file__).parent.rglob("*.py"):
        assert not re.search(r"noqa: *(S\d|TID|.*, *S\d)", path.read_text(encoding="utf-8")), path
