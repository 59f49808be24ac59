"""Put results into the documentation.

python tools/update_docs.py runs/comparison    # of ``make table``: docs/results/comparison.md, docs/images
python tools/update_docs.py --studies          # of benchmarks/studies/dynamic.py: docs/results/study.md
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def replace_between(page: Path, marker: str, content: str) -> None:
    """Put ``content`` between ``<!-- marker:begin -->`` and ``<!-- marker:end -->``."""
    text = page.read_text(encoding="utf-8")
    pattern = rf"(<!-- {marker}:begin -->\n).*?(<!-- {marker}:end -->)"
    replaced, count = re.subn(pattern, lambda found: found[1] + content + "\n" + found[2], text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{page} has no place marked {marker!r}")
    page.write_text(replaced, encoding="utf-8")


def put_comparison(folder: Path) -> None:
    """The table and figure of ``make table``."""
    report = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    table = (folder / "comparison.md").read_text(encoding="utf-8").strip()
    replace_between(ROOT / "docs" / "results" / "comparison.md", "comparison", f"{table}\n\n{made_with(report)}")
    shutil.copyfile(folder / "comparison.png", ROOT / "docs" / "images" / "comparison.png")


def put_study(path: Path) -> None:
    """The table of one study, and its figure, which the study itself has written into docs/images."""
    report = json.loads(path.read_text(encoding="utf-8"))
    settings = report["settings"]
    data, encoder = path.stem.removeprefix("study-").rsplit("-", 1)
    seeds = len({run["seed"] for run in report["runs"]})
    size = min(run["batch_size"] for run in report["runs"])  # in-batch with equal texts has a larger one
    command = f"python -m benchmarks.studies.dynamic --data {data} --encoder {encoder} --seeds {seeds}"
    command += f" --steps {settings['steps']} --batch-size {size}"
    if settings["num_negatives"] != 8:
        command += f" --num-negatives {settings['num_negatives']}"
    if settings.get("max_length") is not None:
        command += f" --max-length {settings['max_length']}"
    caption = f"{data}, {encoder} encoder (`{command}`):"
    figure = f"![MRR@10 against targets re-encoded and against seconds](../images/{path.stem}.png)"
    content = f"{caption}\n\n{report['table']}\n\n{figure}\n\n{made_with(report)}"
    replace_between(ROOT / "docs" / "results" / "study.md", path.stem, content)


def made_with(report: dict[str, Any]) -> str:
    """The versions that a report was made with, as a sentence."""
    return "Made with " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()) + "."


def main() -> None:
    if sys.argv[1:] == ["--studies"]:
        for path in sorted((ROOT / "benchmarks" / "results").glob("study-*.json")):
            put_study(path)
    elif len(sys.argv) == 2:
        put_comparison(Path(sys.argv[1]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
