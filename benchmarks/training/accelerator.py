"""A transformer on an accelerator: which part of a step is whose, and what each source keeps on the device.

    python -m benchmarks.training.accelerator --prepare # the corpora, where hardwood[taxa] is installed
    python -m benchmarks.training.accelerator # 10,000, 100,000 and 1,000,000 targets
    python -m benchmarks.training.accelerator --targets 10000 --layers 2 --dimension 128 --steps 30 # a look on a CPU

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
from benchmarks._models import small_transformer
from benchmarks._report import ROOT, Row, finish
from benchmarks._study import PLAIN_SOFTMAX
from transformers import TrainerCallback, set_seed

from hardwood.data import RetrievalDataset, TextTable, read_taxa
from hardwood.negatives.cost import peak_host_bytes, reset_peaks
from hardwood.training import RunConfig
from hardwood.training.job.assembly import make_loss, make_trainer
from hardwood.tree import TargetIndex

FROM_THE_SET = 600_000
"""Up to so many targets come from the taxa set, whose taxa are 694,739."""

WARM_UP = 10
"""Steps that do not count: kernels are chosen, buffers grow."""

REFRESH_AT, REFRESH_STEPS = 100, 50
"""The dynamic runs refresh after so many steps, and have so many to complete it."""

DYNAMIC = {"refresh_every": REFRESH_AT, "refresh_when": None}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic": ("dynamic", DYNAMIC),  # first: the others begin from its encodings
    "dynamic, no overlap": ("dynamic", {**DYNAMIC, "overlap": False}),
    "exact": (
        "static",
        {"start_step": 0},
    ),  # keeps and draws the same; encoding the corpus is the dynamic run's to show
    "cache": ("cache", {"start_step": 0}),
    "in-batch, equal texts": ("in-batch", {}),
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
        for name in ("begin_step", "load_state_dict", "sample", "log_proposal", "observe"):
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
        if name in ("begin_step", "load_state_dict"):
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
    """Seconds of each step. Before the first, the source is given ``vectors``, if any."""

    def __init__(self, source: Any, vectors: torch.Tensor | None) -> None:
        self._source, self._vectors = source, vectors
        self.walls: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After `NegativesCallback`, which attaches the source."""
        if self._vectors is not None:
            self._source.load_state_dict({"vectors": self._vectors})
        self._last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Read the clock, when the device is done: `NegativesCallback` has waited for it."""
        now = time.perf_counter()
        self.walls.append(now - self._last)
        self._last = now


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
    from hardwood.data.converters.taxonomy import read_taxonomy

    fields = list(corpus.iter_fields())
    have = {field["title"] for field in fields}
    names = (name for name in dict.fromkeys(read_taxonomy().names) if name and name not in have)
    further = [name for name, _ in zip(names, range(targets - len(fields)), strict=False)]
    return TextTable.from_columns(
        [field["id"] for field in fields] + [f"name:{number}" for number in range(len(further))],
        [field["text"] for field in fields] + [""] * len(further),
        [field["title"] for field in fields] + further,
    )


def run(data: RetrievalDataset, encoder: Path, variant: str, saved: Path, arguments: argparse.Namespace) -> Row:
    """Train some steps; the row. The dynamic run leaves its tree in ``saved``, which the next begin with."""
    from sentence_transformers import SentenceTransformer

    name, options = VARIANTS[variant]
    index, vectors = saved / "index", None
    if index.exists() and name == "dynamic":
        options = {**options, "index": str(index)}
    elif index.exists() and name == "static":
        vectors = torch.from_numpy(TargetIndex.load(index).vectors(np.arange(len(data.corpus))))
    texts = arguments.batch_size * (2 + arguments.num_negatives)
    output = Path(tempfile.mkdtemp(prefix="hardwood-accelerator-"))
    config = RunConfig(
        **PLAIN_SOFTMAX,
        data="none",
        output=str(output),
        encoder=str(encoder),
        negatives=name,
        negatives_options=options,
        batch_size=texts // 2 if name == "in-batch" else arguments.batch_size,
        num_negatives=arguments.num_negatives,
        steps=REFRESH_AT + REFRESH_STEPS if name == "dynamic" else arguments.steps,
        precision=arguments.precision,
        encode_batch_size=arguments.encode_batch_size,
        seed=arguments.seed,
    )
    set_seed(config.seed)
    model = SentenceTransformer(str(encoder))
    model.model_card_data.widget = [{"text": "Tyrannus"}]
    loss = make_loss(model, data, config)
    loss.targets.progress = False
    trainer = make_trainer(model, data, loss, config, quiet=True)
    reset_peaks()
    watch, steps = Watch(loss.source), Steps(loss.source, vectors)
    trainer.add_callback(steps)
    trainer.train()
    watch.finish()
    shutil.rmtree(output)
    row = _row(len(data.corpus), variant, loss, watch, steps.walls)
    if name == "dynamic" and not index.exists():
        saved.mkdir(exist_ok=True)
        loss.source.save_state(saved)
    return row


def _row(targets: int, variant: str, loss: Any, watch: Watch, walls: list[float]) -> Row:
    begins = np.array(watch.seconds["begin_step"])
    plain, is_dynamic = slice(WARM_UP, REFRESH_AT), variant.startswith("dynamic")

    def milliseconds(call: str) -> float:
        seconds = watch.seconds[call][plain]
        return 1e3 * float(np.median(seconds)) if seconds else 0.0

    parts = {call: milliseconds(call) for call in ("begin_step", "sample", "log_proposal", "observe")}
    step = 1e3 * float(np.median(walls[plain]))
    refreshing = 1e3 * float(np.mean(walls[REFRESH_AT:])) if is_dynamic else None
    passing = max(watch.passing[call] for call in ("sample", "log_proposal", "observe"))
    row: Row = {
        "targets": targets,
        "negatives": variant,
        "step, ms": step,
        **{f"{call}, ms": value for call, value in parts.items()},
        "of the step": f"{sum(parts.values()) / step:.0%}",
        "step while refreshing, ms": refreshing,
        "refresh, s": float(begins[REFRESH_AT]) if is_dynamic else None,
        "encoding targets, s": loss.cost.seconds["encode"] or None,
        "begin, s": float(begins[0]),
        "texts a step": loss.cost.texts_encoded / len(begins),
        "kept, MiB": watch.kept / 2**20,
        "drawing takes, MiB": passing / 2**20,
        "encoding takes, MiB": watch.passing["begin_step"] / 2**20,
        "peak, MiB": watch.peak / 2**20,
        "host, MiB": peak_host_bytes() / 2**20,
    }
    print("", {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", action="store_true", help="only write the corpora that are missing")
    parser.add_argument("--targets", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=40, help=f"but {REFRESH_AT + REFRESH_STEPS} of the dynamic runs")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-negatives", type=int, default=8)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--encode-batch-size", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="folder of the JSON, else benchmarks/results")
    arguments = parser.parse_args()
    arguments.threads = torch.get_num_threads()
    for targets in arguments.targets:
        prepare(targets)
    if arguments.prepare:
        return
    folder = Path(tempfile.mkdtemp(prefix="hardwood-encoder-"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
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
        for variant in arguments.only:
            rows.append(run(data, encoder, variant, folder / f"saved-{targets}", arguments))
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        shutil.rmtree(folder / f"saved-{targets}", ignore_errors=True)
        # After each size: time on such a machine may end before the last.
        finish(arguments, "accelerator", rows, device=device)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
