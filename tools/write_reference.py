"""Write the pages of the reference that the code itself says: the command line, and the options of each source.

python tools/write_reference.py            # writes docs/reference/command-line.md and sources.md
python tools/write_reference.py --check    # fails if a page is not what the code says; `make docs` and a test do this
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
sys.path.insert(0, str(ROOT / "src"))

_WRITTEN = "<!-- Written by tools/write_reference.py from the code: change it there. -->"


def command_line() -> str:
    """Every command of ``hardwood`` with its arguments and options."""
    import typer

    from hardwood.cli.app import app

    root = typer.main.get_command(app)
    lines = ["# Command line", "", _WRITTEN, "", (root.help or "").strip(), ""]
    lines += [
        "`hardwood COMMAND --help` says the same. Options that are left out have the value in brackets. Exit codes: 0, "
        "2 for what you can mend, 1 for what was not foreseen (and for findings of `data check`), 130 for Ctrl-C, "
        "143 for SIGTERM.",
        "",
    ]
    for path, command in _commands(root, ["hardwood"]):
        lines += _command(path, command)
    return "\n".join(lines).rstrip() + "\n"


def _commands(command: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
    for name, child in getattr(command, "commands", {}).items():
        if getattr(child, "hidden", False):
            continue
        if not hasattr(child, "commands"):
            yield [*path, name], child
        yield from _commands(child, [*path, name])


def _command(path: list[str], command: Any) -> list[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    usage = " ".join([*path, *(_metavar(one) for one in arguments), "[OPTIONS]"])
    lines = [f"## {' '.join(path)}", "", _text(command.help), "", "```text", usage, "```", ""]
    panels: dict[str, list[Any]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
            continue
        is_argument = parameter.param_type_name == "argument"
        panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
        panels.setdefault(panel, []).append(parameter)
    for panel, parameters in panels.items():
        lines += [f"**{panel}**", "", "| | takes | |", "| --- | --- | --- |"]
        lines += [f"| {_names(one)} | {_kind(one)} | {_help(one)} |" for one in parameters]
        lines.append("")
    return lines


def _metavar(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper()
    return name if argument.required else f"[{name}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _kind(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "–"
    if hasattr(parameter, "type"):  # click's; newer versions of typer have a descriptor of their own
        kind = {"integer": "number", "float": "number"}.get(parameter.type.name, parameter.type.name)
    else:
        said = str(getattr(parameter.type_descriptor.annotation, "__name__", parameter.type_descriptor.annotation))
        inner = str(parameter.type_descriptor.annotation) if said == "list" else said
        kind = "number" if re.search("int|float", inner) else "path" if "Path" in inner else "text"
    return f"{kind}, repeatable" if getattr(parameter, "multiple", False) else kind


def _help(parameter: Any) -> str:
    text = _text(getattr(parameter, "help", "") or "")
    default = parameter.default
    is_said = "[" in text or getattr(parameter, "is_flag", False) or not getattr(parameter, "show_default", True)
    if default not in (None, (), [], "") and not callable(default) and not is_said:
        text += f" [{default}]"
    return text + " Required." if parameter.required else text


def _text(help_text: str | None) -> str:
    """Help as Markdown: Rich's escapes gone, and what a table or the renderer would take for its own escaped."""
    text = re.sub(r"\s+", " ", (help_text or "").replace("\\[", "[")).strip()
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def sources() -> str:
    """Every source of negatives with its options, their defaults and what they do."""
    from hardwood.negatives import SOURCES

    lines = ["# Sources and their options", "", _WRITTEN, ""]
    lines += [
        "On the command line: `--negatives NAME`, and `--source-option OPTION=VALUE` for each option (`null` for "
        "`None`); some have names of their own, such as `--refresh-every`. In Python: the class, from "
        "`hardwood.negatives`. [Which one to take](../choose.md). All sources leave out every known "
        "positive of a query, take a margin, and report what they cost.",
        "",
        "| name | class | draws are weighed | begins at step |",
        "| --- | --- | --- | --- |",
    ]
    for name, source in SOURCES.items():
        start = inspect.signature(source.__init__).parameters.get("start_step")
        begins = "–" if start is None else str(start.default)
        lines.append(f"| [`{name}`](#{name}) | `{source.__name__}` | `{source.weighting}` | {begins} |")
    lines.append("")
    for name, source in SOURCES.items():
        text = inspect.getdoc(source) or ""
        said = text.partition("\nArgs:\n")[0]
        options = _options(source)
        lines += [f"## {name} {{ #{name} }}", "", f"`hardwood.negatives.{source.__name__}`", "", _markdown(said), ""]
        parameters = [p for p in inspect.signature(source.__init__).parameters.values() if p.name != "self"]
        if not parameters:
            lines += ["It has no options.", ""]
            continue
        lines += ["| option | default | |", "| --- | --- | --- |"]
        for parameter in parameters:
            lines.append(
                f"| `{parameter.name}` | `{parameter.default!r}` | {_markdown_cell(options.get(parameter.name, ''))} |"
            )
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _options(source: type) -> dict[str, str]:
    """What each option of a source does: by its own docstring, else by that of the class it has it from."""
    found: dict[str, str] = {}
    for owner in reversed(source.__mro__):
        text = (inspect.cleandoc(owner.__doc__ or "")).partition("\nArgs:\n")[2]
        found |= {name: said for name, said in _documented(text).items() if not said.startswith("as in ")}
    return found


def _documented(arguments: str) -> dict[str, str]:
    """What a docstring's ``Args:`` says of each argument."""
    found: dict[str, str] = {}
    block = re.split(r"^\S", arguments, maxsplit=1, flags=re.MULTILINE)[0]
    for match in re.finditer(r"^    (\w+): (.*(?:\n {8,}.*)*)", block, flags=re.MULTILINE):
        found[match[1]] = re.sub(r"\s+", " ", match[2]).strip()
    return found


def _markdown(text: str) -> str:
    """A docstring's double backticks are code there as here; single ones name something of the package: code too."""
    return text.replace("``", "`").strip()


def _markdown_cell(text: str) -> str:
    text = _markdown(text).replace("|", "\\|")
    return text[:1].upper() + text[1:] if not text.startswith("`") else text


PAGES = {"command-line.md": command_line, "sources.md": sources}


def stale() -> list[str]:
    """Names of the pages that are not what the code says."""
    return [
        name
        for name, make in PAGES.items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text(encoding="utf-8") != make()
    ]


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        for name in (old := stale()):
            print(f"docs/reference/{name} is not what the code says: run python tools/write_reference.py")
        return 1 if old else 0
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")
        print(f"written: docs/reference/{name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
