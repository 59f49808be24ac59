"""Fails when the documentation says what is not so.

In README, CONTRIBUTING and docs/: relative links and pictures exist, ``hardwood`` commands use commands and options
that there are, Python examples compile and import public names. In the package: the parameters named in a public
docstring are those of the signature.
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def check_links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:|#", target):
            continue
        if not (page.parent / target.split("#")[0]).exists():
            yield f"{page.relative_to(ROOT)}: there is no {target}"


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def check_commands(page: Path) -> Iterator[str]:
    import typer

    from hardwood.cli.app import app

    root = typer.main.get_command(app)
    for block in code_blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.split(" | ")[0], comments=True)
            if words[:1] != ["hardwood"]:
                continue
            yield from (f"{page.relative_to(ROOT)}: {problem}: {line}" for problem in check_command(root, words[1:]))


def check_command(command, words: list[str]) -> Iterator[str]:  # type: ignore[no-untyped-def]
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


def check_examples(page: Path) -> Iterator[str]:
    import importlib

    for block in code_blocks(page, "python"):
        try:
            tree = ast.parse(block)
        except SyntaxError as error:
            yield f"{page.relative_to(ROOT)}: example does not compile: {error}"
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hardwood"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        yield f"{page.relative_to(ROOT)}: {node.module} has no {alias.name}"


def check_docstrings(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    where = path.relative_to(ROOT)
    if not ast.get_docstring(tree) and path.name != "_version.py":
        yield f"{where}: the module has no docstring"
    for owner, node in public_functions(tree):
        text = ast.get_docstring(owner if node.name == "__init__" else node)
        if text is None:
            yield f"{where}:{node.lineno}: {node.name} has no docstring"
            continue
        documented = documented_arguments(text)
        arguments = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)} - {"self", "cls"}
        for name in sorted(documented - arguments - {"Others"}) if documented and not node.args.kwarg else []:
            yield f"{where}:{node.lineno}: the docstring of {node.name} names {name!r}, which is no parameter"
        if documented and "Others" not in documented:
            for name in sorted(arguments - documented):
                yield f"{where}:{node.lineno}: the docstring of {node.name} leaves out {name!r}"


def public_functions(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            inherited = any(base for base in node.bases)
            for member in node.body:
                if not isinstance(member, ast.FunctionDef):
                    continue
                constructor = member.name == "__init__" and bool(ast.get_docstring(node))
                documented = ast.get_docstring(member) is not None
                if constructor or (not member.name.startswith("_") and (documented or not inherited)):
                    yield node, member


def documented_arguments(text: str) -> set[str]:
    match = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, flags=re.MULTILINE)
    if match is None:
        return set()
    names = re.findall(r"^    ([A-Za-z_][\w, *]*):", match.group(1), flags=re.MULTILINE)
    return {name.strip(" *") for group in names for name in group.split(",")}


def main() -> int:
    problems: list[str] = []
    for page in pages():
        problems += [*check_links(page), *check_commands(page), *check_examples(page)]
    for path in sorted((ROOT / "src").rglob("*.py")):
        if "cli" not in path.parts:  # there the help texts document the parameters
            problems += check_docstrings(path)
    for problem in problems:
        print(problem)
    print(f"{len(pages())} pages and the package's docstrings checked: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
