"""The tree's folders depend on each other in one direction: what each may know is what its `__init__` says."""

from __future__ import annotations

import ast
from pathlib import Path

import hardwood.tree

TREE = Path(hardwood.tree.__file__).parent
# A folder may import from those below it.
MAY_KNOW = {
    "compiled": set(),
    "arrays": {"compiled"},
    "construct": {"arrays", "compiled"},
    "change": {"construct", "arrays", "compiled"},
    "read": {"arrays", "compiled"},
    "store": {"change", "arrays", "compiled", "_inputs"},
    "_inputs": {"arrays", "compiled"},
    "results": set(),
}


def imports(path: Path) -> set[str]:
    """The modules of the tree that a file imports, dotted, below `hardwood.tree`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hardwood.tree"):
            inside = node.module.removeprefix("hardwood.tree").strip(".")
            for alias in node.names:
                dotted = ".".join(filter(None, (inside, alias.name)))
                whole = TREE.joinpath(*dotted.split("."))
                found.add(dotted if whole.with_suffix(".py").is_file() else inside)
    return found - {""}


def test_each_room_knows_only_those_below_it() -> None:
    for room, known in MAY_KNOW.items():
        files = sorted((TREE / room).rglob("*.py")) if (TREE / room).is_dir() else [TREE / f"{room}.py"]
        assert files
        for file in files:
            strange = {name.split(".")[0] for name in imports(file)} - known - {room}
            assert not strange, f"{file.relative_to(TREE)} imports {strange}"


def test_every_folder_has_a_rule_and_says_what_it_is_for() -> None:
    folders = {path.parent.name for path in TREE.glob("*/__init__.py")}
    assert folders <= MAY_KNOW.keys()
    for folder in folders:
        said = ast.get_docstring(ast.parse((TREE / folder / "__init__.py").read_text())) or ""
        assert "It knows" in said or "It must not know" in said, folder
        assert "must not know" in said, folder


def test_no_file_imports_itself_through_others() -> None:
    known = {}
    for path in TREE.rglob("*.py"):
        known[".".join(path.relative_to(TREE).with_suffix("").parts)] = imports(path)
    while known:  # take away what needs nothing that is left
        done = {name for name, needs in known.items() if not needs & known.keys()}
        assert done, f"a circle among {sorted(known)}"
        for name in done:
            del known[name]
