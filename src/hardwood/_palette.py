"""One colour for each source of negatives, in every figure and page: on light and on dark ground.

Near those of Okabe and Ito (2008), which people with any kind of colour vision tell apart, and as dark or light as
words need that are set in them (a contrast of 4.5 to white or to ``#1c2024``, WCAG 2).
"""

from __future__ import annotations

SOURCE_COLOURS: dict[str, tuple[str, str]] = {
    "dynamic": ("#00795a", "#2fc79c"),
    "exact": ("#1c2733", "#e8edf2"),
    "in-batch": ("#68707a", "#9aa4b0"),
    "uniform": ("#1f77b0", "#6cbcf0"),
    "static": ("#966400", "#f0b43c"),
    "periodic": ("#a8467f", "#e391c0"),
    "cache": ("#b5470f", "#f5864e"),
    "pool": ("#6a4fb3", "#b09bf2"),
}
OTHER = ("#5f6b1d", "#b9c75a")
"""Of a source that is registered elsewhere."""


def colour_of(source: str, *, dark: bool = False) -> str:
    """The colour of a source of negatives, as ``#rrggbb``.

    Args:
        source: its name.
        dark: on dark ground.
    """
    return SOURCE_COLOURS.get(source, OTHER)[dark]
