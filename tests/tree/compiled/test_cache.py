"""Machine code on disk: the right code or none, whatever happens to the folder or beside it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numba
import pytest

import hardwood
from hardwood.tree.compiled import cache
from hardwood.tree.compiled.cache import KernelCache, KernelFiles, keep, source_digest, sources

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
        patch.setattr(cache.os, "replace", full)
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


IMPORTS = {
    "a name": "from hardwood.tree.room.c import second",
    "several lines": "from hardwood.tree.room.c import (\n    second,\n)",
    "a module": "from hardwood.tree.room import c",
    "a module, renamed": "import hardwood.tree.room.c as helpers",
    "relative": "from .room.c import second",
    "a relative module": "from .room import c",
    "a package's name": "from hardwood.tree.room import third",
    "inside a function": "def f():\n    from hardwood.tree.room.c import second",
    "outside the tree": "from hardwood.elsewhere import fourth",
}


@pytest.mark.parametrize("statement", IMPORTS.values(), ids=IMPORTS)
def test_the_digest_follows_helpers_of_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """Through any number of files, in whatever folder they lie: their code is copied into the kernel."""
    monkeypatch.setattr(cache, "_FOLDER", tmp_path)
    room = tmp_path / "tree" / "room"
    room.mkdir(parents=True)
    kernels = tmp_path / "tree" / "a.py"
    kernels.write_text("from hardwood.tree.b import first\nimport numpy\n")
    (tmp_path / "tree" / "b.py").write_text(f"{statement}\n")
    (room / "__init__.py").write_text("from hardwood.tree.room.c import third\n")
    for helpers in (room / "c.py", tmp_path / "elsewhere.py"):
        helpers.write_text("from hardwood.tree.b import first\n")  # a circle ends too

    def digest() -> bytes:
        cache._read.cache_clear()
        source_digest.cache_clear()
        return source_digest(kernels)

    before = digest()
    assert digest() == before
    (tmp_path / "unused.py").write_text("")
    assert digest() == before
    for helpers in (room / "c.py", tmp_path / "elsewhere.py"):
        helpers.write_text("second = 3\n")
    assert digest() != before


def test_the_digest_of_every_kernel_file_covers_its_imports() -> None:
    """What Python says that a module's imports are, against what the digest reads."""
    modules = kernel_modules()
    assert len(modules) > 15
    for module in modules:
        covered = sources(Path(module.__file__))
        for name in imported_modules(Path(module.__file__)):
            assert Path(importlib.import_module(name).__file__) in covered, f"{module.__name__} imports {name}"


def test_kernels_depend_on_the_tree_alone() -> None:
    """Else a change anywhere in the package would have everything compiled anew, which takes a minute."""
    package = Path(hardwood.__file__).parent
    for module in kernel_modules():
        outside = [path for path in sources(Path(module.__file__)) if package / "tree" not in path.parents]
        assert all(path.parent == package and path.name.startswith("_") for path in outside), module.__name__
        assert package / "__init__.py" not in outside


def kernel_modules() -> list[ModuleType]:
    """Every module of the package that defines a kernel."""
    found = []
    for info in pkgutil.walk_packages(hardwood.tree.__path__, "hardwood.tree."):
        module = importlib.import_module(info.name)
        if any(function.__module__ == info.name for function in kernels_of(module)):
            found.append(module)
    return found


def kernels_of(module: ModuleType) -> list[numba.core.dispatcher.Dispatcher]:
    return [value for value in vars(module).values() if isinstance(value, numba.core.dispatcher.Dispatcher)]


def imported_modules(path: Path) -> set[str]:
    """The modules of the package that a file imports, as `ast` finds them; through others too."""
    found: set[str] = set()
    waiting = [path]
    while waiting:
        named = set()
        for node in ast.walk(ast.parse(waiting.pop().read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    named.add(whole if node.module.startswith("hardwood") and find_spec(whole) else node.module)
            elif isinstance(node, ast.Import):
                named.update(alias.name for alias in node.names)
        new = {name for name in named if name.split(".")[0] == "hardwood"} - found
        found |= new
        waiting += [Path(importlib.import_module(name).__file__) for name in new]
    return found


def find_spec(name: str) -> object:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # its parent is no package
        return None


def test_every_kernel_is_kept_this_way() -> None:
    for module in kernel_modules():
        assert all(isinstance(kernel._cache, KernelCache) for kernel in kernels_of(module))


def test_a_user_without_a_home_is_told_and_litters_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(folder)
    cache._tell.cache_clear()
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
        "from hardwood.tree.room.helper import helped\nfrom hardwood.tree.compiled.numeric import jit\n"
        "@jit\ndef f(x):\n    return helped(x)\n"
    )
    (package / "tree" / "room").mkdir()
    (package / "tree" / "room" / "__init__.py").touch()
    answers = []
    for term in (1, 2):
        helper = package / "tree" / "room" / "helper.py"
        helper.write_text(
            f"from hardwood.tree.compiled.numeric import inlined\n@inlined\ndef helped(x):\n    return x + {term}\n"
        )
        os.utime(helper, (10**9, 10**9))
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from hardwood.tree.probe import f; print(f(1.0))"
        answers.append(python(code, NUMBA_CACHE_DIR=str(tmp_path / "code"), PYTHONDONTWRITEBYTECODE="1"))
    assert answers == ["2.0", "3.0"]


ONE_KERNEL = """
import sys
import numpy as np
from hardwood.tree.compiled.numeric import unit
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
