"""Fails when the documentation says what is not so.

In README, CONTRIBUTING, docs/ and benchmarks/: relative links, pictures and the files that are named exist, every page
of the site is in its navigation, the pages that are written from the code are what it says. In the package: the
parameters named in a public docstring are those of the signature, pages that it names exist. What code blocks do is
tested in tests/docs; links within the site, and what the API pages show, by its build (tools/build_site.py).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from write_reference import ROOT, stale


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def check_links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:|#", target):
            continue
        if not (page.parent / target.split("#")[0]).exists():
            yield f"{page.relative_to(ROOT)}: there is no {target}"


def check_navigation() -> Iterator[str]:
    """Each page of docs/ stands in mkdocs.yml, and what stands there exists."""
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    said = set(re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    yield from (f"mkdocs.yml: docs/{name} is not in the navigation" for name in sorted(there - said))
    yield from (f"mkdocs.yml: there is no docs/{name}" for name in sorted(said - there))


def check_pages_named(path: Path) -> Iterator[str]:
    for name in re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
        if not (ROOT / name).exists():
            yield f"{path.relative_to(ROOT)}: there is no {name}"


def check_files_named(page: Path) -> Iterator[str]:
    """Files and folders that a page names as they stand in the repository, and modules that it runs; a word in capitals
    stands for any."""
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m ((?:benchmarks|hardwood|tests|tools)[\w.]*\w)", text):
        path = module.replace(".", "/")
        if not any((folder / f"{path}{end}").exists() for folder in (ROOT, ROOT / "src") for end in ("", ".py")):
            yield f"{page.relative_to(ROOT)}: there is no module {module}"
    named = r"(?<![\w/.-])((?:tests|benchmarks|tools|examples|docs)/[\w/.-]*\w|hardwood/[\w/]+\.py)"
    for name in re.findall(named, text):
        if re.search(r"[A-Z]{3}", name) or name.startswith("tests/sentence_transformer"):  # their repository
            continue
        if not any((folder / name).exists() for folder in (ROOT, ROOT / "src", page.parent)):
            yield f"{page.relative_to(ROOT)}: there is no {name}"


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
        problems += check_links(page)
        problems += check_files_named(page)
    problems += check_navigation()
    problems += [
        f"docs/reference/{name} is not what the code says: python tools/write_reference.py" for name in stale()
    ]
    for path in sorted((ROOT / "src").rglob("*.py")):
        problems += check_pages_named(path)
        if "cli" not in path.parts:  # there the help texts document the parameters
            problems += check_docstrings(path)
    for problem in problems:
        print(problem)
    print(f"{len(pages())} pages and the package's docstrings checked: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
