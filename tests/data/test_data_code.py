"""Functions and their docstrings: what is read of a file, what becomes of it, and what the splits promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardwood import DataError
from hardwood.data import RetrievalDataset, read_code
from hardwood.data.converters.code import _build, _installed, _key
from hardwood.data.converters.functions import Function, first_sentence, read_functions

SOURCE = '''
raise SystemExit("a file is parsed, never run")

@decorated("Add up all the numbers")
def total(numbers):
    """Add up all the numbers given. The empty sum is 0.

    Args:
        numbers: to add.
    """
    # ä comment, whose bytes are more than its characters
    def inner():
        """An inner docstring."""
        return sum(numbers)
    class Helper: "One more docstring."; wide = "ä"
    return inner()

class Shelf:
    """A class's docstring is nobody's query."""

    def put(self, box): """Put a box on the shelf"""; self.boxes.append(box)

    async def take(self):
        return self.boxes.pop()

    class Board:
        def length(self):
            r\'\'\'Measure the board
            in metres\'\'\'
            return 3

    def later(self):
        """Not done yet."""
        raise NotImplementedError("later")

    def nothing(self):
        """Do nothing at all."""

if True:
    try:
        def within(a=1): return a
    except ImportError:
        def within(): return 2
'''


def read(tmp_path: Path, source: str | bytes) -> list[Function]:
    path = tmp_path / "module.py"
    path.write_bytes(source.encode() if isinstance(source, str) else source)
    return list(read_functions(path))


def test_functions_of_a_file(tmp_path: Path) -> None:
    assert read(tmp_path, SOURCE) == [
        Function(
            "total",
            "def total(numbers):\n    # ä comment, whose bytes are more than its characters\n    def inner():\n"
            '        return sum(numbers)\n    class Helper: wide = "ä"\n    return inner()',
            "Add up all the numbers given",
        ),
        Function("Shelf.put", "def put(self, box): self.boxes.append(box)", "Put a box on the shelf"),
        Function("Shelf.take", "async def take(self):\n    return self.boxes.pop()", ""),
        Function("Shelf.Board.length", "def length(self):\n    return 3", "Measure the board in metres"),
        Function("within", "def within(a=1): return a", ""),
        Function("within", "def within(): return 2", ""),
    ]


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_line_ends_make_no_difference(tmp_path: Path, line_end: str) -> None:
    plain = read(tmp_path, SOURCE)
    assert read(tmp_path, b"\xef\xbb\xbf" + SOURCE.replace("\n", line_end).encode()) == plain


def test_declared_encodings_are_heeded(tmp_path: Path) -> None:
    source = "# -*- coding: latin-1 -*-\ndef f():\n    '''Say ä to them all.'''\n    return 'ö'\n"
    assert read(tmp_path, source.encode("latin-1")) == [Function("f", "def f():\n    return 'ö'", "Say ä to them all")]


@pytest.mark.parametrize("source", ["def f(:", b"\xff\xfe", b"def f(): return '\x00'", "print 'old'", ""])
def test_what_is_no_python_has_no_functions(tmp_path: Path, source: str | bytes) -> None:
    assert read(tmp_path, source) == []


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Read a file. Then close it.", "Read a file"),
        ("Read a file, e.g. a text\nor image, and close it.", "Read a file, e.g. a text or image, and close it"),
        ("Read version 1.5 of a file", "Read version 1.5 of a file"),
        ("Read a file:\n    - quickly", "Read a file"),
        ("Read a file\nArgs:\n    path: where", "Read a file"),
        ("Read a file\n:param path: where", "Read a file"),
        ("``read`` reads", "``read`` reads"),
        ("read(path) -> str\n\nRead a file.", ""),
        (">>> read(1)", ""),
        ("Parameters\n----------\npath", ""),
        ("path (`str`): where", ""),
        ("Returns: a file", ""),
        ("", ""),
    ],
)
def test_first_sentence(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence


def package(root: Path, name: str, *functions: str) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("\n".join(functions))


def documented(name: str, sentence: str, body: str | None = None) -> str:
    return f'def {name}(x):\n    """{sentence}"""\n    return {body or name}.of(x)\n'


def build(
    root: Path, pairs: int = 100, undocumented: float = 0.5, seed: int = 0, unseen: float = 0.0
) -> RetrievalDataset:
    return _build(_installed([root]), seed, pairs, undocumented, 0.0, 0.0, unseen)


def asked(dataset: RetrievalDataset) -> dict[str, list[str]]:
    return {
        dataset.queries.texts([query])[0]: dataset.corpus.ids(targets)
        for split in dataset.splits.values()
        for query, targets in zip(split.queries, split.positives, strict=True)
    }


def test_what_is_asked_for(tmp_path: Path) -> None:
    package(
        tmp_path,
        "wood",
        documented("saw", "Saw a long board."),
        documented("saw_again", "saw a long BOARD"),
        documented("say", "Say what it does.", "say('say, what: it does')"),
        documented("say", "Say what it does here.\n# say what it\n", "do\n    # Say what it does\n    # here\n    x"),
        documented("few", "Too few words."),
        documented("shared", "Shared by two packages."),
        *(documented(f"often{number}", "Said of very many.") for number in range(6)),
        "def quiet(x):\n    return x\n",
        documented("copied", "A copied function, once.", "copied"),
    )
    package(
        tmp_path,
        "metal",
        documented("other", "Shared by two packages."),
        documented("copied", "Another copied function now.", "copied"),
    )
    package(tmp_path, "tests", documented("test", "Only here for tests."))
    package(tmp_path / "metal", "_vendor", documented("vendored", "A copy of another."))
    dataset = build(tmp_path)
    assert asked(dataset) == {"Saw a long board": ["wood:saw", "wood:saw_again"]}
    assert sorted(dataset.corpus.ids()) == ["wood:quiet", "wood:saw", "wood:saw_again"]


def test_equal_functions_are_one_target(tmp_path: Path) -> None:
    first = 'class A:\n    def cut(self):\n        """Cut it in two pieces."""\n\n        return 2\n'
    package(tmp_path, "wood", first, "class B:\n    def cut(self):\n        return 2\n")
    dataset = build(tmp_path)
    assert asked(dataset) == {"Cut it in two pieces": ["wood:A.cut"]}
    assert dataset.corpus.texts() == ["def cut(self):\n    return 2"]


def test_long_functions_are_cut(tmp_path: Path) -> None:
    package(tmp_path, "wood", documented("long", "A function that goes on.", "'" + "x" * 5000 + "'"))
    (text,) = build(tmp_path).corpus.texts()
    assert len(text) == 1000


def forest(root: Path) -> None:
    for number in range(12):
        functions = [documented(f"f{number}_{i}", f"Do thing {i} of package {number}.") for i in range(10)]
        quiet = [f"def quiet{number}_{i}(x):\n    return x + {i}\n" for i in range(30)]
        package(root, f"package{number:02d}", *functions, *quiet)


def test_whole_packages_are_unseen(tmp_path: Path) -> None:
    forest(tmp_path)
    drawn = set()
    for seed in range(5):
        dataset = _build(_installed([tmp_path]), seed, 120, 0.5, 0.1, 0.1, 0.2)
        packages = {
            name: {identifier.split(":")[0] for identifier in dataset.corpus.ids(split.positives.values)}
            for name, split in dataset.splits.items()
        }
        assert list(packages) == ["train", "dev", "test", "test_unseen"]
        assert len(packages["test_unseen"]) == 2
        assert not packages["test_unseen"] & (packages["train"] | packages["dev"] | packages["test"])
        drawn.add(frozenset(packages["test_unseen"]))
    assert len(drawn) > 1


def test_sizes(tmp_path: Path) -> None:
    forest(tmp_path)
    dataset = build(tmp_path, pairs=60, undocumented=0.75)
    assert len(dataset.corpus) == 240
    assert len(dataset.split("train")) == 60
    by_package = [sum(name.startswith(f"package{i:02d}:f") for name in dataset.corpus.ids()) for i in range(12)]
    assert max(by_package) == 6  # a tenth
    assert len(build(tmp_path, pairs=1000).split("train")) == 120  # all there are


def test_texts_do_not_depend_on_the_seed(tmp_path: Path) -> None:
    forest(tmp_path)
    one, again, other = (build(tmp_path, 60, seed=seed, unseen=0.2) for seed in (0, 0, 1))
    for dataset in (again, other):
        assert dataset.corpus.fields() == one.corpus.fields()
        assert dataset.queries.fields() == one.queries.fields()
    assert again.split("train").queries.tolist() == one.split("train").queries.tolist()
    assert other.split("train").queries.tolist() != one.split("train").queries.tolist()


def test_errors(tmp_path: Path) -> None:
    package(tmp_path, "wood", "def quiet(x):\n    return x\n")
    with pytest.raises(DataError, match="no installed function has a docstring"):
        build(tmp_path)
    with pytest.raises(ValueError, match="pairs must be at least 1, got 0"):
        read_code(pairs=0)
    with pytest.raises(ValueError, match="at least 0 and below 1, got 1"):
        read_code(undocumented=1)


@pytest.mark.slow
def test_of_this_environment() -> None:
    dataset = read_code()
    queries, targets = dataset.split("train").pairs()
    assert len(dataset.corpus) > 2000
    texts = dataset.corpus.texts()
    assert max(map(len, texts)) <= 1000
    assert len(set(texts)) == len(texts)

    def words(text: str) -> str:  # whole words: "a name" does not stand in "a named"
        return f" {_key(text)} "

    assert not any(
        words(query) in words(texts[target])
        for query, target in zip(dataset.queries.texts(queries), targets, strict=True)
    )
