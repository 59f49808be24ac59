"""The training curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hardwood._files import written_whole


def training_curve(history: list[dict[str, Any]], path: str | Path, title: str) -> None:
    """Draw loss (and measures, if the run evaluated on the way) against steps.

    Args:
        history: the trainer's ``log_history``.
        path: of the PNG.
        title: above the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    losses = [(record["step"], record["loss"]) for record in history if "loss" in record]
    axes.plot(*zip(*losses, strict=True) if losses else ([], []), color="tab:brown", label="loss")
    axes.set(xlabel="optimiser step", ylabel="loss (estimate of the full-corpus cross entropy)", title=title)
    axes.grid(alpha=0.3)
    measured = _mrr(history)
    if measured:
        right = axes.twinx()
        right.plot(*zip(*measured, strict=True), color="tab:green", marker="o", label="MRR@10")
        right.set(ylabel="MRR@10", ylim=(0, 1))
        right.legend(loc="center right")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _mrr(history: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(record["step"], value) for record in history for key, value in record.items() if key.endswith("_mrr@10")]
