"""Drawings as SVG that carries its colours by class, so that a page's style sheet decides them, dark or light.

Texts are set as text and never parsed, whatever they hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree

Point = tuple[float, float]
WIDTH = 460
_UNPRINTABLE = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Drawing:
    """An SVG in its own units, which are about pixels at full size.

    Args:
        height: of ``WIDTH x height``.
        label: what it shows, for people who hear the page.
        colour: the class of whatever is drawn with the colour of the source.
        width: of it.
    """

    def __init__(self, height: float, label: str, colour: str = "", width: float = WIDTH) -> None:
        self.width, self.height = width, height
        label = printable(label)
        attributes = {"viewBox": f"0 0 {_number(width)} {_number(height)}", "role": "img", "aria-label": label}
        self._root = ElementTree.Element("svg", {**attributes, "class": f"chart {colour}".strip()})
        self._add("title", {}).text = label

    def line(self, start: Point, end: Point, kind: str) -> None:
        """A straight line; ``kind`` is its class, here as everywhere."""
        ends = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
        self._add("line", {**{name: _number(value) for name, value in ends.items()}, "class": kind})

    def path(self, points: Sequence[Point], kind: str) -> None:
        """A line through points."""
        self._add("polyline", {"points": " ".join(f"{_number(x)},{_number(y)}" for x, y in points), "class": kind})

    def circle(self, centre: Point, radius: float, kind: str, hint: str = "", **data: str) -> None:
        """A disc, with a hint for the mouse, and ``data-`` attributes for scripts."""
        place = {"cx": _number(centre[0]), "cy": _number(centre[1]), "r": _number(radius), "class": kind}
        disc = self._add("circle", {**place, **{f"data-{name}": value for name, value in data.items()}})
        if hint:
            ElementTree.SubElement(disc, "title").text = printable(hint)

    def box(self, corner: Point, size: Point, kind: str, hint: str = "") -> None:
        """A rectangle by its upper left corner."""
        names = ("x", "y", "width", "height")
        values = dict(zip(names, map(_number, (*corner, max(size[0], 0), max(size[1], 0))), strict=True))
        rectangle = self._add("rect", {**values, "class": kind})
        if hint:
            ElementTree.SubElement(rectangle, "title").text = printable(hint)

    def text(self, place: Point, words: str, kind: str = "", anchor: str = "start") -> None:
        """Words that begin, end or are centred at a place (``start``, ``end``, ``middle``)."""
        attributes = {"x": _number(place[0]), "y": _number(place[1]), "text-anchor": anchor}
        self._add("text", {**attributes, **({"class": kind} if kind else {})}).text = printable(words)

    def __str__(self) -> str:
        return ElementTree.tostring(self._root, encoding="unicode")

    def _add(self, name: str, attributes: dict[str, str]) -> ElementTree.Element:
        return ElementTree.SubElement(self._root, name, attributes)


class Axes:
    """A rectangle of a drawing with a scale on each side.

    Args:
        drawing: where.
        x, y: the ends of both scales, in the data's units.
        labels: what is counted along both.
        whole: whether x counts whole things.
        margins: left, right, top, bottom.
    """

    def __init__(
        self,
        drawing: Drawing,
        x: Point,
        y: Point,
        labels: tuple[str, str],
        *,
        whole: bool = False,
        margins: tuple[float, float, float, float] = (48, 104, 26, 40),
    ) -> None:
        left, right, top, bottom = margins
        self.drawing = drawing
        self.left, self.right = left, drawing.width - right
        self.top, self.bottom = top, drawing.height - bottom
        self._x, self._y = (_wide(*ends) for ends in (x, y))
        for value in ticks(*self._y):
            height = self.at(self._x[0], value)[1]
            drawing.line((self.left, height), (self.right, height), "grid")
            drawing.text((self.left - 6, height + 4), short(value), "tick", "end")
        marks = [value for value in ticks(*self._x) if not whole or value == int(value)]
        for value in marks:
            across = self.at(value, self._y[0])[0]
            drawing.line((across, self.bottom), (across, self.bottom + 4), "axis")
            drawing.text((across, self.bottom + 17), short(value), "tick", "middle")
        drawing.line((self.left, self.bottom), (self.right, self.bottom), "axis")
        drawing.text(((self.left + self.right) / 2, drawing.height - 5), labels[0], "label", "middle")
        drawing.text((4, 13), labels[1], "label")

    def at(self, x: float, y: float) -> Point:
        """Where a value is."""
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def series(self, points: Sequence[Point], kind: str, *, dots: bool = False) -> None:
        """A line through values."""
        self.drawing.path([self.at(*point) for point in points], f"line {kind}")
        if dots:
            for x, y in points:
                self.drawing.circle(self.at(x, y), 3, f"dot {kind}", f"{short(x)}: {short(y)}")

    def names(self, named: Sequence[tuple[float, str, str]]) -> None:
        """Names beside the right ends of lines, ``(y, name, class)``, moved apart where they would overlap."""
        wanted = sorted((self.at(self._x[1], y)[1], name, kind) for y, name, kind in named)
        heights = spread_apart([height for height, _, _ in wanted], 14, self.top, self.bottom)
        for height, (_, name, kind) in zip(heights, wanted, strict=True):
            self.drawing.text((self.right + 7, height + 4), name, f"name {kind}")

    def marks(self, xs: Sequence[float]) -> None:
        """Ticks at the foot, one for each of ``xs``; few of them are thin lines to the top."""
        for x in xs:
            across = self.at(x, self._y[0])[0]
            height = self.top if len(xs) <= 30 else self.bottom - 8
            self.drawing.line((across, self.bottom), (across, height), "refresh")


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within two ends, some five of them."""
    raw = (high - low) / max(about, 1)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if raw <= size * factor * 1.0001)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def round_above(value: float) -> float:
    """The end of a scale that begins at 0 and holds ``value``."""
    if value <= 0:
        return 1.0
    step = ticks(0, value)[1]
    return math.ceil(value / step - 1e-9) * step


def short(value: float) -> str:
    """A number as a label says it."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        thousands = value / 1000
        return f"{thousands:,.0f}k" if abs(thousands) < 10_000 else f"{value / 1e6:,.0f}M"
    if value == int(value):
        return f"{int(value):,}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def spread_apart(heights: Sequence[float], least: float, top: float, bottom: float) -> list[float]:
    """Ascending places moved as little as needed to be ``least`` apart, within two ends where there is room."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + least) if found else max(height, top))
    if found and (over := found[-1] - bottom) > 0:
        found[-1] -= over
        for place in range(len(found) - 2, -1, -1):
            found[place] = min(found[place], found[place + 1] - least)
    return found


def printable(words: str) -> str:
    """Without what XML can't hold: control characters, lone surrogates, and two numbers that are no characters."""
    return _UNPRINTABLE.sub("", words)


def _wide(low: float, high: float) -> Point:
    return (low, high) if high > low else (low, low + 1)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
