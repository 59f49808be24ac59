"""A transformer on an accelerator: which part of a step is whose, and what each source keeps on the device.

    python benchmarks/accelerator.py --prepare                   # the corpora, where hardwood[taxa] is installed
    python benchmarks/accelerator.py                             # 10,000, 100,000 and 1,000,000 targets
    python benchmarks/accelerator.py --targets 10000 --layers 2 --dimension 128 --steps 30     # a look on a CPU

A BERT of random weights (what it costs is what a trained one costs) in bfloat16 autocast, batches of 64 pairs and 8
draws a query, and in-batch training with as many texts a step. Each source's calls are watched: what they leave on the
device (``kept``), what sampling takes there in passing, and how long they are. Targets are the taxa set's, beyond its
size further names of the taxonomy, which no query asks for.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, set_seed

from _models import small_transformer
from _report import ROOT, Row, finish
from hardwood.data import RetrievalDataset, TextTable, read_taxa
from hardwood.negatives.cost import PARTS, peak_host_bytes, reset_peaks
from hardwood.training import RunConfig
from hardwood.training.run import make_loss, make_trainer

FROM_THE_SET = 600_000
"""Up to so many targets come from the taxa set, whose taxa are 694,739."""

WARM_UP = 10
"""Steps that do not count: kernels are chosen, buffers grow."""

SOURCES: dict[str, dict[str, Any]] = {
    "in-batch": {},
    "cache": {"start_step": 0},
    "exact": {"start_step": 0, "refresh_every": 10_000},  # one encoding of the corpus is enough to see its cost
    "dynamic": {"refresh_every": 20, "refresh_when": None},
}


class Watch:
    """Memory and time of a source's calls.

    Attributes:
        passing: by call, the most bytes it took on the device beyond what it found and left.
        seconds: by call, of each step.
        peak: the most bytes on the device, of the whole run.
    """

    def __init__(self, source: Any) -> None:
        self.passing: dict[str, int] = defaultdict(int)
        self.kept = 0
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.peak = 0
        for name in ("begin_step", "sample", "log_proposal", "observe"):
            setattr(source, name, self._watched(name, getattr(source, name)))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def watched(*arguments: Any, **options: Any) -> Any:
            with self._part(name):
                return call(*arguments, **options)

        return watched

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        before = self._mark()
        began = time.perf_counter()
        yield
        after = self._mark()
        self.seconds[name].append(time.perf_counter() - began)
        if name == "begin_step":
            self.kept += after - before
        self.passing[name] = max(self.passing[name], self._last_peak - max(before, after))

    def _mark(self) -> int:
        """Bytes allocated now; `peak` and ``_last_peak`` take in what was since the last mark."""
        if not torch.cuda.is_available():
            self._last_peak = 0
            return 0
        torch.cuda.synchronize()
        self._last_peak = torch.cuda.max_memory_allocated()
        self.peak = max(self.peak, self._last_peak)
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def finish(self) -> None:
        """Take in what has been since the last call."""
        self._mark()


class Steps(TrainerCallback):
    """Seconds of each step, by part."""

    def __init__(self, loss: Any) -> None:
        self._loss = loss
        self.parts: list[dict[str, float]] = []
        self.walls: list[float] = []
        self._last = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The first step begins with what `NegativesCallback`, called before, has done: see `Watch`."""
        self._before = dict(self._loss.cost.seconds)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Read the clocks."""
        now = self._loss.cost.seconds
        self.parts.append({part: now[part] - self._before[part] for part in PARTS})
        self.walls.append(time.perf_counter() - self._last)
        self._last = time.perf_counter()


def corpus_folder(targets: int) -> Path:
    """Where `prepare` puts a corpus."""
    return ROOT / "data" / f"accelerator-{targets}"


def prepare(targets: int) -> None:
    """Write the corpus of that size, if it is not there."""
    if corpus_folder(targets).exists():
        return
    data = read_taxa(targets=min(targets, FROM_THE_SET))
    if targets > len(data.corpus):
        data = RetrievalDataset(_extended(data.corpus, targets), data.queries, data.splits, "taxa")
    data.save(corpus_folder(targets))
    print(f"written: {corpus_folder(targets)}")


def _extended(corpus: TextTable, targets: int) -> TextTable:
    from hardwood.data._taxonomy import read_taxonomy

    fields = list(corpus.iter_fields())
    have = {field["title"] for field in fields}
    names = (name for name in dict.fromkeys(read_taxonomy().names) if name and name not in have)
    further = [name for name, _ in zip(names, range(targets - len(fields)), strict=False)]
    return TextTable.from_columns(
        [field["id"] for field in fields] + [f"name:{number}" for number in range(len(further))],
        [field["text"] for field in fields] + [""] * len(further),
        [field["title"] for field in fields] + further,
    )


def run(data: RetrievalDataset, encoder: Path, name: str, arguments: argparse.Namespace) -> Row:
    """Train a few steps with one source; its row."""
    texts = arguments.batch_size * (2 + arguments.num_negatives)
    output = Path(tempfile.mkdtemp(prefix="hardwood-accelerator-"))
    config = RunConfig(
        data="none",
        output=str(output),
        encoder=str(encoder),
        negatives=name,
        negatives_options=SOURCES[name],
        batch_size=texts // 2 if name == "in-batch" else arguments.batch_size,
        num_negatives=arguments.num_negatives,
        steps=arguments.steps,
        precision=arguments.precision,
        seed=arguments.seed,
    )
    from sentence_transformers import SentenceTransformer

    set_seed(config.seed)
    model = SentenceTransformer(str(encoder))
    loss = make_loss(model, data, config)
    trainer = make_trainer(model, data, loss, config, quiet=True)
    reset_peaks()
    watch, steps = Watch(loss.source), Steps(loss)
    trainer.add_callback(steps)
    trainer.train()
    watch.finish()
    shutil.rmtree(output)
    return _row(len(data.corpus), name, loss, watch, steps)


def _row(targets: int, name: str, loss: Any, watch: Watch, steps: Steps) -> Row:
    begins = np.array(watch.seconds["begin_step"])
    in_loss = [np.array(watch.seconds[call][-len(begins) :] or [0.0]) for call in ("sample", "log_proposal", "observe")]
    wall = float(np.median(steps.walls[WARM_UP:]))
    refreshed = begins[1:][begins[1:] > 0.1]
    row: Row = {
        "targets": targets,
        "source": name,
        "step, ms": 1e3 * wall,
        "begin, ms": 1e3 * float(np.median(begins[WARM_UP:])),
        "sample, ms": 1e3 * float(np.median(in_loss[0][WARM_UP:]) if name != "in-batch" else 0.0),
        "proposal, ms": 1e3 * float(np.median(in_loss[1][WARM_UP:]) if name != "in-batch" else 0.0),
        "observe, ms": 1e3 * float(np.median(in_loss[2][WARM_UP:])),
        "refresh, s": float(np.mean(refreshed)) if len(refreshed) else None,
        "first, s": float(begins[0]),
        "first, encoding, s": loss.cost.seconds["encode"] if name in ("exact", "dynamic") else None,
        "first, index, s": loss.cost.seconds["index"] if name == "exact" else None,
        "texts a step": loss.cost.texts_encoded / len(begins),
        "kept, MiB": watch.kept / 2**20,
        "draws' passing, MiB": max(watch.passing["sample"], watch.passing["log_proposal"], watch.passing["observe"])
        / 2**20,
        "encoding's passing, MiB": watch.passing["begin_step"] / 2**20,
        "peak, MiB": watch.peak / 2**20,
        "host, MiB": peak_host_bytes() / 2**20,
    }
    print({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", action="store_true", help="only write the corpora that are missing")
    parser.add_argument("--targets", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-negatives", type=int, default=8)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="folder of the JSON, else benchmarks/results")
    arguments = parser.parse_args()
    arguments.threads = torch.get_num_threads()
    for targets in arguments.targets:
        prepare(targets)
    if arguments.prepare:
        return
    folder = Path(tempfile.mkdtemp(prefix="hardwood-encoder-"))
    rows: list[Row] = []
    encoder: Path | None = None
    for targets in arguments.targets:
        data = RetrievalDataset.load(corpus_folder(targets))
        encoder = encoder or small_transformer(
            data,
            folder / "encoder",
            layers=arguments.layers,
            dimension=arguments.dimension,
            hidden=4 * arguments.dimension,
            heads=max(1, arguments.dimension // 64),
            vocabulary_size=30_522,
        )
        for name in arguments.sources:
            rows.append(run(data, encoder, name, arguments))
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    shutil.rmtree(folder)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    finish(arguments, "accelerator", rows, device=device)


if __name__ == "__main__":
    main()
