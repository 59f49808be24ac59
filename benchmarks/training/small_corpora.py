"""Where is a corpus so small that brute force is cheaper than the tree? Seconds a step, by number of targets.

    python -m benchmarks.training.small_corpora                     # HPO's concepts and fewer: ten minutes on one core
    python -m benchmarks.training.small_corpora --sizes 500 --repeats 1

The same training with two sources. ``exact`` draws by matrix from the softmax over all targets, and encodes all of them
again every 20 steps; ``dynamic`` draws from the tree. Static embeddings, whose encoding costs next to nothing, so that
the comparison favours ``exact``: with a transformer each of its re-encodings costs as much as many steps.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile

import numpy as np
import torch
from transformers import set_seed

from hardwood.data import Judgements, RetrievalDataset, TextTable, read_hpo
from hardwood.encoders import load_encoder
from hardwood.training import RunConfig
from hardwood.training.assembly import make_loss, make_trainer
from hardwood.tree import warmup

SOURCES = ("exact", "dynamic")


def part(data: RetrievalDataset, size: int) -> RetrievalDataset:
    """The first ``size`` targets, and the training queries that ask for them."""
    train = data.split("train")
    queries, targets = train.queries[train.positives.row_ids()], train.positives.values
    inside = targets < size
    split = Judgements.from_triples(queries[inside], targets[inside], np.ones(int(inside.sum()), dtype=np.int32))
    rows = np.arange(size)
    corpus = TextTable.from_columns(data.corpus.ids(rows), data.corpus.texts(rows))
    return RetrievalDataset(corpus, data.queries, {"train": split}, name=f"hpo-{size}")


def seconds(data: RetrievalDataset, source: str, steps: int, dimension: int, seed: int) -> float:
    """Mean seconds of a step, with everything that it waits for."""
    output = tempfile.mkdtemp(prefix="hardwood-small-")
    config = RunConfig(
        data="none", output=output, negatives=source, steps=steps, batch_size=64, seed=seed, dimension=dimension
    )
    set_seed(seed)
    model = load_encoder("static", data, dimension=dimension, seed=seed, device="cpu")
    loss = make_loss(model, data, config)
    trainer = make_trainer(model, data, loss, config, quiet=True)
    trainer.train()
    shutil.rmtree(output)
    return sum(loss.cost.seconds.values()) / steps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2000, 5000, 19000])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warmup()
    data = read_hpo()
    print("| targets | " + " | ".join(f"{name}: ms a step" for name in SOURCES) + " | dynamic / exact |")
    print("|---" * (2 + len(SOURCES)) + "|")
    for size in arguments.sizes:
        some = part(data, size)
        found: dict[str, list[float]] = {name: [] for name in SOURCES}
        for seed in range(arguments.repeats):
            for name in SOURCES:
                found[name].append(seconds(some, name, arguments.steps, arguments.dimension, seed))
        exact, dynamic = (statistics.median(found[name]) * 1e3 for name in SOURCES)
        print(f"| {size:,} | {exact:.1f} | {dynamic:.1f} | {dynamic / exact:.2f} |", flush=True)


if __name__ == "__main__":
    main()
