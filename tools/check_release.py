"""What must hold before a version is published; ``make release`` asks it before it builds.

``python tools/check_release.py`` sees that the version is the same in the package, CITATION.cff and CHANGELOG.md, that
the changelog does not call it unreleased, that everything is committed, and that no requirement has a licence that
forbids the use under Apache-2.0 or that can't be found out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from hardwood import __version__

ROOT = Path(__file__).resolve().parent.parent
PERMISSIVE = re.compile(r"\b(apache|bsd|mit|psf|python software foundation|mpl|mozilla|isc)\b", re.IGNORECASE)


def main() -> int:
    problems = [*version_problems(), *uncommitted(), *licence_problems()]
    print("\n".join(problems) or f"hardwood {__version__} can be built and published")
    return 1 if problems else 0


def version_problems() -> Iterator[str]:
    cited = str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"])
    if cited != __version__:
        yield f"CITATION.cff has version {cited}, the package {__version__}"
    heading = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    if __version__ not in heading:
        yield f"the newest heading of CHANGELOG.md is {heading!r}, the package's version {__version__}"
    elif "unreleased" in heading.lower():
        yield f"CHANGELOG.md calls {__version__} unreleased: give its heading the date"


def uncommitted() -> Iterator[str]:
    git = shutil.which("git") or "git"
    changed = subprocess.run(
        [git, "status", "--porcelain"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    if changed:
        yield f"not committed, so not in what others can read:\n{changed.rstrip()}"


def licence_problems() -> Iterator[str]:
    for wanted in map(Requirement, metadata.requires("hardwood") or []):
        if wanted.marker is not None:  # of an extra: its user's choice
            continue
        about = metadata.metadata(wanted.name)
        named = [about.get("License-Expression") or "", (about.get("License") or "")[:200]]
        named += [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
        if not any(PERMISSIVE.search(text) for text in named):
            yield f"the licence of {wanted.name} is {' / '.join(filter(None, named)) or 'not named'}: look it up"


if __name__ == "__main__":
    sys.exit(main())
