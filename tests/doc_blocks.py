"""The code blocks of the documentation: found, told apart, and run.

A block is fenced and says ``python`` or ``bash``. One that the tests can't run says why, where a reader sees it: in the
fence's title (``title="Not run in the tests: needs the hub"``) or in its first line as a comment. Such blocks are held
against the code without being run: Python compiles and imports names that there are, commands and their options exist.

What runs, runs in the order of the page, in one namespace and one folder a page. Two numbers are cut: ``--steps`` to
20 and ``--seeds`` to 1. ``make`` and ``bash .ci/run`` are held against what there is: they run these tests.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOT_RUN = "Not run in the tests: "
MOST = {"--steps": 20, "--seeds": 1}
_FENCE = re.compile(r"^(?P<indent>\s*)```(?P<language>\w*)(?P<info>.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: where it stands.
        line: of its first line of code, from 1.
        language: what the fence says.
        code: without the indentation of the fence.
        reason: why it is not run; ``None``: it is.
    """

    page: Path
    line: int
    language: str
    code: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page of the documentation: the site's, and the repository's own."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    fence: re.Match[str] | None = None
    first, lines = 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if fence is None:
            fence, first, lines = _FENCE.match(line), number + 1, []
        elif line.strip() == "```":
            code = "\n".join(one.removeprefix(fence["indent"]) for one in lines) + "\n"
            found.append(Block(page, first, fence["language"], code, _reason(fence["info"], code)))
            fence = None
        else:
            lines.append(line)
    assert fence is None, f"{page}: the block before line {first} has no end"
    return found


def _reason(info: str, code: str) -> str | None:
    said = re.search(r'title="([^"]*)"', info)
    for text in (said[1] if said else "", code.split("\n", maxsplit=1)[0].removeprefix("# ")):
        if text.startswith(NOT_RUN):
            return text.removeprefix(NOT_RUN)
    return None


def commands_of(block: Block) -> list[list[str]]:
    """The commands of a bash block, each as its words, without comments."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    """Execute a block; errors and tracebacks name the page's own lines."""
    code = compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")
    exec(code, namespace)  # noqa: S102  # that is what the documentation is for


def run_command(block: Block, words: list[str]) -> None:
    """Run a ``hardwood`` command in this process; that a ``make`` target is there is enough.

    Raises:
        AssertionError: another command, or one that fails.
    """
    from typer.testing import CliRunner

    from hardwood.cli.app import app

    if words[0] == "make" or words[:2] == ["bash", ".ci/run"]:
        assert not list(_problems_of_command(words)), f"{block.place}: {shlex.join(words)}"
        return
    assert words[0] == "hardwood", f"{block.place}: {words[0]} is not run here; say why with {NOT_RUN!r}"
    for place, word in enumerate(words[:-1]):
        if word in MOST:
            words[place + 1] = str(min(int(words[place + 1]), MOST[word]))
    result = CliRunner().invoke(app, words[1:], prog_name="hardwood")
    right = (0, 1) if words[1:3] == ["data", "check"] else (0,)
    if result.exit_code not in right:
        said = f"{shlex.join(words)}\n{result.output}\n{result.stderr}"
        raise AssertionError(f"{block.place}: exit code {result.exit_code}: {said}") from result.exception


def problems_of(block: Block) -> Iterator[str]:
    """What a block that is not run has against the code."""
    if block.language == "python":
        yield from _problems_of_python(block)
    if block.language == "bash":
        for words in commands_of(block):
            yield from (f"{block.place}: {problem}: {shlex.join(words)}" for problem in _problems_of_command(words))


def _problems_of_python(block: Block) -> Iterator[str]:
    try:
        tree = ast.parse(block.code)
    except SyntaxError as error:
        yield f"{block.place}: does not compile: {error}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hardwood":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    yield f"{block.place}: {node.module} has no {alias.name}"


def _problems_of_command(words: list[str]) -> Iterator[str]:
    if words[0] == "hardwood":
        yield from check_hardwood(words[1:])
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        yield from (f"there is no target {word!r}" for word in words[1:] if word not in targets and "=" not in word)
    for word in words[1:]:
        if word.startswith(("benchmarks/", "tools/", ".ci/")) and not (ROOT / word).exists():
            yield f"there is no {word}"


def check_hardwood(words: list[str]) -> Iterator[str]:
    """Whether ``hardwood`` has the command and the options."""
    import typer

    from hardwood.cli.app import app

    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        if name not in command.commands:
            yield f"there is no command {name!r}"
            return
        command = command.commands[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("--") and word.split("=")[0] not in options | {"--help"}:
            yield f"there is no option {word!r}"
