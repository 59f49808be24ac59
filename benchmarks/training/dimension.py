"""What training loses, and memory gains, where tree and true encodings keep fewer dimensions.

    python -m benchmarks.training.dimension --data hpo --encoder wordllama --steps 300

Trains with the dynamic source at each ``index_dimension`` and prints MRR@10 of every split but training's, the means
over the steps of the estimated total variation and of the effective draws, the bytes that the source keeps, and CPU
seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._models import folder_of
from benchmarks._study import data_folder

from hardwood.training import RunConfig, train


def measured(arguments: argparse.Namespace, data: Path, dimension: int | None, seed: int) -> dict[str, Any]:
    """The row of one run."""
    options: dict[str, Any] = {} if dimension is None else {"index_dimension": dimension}
    if arguments.half:
        options |= {"index_dtype": "bfloat16", "true_dtype": "bfloat16"}
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            data=str(data),
            output=f"{folder}/run",
            encoder=folder_of(arguments.encoder),
            negatives="dynamic",
            negatives_options=options,
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            num_negatives=arguments.num_negatives,
            learning_rate=arguments.learning_rate,
            max_length=arguments.max_length,
            precision=arguments.precision,
            save_every=arguments.steps,
            seed=seed,
            threads=1,
        )
        begun = time.process_time()
        metrics = train(config, quiet=True).metrics
        seconds = time.process_time() - begun
        run = Path(folder) / "run"
        log = [entry for entry in json.loads((run / "log.json").read_text()) if "total_variation" in entry]
        state = next((run / "checkpoints").glob("checkpoint-*"))
        files = [state / "hardwood" / "source.safetensors", *(state / "hardwood" / "index").iterdir()]
        kept = sum(file.stat().st_size for file in files)
    figures = {name: sum(entry[name] for entry in log) / len(log) for name in ("total_variation", "effective_draws")}
    return {
        **{split: values["mrr@10"] for split, values in metrics.items() if "mrr@10" in values},
        **figures,
        "MB of state": kept / 1e6,
        "CPU s": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hpo", help="hpo, taxa or a BEIR folder")
    parser.add_argument("--encoder", default="wordllama", help="wordllama, minilm, static or a folder")
    parser.add_argument("--dimensions", nargs="+", type=int, default=[32, 64, 128, 0], help="0: all")
    parser.add_argument("--half", action="store_true", help="tree and true encodings in bfloat16")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-negatives", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of the forward pass")
    arguments = parser.parse_args()
    data = data_folder(arguments.data)
    names: list[str] = []
    for seed in arguments.seeds:
        for dimension in arguments.dimensions:
            row = measured(arguments, data, dimension or None, seed)
            if not names:
                names = list(row)
                print("| dimensions | seed | " + " | ".join(names) + " |\n" + "|---" * (2 + len(names)) + "|")
            cells = [f"{row[name]:.1f}" if name in ("MB of state", "CPU s") else f"{row[name]:.4f}" for name in names]
            print(f"| {dimension or 'all'} | {seed} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
