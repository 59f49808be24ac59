"""What a study of many runs is reported by: their means and deviations, one table, one figure."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._report import ROOT, machine

from hardwood.comparison import summarize
from hardwood.comparison.figure import FigureRow, draw_rows
from hardwood.data import write_hpo, write_taxa
from hardwood.training import RunConfig
from hardwood.training.job.config import versions
from hardwood.training.job.yaml_file import read_settings

PLAIN_SOFTMAX: dict[str, Any] = {"unasked_prior": 1.0, "unasked_push": 1.0}
"""Settings of all studies of sources and trees: every target of the corpus counts alike, as when they were made."""

ORACLE = "exact"
CEILING = "whole softmax"
_OWN = {
    "output": "",
    "negatives": "in-batch",
    "negatives_options": {},
    "seed": 0,
    "batch_size": 1,
    "encoder": "static",
    "weighting": None,
}
"""The settings that the runs of a study may differ in."""


def slug(name: str, seed: int) -> str:
    """The folder of a variant's run."""
    return f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}"


def described(config: RunConfig) -> str:
    """A run's source with all its options, and how what it draws is weighed, if not ``shared``."""
    source, weighting = config.make_source(), config.weighting_in_force
    return repr(source) if weighting == "shared" else f"{source!r}, {weighting}"


def collect(runs: Path, sources: dict[str, str]) -> list[dict[str, Any]]:
    """The finished runs of these variants (each variant's source, as `described`), as `hardwood.comparison.summarize`
    takes them, with their ``config``."""
    records = []
    for name, source in sources.items():
        for path in sorted(runs.glob(f"{slug(name, 0).removesuffix('0')}*/metrics.json")):
            config = RunConfig.from_mapping(read_settings(path.parent / "run.yaml"))
            if described(config) != source:
                raise SystemExit(f"{path.parent} was run with other defaults, {described(config)}: move it away")
            records.append(
                {
                    "negatives": name,
                    "budgets": ["equal batch"],
                    "source": described(config),
                    "seed": config.seed,
                    "batch_size": config.batch_size,
                    "metrics": json.loads(path.read_text()),
                    "config": config,
                }
            )
    if not records:
        raise SystemExit(f"no finished run in {runs}")
    shared = [dataclasses.replace(record["config"], **_OWN) for record in records]
    for record, settings in zip(records, shared, strict=True):
        if settings != shared[0]:
            one, other = (Path(found["config"].output).name for found in (records[0], record))
            raise SystemExit(f"{runs}: {one} and {other} differ in settings: use two folders, --runs")
    return records


def reported(path: Path, records: list[dict[str, Any]], sources: dict[str, str]) -> list[dict[str, Any]]:
    """Runs of the report at ``path`` that have the settings of these and are not among them: their folders may be on
    another machine, or gone. Not those of a variant that means something else today, by another default of its source.
    To begin a study anew, remove its report."""
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    mine, theirs = (
        {key: value for key, value in settings.items() if key not in (*_OWN, "data")}
        # Settings that there were not yet have their defaults.
        for settings in map(dataclasses.asdict, (records[0]["config"], RunConfig.from_mapping(content["settings"])))
    )
    have = {(record["negatives"], record["seed"]) for record in records}
    if mine != theirs:
        return []
    known = [run for run in content["runs"] if run["source"] == sources.get(run["negatives"])]
    return [run for run in known if (run["negatives"], run["seed"]) not in have]


def report(records: list[dict[str, Any]], sources: dict[str, str], name: str, output: Path | None) -> None:
    """Print the table, in the order of ``sources`` (each variant's, as `described`); write ``NAME.json`` and
    ``NAME.png``, into ``output`` or where the documentation has them."""
    path = (output or ROOT / "benchmarks" / "results") / f"{name}.json"
    settings = dataclasses.asdict(records[0]["config"])
    records += reported(path, records, sources)
    records.sort(key=lambda record: (list(sources).index(record["negatives"]), record["seed"]))
    rows = summarize(records)
    text = table(rows)
    print("\n" + text + "\n")
    content = {
        "benchmark": name,
        "settings": settings,
        "versions": versions(),
        "machine": machine(1),
        "table": text,
        "rows": rows,
        "runs": [{key: value for key, value in record.items() if key != "config"} for record in records],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")
    draw(rows, name, output)


def table(rows: list[dict[str, Any]]) -> str:
    """Quality and cost of each variant as Markdown."""
    splits = sorted(rows[0]["measures"], key=lambda name: (name != "test", name))
    header = ["negatives", "seeds", *(f"MRR@10 {split}" for split in splits), "targets re-encoded", "of the oracle's"]
    header += ["seconds", "of which encode / index / sample / loss", "texts a step", "peak host"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    oracle = next((_mean(row, "targets_reencoded") for row in rows if row["negatives"] == ORACLE), None)
    for row in rows:
        reencoded = _mean(row, "targets_reencoded")
        cells = [row["negatives"], str(len(row["seeds"]))]
        cells += [_spread(row["measures"][split]["mrr@10"], len(row["seeds"])) for split in splits]
        cells += [f"{reencoded:,.0f}", f"{reencoded / oracle:.1%}" if oracle else "–"]
        cells.append(f"{_mean(row, 'training_seconds'):.0f}")
        parts = ("encode", "index", "sample", "forward_backward")
        cells.append(" / ".join(f"{_mean(row, part):.0f}" for part in parts))
        cells += [f"{_mean(row, 'texts_a_step'):,.0f}", f"{_mean(row, 'peak_host_bytes') / 2**20:,.0f} MiB"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], name: str, output: Path | None) -> None:
    """MRR@10 on test, targets re-encoded and seconds, a line for each variant but the ceiling."""
    lines = [
        FigureRow(
            label=row["negatives"],
            source=_source(row["negatives"]),
            quality=_mean_and_deviation(row["measures"]["test"]["mrr@10"]),
            reencoded=_mean_and_deviation(row["cost"]["targets_reencoded"]),
            seconds=_mean_and_deviation(row["cost"]["training_seconds"]),
            is_variant=row["negatives"].startswith("dynamic,") or row["negatives"].endswith("tempered"),
        )
        for row in rows
        if row["negatives"] != CEILING
    ]
    path = (output or ROOT / "docs" / "images") / f"{name}.png"
    draw_rows(lines, "MRR@10, test", path)
    print(f"written: {path}")


def _source(variant: str) -> str:
    """The source of a variant such as "periodic 500" or "dynamic, bfloat16"."""
    return re.split("[, ]", variant, maxsplit=1)[0]


def _mean_and_deviation(value: dict[str, float]) -> tuple[float, float]:
    return value["mean"], value["deviation"]


def _mean(row: dict[str, Any], cost: str) -> float:
    return float(row["cost"][cost]["mean"])


def _spread(value: dict[str, float], seeds: int) -> str:
    return f"{value['mean']:.4f} ± {value['deviation']:.4f}" if seeds > 1 else f"{value['mean']:.4f}"


def data_folder(name: str) -> Path:
    """The BEIR folder of ``hpo`` or ``taxa``, written if it is not there; or the folder given."""
    makers = {"hpo": write_hpo, "taxa": write_taxa}
    folder = ROOT / "data" / name if name in makers else Path(name)
    if not (folder / "corpus.jsonl").exists():
        if name not in makers:
            raise SystemExit(f"no dataset at {name!r}: --data is hpo, taxa, or a BEIR folder")
        makers[name](folder)
    return folder


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process may do the run: no other has it in hand. A lock, so that a process that dies leaves none."""
    lock = folder.with_name(f".{folder.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
