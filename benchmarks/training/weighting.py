"""Which weighting of drawn candidates trains best: by scale, number of draws and source, on HPO with static embeddings.

    python -m benchmarks.training.weighting --seeds 2          # about 20 minutes on two cores
    python -m benchmarks.training.weighting --quick            # one seed, few steps: a look

Chosen by ``dev``, as defaults should be. Prints a Markdown table (means over seeds) and writes JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks._study import PLAIN_SOFTMAX

from hardwood.data import RetrievalDataset, read_hpo
from hardwood.training import RunConfig, train
from hardwood.training._limits import WEIGHTINGS

SETTINGS = [
    ("exact", 10.0, 8),
    ("exact", 20.0, 2),
    ("exact", 20.0, 8),
    ("exact", 20.0, 32),
    ("exact", 50.0, 8),
    ("uniform", 20.0, 8),
    ("uniform", 50.0, 8),
    ("cache", 20.0, 8),
]


def dev_mrr(
    dataset: RetrievalDataset, source: str, scale: float, draws: int, weighting: str, seed: int, steps: int
) -> float:
    """MRR@10 on dev of one run."""
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            **PLAIN_SOFTMAX,
            data="hpo",
            output=str(Path(folder) / "run"),
            negatives=source,
            scale=scale,
            num_negatives=draws,
            weighting=weighting,  # type: ignore[arg-type]
            steps=steps,
            seed=seed,
            evaluation_splits=["dev"],
        )
        return float(train(config, quiet=True, dataset=dataset).metrics["dev"]["mrr@10"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/weighting.json"))
    arguments = parser.parse_args()
    seeds, steps = (1, 60) if arguments.quick else (arguments.seeds, arguments.steps)
    dataset = read_hpo()
    print(f"| source | scale | draws a query | {' | '.join(WEIGHTINGS)} |")
    print("|---" * (3 + len(WEIGHTINGS)) + "|")
    records = []
    for source, scale, draws in SETTINGS:
        row = {}
        for weighting, seed in itertools.product(WEIGHTINGS, range(seeds)):
            row.setdefault(weighting, []).append(dev_mrr(dataset, source, scale, draws, weighting, seed, steps))
        records.append({"source": source, "scale": scale, "draws": draws, "steps": steps, "dev_mrr@10": row})
        cells = " | ".join(f"{statistics.fmean(row[weighting]):.4f}" for weighting in WEIGHTINGS)
        print(f"| {source} | {scale:g} | {draws} | {cells} |", flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
