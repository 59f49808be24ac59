"""Means, deviations, and the table."""

from __future__ import annotations

import statistics
from typing import Any

from hardwood.comparison.plan import BUDGETS
from hardwood.evaluation import OWN_LEFT_OUT
from hardwood.training.job.run_folder import BESIDE_SPLITS

MEASURES = ("mrr@10", "ndcg@10", "recall@1", "recall@10", "recall@100")


def summarize(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a budget and source: means and deviations over seeds.

    Args:
        records: runs as in ``comparison.json``.

    Returns:
        Rows with ``budget``, ``negatives``, ``batch_size``, ``seeds``, ``measures`` (split -> measure -> ``{"mean",
        "deviation"}``) and ``cost`` (name -> ``{"mean", "deviation"}``). Deviations are the sample standard deviation,
        0 of a single seed.
    """
    rows = []
    for budget in BUDGETS:
        names = dict.fromkeys(record["negatives"] for record in records if budget in record["budgets"])
        for name in names:
            runs = [r for r in records if r["negatives"] == name and budget in r["budgets"]]
            rows.append(_row(budget, name, runs))
    return rows


def markdown_table(summary: list[dict[str, Any]], split: str = "test") -> str:
    """The summary as a Markdown table: ``split`` in detail, MRR@10 of all others; deviations if there are any."""
    others = [name for name in dict.fromkeys(name for row in summary for name in row["measures"]) if name != split]
    others.sort(key=lambda name: not name.startswith(f"{split}/"))  # its seen and unseen targets beside it
    header = ["budget", "negatives", "batch", f"MRR@10 {split}", f"R@1 {split}", f"R@10 {split}", f"nDCG@10 {split}"]
    header += [f"MRR@10 {name}" for name in others]
    header += ["targets re-encoded", "texts a step", "seconds", "of which encode / index / sample", "peak host"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in summary:
        cells = [row["budget"], row["negatives"], str(row["batch_size"])]
        measures = row["measures"].get(split, {})
        several = len(row["seeds"]) > 1
        cells += [_spread(measures.get(name), several) for name in ("mrr@10", "recall@1", "recall@10", "ndcg@10")]
        cells += [_spread(row["measures"].get(name, {}).get("mrr@10"), several) for name in others]
        cost = {name: value["mean"] for name, value in row["cost"].items()}
        cells += [f"{cost['targets_reencoded']:,.0f}", f"{cost['texts_a_step']:,.0f}", f"{cost['seconds']:.1f}"]
        cells.append(" / ".join(f"{cost[part]:.1f}" for part in ("encode", "index", "sample")))
        cells.append(f"{cost['peak_host_bytes'] / 2**20:,.0f} MiB")
        lines.append("| " + " | ".join(cells) + " |")
    notes = [
        f"{name}: a query's own document was left out of the rankings of {count:,} queries."
        for name, count in (summary[0].get(OWN_LEFT_OUT, {}) if summary else {}).items()
    ]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _row(budget: str, name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    splits = [
        split  # of those that all have: runs of earlier versions don't tell seen from unseen
        for split in runs[0]["metrics"]
        # ... and splits that are measured by answers alone are not compared
        if split not in BESIDE_SPLITS and all(MEASURES[0] in run["metrics"].get(split, {}) for run in runs)
    ]
    own = {split: int(runs[0]["metrics"][split].get(OWN_LEFT_OUT, 0)) for split in splits}
    measures = {
        split: {measure: _mean_and_deviation([run["metrics"][split][measure] for run in runs]) for measure in MEASURES}
        for split in splits
    }
    costs = [_flat_cost(run["metrics"]) for run in runs]
    return {
        "budget": budget,
        "negatives": name,
        "batch_size": runs[0]["batch_size"],
        "seeds": [run["seed"] for run in runs],
        "measures": measures,
        OWN_LEFT_OUT: {split: count for split, count in own.items() if count},
        "cost": {key: _mean_and_deviation([cost[key] for cost in costs]) for key in costs[0]},
    }


def _flat_cost(metrics: dict[str, Any]) -> dict[str, float]:
    cost = metrics["cost"]
    return {
        "targets_reencoded": cost["targets_reencoded"],
        "texts_a_step": cost["texts_encoded"] / max(metrics["training"]["steps"], 1),
        "seconds": sum(cost["seconds"].values()),
        "training_seconds": metrics["training"]["seconds"],  # the loader's and any evaluations too
        **cost["seconds"],
        "peak_host_bytes": cost["peak_host_bytes"],
        "peak_accelerator_bytes": cost["peak_accelerator_bytes"],
    }


def _mean_and_deviation(values: list[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "deviation": deviation}


def _spread(value: dict[str, float] | None, several: bool) -> str:
    if value is None:
        return "–"
    return f"{value['mean']:.4f} ± {value['deviation']:.4f}" if several else f"{value['mean']:.4f}"
