"""One colour for each source of negatives, in every figure and page: on light and on dark ground.

After Okabe and Ito (2008), whose colours people with any kind of colour vision tell apart.
"""

from __future__ import annotations

SOURCE_COLOURS: dict[str, tuple[str, str]] = {
    "dynamic": ("#00795a", "#2fc79c"),
    "exact": ("#1c2733", "#e8edf2"),
    "in-batch": ("#7a828c", "#9aa4b0"),
    "uniform": ("#3d9bd6", "#6cbcf0"),
    "static": ("#c78500", "#f0b43c"),
    "periodic": ("#b4588f", "#e391c0"),
    "cache": ("#c4501b", "#f5864e"),
    "pool": ("#3a57b0", "#8ea6f5"),
}
OTHER = ("#5b4b8a", "#b3a2e6")
"""Of a source that somebody has registered."""


def colour_of(source: str, *, dark: bool = False) -> str:
    """The colour of a source of negatives, as ``#rrggbb``.

    Args:
        source: its name.
        dark: on dark ground.
    """
    return SOURCE_COLOURS.get(source, OTHER)[dark]
