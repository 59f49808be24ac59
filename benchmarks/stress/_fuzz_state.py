"""Targets of `benchmarks.stress.fuzz`: saved indexes, checkpoints of sources, states of drift models."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.stress._fuzz_target import FOUND, OTHER, SAME, Fault, Random, Target
from benchmarks.stress._mutations import array_mutated, bytes_mutated, json_mutated, one_bit


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
        from hardwood.tree.store.folder import NODES, VECTORS, read_arrays, write_arrays

        contents = {}
        for name in (NODES, VECTORS):
            contents[name] = read_arrays(self.bad / name, mapped=False)
        name = NODES if rng.random() < 0.85 else VECTORS
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
                write_arrays(self.bad / file, held, {k: v for k, v in facts.items() if k != "format"})
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
        lambda: index.search(x, 3, probes=99), lambda: index.log_partition(x, scale=2.0, tolerance=0.1),
        lambda: index.sample(x, 3, seed=1, probes=1), lambda: index.sample(x, 1, replace=False, seed=1, probes=2),
        lambda: index.sample_exact(x, 2, seed=1), lambda: index.expectation(x, scale=2.0),
        lambda: index.log_proposal(x, index.ids[:3]), lambda: index.spread(4), index.stats,
    ]  # fmt: skip
    answers = [call() for call in calls]
    if sound:
        y = index.vectors(index.ids).astype(np.float64)
        s = 2.0 * x.astype(np.float64) @ y.T
        log_z = np.log(np.exp(s - s.max(axis=1, keepdims=True)).sum(axis=1)) + s.max(axis=1)
        part = answers[1]
        if index.metric == "dot" and not ((part.lower <= log_z) & (log_z <= part.upper)).all():
            raise Fault("bounds that do not hold")
    index.update(np.zeros((2, index.dimension), np.float32), index.ids[:2])
    index.add(x[:1], [10**9 + 7])
    index.remove(index.ids[:1])
    index.repair()


class Checkpoint(Target):
    """Checkpoints of every source of negatives that has a state: ``source.json``, tensors, index."""

    names = ("static", "cache", "pool", "dynamic")
    names_file = False  # a state of other data is refused by what it holds

    def make(self) -> None:
        import torch

        from hardwood._json import stamped
        from hardwood.negatives import Cost
        from hardwood.negatives.dynamic import moving_index

        moving_index._SMALLEST_SHARE = 1  # so few targets, and yet a refresh that is under way when its state is saved
        generator = torch.Generator().manual_seed(3)
        self.vectors = torch.nn.functional.normalize(torch.randn(40, 6, generator=generator), dim=1)
        self.options: dict[str, dict[str, Any]] = {
            "static": {}, "cache": {"cache_size": 16}, "pool": {"share": 0.4},
            "dynamic": {"leaf_size": 4, "landmarks": 8, "refresh_drift": "corrector", "overlap": True},
        }  # fmt: skip
        for name in self.names:
            source = self._source(name)
            source.begin_step(source.start_step)
            if name == "dynamic":
                rows = torch.arange(12)
                for fresh in (self.vectors[rows], -self.vectors[rows]):  # the first says that the encoder has no noise
                    source.observe(self._request(), source.sample(self._request()), rows, fresh)
                source.begin_step(60)
            folder = self.good / name
            folder.mkdir(exist_ok=True)
            source.save_state(folder)
            if name == "dynamic":
                assert source.state_dict()["refresh"].tolist()[1] > 1
            description: dict[str, Any] = {"negatives": name, "weighting": "shared", "settings": {}, "files": {}}
            description |= {"weights": "0" * 32, "data": "0" * 32, "cost": Cost().state_dict()}
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

        from hardwood._checkpoint_tensors import write_state

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
        else:  # other tensors, with the checksum of these
            path = self.bad / self.name / "source.safetensors"
            with safe_open(path, framework="np") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            key = sorted(state)[rng.integers(0, len(state))]
            state[key] = array_mutated(rng, state[key])
            if rng.random() < 0.1:
                state.pop(key)
            import torch

            write_state({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in state.items()}, path)
            self.forged = True

    def read(self) -> str:
        from hardwood.negatives import Cost
        from hardwood.training.checkpoint.seal import read_description

        folder = self.bad / self.name
        description = read_description(folder)
        source = self._loaded(self.bad, self.name)
        Cost().load_state_dict(description["cost"])
        if self.forged and not source.is_ready(10_000):
            return OTHER  # a checkpoint from before the source began
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
        self.log_prior, self.has_dropout = None, False

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
