"""What a guide says of the false negatives that training suspects.

    python -m benchmarks.studies.guide --data hpo --encoder wordllama --guide minilm

A suspect has outranked its query's positive in several steps, so training must come back to its queries: it is given a
part of the training queries, seeded, and passes over them several times. Of the suspects in the run's report the
command prints how many the guide takes for right answers, how many for negatives, and how many it was never asked for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from benchmarks._models import folder_of
from benchmarks._study import data_folder

from hardwood.data import RetrievalDataset
from hardwood.training import RunConfig, train


def some_queries(dataset: RetrievalDataset, count: int, seed: int) -> RetrievalDataset:
    """The same corpus with ``count`` of the training queries, and no other split."""
    split = dataset.splits["train"]
    rng = np.random.default_rng(seed)
    kept = split.take(np.sort(rng.choice(len(split), min(count, len(split)), replace=False)))
    return RetrievalDataset(dataset.corpus, dataset.queries, {"train": kept}, dataset.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hpo", help="hpo, taxa or a BEIR folder")
    parser.add_argument("--encoder", default="wordllama")
    parser.add_argument("--guide", default="minilm")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-negatives", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = data_folder(arguments.data)
    dataset = some_queries(RetrievalDataset.load(folder), arguments.queries, arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        config = RunConfig(
            data=str(folder),
            output=f"{place}/run",
            encoder=folder_of(arguments.encoder),
            guide=folder_of(arguments.guide),
            negatives="dynamic",
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            num_negatives=arguments.num_negatives,
            learning_rate=arguments.learning_rate,
            seed=arguments.seed,
            threads=1,
        )
        train(config, quiet=True, dataset=dataset)
        lines = (Path(place) / "run" / "suspected_false_negatives.jsonl").read_text().splitlines()
    verdicts = Counter(json.loads(line)["guide"] for line in lines)
    names = {"answer": "right answers", "negative": "negatives", None: "not asked for"}
    shares = ", ".join(f"{name} {verdicts[kind]} ({verdicts[kind] / len(lines):.1%})" for kind, name in names.items())
    print(f"{len(lines)} suspects: {shares}")


if __name__ == "__main__":
    main()
