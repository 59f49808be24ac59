"""Files and folders written whole, and what dead processes leave of theirs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hardwood import _files
from hardwood._files import folder_written_whole, is_temporary, recover, sweep, written_whole


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leftover(path: Path, process: int, host: str = _files._HOST) -> Path:
    return path.with_name(f".{path.name}.{host}-{process}-7.tmp")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_next_write_sweeps_what_dead_processes_left(tmp_path: Path) -> None:
    path, dead = tmp_path / "it", dead_process()
    leftover(path, dead).write_text("half")
    leftover(path, dead, "0123abcd").mkdir()  # of another machine: who knows
    leftover(path, os.getppid()).write_text("being written")
    leftover(path, os.getpid()).write_text("of a process that had our number")
    leftover(tmp_path / "another", dead).write_text("half")
    with written_whole(path) as temporary:
        temporary.write_text("whole")
        sweep(path)  # another thread writes the same file
        assert temporary.exists()
    kept = [leftover(path, dead, "0123abcd"), leftover(path, os.getppid()), leftover(tmp_path / "another", dead), path]
    assert names(tmp_path) == sorted(path.name for path in kept)
    assert all(is_temporary(path) for path in kept[:3])
    assert not is_temporary(path)
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(kept[0], (long_ago, long_ago))
    sweep(path)
    assert not kept[0].exists()


@pytest.mark.parametrize("can_swap", [True, False])
def test_a_folder_takes_the_place_of_another(can_swap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_swap:
        monkeypatch.setattr(_files, "_exchange", lambda *_: False)
    for content in ("first", "second"):
        with folder_written_whole(tmp_path / "it") as fresh:
            (fresh / content).write_text(content)
    assert names(tmp_path) == ["it"]
    assert names(tmp_path / "it") == ["second"]
    (tmp_path / "link").symlink_to(tmp_path / "it")
    with folder_written_whole(tmp_path / "link") as fresh:
        (fresh / "third").touch()
    assert names(tmp_path / "it") == ["third"]
    with pytest.raises(KeyError), folder_written_whole(tmp_path / "it") as fresh:  # noqa: PT012 - the block is tested
        (fresh / "fourth").touch()
        raise KeyError
    assert names(tmp_path / "it") == ["third"]
    assert names(tmp_path) == ["it", "link"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs renameat2")
def test_linux_swaps_folders_in_one_step(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert _files._exchange(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path / "a") == ["b"]
    assert not _files._exchange(tmp_path / "a", tmp_path / "nowhere")


def test_a_kill_between_two_renames_is_undone(tmp_path: Path) -> None:
    (tmp_path / ".it.old").mkdir()
    (tmp_path / ".it.old" / "content").touch()
    recover(tmp_path / "it")
    assert names(tmp_path / "it") == ["content"]
    assert names(tmp_path) == ["it"]
