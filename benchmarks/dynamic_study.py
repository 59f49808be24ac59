"""The moving encoder: the dynamic tree against the oracle, periodic re-encoding and its own ablations, on HPO.

    python benchmarks/dynamic_study.py --seeds 3                # every variant; about two hours on two cores
    python benchmarks/dynamic_study.py --only exact dynamic     # some of them
    python benchmarks/dynamic_study.py --quick                  # one seed, few steps: a look

An interrupted study goes on where it was. Writes the table, the figure and the numbers into ``runs/dynamic-study``.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from hardwood.comparison import PlannedRun, markdown_table, run_all
from hardwood.data import write_hpo
from hardwood.training import RunConfig

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "in-batch": ("in-batch", {}),
    "static": ("static", {}),
    "periodic 50": ("periodic", {"refresh_every": 50}),
    "periodic 200": ("periodic", {"refresh_every": 200}),
    "periodic 500": ("periodic", {"refresh_every": 500}),
    "cache": ("cache", {}),
    "exact": ("exact", {}),
    "dynamic": ("dynamic", {}),
    "dynamic, write-back only": ("dynamic", {"refresh_every": None}),
    "dynamic, no write-back": ("dynamic", {"write_back": False}),
    "dynamic, linear drift": ("dynamic", {"drift": "linear"}),
    "dynamic, stale drift": ("dynamic", {"drift": "stale"}),
    "dynamic, no repair": ("dynamic", {"repair": False}),
    "dynamic, neither": ("dynamic", {"refresh_every": None, "write_back": False}),
}


def plan(base: RunConfig, names: list[str], seeds: int) -> list[PlannedRun]:
    """A run for each variant and seed, seed by seed."""
    planned = []
    for seed in range(seeds):
        for name in names:
            source, options = VARIANTS[name]
            folder = Path(base.output) / "runs" / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}"
            config = dataclasses.replace(
                base, negatives=source, negatives_options=options, seed=seed, output=str(folder)
            )
            planned.append(PlannedRun(name, ("equal batch",), config))
    return planned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/hpo", help="BEIR folder; written if it is not there")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", default="runs/dynamic-study")
    arguments = parser.parse_args()
    if not Path(arguments.data, "corpus.jsonl").exists():
        write_hpo(arguments.data)
    steps, seeds = (60, 1) if arguments.quick else (arguments.steps, arguments.seeds)
    base = RunConfig(data=arguments.data, output=arguments.output, steps=steps)
    planned = plan(base, arguments.only, seeds)
    report = run_all(planned, base.output, settings=dataclasses.asdict(base), announce=print)
    print(markdown_table(report["summary"]))


if __name__ == "__main__":
    main()
