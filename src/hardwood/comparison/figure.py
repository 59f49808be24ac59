"""Quality against cost, source by source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hardwood._files import written_whole
from hardwood.comparison.plan import BUDGETS, EQUAL_TEXTS


def comparison_figure(summary: list[dict[str, Any]], split: str, path: str | Path) -> None:
    """Draw MRR@10 against targets re-encoded and against seconds.

    Args:
        summary: as `summarize` gives it.
        split: its MRR@10 is drawn.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["negatives"] for row in summary))
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, cost, label in zip(
        figure.subplots(1, 2, sharey=True),
        ("targets_reencoded", "seconds"),
        ("targets re-encoded outside the loss", "training time (s)"),
        strict=True,
    ):
        for row in _without_repeats(summary):
            quality, spent = row["measures"][split]["mrr@10"], row["cost"][cost]
            larger = row["budget"] == EQUAL_TEXTS
            axes.errorbar(
                spent["mean"],
                quality["mean"],
                xerr=spent["deviation"],
                yerr=quality["deviation"],
                fmt="s" if larger else "o",
                capsize=3,
                color=f"C{names.index(row['negatives'])}",
                label=f"{row['negatives']} (batch {row['batch_size']})" if larger else row["negatives"],
            )
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
        if cost == "targets_reencoded":
            axes.set_xscale("symlog", linthresh=10_000)  # some re-encode nothing, some millions
            axes.set_xlim(left=-1500)
            axes.set_ylabel(f"MRR@10, {split}")
    axes.legend(fontsize="small")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _without_repeats(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A run that counts in both budgets is one point."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for row in sorted(summary, key=lambda row: BUDGETS.index(row["budget"])):
        rows.setdefault((row["negatives"], row["batch_size"]), row)
    return list(rows.values())
