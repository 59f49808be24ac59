"""What others get: builds wheel and sdist, looks at what they hold, and tests the installed wheel elsewhere.

``python tools/check_install.py ENVIRONMENT [--constraints FILE] [--python PYTHON] [pytest's options]`` makes a new
virtual environment in the folder ENVIRONMENT, installs the wheel there with its test requirements, unpacks the sdist
beside it without its ``src``, runs the fast tests of the sdist against the installed wheel, asks ``hardwood`` for help,
and trains a small encoder. Needs the package ``build`` in the Python that runs this.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
# Makes a BEIR folder for the small run, and sees that the package is the installed one.
SMALL_DATA = """
import sys
from conftest import make_dataset
import hardwood
assert "site-packages" in hardwood.__file__, hardwood.__file__
make_dataset().save(sys.argv[1])
"""


def main() -> int:
    options, pytest_options = parse()
    environment = Path(options.environment).resolve()
    if environment.is_relative_to(ROOT):
        raise SystemExit(
            f"{environment} lies in the repository, whose src could stand in for the wheel: choose another"
        )
    shutil.rmtree(environment, ignore_errors=True)
    began = time.perf_counter()
    wheel, sdist = build(environment / "dist")
    problems = [*check_wheel(wheel), *check_sdist(sdist)]
    if problems:
        print("\n".join(problems))
        return 1
    python = install(environment, options.python, wheel, constraint_files(options, environment))
    print(f"built and installed in {time.perf_counter() - began:.0f} s: {versions(python)}", flush=True)
    folder = unpack(sdist, environment / "sdist")
    run([python, "-m", "pytest", *(pytest_options or ["-n", "2", "-m", "not slow", "-p", "no:cacheprovider"])], folder)
    small_run(python, folder)
    print(f"{wheel.name} and {sdist.name} hold, in {time.perf_counter() - began:.0f} s")
    return 0


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", help="folder to make; it must not lie in the repository")
    parser.add_argument("--constraints", default=None, help="versions to install, such as constraints-lowest.txt")
    parser.add_argument(
        "--pin", action="append", default=[], help="a package to take from constraints.txt all the same"
    )
    parser.add_argument("--python", default=sys.executable, help="interpreter of the new environment")
    return parser.parse_known_args()


def build(folder: Path) -> tuple[Path, Path]:
    """Wheel (made from the sdist, as pip makes it for those who have no wheel) and sdist."""
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)], ROOT, quiet=True)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def tracked() -> set[str]:
    """The repository's files, as git knows them."""
    listed = subprocess.run(
        [shutil.which("git") or "git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return {name for name in listed.split("\0") if name}


def check_wheel(wheel: Path) -> list[str]:
    """What is missing from the wheel, or in it and no part of the package."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    there = {name for name in names if ".dist-info/" not in name}
    expected = {name.removeprefix("src/") for name in tracked() if name.startswith("src/")}
    information = {PurePosixPath(name).name for name in names - there}
    wanted = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE"}
    return difference(wheel.name, there, expected) + difference(f"{wheel.name}'s dist-info", information, wanted)


def check_sdist(sdist: Path) -> list[str]:
    """What is missing from the sdist to build, test and document the package, or in it without being in git."""
    with tarfile.open(sdist) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    kept_out = (".ci/", ".github/", ".pre-commit-config.yaml")
    expected = {name for name in tracked() if not name.startswith(kept_out)} | {"PKG-INFO"}
    return difference(sdist.name, names, expected)


def difference(what: str, there: set[str], expected: set[str]) -> list[str]:
    return [f"{what} lacks {name}" for name in sorted(expected - there)] + [
        f"{what} holds {name}, which is no part of it" for name in sorted(there - expected)
    ]


def constraint_files(options: argparse.Namespace, folder: Path) -> list[Path]:
    """Absolute paths of pip's constraints: the file asked for, and one for what is pinned by name."""
    files = [] if options.constraints is None else [Path(options.constraints).resolve()]
    if options.pin:
        known = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
        pinned = folder / "pinned.txt"
        pinned.write_text("".join(f"{name}=={known[name]}\n" for name in options.pin))
        files.append(pinned)
    return files


def install(environment: Path, interpreter: str, wheel: Path, constraints: list[Path]) -> str:
    """A virtual environment with the wheel and what its tests require; returns its Python."""
    run([interpreter, "-m", "venv", str(environment / "venv")], ROOT)
    python = str(environment / "venv" / "bin" / "python")
    versions = [word for file in constraints for word in ("-c", str(file))]
    run([python, "-m", "pip", "install", "--quiet", *versions, f"{wheel}[test]"], environment, quiet=True)
    run([python, "-m", "pip", "check"], environment, quiet=True)
    return python


def versions(python: str) -> str:
    names = ("hardwood", "torch", "sentence-transformers", "transformers", "datasets", "numba", "numpy", "pyarrow")
    code = (
        f"import sys; from importlib.metadata import version; print(*(n + ' ' + version(n) for n in {names}), sep=', ')"
    )
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def unpack(sdist: Path, folder: Path) -> Path:
    """The sdist without its package, so that only the installed one can be imported."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    shutil.rmtree(unpacked / "src")
    return unpacked


def small_run(python: str, folder: Path) -> None:
    hardwood = str(Path(python).with_name("hardwood"))
    run([hardwood, "--help"], folder, quiet=True)
    run([python, "-c", SMALL_DATA, "ailments"], folder, PYTHONPATH=str(folder / "tests"))
    settings = "--steps 20 --dimension 16 --batch-size 16 --num-negatives 4 --negatives dynamic --device cpu --quiet"
    run([hardwood, "train", "ailments", "--output", "run", *settings.split()], folder)
    run([hardwood, "evaluate", "run/model", "ailments", "--quiet", "--output", "measures.json"], folder)


def run(command: list[str], folder: Path, quiet: bool = False, **environment: str) -> None:
    """Run outside the repository's reach; what it says is shown unless it succeeds quietly."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env={**clean, **environment}, check=False,
        stdout=subprocess.PIPE if quiet else None, stderr=subprocess.STDOUT if quiet else None, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{done.stdout or ''}\n{' '.join(command)} failed with exit code {done.returncode}")


if __name__ == "__main__":
    raise SystemExit(main())
