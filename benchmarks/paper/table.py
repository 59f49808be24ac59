"""One table of Monath et al. (AISTATS 2023): trains every row, and prints ours beside theirs.

    python benchmarks/paper/table.py nq --seeds 3

What is trained already is not trained again, and what was broken off goes on from its last checkpoint. README.md says
where the data come from.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import yaml

from hardwood._files import written_whole
from hardwood.training import RunConfig, train

HERE = Path(__file__).parent
_OF_ROWS_ALONE = {"hardest": None, "uniform_negatives": 0, "negatives_options": {}}
"""What rows of another source have unless they say otherwise."""


def rows_of(name: str, output: Path) -> dict[str, RunConfig]:
    """The settings of each row, for seed 0."""
    table = read_tables()[name]
    base = RunConfig.load(HERE / table["run"])
    found = {}
    for row, own in table["rows"].items():
        changes = {key: value for key, value in (own or {}).items() if key != "paper"}
        if "negatives" in changes:
            changes = {**_OF_ROWS_ALONE, **changes}
        folder = output / row.replace(" ", "-").replace("%", "percent")
        found[row] = dataclasses.replace(base, output=str(folder), **changes)
    return found


def read_tables() -> dict[str, Any]:
    """All tables, by name."""
    return yaml.safe_load((HERE / "tables.yaml").read_text())


def measured(config: RunConfig, seed: int) -> dict[str, Any]:
    """The metrics of a run, which is done if it was not."""
    config = dataclasses.replace(config, seed=seed, output=f"{config.output}-seed{seed}")
    metrics = Path(config.output) / "metrics.json"
    if not metrics.exists():
        is_begun = any((Path(config.output) / "checkpoints").glob("checkpoint-*"))
        train(config, quiet=True, resume=is_begun, overwrite=not is_begun)
    return json.loads(metrics.read_text())


def markdown(name: str, ours: dict[str, list[dict[str, Any]]]) -> str:
    """The table; rows without runs have empty columns."""
    table = read_tables()[name]
    measures = table["measures"]
    has_paper = any(row and row.get("paper") for row in table["rows"].values())
    heads = [head for measure in measures for head in ([f"{measure}: paper", "ours"] if has_paper else [measure])]
    gap = f"gap closed ({measures[0]})"
    lines = [f"| system | {' | '.join(heads)} | {gap} |", "|---" * (len(heads) + 2) + "|"]
    means = {row: _values(runs, measures[0]) for row, runs in ours.items()}
    for row, own in table["rows"].items():
        cells: list[str] = []
        for place, measure in enumerate(measures):
            if has_paper:
                theirs = ((own or {}).get("paper") or [None] * len(measures))[place]
                cells.append("" if theirs is None else f"{theirs:.3f}")
            cells.append(_spread(_values(ours.get(row, []), measure)))
        ends = [means.get(end) for end in ("uniform", "oracle", row)]
        if all(ends):
            low, high, here = (statistics.fmean(values) for values in ends if values)
            cells.append("" if row in ("uniform", "oracle") or high == low else f"{(here - low) / (high - low):.0%}")
        else:
            cells.append("")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _values(runs: list[dict[str, Any]], measure: str) -> list[float]:
    split, name = measure.split(" ")
    return [run[split][name] for run in runs]


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    return f"{mean:.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{mean:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(read_tables()))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", nargs="*", help="some rows alone, by name")
    parser.add_argument("--output", type=Path, help="of the runs and the table [runs/paper/TABLE]")
    parser.add_argument("--empty", action="store_true", help="train nothing: print the table with the paper's figures")
    options = parser.parse_args()
    output = options.output or Path("runs/paper") / options.table
    rows = rows_of(options.table, output)
    if unknown := set(options.rows or ()) - rows.keys():
        parser.error(f"no row is called {min(unknown)!r}; there are {', '.join(rows)}")
    ours: dict[str, list[dict[str, Any]]] = {}
    for row in [] if options.empty else options.rows or rows:
        ours[row] = [measured(rows[row], seed) for seed in range(options.seeds)]
        with written_whole(output / "table.md") as temporary:
            temporary.write_text(markdown(options.table, ours))
    print(markdown(options.table, ours))


if __name__ == "__main__":
    main()
