"""Public sets in BEIR's form: a folder, a zip file, or a name on the Hugging Face hub."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from hardwood._hub import why_unreachable
from hardwood.data._dataset import RetrievalDataset
from hardwood.data.files.lines import MOST_EXPANSION, SURELY_TEXT
from hardwood.data.files.qrels import COLUMNS
from hardwood.errors import DataError

OWNER = "BeIR"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TABLES = ("corpus", "queries")
_TEXT_FILES = re.compile(r"(corpus|queries|answers)\.jsonl(\.gz)?|qrels/[^/.][^/]*\.tsv(\.gz)?")
_PART = re.compile(r"-\d+-of-\d+$")  # test-00000-of-00001.parquet


def read_beir(
    source: str | Path,
    *,
    lenient: bool = False,
    unjudged: Literal["error", "ignore"] = "error",
    mapped: bool | None = None,
    cache: str | Path | None = None,
) -> RetrievalDataset:
    """A public set in memory, without the queries that no split judges.

    ``source`` is one of these:

    - a folder as `RetrievalDataset.load` reads it, or one that holds a single such folder
    - a zip file of such a folder, as BEIR's site has them; it is unpacked into a temporary folder
    - a folder NAME in the hub's form, with its qrels in a folder ``NAME-qrels`` beside it: ``corpus.jsonl.gz`` and
      ``queries.jsonl.gz``, or Parquet files in folders ``corpus`` and ``queries``, and a ``SPLIT.tsv`` or Parquet files
      for each split
    - a name on the hub: ``"scifact"`` stands for ``"BeIR/scifact"`` and ``"BeIR/scifact-qrels"``. The files are
      downloaded to the hub's cache once. Ids are read as they stand in the files: ``datasets`` would make 7 of ``007``.

    Args:
        source: folder, zip file or name; what exists on the disk goes before the hub.
        lenient: as for `RetrievalDataset.load`.
        unjudged: as for `RetrievalDataset.load`.
        mapped, cache: as for `RetrievalDataset.load`, where it reads a folder; what is unpacked or downloaded is read
            into memory.

    Raises:
        DataError: for anything wrong with the files, and a name that can't be downloaded.
    """
    with _folder_of(source) as folder:
        try:
            is_temporary = not folder.is_relative_to(source)  # no copy of it would be found again
            mapping: dict[str, Any] = {"mapped": False} if is_temporary else {"mapped": mapped, "cache": cache}
            dataset = RetrievalDataset.load(folder, unjudged=unjudged, lenient=lenient, **mapping)
        except DataError as error:
            if folder == Path(source):
                raise
            raise DataError(str(error).replace(str(folder), str(source))) from error  # the folder will be gone
    used = [judgements.queries for judgements in dataset.splits.values()]
    if dataset.answers is not None:
        used.append(dataset.answers.unjudged())
    return dataset.without_queries(np.setdiff1d(np.arange(len(dataset.queries)), np.concatenate(used)))


def write_beir(
    folder: str | Path,
    source: str | Path,
    *,
    lenient: bool = False,
    unjudged: Literal["error", "ignore"] = "error",
    overwrite: bool = False,
) -> RetrievalDataset:
    """Read a public set as ``read_beir`` does, ``save`` it to a folder, and return it."""
    dataset = read_beir(source, lenient=lenient, unjudged=unjudged)
    dataset.save(folder, overwrite=overwrite)
    return dataset


@contextmanager
def _folder_of(source: str | Path) -> Iterator[Path]:
    """A folder for `RetrievalDataset.load`; a temporary one, if need be, that bears the set's name."""
    path = Path(source)
    if path.is_dir() and (found := _plain_folder(path)) is not None:
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="hardwood-beir-") as temporary:
        folder = Path(temporary) / (path.stem if path.is_file() else path.name)
        (folder / "qrels").mkdir(parents=True)
        if path.is_file():
            _unpack(path, folder)
        elif path.is_dir():
            _assemble(path, path.with_name(f"{path.resolve().name}-qrels"), folder)
        else:
            _assemble(*_download(source), folder)
        yield folder


def _plain_folder(path: Path) -> Path | None:
    """The folder itself or the only one in it with a corpus and qrels; None where there is none."""
    if (path / "qrels").is_dir():
        return path
    found = [folder for folder in sorted(path.iterdir()) if (folder / "qrels").is_dir()]
    if len(found) > 1:
        raise DataError(f"holds several sets ({_listed([folder.name for folder in found])}); give one of them", path)
    return found[0] if found else None


def _unpack(path: Path, folder: Path) -> None:
    """The files of the only set in a zip file, and no others."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = [name for name in archive.namelist() if "__MACOSX" not in name and not name.endswith("/")]
            names = [PurePosixPath(name) for name in files]
            roots = sorted({str(name.parent) for name in names if name.name.removesuffix(".gz") == "corpus.jsonl"})
            if len(roots) != 1:
                found = f"several sets ({_listed(roots)}); unpack it and give one" if roots else "no corpus.jsonl"
                raise DataError(f"the file holds {found}", path)
            members = {
                str(name.relative_to(roots[0])): archive.getinfo(str(name))
                for name in names
                if name.is_relative_to(roots[0])
            }
            members = {name: member for name, member in members.items() if _TEXT_FILES.fullmatch(name)}
            most = max(SURELY_TEXT, MOST_EXPANSION * path.stat().st_size)
            if sum(member.file_size for member in members.values()) > most:
                raise DataError(f"the file unpacks to more than {most:,} bytes, which no text does", path)
            for name, member in members.items():
                with archive.open(member) as packed, (folder / name).open("wb") as plain:
                    shutil.copyfileobj(packed, plain)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"is not a readable zip file: {error}", path) from error


def _assemble(tables: Path, qrels: Path, folder: Path) -> None:
    """Put a set in the hub's form together in BEIR's."""
    for name in _TABLES:
        plain = [path for path in (tables / f"{name}.jsonl", tables / f"{name}.jsonl.gz") if path.is_file()]
        parts = sorted((tables / name).glob("*.parquet"))
        if plain:
            for path in plain:  # two are an error that the reader knows
                (folder / path.name).symlink_to(path.resolve())
        elif parts:
            with (folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as handle:
                handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(parts))
        else:
            raise DataError(f"there is no {name}.jsonl, {name}.jsonl.gz or {name}/*.parquet", tables)
    if not qrels.is_dir():
        raise DataError(f"there is no such folder; {tables.name} has no qrels, so they must be there", qrels)
    for path in sorted([*qrels.glob("*.tsv"), *qrels.glob("*.tsv.gz")]):
        (folder / "qrels" / path.name).symlink_to(path.resolve())
    by_split: dict[str, list[Path]] = {}
    for path in sorted(qrels.rglob("*.parquet")):
        by_split.setdefault(_PART.sub("", path.stem), []).append(path)
    for split, parts in by_split.items():
        with (folder / "qrels" / f"{split}.tsv").open("x", encoding="utf-8", newline="\n") as handle:
            handle.write("\t".join(COLUMNS) + "\n")
            handle.writelines("\t".join(str(row.get(name)) for name in COLUMNS) + "\n" for row in _rows(parts))


def _rows(parts: list[Path]) -> Iterator[dict[str, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = parts[0]
    try:
        for path in parts:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(8192):
                    yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"is not a readable Parquet file: {error}", path) from error


def _download(source: str | Path) -> tuple[Path, Path]:
    """The folders of tables and of qrels in the hub's cache; what is there is not downloaded again.

    Where the hub can't be reached there is only what the cache has, with a warning.
    """
    from huggingface_hub import constants, snapshot_download

    name = str(source)
    if not _HUB_NAME.fullmatch(name) or name.endswith(".zip") or name.startswith("."):
        raise DataError("there is no such folder or file", source)
    repository = name if "/" in name else f"{OWNER}/{name}"
    wanted = {
        repository: [f"{table}{form}" for table in _TABLES for form in (".jsonl", ".jsonl.gz", "/*.parquet")],
        f"{repository}-qrels": ["*.tsv", "*.tsv.gz", "*.parquet"],
    }
    # Asked once; the hub's client would ask for minutes.
    unreachable = None if constants.HF_HUB_OFFLINE else why_unreachable(repository, "dataset")
    options: dict[str, Any] = {"repo_type": "dataset", "local_files_only": unreachable is not None}
    folders = []
    for identifier, patterns in wanted.items():
        try:
            found = snapshot_download(identifier, allow_patterns=patterns, **options)
        except (OSError, ValueError) as error:  # what the hub's library raises is one of these
            reason = unreachable or " ".join(str(error).split())[:300]
            raise DataError(
                f"there is no folder or file {name!r} here, and the set {identifier!r} can't be had from the Hugging "
                f"Face hub: {reason}"
            ) from error
        folders.append(Path(found))
    if unreachable is not None:
        warnings.warn(
            f"the Hugging Face hub can't be reached ({unreachable}): of the set {repository!r} there is only what was "
            "downloaded before, which may be older or incomplete (HF_HUB_OFFLINE=1: use that without asking)",
            stacklevel=4,
        )
    return folders[0], folders[1]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
