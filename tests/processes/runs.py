"""What processes do in the tests of whole runs: ``python -m tests.processes.runs FOLDER``, where its ``data`` lies."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tests.tiny_models import WORDS, make_static

from hardwood.data import Judgements, RetrievalDataset, TextTable
from hardwood.evaluation import evaluate, retrieve
from hardwood.mining import mine
from hardwood.ranks import Ranks, join
from hardwood.training import RunConfig, train

GLOBAL_BATCH, STEPS, SAVE_EVERY, NUM_SHARDS, BLOCK = 12, 8, 4, 2, 7


def settings(folder: Path, name: str, processes: int, **changes: Any) -> RunConfig:
    """A run of the same batch with any number of processes."""
    options: dict[str, Any] = {
        "data": str(folder / "data"),
        "output": str(folder / name),
        "negatives": "dynamic",
        "negatives_options": {"refresh_every": 3, "landmarks": 12},
        "num_shards": NUM_SHARDS,
        "batch_size": GLOBAL_BATCH // processes,
        "num_negatives": 4,
        "dimension": 16,
        "vocabulary_size": 300,
        "steps": STEPS,
        "save_every": SAVE_EVERY,
        "evaluation_splits": ["test"],
        "device": "cpu",
    }
    return RunConfig(**options | changes)


def broken_off(folder: Path, name: str, copy: str) -> None:
    """A copy of a run, as if it had been killed after its first checkpoint."""
    shutil.copytree(folder / name, folder / copy)
    shutil.rmtree(folder / copy / "checkpoints" / f"checkpoint-{STEPS}")
    for left in ("metrics.json", "log.json"):
        (folder / copy / left).unlink()
    shutil.rmtree(folder / copy / "model")
    text = (folder / copy / "run.yaml").read_text()
    (folder / copy / "run.yaml").write_text(text.replace(str(folder / name), str(folder / copy)))


def tied() -> RetrievalDataset:
    """A corpus in which many targets are equal, so that ranks are decided by their rows; blocks have 7 of them."""
    texts = [f"{WORDS[i % 11]} {WORDS[i % 3]}" for i in range(90)]
    queries = [f"{WORDS[i % 11]} {WORDS[i % 5]}" for i in range(40)]
    corpus = TextTable.from_columns([f"c{i}" for i in range(len(texts))], texts)
    table = TextTable.from_columns([f"q{i}" for i in range(len(queries))], queries)
    rows = np.arange(len(queries))
    judged = Judgements.from_triples(rows, rows * 2 % len(texts), np.ones(len(rows), dtype=np.int32))
    return RetrievalDataset(corpus, table, {"train": judged, "test": judged}, name="tied")


def retrieved(ranks: Ranks) -> dict[str, np.ndarray]:
    """What evaluation and mining give; with `Ranks.alone()` by a single process."""
    model, data = make_static(seed=1), tied()
    rows, scores = retrieve(model, data.corpus, data.queries, 25, block=BLOCK, ranks=ranks)
    measures = evaluate(model, data, leave_out="nothing", block=BLOCK, ranks=ranks)
    found = {"rows": rows, "scores": scores, "measures": np.array([measures[name] for name in sorted(measures)])}
    for per in ("query", "pair"):
        mined = mine(model, data, per=per, margin=0.01, depth=30, block=BLOCK, ranks=ranks)  # type: ignore[arg-type]
        found |= {f"{per} negatives": mined.negatives, f"{per} scores": mined.scores}
        found |= {f"{per} positives": mined.positive_scores}
    return found


def main(folder: Path) -> None:
    ranks = join("cpu")
    np.savez(folder / f"retrieved-{ranks.size}-{ranks.number}.npz", **retrieved(ranks))
    train(settings(folder, "unbroken", ranks.size), quiet=True)
    if ranks.is_first:
        broken_off(folder, "unbroken", "broken")
        broken_off(folder, "unbroken", "elsewhere")
    ranks.together()
    train(settings(folder, "broken", ranks.size), resume=True, quiet=True)
    np.savez(folder / f"sent-{ranks.number}.npz", sent=ranks.sent, exchanges=ranks.exchanges)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
