"""The page of a comparison, from its ``comparison.json`` and the runs beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from hardwood._json import read_object
from hardwood.errors import DataError
from hardwood.report import charts
from hardwood.report.page import class_of, safe, write_page

COMPARISON, PAGE = "comparison.json", "report.html"
_MEASURES = (("mrr@10", "MRR@10"), ("recall@1", "R@1"), ("recall@10", "R@10"), ("ndcg@10", "nDCG@10"))


def write_comparison(folder: str | Path, split: str | None = None) -> Path:
    """Make ``report.html`` of a comparison and write it into its folder, with links to the pages of its runs.

    Args:
        folder: of the comparison.
        split: shown first; ``None``: ``"test"``, or the first there is.

    Returns:
        The page's path.

    Raises:
        DataError: ``comparison.json`` is missing or damaged.
    """
    folder = Path(folder)
    report = read_object(folder / COMPARISON)
    summary = report.get("summary")
    if not isinstance(summary, list) or not all(isinstance(row, dict) and "measures" in row for row in summary):
        raise DataError("holds no summary of runs: it is damaged.", folder / COMPARISON)
    splits = list(dict.fromkeys(name for row in summary for name in row["measures"]))
    first = next((name for name in (split or "test", "test", *splits) if name in splits), "")
    splits.sort(key=lambda name: (name.split("/")[0] != first, name))
    rows = _points(summary)
    settings = report.get("settings") or {}
    return write_page(
        folder / PAGE,
        "compare.html.j2",
        {},
        title=f"Sources of negatives compared, {Path(str(settings.get('data', ''))).name or 'unnamed data'}",
        facts=_facts(settings, summary, report),
        charts=[_quality(rows, name) for name in splits],
        budget_note=(
            "Sources that draw share a batch; in-batch training has a second line, with a batch that makes up for the "
            "texts it does not draw."
            if any(row["negatives"] == "in-batch" for row in summary)
            else ""
        ),
        several=any(len(row["seeds"]) > 1 for row in summary),
        header=[
            "negatives",
            "budget",
            "batch",
            *(f"{label} {first}" for _, label in _MEASURES),
            "targets re-encoded",
            "seconds",
        ],
        rows=[_cells(row, first) for row in summary],
        notes=[
            f"{name}: a query's own document was left out of the rankings of {count:,} queries."
            for name, count in (summary[0].get("own_left_out", {}) if summary else {}).items()
        ],
        scatters=_scatters(rows, first),
        runs=_runs(folder),
        settings=settings,
        versions=report.get("versions") or {},
    )


def _points(summary: list[dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    """``(name, class, row)``; a run that counts in both budgets once."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in sorted(summary, key=lambda row: row["budget"] != "equal batch"):
        found.setdefault((row["negatives"], row["batch_size"]), row)
    batches = {row["batch_size"] for row in summary if row["negatives"] != "in-batch"}
    return [
        (name if not batches or batch in batches else f"{name}, batch {batch}", class_of(name), row)
        for (name, batch), row in found.items()
    ]


def _quality(rows: list[tuple[str, str, dict[str, Any]]], split: str) -> dict[str, Any]:
    found = []
    for name, kind, row in rows:
        value = row["measures"].get(split, {}).get("mrr@10")
        if value is not None:
            found.append((name, kind, value["mean"], value["deviation"]))
    found.sort(key=lambda row: -row[2])
    from_zero = _is_spread(value for _, _, value, _ in found)
    note = "" if from_zero else "The axis does not begin at 0."
    return {"chart": safe(charts.dots_by_name(found, f"MRR@10, {split}", from_zero=from_zero)), "note": note}


def _scatters(rows: list[tuple[str, str, dict[str, Any]]], split: str) -> list[dict[str, Any]]:
    known = [(name, kind, row) for name, kind, row in rows if "mrr@10" in row["measures"].get(split, {})]
    from_zero = _is_spread(row["measures"][split]["mrr@10"]["mean"] for _, _, row in known)
    found = []
    for cost, label in (("seconds", "training time (s)"), ("targets_reencoded", "targets encoded outside the loss")):
        points = [
            (name, kind, row["cost"][cost]["mean"], row["measures"][split]["mrr@10"]["mean"])
            for name, kind, row in known
        ]
        drawing = charts.scatter(points, (label, f"MRR@10, {split}"), y_from_zero=from_zero)
        found.append({"chart": safe(drawing), "note": "" if from_zero else "The upright axis does not begin at 0."})
    return found if known else []


def _is_spread(values: Any) -> bool:
    """Whether an axis from 0 would still tell the values apart."""
    found = list(values)
    return not found or min(found) < 0.6 * max(found) or max(found) <= 0


def _cells(row: dict[str, Any], split: str) -> list[str]:
    measures = row["measures"].get(split, {})
    cost = {name: value["mean"] for name, value in row["cost"].items()}
    several = len(row["seeds"]) > 1
    cells = [row["negatives"], row["budget"], f"{row['batch_size']:,}"]
    for name, _ in _MEASURES:
        value = measures.get(name)
        spread = f" ± {value['deviation']:.4f}" if value and several else ""
        cells.append("–" if value is None else f"{value['mean']:.4f}{spread}")
    return [*cells, f"{cost['targets_reencoded']:,.0f}", f"{cost['seconds']:.1f}"]


def _runs(folder: Path) -> list[tuple[str, str | None]]:
    runs = sorted(path for path in (folder / "runs").glob("*") if path.is_dir() and not path.name.startswith("."))
    return [(path.name, f"runs/{quote(path.name)}/{PAGE}" if (path / PAGE).is_file() else None) for path in runs]


def _facts(settings: dict[str, Any], summary: list[dict[str, Any]], report: dict[str, Any]) -> list[tuple[str, str]]:
    seeds = sorted({seed for row in summary for seed in row["seeds"]})
    facts = [
        ("runs", len(report.get("runs") or [])),
        ("seeds", ", ".join(map(str, seeds)) or None),
        ("encoder", settings.get("encoder")),
        ("data", settings.get("data")),
        ("steps", settings.get("steps")),
        ("batch", settings.get("batch_size")),
        ("negatives a query", settings.get("num_negatives")),
    ]
    return [(name, str(value)) for name, value in facts if value is not None]
