"""Quality beside cost: a line of dots for each source, labelled where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardwood._files import written_whole
from hardwood._palette import colour_of
from hardwood.comparison.plan import BUDGETS

Spread = tuple[float, float]
"""Mean and deviation."""


@dataclass(frozen=True)
class FigureRow:
    """One line of the figure.

    Attributes:
        label: at its left.
        source: of negatives, which gives the colour.
        quality: mean and deviation of the measure.
        reencoded: targets encoded outside the loss.
        seconds: of training.
        is_variant: of another line above it; drawn hollow.
    """

    label: str
    source: str
    quality: Spread
    reencoded: Spread
    seconds: Spread
    is_variant: bool = False


def comparison_figure(summary: list[dict[str, Any]], split: str, path: str | Path) -> None:
    """Draw MRR@10, targets re-encoded and seconds, a line for each source and batch.

    Args:
        summary: as `summarize` gives it.
        split: its MRR@10 is drawn.
        path: of the PNG.
    """
    rows = _without_repeats(summary)
    sources = [row["negatives"] for row in rows]
    lines = [
        FigureRow(
            label=f"{name}, batch {row['batch_size']}" if sources.count(name) > 1 else name,
            source=name,
            quality=_spread(row["measures"][split]["mrr@10"]),
            reencoded=_spread(row["cost"]["targets_reencoded"]),
            seconds=_spread(row["cost"]["seconds"]),
        )
        for row, name in sorted(zip(rows, sources, strict=True), key=lambda pair: sources.index(pair[1]))
    ]
    draw_rows(lines, f"MRR@10, {split}", path)


def draw_rows(rows: Sequence[FigureRow], measure: str, path: str | Path) -> None:
    """Three panels with a line for each row: the measure, targets re-encoded, and seconds.

    Args:
        rows: from top to bottom, at least one.
        measure: what ``quality`` is.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 0.9 + 0.27 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(1.5, 1, 1))
    places = range(len(rows))
    for axes, values, write in zip(
        panels,
        ([row.quality for row in rows], [row.reencoded for row in rows], [row.seconds for row in rows]),
        (lambda value: f"{value:.3f}", lambda value: f"{value:,.0f}", lambda value: f"{value:,.0f}"),
        strict=True,
    ):
        for place, row, (mean, deviation) in zip(places, rows, values, strict=True):
            colour = colour_of(row.source)
            axes.axhline(place, color="#eeeeee", linewidth=0.6, zorder=0)
            axes.errorbar(
                mean, place, xerr=deviation, fmt="o", markersize=5.5, capsize=2.5, color=colour, linewidth=1.3,
                markerfacecolor="white" if row.is_variant else colour,
            )  # fmt: skip
            axes.text(
                1.02, place, write(mean), transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=colour
            )
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8)
    first, second, third = panels
    first.set_yticks(places, [row.label for row in rows], fontsize=9)
    for label, row in zip(first.get_yticklabels(), rows, strict=True):
        label.set_color(colour_of(row.source))
    first.set_ylim(len(rows) - 0.4, -0.6)
    first.locator_params(axis="x", nbins=5)
    first.set_xlabel(f"{measure}\n(this axis does not begin at 0)", fontsize=8.5)
    second.set_xscale("symlog", linthresh=10_000)  # some re-encode nothing, some millions
    most = max(row.reencoded[0] for row in rows)
    second.set_xlim(-2_500, 2 * max(most, 10_000))
    second.set_xticks([0, *_powers_of_ten(most)])
    second.set_xlabel("targets re-encoded\noutside the loss", fontsize=8.5)
    third.set_xlim(left=0)
    third.set_xlabel("training time, seconds", fontsize=8.5)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=160, format="png")


def _powers_of_ten(most: float) -> list[int]:
    """10,000, 100,000 and so on, as far as the axis goes."""
    powers = [10_000]
    while powers[-1] * 10 <= most:
        powers.append(powers[-1] * 10)
    return powers


def _spread(value: dict[str, float]) -> Spread:
    return value["mean"], value["deviation"]


def _without_repeats(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A run that counts in both budgets is one line."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for row in sorted(summary, key=lambda row: BUDGETS.index(row["budget"])):
        rows.setdefault((row["negatives"], row["batch_size"]), row)
    return list(rows.values())
