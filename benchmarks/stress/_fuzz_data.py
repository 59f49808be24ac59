"""Targets of `benchmarks.stress.fuzz`: datasets, pairs, run files, metrics."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks.stress._fuzz_target import OTHER, SAME, Fault, Random, Target
from benchmarks.stress._mutations import TOKENS, bytes_mutated, json_mutated


class Dataset(Target):
    """BEIR folders: lines, fields, ids and scores broken, files lost, doubled, gzipped, cut."""

    def make(self) -> None:
        for name, count in (("corpus", 12), ("queries", 8)):
            rows = [{"_id": f"{name[0]}{i}", "title": "t" * (i % 2), "text": f"text {i} é"} for i in range(count)]
            (self.good / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (self.good / "qrels").mkdir(exist_ok=True)
        for split, queries in (("train", range(5)), ("test", range(5, 8))):
            lines = "".join(f"q{i}\tc{j}\t{1 + j % 2}\n" for i in queries for j in (i, i + 4))
            (self.good / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)

    def damage(self, rng: Random) -> None:
        kind, files = rng.integers(0, 12), sorted(path for path in self.bad.rglob("*") if path.is_file())
        path = files[rng.integers(0, len(files))]
        lines = path.read_text().splitlines(keepends=True)
        at = int(rng.integers(0, len(lines)))
        if kind < 4:
            super().damage(rng)
        elif kind < 7 and path.suffix == ".jsonl":
            lines[at] = (
                json_mutated(rng, json.loads(lines[at])).decode("utf-8", "surrogatepass").replace("\n", " ") + "\n"
            )
            path.write_bytes("".join(lines).encode("utf-8", "surrogatepass"))
        elif kind < 9 and path.suffix == ".tsv":
            fields = lines[at].rstrip("\n").split("\t")
            fields[rng.integers(0, 3)] = TOKENS[rng.integers(0, len(TOKENS))].decode("latin-1")
            lines[at] = "\t".join(fields) + "\n"
            path.write_text("".join(lines))
        elif kind == 9:
            packed = gzip.compress(path.read_bytes())
            (path.parent / (path.name + ".gz")).write_bytes(
                packed if rng.random() < 0.3 else bytes_mutated(rng, packed)
            )
            path.unlink()
        elif kind == 10:
            shutil.copy(
                path, files[rng.integers(0, len(files))].with_suffix(str(rng.choice([".tsv", ".jsonl", ".x", ""])))
            )
        else:
            path.unlink()
            if rng.random() < 0.5:
                os.symlink(str(rng.choice(["/nowhere", ".", str(files[0])])), path)

    def read(self) -> str:
        from hardwood.data import RetrievalDataset

        data = RetrievalDataset.load(self.bad)
        self._compare(data)
        return OTHER

    def _compare(self, data: Any) -> None:
        """With a reading that knows nothing of Arrow, chunks or batches."""
        tables = {}
        for name, table in (("corpus", data.corpus), ("queries", data.queries)):
            rows = [json.loads(line) for line in self._lines(self.bad / f"{name}.jsonl")]
            titles = [(row.get("title") or "") if name == "corpus" else "" for row in rows]
            expected = [(str(r["_id"]), title, r["text"]) for r, title in zip(rows, titles, strict=True)]
            got = [(row["id"], row["title"], row["text"]) for row in table.fields()]
            if got != expected or len({row[0] for row in got}) < len(got):
                raise Fault(f"{name} was read otherwise than json does")
            tables[name] = [row[0] for row in got]
        for split, judged in data.splits.items():
            lines = [line.split("\t") for line in self._lines(self.bad / "qrels" / f"{split}.tsv")]
            if not lines[0][2].strip().lstrip("+-").replace(".", "", 1).isdecimal():
                lines = lines[1:]
            expected = {(query, target) for query, target, score in lines if float(score) > 0}
            queries, targets = judged.pairs()
            got = {(tables["queries"][q], tables["corpus"][t]) for q, t in zip(queries, targets, strict=True)}
            if got != expected:
                raise Fault(f"{split} was read otherwise than by a split at tabs")

    @staticmethod
    def _lines(path: Path) -> list[str]:
        packed = path.with_name(path.name + ".gz")
        content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
        lines = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8").split("\n")
        return [line.removesuffix("\r") for line in lines if line.strip()]


class Pairs(Target):
    """Pairs of Hugging Face `datasets`, from JSON lines, CSV and Parquet files that are broken or of other types."""

    names_file = False  # it is given objects, not files

    def make(self) -> None:
        (self.good / "pairs.json").write_text(json.dumps({"anchor": ["a", "b", "a"], "positive": ["x", "y", "z"]}))

    def damage(self, rng: Random) -> None:
        import pyarrow as pa

        some = ["a", "b", "", " ", "\0", "é", None, 1, 2.5, True, ["a"], {"a": 1}, b"\xff", "a" * 10_000, "\u2028"]
        columns = {}
        for name in rng.choice(["anchor", "positive", "other"], rng.integers(1, 4), replace=False):
            values = [some[i] for i in rng.integers(0, rng.choice([2, 6, len(some)]), rng.integers(0, 6))]
            columns[str(name)] = values
        size = min((len(v) for v in columns.values()), default=0)
        kind = rng.choice(["plain", "large", "view", "dictionary", "binary"])
        types = {"large": pa.large_string(), "view": getattr(pa, "string_view", pa.string)(), "binary": pa.binary(),
                 "dictionary": pa.dictionary(pa.int32(), pa.string())}  # fmt: skip
        try:
            arrays = {name: pa.array(values[:size], types.get(str(kind))) for name, values in columns.items()}
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            arrays = {name: pa.array(["a"] * size) for name in columns}
        self._table = pa.table(arrays)

    def read(self) -> str:
        import datasets

        from hardwood.data import RetrievalDataset

        try:
            rows = datasets.Dataset(self._table)
        except Exception as error:  # datasets' own refusal, before we see it
            raise ValueError(f"datasets: {error}") from None
        data = RetrievalDataset.from_pairs(rows.remove_columns([n for n in rows.column_names if n == "other"]))
        pairs = list(zip(*(self._table.column(name).to_pylist() for name in ("anchor", "positive")), strict=True))
        queries, targets = data.split("train").pairs()
        got = set(zip(data.queries.texts(queries), data.corpus.texts(targets), strict=True))
        if got != {(a.strip(), b.strip()) for a, b in pairs}:
            raise Fault("other pairs than the table has")
        return OTHER


class RunFile(Target):
    """``run.yaml``: YAML broken, settings of other types, aliases, tags, keys that stand twice."""

    def make(self) -> None:
        from hardwood.training import RunConfig

        options = {"probes": 8, "write_back": False}
        config = RunConfig(data="d", output="o", negatives="dynamic", negatives_options=options,
                           report_to=["tensorboard"], evaluation_splits=["dev"], margin=0.1)  # fmt: skip
        config.save(self.good / "run.yaml")

    def damage(self, rng: Random) -> None:
        import yaml

        path = self.bad / "run.yaml"
        settings = yaml.safe_load(path.read_text())
        kind = rng.integers(0, 5)
        if kind < 2:
            super().damage(rng)
        elif kind < 4:
            path.write_bytes(json_mutated(rng, settings))
        else:
            depth, width = int(rng.integers(2, 12)), int(rng.integers(2, 12))
            lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
            key = str(rng.choice(["data", "report_to", "negatives_options", "x", "<<"]))
            path.write_text("\n".join([*lines, f"{key}: *a{depth - 1}"]) + "\n")

    def read(self) -> str:
        from hardwood.training import RunConfig

        path = self.bad / "run.yaml"
        config = RunConfig.load(path)
        again = self.bad / "again.yaml"
        config.save(again)
        if RunConfig.load(again) != config:
            raise Fault("what was read is not what is written")
        return SAME if config == RunConfig.load(self.good / "run.yaml") else OTHER


class Metrics(Target):
    """``metrics.json`` of a finished run, as a comparison takes it up."""

    def make(self) -> None:
        measures = {"mrr@10": 0.5, "recall@10": 0.6}
        (self.good / "metrics.json").write_text(
            json.dumps({"test": measures, "training": {"steps": 5, "seconds": 1.0}})
        )

    def damage(self, rng: Random) -> None:
        path = self.bad / "metrics.json"
        if rng.random() < 0.5:
            super().damage(rng)
        else:
            path.write_bytes(json_mutated(rng, json.loads(path.read_text())))

    def read(self) -> str:
        from hardwood._json import read_object

        value = read_object(self.bad / "metrics.json")
        if json.loads((self.bad / "metrics.json").read_bytes()) != value and "NaN" not in repr(value):
            raise Fault("it was read otherwise than json does")
        return OTHER
