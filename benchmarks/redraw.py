"""Draw figures of the documentation anew from the results that are there: nothing is measured.

python -m benchmarks.redraw                          # all of them
python -m benchmarks.redraw study-taxa-static        # one
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _study
from benchmarks._report import ROOT
from benchmarks.stress import soak
from benchmarks.training import drift
from benchmarks.tree import build, error, growth, sample, search

from hardwood.comparison.figure import comparison_figure

RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
COMPARISON = ROOT / "docs" / "results" / "comparison.md"


def figures(output: Path | None) -> dict[str, Callable[[], None]]:
    """What draws each figure, by its name; into ``output``, or where the documentation has them."""
    found: dict[str, Callable[[], None]] = {"comparison": partial(_comparison, output)}
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        name, rows = content.get("benchmark"), content.get("rows")
        arguments = argparse.Namespace(**content.get("arguments", {}), output=output)
        if path.stem.startswith("study-"):
            found[path.stem] = partial(_study.draw, rows, path.stem, output)
        elif path.stem.startswith("tree_sample"):
            found[path.stem] = partial(sample.draw_figure, arguments, rows, path.stem)
        elif path.stem == "tree_search_taxa_128":
            found[path.stem] = partial(search.draw_figure, arguments, path.stem, rows)
        elif path.stem.startswith("tree_error"):
            found[path.stem] = partial(error.draw_figure, arguments, path.stem, rows)
        elif path.stem == "tree_growth":
            found[path.stem] = partial(growth.draw_figure, arguments, rows)
        elif path.stem == "tree_build":
            found[path.stem] = partial(build.draw_figure, arguments, rows, content["quality"])
        elif path.stem in ("drift", "drift-transformer"):
            image = (output or IMAGES) / f"{path.stem}.png"
            found[path.stem] = partial(drift.draw, content["models"], content["settings"]["intervals"], image)
        elif name == "soak":
            calls = sum(content["calls"].values())
            found["soak-rss"] = partial(soak.draw_figure, arguments, rows, calls, content["differences"])
    return found


def _comparison(output: Path | None) -> None:
    """From the table on its page, which `hardwood compare` has written."""
    table = [line for line in COMPARISON.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    header, *lines = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in table)
    summary = []
    for cells in (dict(zip(header, line, strict=True)) for line in lines):
        costs = {"targets_reencoded": cells["targets re-encoded"], "seconds": cells["seconds"]}
        summary.append(
            {
                "negatives": cells["negatives"],
                "budget": cells["budget"],
                "batch_size": int(cells["batch"]),
                "measures": {"test": {"mrr@10": _spread(cells["MRR@10 test"])}},
                "cost": {name: _spread(cell) for name, cell in costs.items()},
            }
        )
    path = (output or IMAGES) / "comparison.png"
    comparison_figure(summary, "test", path)
    print(f"written: {path}")


def _spread(cell: str) -> dict[str, Any]:
    """``"0.80 ± 0.01"``, or a number alone."""
    mean, *deviation = re.findall(r"[\d.]+", cell.replace(",", ""))
    return {"mean": float(mean), "deviation": float(deviation[0]) if deviation else 0.0}


def main() -> None:
    """Draw."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("names", nargs="*", help="of figures; default: all that there are results of")
    made.add_argument("--output", type=Path, default=None, help="else docs/images")
    arguments = made.parse_args()
    drawn = figures(arguments.output)
    for name in arguments.names or drawn:
        if name not in drawn:
            raise SystemExit(f"there are no results of {name!r}; there are those of {', '.join(drawn)}")
        drawn[name]()


if __name__ == "__main__":
    main()
