"""Which modules of a package import which: for tests of a package's layers."""

from __future__ import annotations

import ast
from pathlib import Path

import hardwood

SOURCES = Path(hardwood.__file__).parent


def imports(path: Path, *, types: bool = True) -> set[str]:
    """The modules of Hardwood that a file imports, wherever in it, dotted and without ``hardwood.``.

    Args:
        types: what is imported for annotations alone (``if TYPE_CHECKING``) counts too.
    """
    found = set()
    tree = ast.parse(path.read_text())
    branches = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    for_types = [node for node in branches if ast.unparse(node.test) == "TYPE_CHECKING"]
    passed_over = set() if types else {inner for node in for_types for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if node in passed_over:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hardwood":
            inside = node.module.removeprefix("hardwood").strip(".")
            for alias in node.names:
                dotted = ".".join(filter(None, (inside, alias.name)))
                found.add(dotted if SOURCES.joinpath(*dotted.split(".")).with_suffix(".py").is_file() else inside)
        elif isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names if alias.name.split(".")[0] == "hardwood"]
            found |= {name.removeprefix("hardwood").strip(".") for name in dotted}
    return found - {""}


def inside(package: str, names: set[str]) -> set[str]:
    """Of dotted names those within ``package``, without its own name."""
    return {name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")}


def strangers(package: str, may_know: dict[str, set[str]], *, types: bool = True) -> dict[str, set[str]]:
    """By file, what it imports from the package beyond what its room may know.

    Args:
        package: dotted, without ``hardwood.``.
        may_know: by room (a module or folder of the package), the rooms that it may import from.
        types: as for `imports`.
    """
    folder, found = SOURCES.joinpath(*package.split(".")), {}
    for room, known in may_know.items():
        files = sorted((folder / room).rglob("*.py")) if (folder / room).is_dir() else [folder / f"{room}.py"]
        assert files
        for file in files:
            rooms = {name.split(".")[0] for name in inside(package, imports(file, types=types))}
            if strange := rooms - known - {room}:
                found[file.relative_to(folder).as_posix()] = strange
    return found


def rooms_of(package: str) -> set[str]:
    """The modules and folders of a package."""
    folder = SOURCES.joinpath(*package.split("."))
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return files | {path.parent.name for path in folder.glob("*/__init__.py")}


def circles(package: str, *, types: bool = True) -> set[str]:
    """The modules of a package that import themselves through others; empty if there are none."""
    folder = SOURCES.joinpath(*package.split("."))
    known = {}
    for path in folder.rglob("*.py"):
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        needs = inside(package, imports(path, types=types)) - {name}
        known[name] = {f"{each}.__init__" if (folder / each.replace(".", "/")).is_dir() else each for each in needs}
    while done := {name for name, needs in known.items() if not needs & known.keys()}:
        for name in done:  # take away what needs nothing that is left
            del known[name]
    return set(known)
