"""Write a golden index: a small saved index, and beside it what was read from it on the day it was written.

`python tests/golden/write_index.py tests/golden/index/NAME --dtype float32 --metric dot` makes the folder NAME and
NAME.json. Once committed, neither is written again: `tests/tree/store/test_golden.py` reads them with the code of
today. When the format changes, add a folder beside the old ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from hardwood import TargetIndex, __version__

SCALE, DRAWS, HITS = 5.0, 6, 5


def worn_index(dtype: str, metric: str) -> TargetIndex:
    """An index that has seen every kind of change: so it has dead leaves, gaps and blocks given back."""
    rng = np.random.default_rng(22)
    centres = rng.normal(size=(12, 8))
    vectors = (centres[rng.integers(0, 12, 320)] + 0.4 * rng.normal(size=(320, 8))).astype(np.float32)
    ids = np.arange(320) * 3 - 50
    index = TargetIndex.build(vectors, ids, dtype=dtype, metric=metric, leaf_size=8, threads=1, progress=False)
    index.remove(ids[:40])
    index.update(-vectors[100:130], ids[100:130])
    index.add(np.repeat(vectors[:1], 30, axis=0) + 0.01 * rng.normal(size=(30, 8)), np.arange(30) + 5000)
    index.repair()
    index.remove(ids[200:220])
    return index


def answers(index: TargetIndex, queries: np.ndarray, exclude: list[list[int]]) -> dict[str, dict[str, object]]:
    """What an index says to these queries, by method: lists of ids and of numbers."""
    asked = {
        "search": index.search(queries, HITS, probes=4),
        "sample": index.sample(queries, DRAWS, scale=SCALE, exclude=exclude, probes=2, seed=1),
        "sample_without": index.sample(queries, DRAWS, scale=SCALE, exclude=exclude, probes=2, replace=False, seed=2),
        "sample_exact": index.sample_exact(queries, DRAWS, scale=SCALE, exclude=exclude, seed=3),
        "log_partition": index.log_partition(queries, scale=SCALE, exclude=exclude, tolerance=0.01),
    }
    said = {name: {part: values.tolist() for part, values in found._asdict().items()} for name, found in asked.items()}
    said["log_partition"]["converged"] = [int(good) for good in said["log_partition"]["converged"]]
    return said


def main() -> None:
    """Write the folder and the answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--metric", default="dot")
    given = parser.parse_args()
    if given.folder.exists():
        parser.error(f"{given.folder} exists; golden files are never written again, choose another name")
    index = worn_index(given.dtype, given.metric)
    index.save(given.folder)
    rng = np.random.default_rng(23)
    queries = rng.normal(size=(6, 8)).astype(np.float32)
    exclude = [rng.choice(index.ids, size=count, replace=False).tolist() for count in (0, 1, 2, 3, 0, 5)]
    kept = {
        "hardwood": __version__,
        "ids": index.ids.tolist(),
        "vectors_sum": float(index.vectors(index.ids).astype(np.float64).sum()),
        "queries": queries.tolist(),
        "exclude": exclude,
        "answers": answers(index, queries, exclude),
    }
    given.folder.with_suffix(".json").write_text(json.dumps(kept) + "\n")


if __name__ == "__main__":
    main()
