"""Build the documentation site into site/, and fail on whatever a reader would stumble over.

A warning of the generator (links, anchors), one about a docstring that the API pages can't show, and anything that a
page would load from another machine are errors. The package is read, not imported: torch is not needed.

    python tools/build_site.py          # `make docs`
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "site"
_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
_HARMLESS = {"canonical", "prev", "next", "alternate"}  # of <link>: named, not loaded


class _Loads(HTMLParser):
    """What a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get(_LOADED.get(tag, "")) or ""
        is_named = tag == "link" and bool(_HARMLESS & set((given.get("rel") or "").split()))
        if re.match(r"(https?:)?//", address) and not is_named:
            self.found.append(address)


def build() -> list[str]:
    """Run the generator; what it complains of."""
    shutil.rmtree(SITE, ignore_errors=True)
    zensical = Path(sys.executable).with_name("zensical")
    done = subprocess.run(
        [zensical, "build", "--strict", "--clean"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    problems = [line for line in said.splitlines() if line.startswith(("griffe:", "WARNING", "Warning"))]
    if done.returncode or problems:
        print(said)
        problems.append(f"zensical ended with {done.returncode}, and {len(problems)} warnings")
    return problems


def foreign_requests() -> Iterator[str]:
    """Addresses on other machines that pages or style sheets load."""
    for path in sorted(SITE.rglob("*.html")):
        parser = _Loads()
        parser.feed(path.read_text(encoding="utf-8"))
        yield from (f"{path.relative_to(SITE)} loads {address}" for address in parser.found)
    for path in sorted(SITE.rglob("*.css")):
        for address in re.findall(r"url\(\s*[\"']?((?:https?:)?//[^)\"']+)", path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(SITE)} loads {address}"


def main() -> int:
    problems = build() or list(foreign_requests())
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{len(list(SITE.rglob('*.html')))} pages are in {SITE.relative_to(ROOT)}/: open site/index.html")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
