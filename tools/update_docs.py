"""Put the results of ``make table`` into docs/comparison.md and docs/images.

python tools/update_docs.py runs/comparison
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def replace_between(page: Path, marker: str, content: str) -> None:
    """Put ``content`` between ``<!-- marker:begin -->`` and ``<!-- marker:end -->``."""
    text = page.read_text(encoding="utf-8")
    pattern = rf"(<!-- {marker}:begin -->\n).*?(<!-- {marker}:end -->)"
    replaced, count = re.subn(pattern, lambda found: found[1] + content + "\n" + found[2], text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{page} has no place marked {marker!r}")
    page.write_text(replaced, encoding="utf-8")


def main() -> None:
    folder = Path(sys.argv[1])
    report = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    made_with = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    table = (folder / "comparison.md").read_text(encoding="utf-8").strip()
    replace_between(ROOT / "docs" / "comparison.md", "comparison", f"{table}\n\nMade with {made_with}.")
    shutil.copyfile(folder / "comparison.png", ROOT / "docs" / "images" / "comparison.png")


if __name__ == "__main__":
    main()
