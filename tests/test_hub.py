"""Models by name where the hub can't be reached: refused or taken from the cache, without a loader's many requests."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from hardwood._hub import check_model
from hardwood.cli.app import app
from hardwood.data.beir import read_beir
from hardwood.data.read import read_dataset
from hardwood.encoders import load_encoder
from hardwood.errors import DataError
from hardwood.training.second_model.guide import load_guide
from tiny_models import WORDS

REVISION = "a" * 40
ONCE = 2
"""The client may ask for something of its own beside; a loader asks sixty times."""


class Host:
    """Counts connections; hangs up on them, or keeps them and says nothing."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.silent, self.kept, self.count = False, [], 0
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.count += 1
            if self.silent:
                self.kept.append(connection)
            else:
                connection.close()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Host]:
    """The hub's place, where nothing is to be had; its cache is empty."""
    host = Host()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", host.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield host
    host.socket.close()
    for connection in host.kept:
        connection.close()


def into_the_cache(cache: Path, name: str, model: Path, *files: str) -> None:
    """A model's files as the hub's client keeps them; all where none are named."""
    base = cache / f"models--{name.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(REVISION)
    left_out = None if not files else lambda _, found: [one for one in found if one not in files]
    shutil.copytree(model, base / "snapshots" / REVISION, ignore=left_out)


@pytest.mark.parametrize("load", [load_encoder, load_guide])
def test_a_name_that_is_nowhere_is_asked_for_once(load, host: Host) -> None:
    with pytest.raises(ValueError, match=r"'own/none'.*nothing of it is in the cache.*can't be reached.*Give a folder"):
        load("own/none", device="cpu")
    assert 1 <= host.count <= ONCE


def test_a_hub_that_says_nothing_is_waited_for_as_long_as_the_user_says(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.5")
    host.silent = True
    with pytest.raises(ValueError, match=r"can't be reached: (no answer in 0.5 seconds|timed out|The read)"):
        check_model("own/none", "encoder")
    assert 1 <= host.count <= ONCE


@pytest.mark.parametrize(("name", "repository"), [("own/whole", "own/whole"), ("whole", "sentence-transformers/whole")])
def test_the_copy_in_the_cache_loads_without_the_hub(
    name: str, repository: str, host: Host, tmp_path: Path, transformer_folder: Path
) -> None:
    into_the_cache(tmp_path / "cache", repository, transformer_folder)
    with pytest.warns(UserWarning, match=rf"can't be reached .* '{name}' .* older or incomplete"):
        model = load_encoder(name, device="cpu")
    assert model.encode(WORDS[0]).shape == (32,)
    assert 1 <= host.count <= ONCE
    assert not constants.HF_HUB_OFFLINE


def test_a_part_of_a_model_in_the_cache_is_an_error(host: Host, tmp_path: Path, transformer_folder: Path) -> None:
    into_the_cache(tmp_path / "cache", "own/part", transformer_folder, "modules.json", "config.json")
    with (
        pytest.warns(UserWarning, match="older or incomplete"),
        pytest.raises(ValueError, match=r"could not load the encoder 'own/part'.*The loader said"),
    ):
        load_encoder("own/part", device="cpu")
    assert 1 <= host.count <= ONCE


def test_what_can_be_no_model_is_not_asked_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no encoder at './none': there is no such folder"):
        check_model("./none", "encoder")
    with pytest.raises(ValueError, match=r"no guide at 'runs/none/model': .* can't be a name on the hub"):
        check_model("runs/none/model", "guide")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"nothing of it is in the cache .*HF_HUB_OFFLINE forbids"):
        check_model("own/none", "encoder")
    assert host.count == 0


@pytest.mark.parametrize(
    "words",
    [
        ["train", "DATA", "--output", "out", "--encoder", "own/none"],
        ["train", "DATA", "--output", "out", "--guide", "own/none"],
        ["compare", "DATA", "--output", "out", "--encoder", "own/none"],
        ["evaluate", "own/none", "DATA"],
        ["mine", "own/none", "DATA", "--output", "out.jsonl"],
        ["data", "check", "DATA", "--tokenizer", "own/none"],
    ],
)
def test_commands_ask_before_they_read_the_data(
    words: list[str], host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.csv").write_text("not a table of pairs")
    done = CliRunner().invoke(app, [word.replace("DATA", "pairs.csv") for word in words])
    assert done.exit_code == 2
    assert "'own/none'" in done.stderr
    assert "can't be reached" in done.stderr
    assert 1 <= host.count <= ONCE


@pytest.mark.parametrize("read", [read_beir, read_dataset])
def test_a_set_of_a_hub_that_says_nothing_is_waited_for_as_long_as_the_user_says(
    read, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host.silent = True
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.5")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"can't be had from the Hugging Face hub: (no answer in 0\.5 seconds|.*timed out)"
    ):
        read("own/none")
    assert 1 <= host.count <= ONCE
