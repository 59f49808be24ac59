"""The drawings of a run's page, each from the numbers that it shows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hardwood.report._paired import RANKS
from hardwood.report.svg import WIDTH, Axes, Drawing, Point, round_above, short, spread_apart

_MOST_POINTS = 400
_ROW = 34
_PARTS = {
    "forward_backward": "forward, backward",
    "encode": "encoding targets",
    "index": "index upkeep",
    "sample": "drawing",
    "judge": "guide",
    "base_evaluation": "base model measured",
    "snapshots": "snapshots",
    "tree_map": "map of the tree",
}


def before_and_after(rows: Sequence[tuple[str, float | None, float | None]], measure: str, colour: str) -> str:
    """A line for each split from the base model's measure to the trained one's; the axis begins at 0.

    Args:
        rows: ``(split, base, trained)``.
        measure: what is measured.
        colour: class of the source.
    """
    height = 50 + _ROW * len(rows)
    drawing = Drawing(height, f"{measure} of the base model and the trained one", colour)
    values = [value for _, *both in rows for value in both if value is not None]
    end, left, right = round_above(max(values, default=1.0)), 120.0, WIDTH - 46.0

    def across(value: float) -> float:
        return left + value / end * (right - left)

    _scale(drawing, 0, end, across, height, f"{measure} (larger is better)")
    for place, (name, base, trained) in enumerate(rows):
        middle = 22.0 + _ROW * place
        drawing.text((left - 12, middle + 4), name, "name", "end")
        if base is not None and trained is not None:
            drawing.line((across(base), middle), (across(trained), middle), "link")
        labels = [
            (across(value), value, kind) for value, kind in ((base, "base"), (trained, "own")) if value is not None
        ]
        for at, _, kind in labels:
            drawing.circle((at, middle), 5.5 if kind == "own" else 4.5, f"dot {kind}")
        labels.sort()
        sides = ["end", "start"][-len(labels) :] if labels else []  # a split may have answers and no judgements
        for (at, value, kind), side in zip(labels, sides, strict=True):
            if side == "end" and at - left < 34:  # no room beside the names
                drawing.text((at, middle - 9), f"{value:.3f}", f"value {kind}", "start")
                continue
            drawing.text((at + (9 if side == "start" else -9), middle + 4), f"{value:.3f}", f"value {kind}", side)
    return str(drawing)


def won_and_lost(rows: Sequence[tuple[str, Mapping[str, Any]]], colour: str) -> str:
    """A bar for each split: queries won, unchanged and lost, as shares of all.

    Args:
        rows: ``(split, what `compare_ranks` gave)``.
        colour: class of the source.
    """
    height = 14 + 46 * len(rows)
    drawing = Drawing(height, "queries won, unchanged and lost", colour)
    left, right = 8.0, WIDTH - 8.0
    for place, (name, found) in enumerate(rows):
        top = 24.0 + 46 * place
        drawing.text((left, top - 6), f"{name}: {found['queries']:,} queries", "name")
        start = left
        for kind, word in (("won", "won"), ("same", "unchanged"), ("lost", "lost")):
            size = found[kind] / max(found["queries"], 1) * (right - left)
            words = f"{found[kind]:,} {word}"
            drawing.box((start, top), (size, 22), f"bar {kind}", words)
            if size > 7.2 * len(words) + 6:
                drawing.text((start + size / 2, top + 15), words, f"in {kind}", "middle")
            elif kind == "lost":
                drawing.text((right, top - 6), words, "name lost", "end")
            start += size
    return str(drawing)


def differences(rows: Sequence[tuple[str, Mapping[str, Any]]], measure: str, colour: str) -> str:
    """The difference in a measure with its interval, split by split, beside the line of no difference.

    Args:
        rows: ``(split, what `compare_ranks` gave)``.
        measure: a name that the latter has.
        colour: class of the source.
    """
    height = 50 + _ROW * len(rows)
    drawing = Drawing(height, f"difference in {measure}, with 95 % intervals", colour)
    ends = [value for _, found in rows for value in found[measure]]
    low, high = min(0.0, *ends) if ends else 0.0, max(0.0, *ends) if ends else 0.0
    room = max(high - low, 0.01) * 0.08
    low, high = (low - room if low < 0 else 0.0), high + room
    left, right = 120.0, WIDTH - 62.0

    def across(value: float) -> float:
        return left + (value - low) / max(high - low, 1e-9) * (right - left)

    _scale(drawing, low, high, across, height, f"{measure.upper()}: trained less base, with 95 % interval")
    drawing.line((across(0), 6), (across(0), height - 40), "zero")
    for place, (name, found) in enumerate(rows):
        middle, (value, least, most) = 22.0 + _ROW * place, found[measure]
        drawing.text((left - 12, middle + 4), name, "name", "end")
        drawing.line((across(least), middle), (across(most), middle), "interval own")
        drawing.circle((across(value), middle), 5, "dot own", f"{value:+.4f} ({least:+.4f} to {most:+.4f})")
        drawing.text((across(most) + 8, middle + 4), f"{value:+.3f}".replace("-", "−"), "value own")
    return str(drawing)


def rank_moves(moves: Sequence[Sequence[int]]) -> str:
    """How many queries went from which place of their first positive to which: `RANKS` by `RANKS`."""
    cell, left, top = 58.0, 104.0, 44.0
    drawing = Drawing(top + 34 * len(RANKS) + 8, "places of the first positive before and after training")
    most = max((count for row in moves for count in row), default=0)
    drawing.text((left + cell * len(RANKS) / 2, 13), "place after training", "label", "middle")
    drawing.text((4, top - 8), "place before", "label")
    for column, name in enumerate(RANKS):
        drawing.text((left + cell * (column + 0.5), top - 8), name, "tick", "middle")
    for row, name in enumerate(RANKS):
        drawing.text((left - 10, top + 34 * row + 21), name, "tick", "end")
        for column, count in enumerate(moves[row]):
            kind = "same" if row == column else "won" if column < row else "lost"
            strength = 0 if not count else 1 + min(3, int(4 * count / max(most, 1)))
            corner = (left + cell * column + 1, top + 34 * row + 1)
            drawing.box(
                corner, (cell - 2, 32), f"cell {kind} strength{strength}", f"{count:,} from {name} to {RANKS[column]}"
            )
            if count:
                centre = (corner[0] + cell / 2 - 1, corner[1] + 21)
                drawing.text(centre, f"{count:,}", f"count strength{strength}", "middle")
    return str(drawing)


def over_steps(
    lines: Sequence[tuple[str, str, Sequence[Point]]],
    label: str,
    *,
    colour: str,
    marks: Sequence[float] = (),
    from_zero: bool = True,
    dots: bool = False,
    last: float = 0.0,
) -> tuple[str, bool]:
    """Lines against optimiser steps, named at their right ends.

    Args:
        lines: ``(name, class, points)``; empty ones are left out.
        label: what is measured.
        colour: class of the source.
        marks: steps of refreshes.
        from_zero: whether y begins at 0 (or lower, where values do).
        dots: whether the points are drawn too.
        last: step at which the axis ends, unless there are later ones.

    Returns:
        The drawing, and whether its axis begins at 0.
    """
    drawn = [(name, kind, thinned(points)) for name, kind, points in lines if points]
    ys = [y for _, _, points in drawn for _, y in points]
    low, high = min(ys, default=0.0), max(ys, default=1.0)
    # A curve that stays far from 0 would be a line at the top: then the axis begins below it, and the page says so.
    from_zero = from_zero or low < high / 3
    if from_zero:
        low, high = min(low, 0.0), round_above(high) if high > 0 else 0.0
    else:
        low, high = low - 0.08 * (high - low), high + 0.05 * (high - low)
    last = max([last, *marks, *(x for _, _, points in drawn for x, _ in points)])
    margins = (48, 104 if any(name for name, _, _ in drawn) else 16, 26, 40)
    drawing = Drawing(250, f"{label} against optimiser steps", colour)
    labels = ("optimiser step", label)
    axes = Axes(drawing, (0, last), (low, high), labels, whole=True, margins=margins)
    axes.marks(marks)
    for _, kind, points in drawn:
        axes.series(points, kind, dots=dots or len(points) < 3)
    axes.names([(points[-1][1], name, kind) for name, kind, points in drawn])
    return str(drawing), from_zero


def costs(seconds: Mapping[str, float], of_report: Mapping[str, float], colour: str) -> str:
    """A bar for each part of a run's time, those of training first, then what the report took.

    Args:
        seconds: of training, by part.
        of_report: what was taken for the report.
        colour: class of the source.
    """
    rows = [(name, value, "own") for name, value in seconds.items() if value > 0]
    rows.sort(key=lambda row: -row[1])
    rows += [(name, value, "base") for name, value in of_report.items() if value > 0]
    height = 46 + 26 * max(len(rows), 1)
    drawing = Drawing(height, "seconds by part", colour)
    left, right = 160.0, WIDTH - 96.0
    end, total = round_above(max((value for _, value, _ in rows), default=1.0)), sum(seconds.values())

    def across(value: float) -> float:
        return left + value / end * (right - left)

    _scale(drawing, 0, end, across, height, "seconds")
    for place, (name, value, kind) in enumerate(rows):
        top = 8.0 + 26 * place
        drawing.text((left - 8, top + 14), _PARTS.get(name, name), "name", "end")
        drawing.box((left, top + 1), (across(value) - left, 17), f"bar {kind}")
        share = f" ({value / total:.0%})" if kind == "own" and total else ""
        drawing.text((across(value) + 7, top + 14), f"{seconds_in_words(value)}{share}", "value")
    return str(drawing)


def seconds_in_words(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def tree_map(tree: Mapping[str, Any], colour: str) -> str:
    """The leaves of a tree in the plane in which their means vary most: as large as their targets are many, as strong
    in colour as their share of the softmax is large; ``data-leaf`` is each one's place in ``tree["leaves"]``."""
    drawing = Drawing(380, "leaves of the tree in two dimensions", colour, width=560)
    leaves = tree["leaves"]
    if not leaves:
        return str(drawing)
    xs, ys = [leaf[0] for leaf in leaves], [leaf[1] for leaf in leaves]
    ends = [(min(values) - 0.02, max(values) + 0.02) for values in (xs, ys)]
    middles = [(low + high) / 2 for low, high in ends]
    # One scale for both, so that distances are the same in all directions.
    unit = min(520 / (ends[0][1] - ends[0][0]), 344 / (ends[1][1] - ends[1][0]))
    largest, order = max(leaf[2] for leaf in leaves), sorted(range(len(leaves)), key=lambda place: -leaves[place][2])
    masses = sorted(leaf[3] for leaf in leaves)
    bounds = [masses[min(len(masses) - 1, int(len(masses) * share))] for share in (0.5, 0.8, 0.95)]
    for place in order:
        x, y, size, mass, _ = leaves[place]
        centre = (280 + unit * (x - middles[0]), 190 - unit * (y - middles[1]))
        strength = 1 + sum(mass > bound for bound in bounds)
        radius = max(2.5, min(4 + 400 / len(leaves) ** 0.75, 16) * (size / largest) ** 0.5)
        hint = f"{size:,} targets, {mass:.2%} of the softmax"
        drawing.circle(centre, radius, f"leaf strength{strength}", hint, leaf=str(place))
    return str(drawing)


def dots_by_name(rows: Sequence[tuple[str, str, float, float]], label: str, *, from_zero: bool = True) -> str:
    """A dot with a deviation for each of several things, each in its own colour and named on the left.

    Args:
        rows: ``(name, class of the colour, value, deviation)``.
        label: what is measured.
        from_zero: whether the axis begins at 0.
    """
    height = 50 + 28 * len(rows)
    drawing = Drawing(height, label)
    ends = [value + sign * spread for _, _, value, spread in rows for sign in (-1, 1)]
    high = max(ends, default=1.0)
    low = 0.0 if from_zero or not ends else min(ends) - 0.08 * (high - min(ends))
    high = round_above(high) if from_zero else high + 0.05 * (high - low)
    left, right = 150.0, WIDTH - 60.0

    def across(value: float) -> float:
        return left + (value - low) / max(high - low, 1e-9) * (right - left)

    _scale(drawing, low, high, across, height, label)
    for place, (name, kind, value, spread) in enumerate(rows):
        middle = 20.0 + 28 * place
        drawing.text((left - 12, middle + 4), name, f"name own {kind}", "end")
        if spread:
            drawing.line((across(value - spread), middle), (across(value + spread), middle), f"interval own {kind}")
        drawing.circle((across(value), middle), 5, f"dot own {kind}", f"{name}: {value:.4f} ± {spread:.4f}")
        drawing.text((across(value + spread) + 9, middle + 4), short(round(value, 3)), "value")
    return str(drawing)


def scatter(rows: Sequence[tuple[str, str, float, float]], labels: tuple[str, str], *, y_from_zero: bool = True) -> str:
    """Named dots by two numbers: ``(name, class of the colour, x, y)``; x begins at 0."""
    drawing = Drawing(280, f"{labels[1]} against {labels[0]}")
    ys, end = [row[3] for row in rows], round_above(max((row[2] for row in rows), default=1.0))
    low = 0.0 if y_from_zero or not ys else min(ys) - 0.1 * (max(ys) - min(ys) or 1)
    high = round_above(max(ys, default=1.0)) if y_from_zero else max(ys) + 0.1 * (max(ys) - min(ys) or 1)
    axes = Axes(drawing, (0, end), (low, high), labels, margins=(48, 84, 26, 40))
    placed = sorted((axes.at(x, y)[1], axes.at(x, y)[0], name, kind) for name, kind, x, y in rows)
    heights = spread_apart([height for height, _, _, _ in placed], 13, axes.top - 8, axes.bottom)
    for (height, across, name, kind), named_at in zip(placed, heights, strict=True):
        drawing.circle((across, height), 5, f"dot own {kind}", name)
        drawing.text((across + 9, named_at + 4), name, f"name own {kind}")
    return str(drawing)


def mean_by_step(snapshots: Sequence[Mapping[str, Any]], of: Any) -> list[Point]:
    """The mean over a snapshot's queries of what ``of(query)`` gives, where it gives anything."""
    points = []
    for snapshot in snapshots:
        values = [value for query in snapshot["queries"] if (value := of(query)) is not None]
        if values:
            points.append((float(snapshot["step"]), statistics.fmean(values)))
    return points


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most some hundred points: the means of neighbours, where there are more."""
    size = -(-len(points) // _MOST_POINTS)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(statistics.fmean(x for x, _ in group), statistics.fmean(y for _, y in group)) for group in groups]


def _scale(drawing: Drawing, low: float, high: float, across: Any, height: float, label: str) -> None:
    from hardwood.report.svg import ticks

    for value in ticks(low, max(high, low + 1e-9)):
        drawing.line((across(value), 6), (across(value), height - 40), "grid")
        drawing.text((across(value), height - 24), short(value), "tick", "middle")
    drawing.text(((across(low) + across(high)) / 2, height - 6), label, "label", "middle")
