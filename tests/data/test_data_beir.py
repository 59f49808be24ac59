"""Public sets: folders, zip files, the hub's form, and a hub that can't be reached."""

from __future__ import annotations

import gzip
import json
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner
from woods import FILES

from hardwood import DataError
from hardwood.cli.app import app
from hardwood.data import RetrievalDataset, read_beir, write_beir

MakeFolder = Callable[[dict[str, str | bytes | None]], Path]


def check_woods(dataset: RetrievalDataset) -> None:
    assert dataset.corpus.ids() == ["d1", "2", "d3"]
    assert dataset.corpus.texts() == ["Oak a hardwood", "a softwood", "balsa"]
    assert dataset.queries.texts() == ["hard?", "soft?", "light?"]
    assert [row.tolist() for row in dataset.split("train").positives] == [[1], [0, 2]]
    assert [row.tolist() for row in dataset.split("test").positives] == [[2]]
    assert dataset.name == "woods"


def zipped(path: Path, files: dict[str, str], inside: str = "woods/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(inside + name, content)
    return path


def hub_form(folder: Path, form: str) -> Path:
    """``folder/woods`` and ``folder/woods-qrels`` as the hub has them."""
    tables, qrels = folder / "woods", folder / "woods-qrels"
    for path in (tables / "corpus", tables / "queries", qrels / "data"):
        path.mkdir(parents=True)
    for name in ("corpus", "queries"):
        if form == "jsonl":
            (tables / f"{name}.jsonl.gz").write_bytes(gzip.compress(FILES[f"{name}.jsonl"].encode()))
        else:
            rows = [json.loads(line) for line in FILES[f"{name}.jsonl"].splitlines()]
            rows = [{"_id": str(row["_id"]), "title": row.get("title", ""), "text": row["text"]} for row in rows]
            for part, some in enumerate((rows[:2], rows[2:])):
                pq.write_table(pa.Table.from_pylist(some), tables / name / f"{name}-{part:05d}-of-00002.parquet")
    for split in ("train", "test"):
        content = FILES[f"qrels/{split}.tsv"]
        if form == "jsonl":
            (qrels / f"{split}.tsv").write_text(content)
        else:
            header, *lines = (line.split("\t") for line in content.splitlines())
            rows = [{**dict(zip(header, line, strict=True)), "score": int(line[2])} for line in lines]
            pq.write_table(pa.Table.from_pylist(rows), qrels / "data" / f"{split}-00000-of-00001.parquet")
    return tables


def test_folders(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({})
    check_woods(read_beir(folder))
    outside = tmp_path / "outside"
    outside.mkdir()
    folder.rename(outside / "woods")  # as zip files of BEIR's site unpack
    check_woods(read_beir(outside))
    (outside / "metal" / "qrels").mkdir(parents=True)
    with pytest.raises(DataError, match=r"several sets \(metal, woods\)"):
        read_beir(outside)


@pytest.mark.parametrize("inside", ["woods/", "", "data/woods/"])
def test_zip_files(tmp_path: Path, inside: str) -> None:
    path = zipped(tmp_path / "woods.zip", {**FILES, "../evil.txt": "x", "readme.txt": "x"}, inside)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/woods/corpus.jsonl", "junk")
    check_woods(read_beir(path))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["woods.zip"]


def test_broken_zip_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK no zip file")
    with pytest.raises(DataError, match="not a readable zip file"):
        read_beir(broken)
    with pytest.raises(DataError, match=r"holds no corpus\.jsonl"):
        read_beir(zipped(tmp_path / "other.zip", {"readme.txt": "x"}))
    two = zipped(tmp_path / "two.zip", {f"{name}/{file}": text for name in "ab" for file, text in FILES.items()}, "")
    with pytest.raises(DataError, match=r"several sets \(a, b\)"):
        read_beir(two)
    line = '{"_id": "d4", "text": ""}\n'
    bad = zipped(tmp_path / "bad.zip", {**FILES, "corpus.jsonl": FILES["corpus.jsonl"] + line})
    with pytest.raises(DataError, match=r"bad\.zip/corpus\.jsonl:4: 'd4' has an empty text") as caught:
        read_beir(bad)
    assert "hardwood-beir" not in str(caught.value)
    monkeypatch.setattr("hardwood.data.beir.SURELY_TEXT", 10)
    monkeypatch.setattr("hardwood.data.beir.MOST_EXPANSION", 0)
    with pytest.raises(DataError, match="unpacks to more than"):
        read_beir(zipped(tmp_path / "bomb.zip", FILES))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_folders_in_the_hubs_form(tmp_path: Path, form: str) -> None:
    check_woods(read_beir(hub_form(tmp_path, form)))


def test_incomplete_folders_in_the_hubs_form(tmp_path: Path) -> None:
    tables = hub_form(tmp_path, "jsonl")
    (tables / "queries.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"there is no queries\.jsonl, queries\.jsonl\.gz or queries/\*\.parquet"):
        read_beir(tables)
    (tables / "queries" / "queries-00000-of-00001.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_beir(tables)
    alone = hub_form(tmp_path / "alone", "jsonl")
    alone.with_name("woods-qrels").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"woods-qrels: there is no such folder"):
        read_beir(alone)


@pytest.mark.parametrize(("name", "repository"), [("woods", "BeIR/woods"), ("somebody/woods", "somebody/woods")])
def test_a_name_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, repository: str) -> None:
    tables = hub_form(tmp_path / "hub", "jsonl")
    asked = []

    def snapshot_download(repo_id: str, *, repo_type: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((repo_id, repo_type, local_files_only))
        return str(tables.with_name(repo_id.split("/")[1]))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    check_woods(read_beir(name))
    assert asked == [(repository, "dataset", False), (f"{repository}-qrels", "dataset", False)]

    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    asked.clear()
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", fail)
    with pytest.warns(UserWarning, match="can't be reached .no network.: of the set .* what was downloaded before"):
        check_woods(read_beir(name))
    assert asked == [(repository, "dataset", True), (f"{repository}-qrels", "dataset", True)]


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own library finds nobody to talk to, and nothing in its cache."""

    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"no folder or file 'nowhere' here, and the set 'BeIR/nowhere' can't be had"):
        read_beir("nowhere")


@pytest.mark.parametrize("source", ["no/such/folder", "./nowhere", "nowhere.zip", "/nowhere"])
def test_paths_are_no_names(source: str) -> None:
    with pytest.raises(DataError, match="there is no such folder or file"):
        read_beir(source)


def test_the_command(make_folder: MakeFolder, tmp_path: Path) -> None:
    queries = FILES["queries.jsonl"] + '{"_id": "unjudged", "text": "x"}\n'
    folder = make_folder({"queries.jsonl": queries, "qrels/test.tsv": FILES["qrels/test.tsv"] + "3\tgone\t1\n"})
    output = tmp_path / "output"
    strict = CliRunner().invoke(app, ["data", "beir", str(folder), "--output", str(output)])
    assert strict.exit_code == 2
    assert "--lenient" in strict.output
    assert not output.exists()
    lenient = CliRunner().invoke(app, ["data", "beir", str(folder), "--output", str(output), "--lenient"])
    assert lenient.exit_code == 0, lenient.output
    assert "missing positives, which count as not found: 1; queries without a judgement: 1" in lenient.output
    assert "1 missing positives stay in its qrels: read it with --lenient" in lenient.output
    again = RetrievalDataset.load(output, lenient=True)
    assert again.queries.ids() == ["q1", "q2", "3"]
    assert again.left_out == {"missing positives, which count as not found": 1}


def test_queries_that_are_judged_stay(make_folder: MakeFolder, tmp_path: Path) -> None:
    dataset = write_beir(tmp_path / "copy", make_folder({}))
    with pytest.raises(ValueError, match="'train' judges some of these"):
        dataset.without_queries([0])  # type: ignore[arg-type]
