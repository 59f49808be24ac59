"""Where is a corpus so small that brute force is cheaper than the tree? Milliseconds a step, by number of targets.

    python -m benchmarks.training.small_corpora                     # HPO's concepts and fewer: ten minutes on one core
    python -m benchmarks.training.small_corpora --sizes 500 --repeats 1
    python -m benchmarks.training.small_corpora --calls             # no training: a draw, a write-back, a refresh
    python -m benchmarks.training.small_corpora --device cuda --sizes 20000 200000 2000000 --repeats 1 --steps 60

The same training with three sources. ``exact`` draws by matrix from the softmax over all targets, and encodes all of
them again every 20 steps; ``flat`` and ``tree`` are the dynamic source with either kind of index. Static embeddings,
whose encoding costs next to nothing, so that the comparison favours ``exact``: with a transformer each of its
re-encodings costs as much as many steps. What is counted is what the source does: encoding besides the step, keeping
the index, drawing. On a CPU these are seconds of the processor, not of the clock, so that other work on the machine
does not count. Beyond HPO's 19,034 concepts targets are these once more, each with a number behind its name.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from hardwood._ragged import RaggedRows
from hardwood.data import Judgements, RetrievalDataset, TextTable, read_hpo
from hardwood.encoders import load_encoder
from hardwood.negatives import Request, cost
from hardwood.negatives.dynamic.drawing import drawn
from hardwood.negatives.dynamic.flat_index import FlatIndex
from hardwood.negatives.dynamic.index_form import VectorIndex
from hardwood.training import RunConfig
from hardwood.training.job.assembly import make_loss, make_trainer
from hardwood.tree import TargetIndex, set_threads, warmup

SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("exact", {"start_step": 0}),
    "flat": ("dynamic", {"index_kind": "flat"}),
    "tree": ("dynamic", {"index_kind": "tree"}),
}
PARTS = ("encode", "index", "sample")


def part(data: RetrievalDataset, size: int) -> RetrievalDataset:
    """The first ``size`` targets, and the training queries that ask for them."""
    train = data.split("train")
    queries, targets = train.queries[train.positives.row_ids()], train.positives.values
    inside = targets < size
    split = Judgements.from_triples(queries[inside], targets[inside], np.ones(int(inside.sum()), dtype=np.int32))
    rows = np.arange(size)
    ids, texts = data.corpus.ids(rows % len(data.corpus)), data.corpus.texts(rows % len(data.corpus))
    for row in range(len(data.corpus), size):
        ids[row], texts[row] = f"{ids[row]} {row}", f"{texts[row]} {row}"
    corpus = TextTable.from_columns(ids, texts)
    return RetrievalDataset(corpus, data.queries, {"train": split}, name=f"hpo-{size}")


def milliseconds(data: RetrievalDataset, source: str, asked: argparse.Namespace, seed: int) -> dict[str, float]:
    """Of a step, by part; and ``"MiB"``, the most that was on the accelerator."""
    output = tempfile.mkdtemp(prefix="hardwood-small-")
    name, options = SOURCES[source]
    config = RunConfig(
        data="none", output=output, negatives=name, negatives_options=options, steps=asked.steps, batch_size=64,
        seed=seed, dimension=asked.dimension,
    )  # fmt: skip
    set_seed(seed)
    model = load_encoder("static", data, dimension=asked.dimension, seed=seed, device=asked.device)
    loss = make_loss(model, data, config)
    trainer = make_trainer(model, data, loss, config, quiet=True)
    cost.reset_peaks()
    trainer.train()
    shutil.rmtree(output)
    found = {key: loss.cost.seconds[key] / asked.steps * 1e3 for key in PARTS}
    return {**found, "MiB": cost.peak_accelerator_bytes() / 2**20}


def synthetic(size: int, dimension: int) -> torch.Tensor:
    """Unit vectors in clusters of about thirty."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(max(8, size // 30), dimension, generator=generator)
    noise = torch.randn(size, dimension, generator=generator)
    return torch.nn.functional.normalize(centres[torch.randint(len(centres), (size,), generator=generator)] + noise)


def milliseconds_of_calls(size: int, kind: str, asked: argparse.Namespace) -> list[float]:
    """Of making the index, a draw of 64 queries with 8 draws each, writing 400 targets back, and writing all."""
    clock = time.process_time if asked.device == "cpu" else time.perf_counter
    vectors, device = synthetic(size, asked.dimension), torch.device(asked.device)
    rows = torch.randint(size, (64,), generator=torch.Generator().manual_seed(1))
    queries = torch.nn.functional.normalize(vectors[rows] + 0.05 * torch.randn(64, asked.dimension)).to(device)
    own = RaggedRows.from_pairs(np.arange(64), rows.numpy(), 64)
    request = Request(queries, rows, 8, 20.0, own)
    some = np.unique(np.random.default_rng(0).integers(0, size, 400))
    begin = clock()
    index: VectorIndex = FlatIndex(vectors.to(device, copy=True))
    if kind == "tree":
        index = TargetIndex.build(vectors, progress=False)
    found = [clock() - begin]
    everything = np.arange(size)

    def refresh() -> None:
        index.update(vectors.numpy(), everything)
        index.repair()

    for call, times in (
        (lambda: drawn(index, request, 128), 9),
        (lambda: index.update(vectors.numpy()[some], some), 9),
        (refresh, 1),
    ):
        took = []
        for _ in range(times):
            begin = clock()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            took.append(clock() - begin)
        found.append(statistics.median(took))
    return [1e3 * seconds for seconds in found]


def print_calls(asked: argparse.Namespace) -> None:
    """The table of `milliseconds_of_calls`."""
    kinds, calls = ("flat", "tree"), ("made", "draw", "write-back", "refresh")
    print("| targets | " + " | ".join(f"{kind}: {call}" for call in calls for kind in kinds) + " |")
    print("|---" * (1 + len(kinds) * len(calls)) + "|")
    for size in asked.sizes:
        found = [milliseconds_of_calls(size, kind, asked) for kind in kinds]
        cells = [f"{one:,.2f}" for call in zip(*found, strict=True) for one in call]
        print(f"| {size:,} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2000, 5000, 19000])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--calls", action="store_true", help="no training: calls of either index, synthetic vectors")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    set_threads(1)
    if asked.calls:
        milliseconds_of_calls(500, "tree", asked)  # compiles
        print_calls(asked)
        return
    warmup()
    if asked.device == "cpu":
        cost.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    data = read_hpo()
    columns = [f"{name}: {what}" for name in SOURCES for what in ("ms a step", "of which draws")]
    columns += ["cheapest"] if asked.device == "cpu" else [f"{name}: MiB" for name in SOURCES]
    print("| targets | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for size in asked.sizes:
        some = part(data, size)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in SOURCES}
        for seed in range(asked.repeats):
            for name in SOURCES:
                found[name].append(milliseconds(some, name, asked, seed))
        whole = {name: statistics.median(sum(run[key] for key in PARTS) for run in found[name]) for name in SOURCES}
        draws = {name: statistics.median(run["sample"] for run in found[name]) for name in SOURCES}
        cells = [f"{number:.1f}" for name in SOURCES for number in (whole[name], draws[name])]
        if asked.device == "cpu":
            cells.append(min(whole, key=lambda name: whole[name]))
        else:
            cells += [f"{max(run['MiB'] for run in found[name]):,.0f}" for name in SOURCES]
        print(f"| {size:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
