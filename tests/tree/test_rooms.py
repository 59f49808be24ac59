"""The tree's folders depend on each other in one direction: what each may know is what its `__init__` says."""

from __future__ import annotations

import ast
from pathlib import Path

import hardwood.tree

from ..rooms import circles, strangers

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


def test_each_room_knows_only_those_below_it() -> None:
    assert not strangers("tree", MAY_KNOW)


def test_every_folder_has_a_rule_and_says_what_it_is_for() -> None:
    folders = {path.parent.name for path in TREE.glob("*/__init__.py")}
    assert folders <= MAY_KNOW.keys()
    for folder in folders:
        said = ast.get_docstring(ast.parse((TREE / folder / "__init__.py").read_text())) or ""
        assert "It knows" in said or "It must not know" in said, folder
        assert "must not know" in said, folder


def test_no_file_imports_itself_through_others() -> None:
    assert not circles("tree")
