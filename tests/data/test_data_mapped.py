"""Large tables are copied once and mapped: the same dataset, without memory of one's own, whatever befalls the copy."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from woods import FILES

from hardwood.data import RetrievalDataset, read_beir, read_dataset
from hardwood.data.files import mapped as mapped_module
from hardwood.data.files.lines import numbered_lines
from hardwood.errors import DataError

MakeFolder = Callable[[dict[str, str | bytes | None]], Path]
Load = Callable[..., RetrievalDataset]

TWINS = "".join(f'{{"_id": "d{i}", "title": "a", "text": "wood {i % 40}"}}\n' for i in range(60))
MANY = {
    "corpus.jsonl": TWINS,
    "queries.jsonl": '{"_id": "d7", "text": "a wood 7"}\n{"_id": "q", "text": "fir"}\n{"_id": "q2", "text": "fir"}\n',
    "qrels/train.tsv": "d7\td50\t1\nq\td3\t2\nq\td4\t0\n",
    "qrels/test.tsv": "q2\td59\t1\n",
}


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(folder: Path, **settings: Any) -> RetrievalDataset:
        return RetrievalDataset.load(folder, **{"mapped": True, "cache": tmp_path / "cache"} | settings)

    return load


def copies(cache: Path, name: str = "corpus.jsonl") -> list[Path]:
    return [folder for folder in (cache / "texts").glob(f"*{name}*") if folder.is_dir()]


def content(dataset: RetrievalDataset) -> dict[str, Any]:
    """All that a dataset says."""
    tables = {"corpus": dataset.corpus, "queries": dataset.queries}
    rows = np.array([len(dataset.corpus) - 1, 0, 1, 0])
    lists = {
        "known": dataset.known_positives(),
        "never": dataset.never_negatives(*dataset.splits),
        "id": dataset.own_documents("id"),
        "text": dataset.own_documents("text"),
        **{f"positives of {name}": split.positives for name, split in dataset.splits.items()},
    }
    return {
        **{f"{name} ids": table.ids() for name, table in tables.items()},
        **{f"{name} fields": table.fields() for name, table in tables.items()},
        **{f"{name} hash": table.fingerprint() for name, table in tables.items()},
        **{name: [row.tolist() for row in ragged] for name, ragged in lists.items()},
        **{f"grades of {name}": split.grades.tolist() for name, split in dataset.splits.items()},
        "some": (dataset.corpus.texts(rows), dataset.corpus.ids(rows), list(dataset.corpus.iter_texts(7))),
        "same": [rows.tolist() for rows in dataset.same_text],
        "pairs": dataset.training_pairs()[:],
        "left out": dataset.left_out,
    }


def reads_nothing(*_: object, **__: object) -> None:
    raise AssertionError("the source is read again")


@pytest.mark.parametrize("files", [FILES, MANY], ids=["woods", "twins"])
def test_a_mapped_dataset_is_the_one_in_memory(
    files: dict[str, str], load: Load, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_module, "_CHUNK_BYTES", 1)
    monkeypatch.setattr("hardwood.data.files.beir_lines.BATCH_ROWS", 7)  # chunks of 7 rows
    folder = make_folder({**files})
    expected = content(load(folder, mapped=False))
    assert content(load(folder)) == expected
    monkeypatch.setattr(mapped_module, "read_table", reads_nothing)
    assert content(load(folder)) == expected


def test_gzipped_files_and_links_to_files_of_other_names(load: Load, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({"corpus.jsonl": None})
    (tmp_path / "blob").write_bytes(gzip.compress(FILES["corpus.jsonl"].encode()))
    (folder / "corpus.jsonl.gz").symlink_to(tmp_path / "blob")
    assert content(load(folder)) == content(load(folder, mapped=False))


def test_texts_take_no_memory(load: Load, make_folder: MakeFolder) -> None:
    corpus = "".join(f'{{"_id": "w{i}", "text": "{"word " * 200}{i}"}}\n' for i in range(5000))
    folder = make_folder({"corpus.jsonl": FILES["corpus.jsonl"] + corpus})
    load(folder)
    before = pa.total_allocated_bytes()
    dataset = load(folder)
    assert dataset.corpus.nbytes > 5_000_000
    assert pa.total_allocated_bytes() - before < 100_000


def test_large_files_are_mapped_and_small_ones_are_not(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = make_folder({**MANY}), tmp_path / "named"
    monkeypatch.setenv("HARDWOOD_CACHE", str(cache))
    monkeypatch.setattr(mapped_module, "LARGE", len(TWINS) + 1)
    expected = content(RetrievalDataset.load(folder))
    assert not cache.exists()
    monkeypatch.setattr(mapped_module, "LARGE", len(TWINS))
    assert content(read_dataset(folder)) == expected
    assert len(copies(cache)) == 1
    assert not copies(cache, "queries.jsonl")
    monkeypatch.setattr(mapped_module, "read_table", lambda path, *rest, **more: reads_nothing())
    with pytest.raises(AssertionError):
        RetrievalDataset.load(folder, mapped=False)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HARDWOOD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mapped_module.cache_folder() == tmp_path / ".cache" / "hardwood"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert mapped_module.cache_folder() == tmp_path / "xdg" / "hardwood"
    monkeypatch.setenv("HARDWOOD_CACHE", str(tmp_path / "ours"))
    assert mapped_module.cache_folder() == tmp_path / "ours"
    assert mapped_module.cache_folder("given") == Path("given")


def test_a_stale_copy_is_made_anew(load: Load, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({})
    source = folder / "corpus.jsonl"
    load(folder)
    times = source.stat()
    source.write_text(FILES["corpus.jsonl"].replace("balsa", "birch"))  # of the same length, and by its times unchanged
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load(folder).corpus.texts()[2] == "birch"
    assert len(copies(tmp_path / "cache")) == 1  # in the place of the old one


def _flip(copy: Path) -> None:
    table = bytearray((copy / "table.arrow").read_bytes())
    at = table.index(b"balsa")
    table[at] ^= 1
    (copy / "table.arrow").write_bytes(table)


def _cut(copy: Path) -> None:
    os.truncate(copy / "table.arrow", 200)


def _of_another_version(copy: Path) -> None:
    about = json.loads((copy / "about.json").read_text())
    (copy / "about.json").write_text(json.dumps({**about, "version": "0.0"}))


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        _cut,
        _of_another_version,
        lambda copy: (copy / "table.arrow").unlink(),
        lambda copy: (copy / "about.json").unlink(),
        lambda copy: (copy / "about.json").write_text("[1]"),
        lambda copy: (copy / "about.json").write_bytes(b"\xff{"),
    ],
    ids=["flipped", "cut", "version", "no table", "no description", "no object", "no text"],
)
def test_a_damaged_copy_is_made_anew(
    damage: Callable[[Path], None], load: Load, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder({})
    expected = content(load(folder))
    (copy,) = copies(tmp_path / "cache")
    damage(copy)
    assert content(load(folder)) == expected
    monkeypatch.setattr(mapped_module, "read_table", reads_nothing)
    assert content(load(folder)) == expected


def test_broken_data_is_refused_as_ever_and_leaves_no_copy(load: Load, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({"corpus.jsonl": FILES["corpus.jsonl"] + '{"_id": "d1", "text": "again"}\n'})
    with pytest.raises(DataError, match=r"corpus\.jsonl:4: the _id 'd1' is already on line 1"):
        load(folder)
    assert not copies(tmp_path / "cache")


def test_strict_and_lenient_copies_are_two(load: Load, make_folder: MakeFolder) -> None:
    folder = make_folder({"corpus.jsonl": FILES["corpus.jsonl"] + '{"_id": "d4", "text": " "}\n'})
    expected = content(load(folder, mapped=False, lenient=True))
    assert expected["left out"] == {"targets without text": 1}
    for _ in range(2):
        assert content(load(folder, lenient=True)) == expected
        with pytest.raises(DataError, match="'d4' has an empty text"):
            load(folder)


def test_a_file_that_changes_while_it_is_read_is_refused(
    load: Load, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder({})
    read = mapped_module.read_table

    def read_and_change(path: Path, *rest: Any) -> Any:
        table = read(path, *rest)
        path.write_bytes(path.read_bytes())
        return table

    monkeypatch.setattr(mapped_module, "read_table", read_and_change)
    with pytest.raises(DataError, match="the file changed while it was read"):
        load(folder)
    assert not copies(tmp_path / "cache")


def test_without_a_place_for_the_copy_texts_are_read_into_memory(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, taken = make_folder({}), tmp_path / "taken"
    taken.write_text("a file")
    monkeypatch.setattr(mapped_module, "LARGE", 1)
    with pytest.warns(RuntimeWarning, match=r"read into memory.*HARDWOOD_CACHE"):
        dataset = RetrievalDataset.load(folder, cache=taken)
    assert content(dataset) == content(RetrievalDataset.load(folder, mapped=False))
    with pytest.raises(OSError, match="taken"):
        RetrievalDataset.load(folder, mapped=True, cache=taken)


def test_a_full_disk_leaves_nothing_half_written(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped_module, "LARGE", 1)
    monkeypatch.setattr(mapped_module._Writer, "_keep", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        dataset = RetrievalDataset.load(make_folder({}), cache=tmp_path / "cache")
    assert len(dataset.corpus) == 3
    assert [path for path in (tmp_path / "cache" / "texts").iterdir() if path.suffix != ".lock"] == []


def test_what_is_unpacked_for_a_moment_is_not_copied(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder({})
    monkeypatch.setattr(mapped_module, "LARGE", 1)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, folder.name)
    assert len(read_beir(packed, cache=tmp_path / "cache").corpus) == 3
    assert not (tmp_path / "cache").exists()
    assert len(read_beir(folder, cache=tmp_path / "cache").corpus) == 3
    assert copies(tmp_path / "cache")


_LOADS = textwrap.dedent(
    """
    import os, sys, time
    from hardwood.data import RetrievalDataset
    from hardwood.data.files import mapped as mapped_module
    read, made = mapped_module.read_table, []
    def slow(path, *rest):
        made.append(path.name)
        if sys.argv[3] == "dies":
            rest[-2].add(["x"], [""], ["x"])
            os._exit(9)
        time.sleep(0.5)
        return read(path, *rest)
    mapped_module.read_table = slow
    print("ready", flush=True)
    sys.stdin.readline()
    data = RetrievalDataset.load(sys.argv[1], mapped=True, cache=sys.argv[2])
    print(data.corpus.fingerprint(), *made)
    """
)


def _start(folder: Path, cache: Path, what: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _LOADS, str(folder), str(cache), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.skipif(os.name != "posix", reason="locks are of POSIX")
def test_processes_that_load_at_once_make_one_copy(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({})
    processes = [_start(folder, tmp_path / "cache", "lives") for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].split() for process in processes]
    assert {fingerprint for fingerprint, *_ in said} == {RetrievalDataset.load(folder).corpus.fingerprint()}
    assert sorted(name for _, *made in said for name in made) == ["corpus.jsonl", "queries.jsonl"]


def test_a_process_that_dies_at_it_leaves_nothing_that_counts(
    load: Load, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder({})
    process = _start(folder, tmp_path / "cache", "dies")
    process.communicate("\n")
    assert process.returncode == 9
    assert len(list((tmp_path / "cache" / "texts").glob(".*.tmp"))) == 1
    assert content(load(folder)) == content(load(folder, mapped=False))
    assert not list((tmp_path / "cache" / "texts").glob(".*.tmp"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_how_far_the_reader_has_come(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardwood.data.files.lines._LINES_A_REPORT", 10)
    path = tmp_path / ("lines.gz" if pack is gzip.compress else "lines")
    path.write_bytes(pack(b"".join(os.urandom(3000).hex().encode() + b"\n" for _ in range(200))))
    steps: list[int] = []
    assert len(list(numbered_lines(path, steps.append))) == 200
    assert len(steps) == 20
    assert sum(steps) == pytest.approx(path.stat().st_size, rel=0.1)
    assert min(steps) >= 0
    assert max(steps) < path.stat().st_size / 5
