"""The practitioner's study as tables: means with standard errors, and paired differences."""

from __future__ import annotations

import copy
import json
import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks._report import machine

from hardwood._files import written_whole

EQUAL_TEXTS, EQUAL_SECONDS = "equal texts", "equal seconds"
MEASURES = {"mrr@10": "MRR@10", "ndcg@10": "nDCG@10", "recall@10": "recall@10"}
_OWN_CONFIG = ("negatives", "negatives_options", "batch_size", "steps", "seed", "unasked_prior", "unasked_push")

Run = dict[str, Any]


def identity(spec: Run) -> Run:
    """What determines a run, wherever its data and encoder lie."""
    spec = copy.deepcopy(spec)
    spec["config"].pop("unasked_prior", None)  # "prior" says it, also where there is no such option yet
    for name in ("data", "encoder"):
        spec["config"][name] = Path(spec["config"][name]).name
    return spec


def shared(run: Run) -> Run:
    """The settings that all runs of a study have in common."""
    config = identity(run["spec"])["config"]
    return {name: value for name, value in config.items() if name not in _OWN_CONFIG} | run["spec"]["study"]


def collect(runs: Path, earlier: Path) -> list[Run]:
    """The finished runs in a folder, and those of an earlier report with the same settings that are not among them."""
    found = [json.loads(path.read_text()) for path in sorted(runs.glob("equal-*.json"))]
    if not found:
        raise SystemExit(f"no finished run in {runs}")
    for run in found:
        if shared(run) != shared(found[0]):
            raise SystemExit(f"{runs} holds runs of several studies: {shared(run)} and {shared(found[0])}")
    have = {_key(run) for run in found}
    if earlier.exists():
        before = json.loads(earlier.read_text())["runs"]
        found += [run for run in before if shared(run) == shared(found[0]) and _key(run) not in have]
    return found


def _key(run: Run) -> tuple[str, str, int]:
    return run["spec"]["method"], run["spec"]["budget"], run["spec"]["config"]["seed"]


def report(folder: Path, output: Path, methods: list[str], reference: str) -> None:
    """Write ``output.json`` and ``output.md``, and print the latter.

    Args:
        folder: of the runs.
        output: without an ending.
        methods: their names, in the order of the rows.
        reference: the method whose seconds all have at equal seconds, and from which differences are taken.
    """
    path = output.parent / f"{output.name}.json"
    runs = collect(folder, path)
    for gone in {run["spec"]["method"] for run in runs} - set(methods):
        print(f"{gone}: left out of the report, there is no such method any more")
    runs = [run for run in runs if run["spec"]["method"] in methods]
    runs.sort(key=lambda run: (methods.index(run["spec"]["method"]), run["spec"]["budget"], _key(run)[2]))
    table = Tables(runs, methods, reference)
    text = "\n\n".join(table.all())
    print(f"\n{text}\n")
    content = {"benchmark": output.name, "settings": shared(runs[0]), "reference": reference, "machine": machine(1)}
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({**content, "table": text, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    with written_whole(output.parent / f"{output.name}.md") as temporary:
        temporary.write_text(f"# {output.name}\n\n{text}\n", encoding="utf-8")
    print(f"written: {path}")


class Tables:
    """The tables of a study's ``runs``."""

    def __init__(self, runs: list[Run], methods: list[str], reference: str) -> None:
        self.by_row: dict[tuple[str, str], list[Run]] = {}
        self.refused: dict[str, str] = {}
        for run in runs:
            method, budget, _ = _key(run)
            if "refused" in run:
                self.refused[f"{method}, {budget}"] = run["refused"]
                continue
            self.by_row.setdefault((method, budget), []).append(run)
            if method == reference:  # its seconds are the measure
                self.by_row.setdefault((method, EQUAL_SECONDS), []).append(run)
        self.reference = reference
        self.methods = [name for name in methods if any(name == method for method, _ in self.by_row)]
        measured = [set(run["metrics"]) for of_row in self.by_row.values() for run in of_row]
        splits = set.intersection(*measured)  # older runs do not have seen and unseen targets apart
        self.splits = sorted(splits, key=lambda name: ("unseen" in name, name))
        self.settings = shared(runs[0])

    def all(self) -> list[str]:
        """Settings and all tables, as Markdown."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items() if value is not None)
        parts = [f"Settings: {settings}. Learning rates rise over a tenth of the steps and fall to 0.", self._notes()]
        for measure, title in MEASURES.items():
            parts += [f"**{title}**, mean ± standard error over seeds", self.measures(measure)]
        parts += ["**What it cost**", self.costs()]
        for budget in (EQUAL_TEXTS, EQUAL_SECONDS):
            title = f"**{self.reference} minus the other at {budget}**, MRR@10, seed by seed"
            parts += [f"{title}: mean ± standard error (how many standard errors)", self.differences("mrr@10", budget)]
        return parts

    def _notes(self) -> str:
        notes = [
            "Seconds are CPU seconds of a process with one thread, mining included, evaluation left out. At equal "
            f"seconds each method has as many steps as fit into what {self.reference} takes for its own.",
            "Queries of `test_unseen` ask for targets that no training query asks for.",
        ]
        notes += [f"No row for {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(f"- {note}" for note in notes)

    def measures(self, measure: str) -> str:
        """Each method's quality in both budgets."""
        header = ["method"]
        for budget in (EQUAL_TEXTS, EQUAL_SECONDS):
            header += [f"{budget}: seeds", "steps", *self.splits]
        rows = []
        for name in self.methods:
            row = [name]
            for budget in (EQUAL_TEXTS, EQUAL_SECONDS):
                runs = self.by_row.get((name, budget), [])
                row += [str(len(runs)), _mean_of(runs, lambda run: run["spec"]["config"]["steps"])]
                for split in self.splits:
                    row.append(spread([run["metrics"][split][measure] for run in runs if split in run["metrics"]]))
            rows.append(row)
        return _table(header, rows)

    def costs(self) -> str:
        """Each method's batch, texts, encodings and seconds in both budgets."""
        header = ["method"]
        for budget in (EQUAL_TEXTS, EQUAL_SECONDS):
            header += [
                f"{budget}: pairs a batch",
                "texts a step",
                "encoded besides",
                "CPU s",
                "of which mining",
                "wall s",
            ]
        header.append("pairs with enough mined negatives")
        rows = []
        for name in self.methods:
            row = [name]
            for budget in (EQUAL_TEXTS, EQUAL_SECONDS):
                runs = self.by_row.get((name, budget), [])
                row.append(_mean_of(runs, lambda run: run["spec"]["config"]["batch_size"]))
                row.append(_mean_of(runs, lambda run: run["texts_a_step"]))
                row.append(_mean_of(runs, lambda run: run["targets_reencoded"]))
                row.append(_mean_of(runs, lambda run: run["cpu_seconds"]))
                row.append(_mean_of(runs, lambda run: (run["mining"] or {"cpu_seconds": 0})["cpu_seconds"]))
                row.append(_mean_of(runs, lambda run: run["wall_seconds"]))
            mining = next(
                (run["mining"] for (method, _), runs in self.by_row.items() if method == name for run in runs)
            )
            row.append(f"{mining['pairs_kept']:,} of {mining['pairs']:,}" if mining else "–")
            rows.append(row)
        return _table(header, rows)

    def differences(self, measure: str, budget: str) -> str:
        """The reference minus each other method, over the seeds that both have."""
        mine = {run["spec"]["config"]["seed"]: run for run in self.by_row.get((self.reference, budget), [])}
        rows = []
        for name in self.methods:
            pairs = [
                (mine[seed], run)
                for run in self.by_row.get((name, budget), [])
                if (seed := run["spec"]["config"]["seed"]) in mine
            ]
            if name == self.reference or not pairs:
                continue
            row = [name, str(len(pairs))]
            for split in self.splits:
                values = [a["metrics"][split][measure] - b["metrics"][split][measure] for a, b in pairs]
                row.append(_difference(values))
            rows.append(row)
        return _table(["other method", "seeds", *self.splits], rows)


def standard_error(values: list[float]) -> float:
    """Of the mean; NaN of a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def spread(values: list[float]) -> str:
    """``mean ± standard error``."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {standard_error(values):.4f}" if len(values) > 1 else mean


def _difference(values: list[float]) -> str:
    mean, error = statistics.fmean(values), standard_error(values)
    if math.isnan(error):
        return f"{mean:+.4f}"
    return f"{mean:+.4f} ± {error:.4f} ({mean / error:+.1f})" if error > 0 else f"{mean:+.4f} ± 0"


def _mean_of(runs: list[Run], value: Any) -> str:
    return f"{statistics.fmean(value(run) for run in runs):,.0f}" if runs else "–"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
