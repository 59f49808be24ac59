"""Is a model trained by W processes, each with its part of the corpus, as good as one trained by one process?

    python -m benchmarks.processes.quality --data data/hpo --encoder wordllama     # ten minutes on two cores
    python -m benchmarks.processes.quality --data FOLDER --encoder wordllama --processes 1 4 --seeds 5

``hardwood train`` with dynamic negatives and the same global batch, steps and seeds for each number of processes, which
talk over gloo, each with one thread. W processes have W trees, so they draw from slightly different proposals; each
draw's probability is known, and the loss is estimated without bias whatever their number. Means over seeds, with the
standard error; *minus one process* is the mean difference from one process with the same seed. What is finished is not
repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from benchmarks._models import folder_of
from benchmarks._report import ROOT, Row, finish, parser
from tests.processes.launch import run

from hardwood.training.job.run_folder import BESIDE_SPLITS, METRICS


def main() -> None:
    arguments = options()
    found: dict[int, list[dict[str, float]]] = {
        size: [measured(arguments, size, seed) for seed in range(arguments.seeds)] for size in arguments.processes
    }
    rows: list[Row] = []
    for size, seeds in found.items():
        for split in sorted(seeds[0]):
            values = [measures[split] for measures in seeds]
            row: Row = {"split": split, "processes": size, "MRR@10": statistics.mean(values), "±": error_of(values)}
            if size != 1 and 1 in found:
                apart = [value - one[split] for value, one in zip(values, found[1], strict=True)]
                row |= {"minus one process": statistics.mean(apart), "its ±": error_of(apart)}
            rows.append(row)
    finish(arguments, f"quality_of_processes_{Path(arguments.data).name}", rows)


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.set_defaults(threads=1)
    made.add_argument("--data", required=True, help="a BEIR folder")
    made.add_argument("--encoder", default="wordllama", help="wordllama, or a folder")
    made.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--steps", type=int, default=300)
    made.add_argument("--batch-size", type=int, default=128, help="of all processes together")
    made.add_argument("--num-negatives", type=int, default=8)
    made.add_argument("--learning-rate", type=float, default=0.05)
    made.add_argument("--runs", type=Path, default=ROOT / "runs" / "quality", help="where runs are kept")
    return made.parse_args()


def measured(arguments: argparse.Namespace, size: int, seed: int) -> dict[str, float]:
    """MRR@10 by split of a run of ``size`` processes, trained if it is not there."""
    if arguments.batch_size % size:
        raise SystemExit(f"--batch-size {arguments.batch_size} can't be divided among {size} processes")
    folder = arguments.runs / Path(arguments.data).name / f"{size}-{seed}"
    if not (folder / METRICS).exists():
        command = ["-m", "hardwood", "train", arguments.data, "--encoder", folder_of(arguments.encoder)]
        command += ["--negatives", "dynamic", "--steps", str(arguments.steps), "--seed", str(seed)]
        command += ["--batch-size", str(arguments.batch_size // size), "--learning-rate", str(arguments.learning_rate)]
        command += ["--num-negatives", str(arguments.num_negatives), "--threads", "1", "--device", "cpu", "--quiet"]
        command += ["--no-report-base", "--overwrite", "--output", str(folder)]
        begin = time.perf_counter()
        run(size, command, timeout=7200, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        print(f"{folder}: {time.perf_counter() - begin:.0f} s", flush=True)
    metrics = json.loads((folder / METRICS).read_text())
    return {split: values["mrr@10"] for split, values in metrics.items() if split not in BESIDE_SPLITS}


def error_of(values: list[float]) -> float:
    """The standard error of a mean; NaN of one value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


if __name__ == "__main__":
    main()
