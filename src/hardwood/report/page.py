"""Pages that hold everything in one file, and that no text in them can turn into anything else.

Templates escape what they print, drawings set texts as text, and data lie in a script element that browsers don't run,
without the characters that could end it. A content policy forbids whatever is left: every request, and every script
and style but those two whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardwood._files import written_whole
from hardwood._palette import OTHER, SOURCE_COLOURS
from hardwood._version import __version__

if TYPE_CHECKING:
    import jinja2

_DANGEROUS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_page(path: str | Path, template: str, data: Any, **names: Any) -> Path:
    """Fill a template and write it.

    Args:
        path: of the page.
        template: a file in ``hardwood/report/page``.
        data: what the page's script reads, as JSON.
        names: what the template prints; `safe` for what is HTML already.
    """
    style, script = _style(), _read("report.js")
    html = (
        _templates()
        .get_template(template)
        .render(
            policy=_policy(style, script),
            style=safe(style),
            script=safe(script),
            data=safe(embedded(data)),
            version=__version__,
            **names,
        )
    )
    path = Path(path)
    with written_whole(path) as temporary:
        temporary.write_bytes(html.encode("utf-8", "backslashreplace"))  # a lone surrogate is no character
    return path


def embedded(data: Any) -> str:
    """JSON that may stand in a script element: nothing in it ends the element, or a line of JavaScript."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _DANGEROUS.items():
        text = text.replace(character, escape)
    return text


class Html(str):
    """Text that is HTML already: a template prints it as it is, since Jinja2 asks for `__html__`."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def safe(html: str) -> Html:
    """Mark what is HTML already: our own drawings, whose texts were escaped when they were drawn."""
    return Html(html)


def class_of(source: str) -> str:
    """The class that has a source's colour."""
    return f"c-{source}" if source in SOURCE_COLOURS else "c-other"


def _policy(style: str, script: str) -> str:
    sources = [f"{kind}-src 'sha256-{_hash(text)}'" for kind, text in (("script", script), ("style", style))]
    return "; ".join(["default-src 'none'", *sources, "base-uri 'none'", "form-action 'none'"])


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _style() -> str:
    colours = {**SOURCE_COLOURS, "other": OTHER}
    rules = [
        *(f".c-{name}{{--own:{light}}}" for name, (light, _) in colours.items()),
        "@media (prefers-color-scheme:dark){",
        *(f".c-{name}{{--own:{dark}}}" for name, (_, dark) in colours.items()),
        "}",
    ]
    return _read("report.css") + "\n" + "\n".join(rules) + "\n"


def _read(name: str) -> str:
    return (resources.files("hardwood.report") / "page" / name).read_text(encoding="utf-8")


@cache
def _templates() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
