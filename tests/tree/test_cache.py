"""Machine code on disk: the right code or none, whatever happens to the folder or beside it."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import hardwood
from hardwood.tree import _cache
from hardwood.tree._cache import KernelCache, KernelFiles, keep, source_digest

KERNEL = """
def double(x):
    return x + x
"""
COUNTER = itertools.count()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder for machine code in this test."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "code"))
    return tmp_path


def kernel(folder: Path):
    """A kernel from a file in the folder, as a new process would make it."""
    path = folder / "kernels.py"
    if not path.exists():
        path.write_text(KERNEL)
    spec = importlib.util.spec_from_file_location(f"kernels_{next(COUNTER)}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dispatcher = numba.njit(module.double)
    keep(dispatcher, module.double)
    return dispatcher


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "code").rglob("*.nbc"))


def hits(dispatcher) -> int:
    return sum(dispatcher.stats.cache_hits.values())


def test_code_is_loaded_by_the_next_process(folder: Path) -> None:
    first = kernel(folder)
    assert (first(2), first(2.5)) == (4, 5.0)
    assert hits(first) == 0
    assert len(kept(folder)) == 2
    second = kernel(folder)
    assert (second(3.5), second(3)) == (7.0, 6)
    assert hits(second) == 2


@pytest.mark.parametrize("damage", [b"", b"half", None], ids=["empty", "cut short", "a flipped bit"])
def test_a_damaged_file_is_compiled_anew_and_mended(folder: Path, damage: bytes | None) -> None:
    kernel(folder)(2)
    (path,) = kept(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content) if damage is None else damage)
    second = kernel(folder)
    assert second(3) == 6
    assert hits(second) == 0
    third = kernel(folder)
    assert third(3) == 6
    assert hits(third) == 1


def test_a_file_that_is_whole_but_useless_is_compiled_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel(folder)(2)
    monkeypatch.setattr(KernelFiles, "load", lambda self, key: ("not", "machine code"))
    assert kernel(folder)(3) == 6


def test_a_folder_that_can_no_longer_be_written_is_no_error(folder: Path) -> None:
    fresh = kernel(folder)
    shutil.rmtree(folder / "code")
    (folder / "code").write_text("a file where the folder was")
    assert fresh(2) == 4


def test_a_full_disk_is_no_error_and_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self, *content: object) -> None:
        raise OSError(28, "No space left on device")

    fresh = kernel(folder)
    with monkeypatch.context() as patch:
        patch.setattr(_cache.os, "replace", full)
        assert fresh(2) == 4
    assert not [path for path in (folder / "code").rglob("*") if path.is_file()]


def test_each_key_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Two processes that both saw an empty folder: neither takes the other's code for its own."""
    one, other = (KernelFiles(str(tmp_path), "kernel-1.py311", "source") for _ in range(2))
    one.save("float32", "code for float32")
    other.save("bfloat16", "code for bfloat16")
    for files in (one, other):
        assert files.load("float32") == "code for float32"
        assert files.load("bfloat16") == "code for bfloat16"
        assert files.load("float64") is None
    assert KernelFiles(str(tmp_path), "kernel-1.py311", "changed source").load("float32") is None


def test_the_digest_follows_helpers_of_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through any number of files: their code is copied into the kernel."""
    monkeypatch.setattr(_cache, "_FOLDER", tmp_path)
    (tmp_path / "a.py").write_text("from hardwood.tree.b import first\n")
    (tmp_path / "b.py").write_text("from hardwood.tree.c import (\n    second,\n)\n")
    (tmp_path / "c.py").write_text("second = 2\n")
    before = source_digest(tmp_path / "a.py")
    (tmp_path / "c.py").write_text("second = 3\n")
    source_digest.cache_clear()
    assert source_digest(tmp_path / "a.py") != before


def test_every_kernel_is_kept_this_way() -> None:
    from hardwood.tree import _explore, _numeric, _sample

    for module in (_explore, _numeric, _sample):
        found = [value for value in vars(module).values() if isinstance(value, numba.core.dispatcher.Dispatcher)]
        assert found
        assert all(isinstance(value._cache, KernelCache) for value in found)


def test_a_user_without_a_home_is_told_and_litters_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_cache.os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(folder)
    _cache._tell.cache_clear()
    with pytest.warns(RuntimeWarning, match="set NUMBA_CACHE_DIR"):
        fresh = kernel(folder)
    assert fresh(2) == 4
    assert not (folder / "~").exists()


def python(code: str, **environment: str) -> str:
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_an_upgraded_helper_reaches_kernels_in_unchanged_files(tmp_path: Path) -> None:
    """A wheel's files all have the date of its build, which may be fixed: date and size don't show the change."""
    package = tmp_path / "hardwood"
    shutil.copytree(Path(hardwood.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "tree" / "probe.py").write_text(
        "from hardwood.tree.helper import helped\nfrom hardwood.tree._numeric import jit\n"
        "@jit\ndef f(x):\n    return helped(x)\n"
    )
    answers = []
    for term in (1, 2):
        helper = package / "tree" / "helper.py"
        helper.write_text(
            f"from hardwood.tree._numeric import inlined\n@inlined\ndef helped(x):\n    return x + {term}\n"
        )
        os.utime(helper, (10**9, 10**9))
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from hardwood.tree.probe import f; print(f(1.0))"
        answers.append(python(code, NUMBA_CACHE_DIR=str(tmp_path / "code"), PYTHONDONTWRITEBYTECODE="1"))
    assert answers == ["2.0", "3.0"]


ONE_KERNEL = """
import sys
import numpy as np
from hardwood.tree._numeric import unit
out = np.empty(3, np.float32)
print(unit(np.array([3, 0, 4], sys.argv[1] if len(sys.argv) > 1 else "float32"), out), out)
"""
ANSWER = "5.0 [0.6 0.  0.8]"


@pytest.mark.slow
def test_two_processors_share_a_folder(tmp_path: Path) -> None:
    """A cluster's home folder: each kind of processor finds code made for it, or makes it."""
    code = {"NUMBA_CACHE_DIR": str(tmp_path)}
    counts = []
    for name in ("", "generic", "", "generic"):
        assert python(ONE_KERNEL, **code, **({"NUMBA_CPU_NAME": name} if name else {})) == ANSWER
        counts.append(len(list(tmp_path.rglob("*.nbc"))))
    assert counts == [1, 2, 2, 2]


@pytest.mark.slow
def test_processes_that_compile_at_once(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    kinds = ["float32", "float64", "float32", "float64"]
    running = [
        subprocess.Popen([sys.executable, "-c", ONE_KERNEL, kind], env=environment, stdout=subprocess.PIPE, text=True)
        for kind in kinds
    ]
    assert [process.communicate()[0].strip() for process in running] == [ANSWER] * 4
    assert len(list(tmp_path.rglob("*.nbc"))) == 2
    assert not list(tmp_path.rglob("*.tmp*"))
