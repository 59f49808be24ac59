"""What is fuzzed: for each reader, good files, ways to break them, and what may come of it.

A target *breaks* its folder (same seed and number, same damage) and then *reads* it: it returns what came of it, or
raises. A ``ValueError``, ``OSError`` or ``KeyError`` is a refusal; a `Fault` says that something wrong was accepted; any
other exception is a fault too.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tools._mutations import TOKENS, array_mutated, bytes_mutated, json_mutated, one_bit

Random = np.random.Generator
SAME, OTHER, FOUND = "accepted: as it was", "accepted: as a naive reader has it", "accepted, found by check()"


class Fault(Exception):
    """Something wrong was taken for good."""


class Target:
    """One reader."""

    names_file = True  # whether every refusal must name the file

    def __init__(self, folder: Path) -> None:
        self.good, self.bad = folder / "good", folder / "bad"
        self.good.mkdir(parents=True, exist_ok=True)
        self.make()

    def make(self) -> None:
        """Write the good files."""

    def damage(self, rng: Random) -> None:
        """Change what lies in ``bad``, a copy of the good files: blindly, unless a target knows worse."""
        files = sorted(path for path in self.bad.rglob("*") if path.is_file())
        path, other = files[rng.integers(0, len(files))], files[rng.integers(0, len(files))]
        content = path.read_bytes()
        path.write_bytes(bytes_mutated(rng, content, other.read_bytes()))

    def read(self) -> str:
        """Read ``bad``; what came of it."""
        raise NotImplementedError

    def run(self, rng: Random) -> str:
        """One input."""
        shutil.rmtree(self.bad, ignore_errors=True)
        shutil.copytree(self.good, self.bad, symlinks=True)
        self.damage(rng)
        return self.read()


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
            if not lines[0][2].strip().lstrip("+-").isdecimal():
                lines = lines[1:]
            expected = {(query, target) for query, target, score in lines if int(score) > 0}
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
        types = {"large": pa.large_string(), "view": pa.string_view(), "binary": pa.binary(),
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
        data = RetrievalDataset.from_pairs(rows)
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

        config = RunConfig(data="d", output="o", negatives="dynamic", negatives_options={"probes": 8, "repair": False},
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


class Index(Target):
    """Folders of a `TargetIndex` with bits flipped, files cut, exchanged with another index's, manifests changed."""

    def make(self) -> None:
        from hardwood import TargetIndex

        rng = np.random.default_rng(0)
        self.vectors = rng.normal(size=(60, 6)).astype(np.float32)
        self.index = TargetIndex.build(self.vectors, dtype="float32", leaf_size=4, threads=1, progress=False)
        self.index.remove([3, 59])
        self.index.save(self.good)
        use(TargetIndex.load(self.good, threads=1), sound=True)  # kernels are compiled before anything is timed
        self.other = self.good.parent / "other"
        TargetIndex.build(self.vectors[:50], dtype="bfloat16", leaf_size=4, threads=1, progress=False).save(self.other)

    def damage(self, rng: Random) -> None:
        names = ("manifest.json", "nodes.safetensors", "vectors.safetensors")
        path = self.bad / names[rng.integers(0, 3)]
        kind = rng.integers(0, 9)
        if kind < 3:
            path.write_bytes(one_bit(rng, path.read_bytes()))
        elif kind < 5:
            path.write_bytes(bytes_mutated(rng, path.read_bytes(), (self.other / path.name).read_bytes()))
        elif kind == 5:
            shutil.copy(self.other / path.name, path)
        elif kind == 6:
            manifest = self.bad / "manifest.json"
            manifest.write_bytes(json_mutated(rng, json.loads(manifest.read_text())))
        elif kind == 7:
            path.unlink()
            if rng.random() < 0.7:
                os.symlink(str(rng.choice(["/dev/null", "/nowhere", ".", str(self.other / path.name)])), path)
        else:
            path.write_bytes(bytes(rng.integers(0, 256, int(rng.integers(0, 300)), dtype=np.uint8)))
        self.options = {"mmap": bool(rng.random() < 0.5), "verify": bool(rng.random() < 0.5)}

    def read(self) -> str:
        from hardwood import TargetIndex

        loaded = TargetIndex.load(self.bad, threads=1, **self.options)
        sound = True
        try:
            loaded.check()
        except (RuntimeError, ValueError):
            sound = False
        ids = self.index.ids
        same = np.array_equal(loaded.ids, ids) and np.array_equal(loaded.vectors(ids), self.index.vectors(ids))
        same = same and loaded.metric == "dot" and loaded._tree.leaf_size == 4
        try:
            use(loaded, sound)
        except (RuntimeError, ValueError):
            if sound:
                raise
        if not sound:
            if self.options["verify"] and type(self) is Index:
                raise Fault("load(verify=True) accepted what check() refuses")
            return FOUND
        if type(self) is Index and not same:
            raise Fault("another index was accepted")
        return SAME if same else OTHER


class ForgedIndex(Index):
    """The same with the arrays themselves changed and every size and checksum made to fit: what only an attacker, or
    another program, writes. What loads is used, sound or not, and must neither crash nor hang nor lie."""

    def damage(self, rng: Random) -> None:
        from hardwood.tree import _storage

        contents = {}
        for name in (_storage.NODES, _storage.VECTORS):
            contents[name] = _storage._read(self.bad / name, mapped=False)
        name = _storage.NODES if rng.random() < 0.85 else _storage.VECTORS
        arrays = contents[name][0]
        for _ in range(rng.integers(1, 3)):
            keys = sorted(arrays)
            key = keys[rng.integers(0, len(keys))]
            kind = rng.integers(0, 12)
            if kind == 0:
                arrays.pop(key)
            elif kind == 1:
                arrays[key + "x"] = arrays.pop(key)
            elif kind == 2:
                arrays[key] = arrays[keys[rng.integers(0, len(keys))]]
            else:
                arrays[key] = array_mutated(rng, arrays[key])
            if not arrays:
                break
        try:
            for file, (held, facts) in contents.items():
                _storage._write(self.bad / file, held, {k: v for k, v in facts.items() if k != "format"})
        except KeyError:  # a type that our files don't have
            pass
        if rng.random() < 0.2:
            path = self.bad / name
            path.write_bytes(_header_mutated(rng, path.read_bytes()))
        sign(self.bad)
        self.options = {"mmap": bool(rng.random() < 0.5), "verify": bool(rng.random() < 0.5)}


def _header_mutated(rng: Random, content: bytes) -> bytes:
    """A safetensors file with another header: huge shapes, offsets that overlap or leave the file."""
    length = int.from_bytes(content[:8], "little")
    header = json_mutated(rng, json.loads(content[8 : 8 + length]))
    claimed = len(header) if rng.random() < 0.8 else int(rng.choice([0, 2**20, 2**40, 2**63 - 1]))
    return claimed.to_bytes(8, "little") + header + content[8 + length :]


def sign(folder: Path) -> None:
    """A manifest whose sizes and checksums are those of the files."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    path.write_text(json.dumps(manifest))


def use(index: Any, sound: bool) -> None:
    """Every kernel once; with a sound index the answers must be true."""
    x = np.random.default_rng(1).normal(size=(3, index.dimension)).astype(np.float32)
    if not len(index):
        return
    calls: list[Callable[[], Any]] = [
        lambda: index.search(x, 3, probes=99), lambda: index.log_partition(x, 2.0, tolerance=0.1),
        lambda: index.sample(x, 3, seed=1, probes=1), lambda: index.sample(x, 1, replace=False, seed=1, probes=2),
        lambda: index.sample(x, 2, exact=True, seed=1), lambda: index.expectation(x, 2.0),
        lambda: index.log_proposal(x, index.ids[:3]), lambda: index.spread(4), lambda: index.stats(),
    ]  # fmt: skip
    answers = [call() for call in calls]
    if sound:
        y = index.vectors(index.ids).astype(np.float64)
        s = 2.0 * x.astype(np.float64) @ y.T
        log_z = np.log(np.exp(s - s.max(axis=1, keepdims=True)).sum(axis=1)) + s.max(axis=1)
        part = answers[1]
        if index.metric == "dot" and not ((part.lower <= log_z) & (log_z <= part.upper)).all():
            raise Fault("bounds that do not hold")
    index.update(index.ids[:2], np.zeros((2, index.dimension), np.float32))
    index.add([10**9 + 7], x[:1])
    index.remove(index.ids[:1])
    index.repair()


class Checkpoint(Target):
    """Checkpoints of every source of negatives that has a state: ``source.json``, tensors, index."""

    names = ("static", "cache", "dynamic")
    names_file = False  # a state of other data is refused by what it holds

    def make(self) -> None:
        import torch

        from hardwood._json import stamped
        from hardwood.negatives import Cost

        generator = torch.Generator().manual_seed(3)
        self.vectors = torch.nn.functional.normalize(torch.randn(40, 6, generator=generator), dim=1)
        self.options: dict[str, dict[str, Any]] = {
            "static": {}, "cache": {"cache_size": 16}, "dynamic": {"leaf_size": 4, "landmarks": 8, "drift": "corrector"},
        }  # fmt: skip
        for name in self.names:
            source = self._source(name)
            source.begin_step(source.start_step)
            if name == "dynamic":
                rows = torch.arange(12)
                source.observe(self._request(), source.sample(self._request()), rows, -self.vectors[rows])
                source.begin_step(60)
            folder = self.good / name
            folder.mkdir(exist_ok=True)
            source.save_state(folder)
            description = {"negatives": name, "weights": "0" * 32, "cost": Cost().state_dict()}
            (folder / "source.json").write_text(json.dumps(stamped(description), indent=1))
        self.answers = {name: self._answer(self._loaded(self.good, name)) for name in self.names}

    def _source(self, name: str) -> Any:
        from hardwood.negatives import Cost, make_source

        source, cost = make_source(name, **self.options[name]), Cost()
        source.attach(_Matrix(self.vectors), cost)
        return source

    def _loaded(self, folder: Path, name: str) -> Any:
        source = self._source(name)
        source.load_state(folder / name)
        return source

    def _request(self) -> Any:
        import torch

        from hardwood._ragged import RaggedRows
        from hardwood.negatives import Request

        return Request(
            self.vectors[:3], torch.arange(3), 5, 4.0, RaggedRows.from_pairs([0, 1, 2], [0, 1, 2], 3), None, 7
        )

    def _answer(self, source: Any) -> list[bytes]:
        draw = source.sample(self._request())
        source.begin_step(10_000)  # a refresh, where the source has one
        return [part.numpy().tobytes() for part in (draw.ids, draw.log_q, source.sample(self._request()).log_q)]

    def damage(self, rng: Random) -> None:
        from safetensors import safe_open
        from safetensors.torch import save_file

        self.name = str(rng.choice(self.names))
        files = sorted(path for path in (self.bad / self.name).rglob("*") if path.is_file())
        path, kind = files[rng.integers(0, len(files))], rng.integers(0, 8)
        self.forged = False
        if kind < 3:
            path.write_bytes(one_bit(rng, path.read_bytes()))
        elif kind < 5:
            other = files[rng.integers(0, len(files))]
            path.write_bytes(bytes_mutated(rng, path.read_bytes(), other.read_bytes()))
        elif kind == 5 and path.suffix == ".json":
            path.write_bytes(json_mutated(rng, json.loads(path.read_text())))
        elif kind == 6:
            path.unlink()
        else:  # other tensors, with no checksum to give them away
            path = self.bad / self.name / "source.safetensors"
            with safe_open(path, framework="np") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            key = sorted(state)[rng.integers(0, len(state))]
            state[key] = array_mutated(rng, state[key])
            if rng.random() < 0.1:
                state.pop(key)
            import torch

            save_file({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in state.items()}, path)
            self.forged = True

    def read(self) -> str:
        from hardwood.negatives import Cost
        from hardwood.training.callback import read_description

        folder = self.bad / self.name
        description = read_description(folder)
        source = self._loaded(self.bad, self.name)
        Cost().load_state_dict(description["cost"])
        if self.forged and not source.is_ready(10_000):
            return OTHER  # a checkpoint of before the source had begun
        answer = self._answer(source)
        if answer == self.answers[self.name]:
            return SAME
        if not self.forged:
            raise Fault(f"the {self.name} source draws otherwise")
        return OTHER  # finite numbers of the right shapes: whoever forges them can write what they like


class _Matrix:
    """Targets whose encoder is a matrix."""

    def __init__(self, vectors: Any) -> None:
        self.vectors, self.num_targets, self.dimension, self.device = (
            vectors,
            len(vectors),
            vectors.shape[1],
            vectors.device,
        )

    def encode(self, rows: Any = None) -> Any:
        import torch

        rows = torch.arange(self.num_targets) if rows is None else rows
        yield rows, self.vectors[rows].clone()


class Drift(Target):
    """States of drift models with tensors changed, lost, of other shapes and types."""

    names_file = False

    def make(self) -> None:
        import torch

        from hardwood.drift import DRIFT_MODELS, make_drift

        generator = torch.Generator().manual_seed(0)
        old, new = torch.randn(2, 30, 5, generator=generator)
        self.states = {name: make_drift(name).fit(old, new).state_dict() for name in DRIFT_MODELS}
        self.others = torch.randn(7, 5, generator=generator)

    def damage(self, rng: Random) -> None:
        import torch

        self.name = str(rng.choice(sorted(self.states)))
        self.state = {key: value.clone() for key, value in self.states[self.name].items()}
        for _ in range(rng.integers(1, 3)):
            key = sorted(self.state)[rng.integers(0, len(self.state))]
            if rng.random() < 0.1 and len(self.state) > 1:
                self.state.pop(key)
            else:
                self.state[key] = torch.from_numpy(array_mutated(rng, self.state[key].numpy()))

    def read(self) -> str:
        import torch

        from hardwood.drift import make_drift

        model = make_drift(self.name)
        model.load_state_dict(self.state)
        predicted = model.predict(self.others)
        if predicted.shape != self.others.shape:
            raise Fault("predictions of another shape")
        model.fit(self.others, self.others + 1)  # the corrector goes on from what it took up
        same = all(
            torch.equal(self.state.get(key, torch.zeros(0)), value) for key, value in self.states[self.name].items()
        )
        return SAME if same else OTHER


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


TARGETS: dict[str, type[Target]] = {
    "dataset": Dataset, "pairs": Pairs, "run-file": RunFile, "index": Index, "forged-index": ForgedIndex,
    "checkpoint": Checkpoint, "drift": Drift, "metrics": Metrics,
}  # fmt: skip
