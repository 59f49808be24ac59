"""The training curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hardwood._files import written_whole
from hardwood._palette import colour_of


def training_curve(history: list[dict[str, Any]], path: str | Path, title: str, source: str) -> None:
    """Draw the loss against steps, and under it the measures, if the run evaluated on the way.

    Args:
        history: the trainer's ``log_history``.
        path: of the PNG.
        title: above the figure.
        source: of negatives, which gives the colour.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    measured = _mrr(history)
    curves = [("loss\n(estimate over the whole corpus)", [(r["step"], r["loss"]) for r in history if "loss" in r])]
    if measured:
        curves.append(("MRR@10", measured))
    figure = Figure(figsize=(7, 1 + 2.6 * len(curves)), layout="constrained")
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, points) in zip(panels, curves, strict=True):
        axes.plot(*zip(*points, strict=True) if points else ([], []), color=colour_of(source), marker="o", markersize=3)
        axes.set(ylabel=label)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    if all(loss >= 0 for _, loss in curves[0][1]):
        panels[0].set_ylim(bottom=0)
    if measured:
        panels[-1].set_ylim(0, 1)
    panels[0].set_title(title)
    panels[-1].set_xlabel("optimiser step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _mrr(history: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(record["step"], value) for record in history for key, value in record.items() if key.endswith("_mrr@10")]
