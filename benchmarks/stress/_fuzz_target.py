"""What every target of `benchmarks.stress.fuzz` is: good files, a way to break them, and a reader."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from benchmarks.stress._mutations import bytes_mutated

Random = np.random.Generator
SAME, OTHER, FOUND = "accepted: as it was", "accepted: as a naive reader has it", "accepted, found by check()"


class Fault(Exception):  # noqa: N818 - it is what we look for
    """Something wrong was taken for good."""


class Target:
    """One reader."""

    names_file = True  # whether every refusal must name the file

    def __init__(self, folder: Path) -> None:
        self.good, self.bad = folder / "good", folder / "bad"
        self.good.mkdir(parents=True, exist_ok=True)
        self.make()

    def make(self) -> None:
        """Write the good files."""

    def damage(self, rng: Random) -> None:
        """Change what lies in ``bad``, a copy of the good files: blindly, unless a target knows worse."""
        files = sorted(path for path in self.bad.rglob("*") if path.is_file())
        path, other = files[rng.integers(0, len(files))], files[rng.integers(0, len(files))]
        content = path.read_bytes()
        path.write_bytes(bytes_mutated(rng, content, other.read_bytes()))

    def read(self) -> str:
        """Read ``bad``; what came of it."""
        raise NotImplementedError

    def run(self, rng: Random) -> str:
        """One input."""
        shutil.rmtree(self.bad, ignore_errors=True)
        shutil.copytree(self.good, self.bad, symlinks=True)
        self.damage(rng)
        return self.read()
