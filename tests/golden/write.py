"""Write the golden folders: what this version saves, small, and what was read from it on the day it was written.

    python tests/golden/write.py            # every kind that is not there yet
    python tests/golden/write.py --again    # dataset and run anew, while no release has written them

The kinds: ``index/NAME`` (an index, by `write_index.py`), ``dataset`` (a BEIR folder) and ``run`` (a run of the dynamic
source with a checkpoint). Once a release has written them they are never written again: `tests/test_golden.py` and
`tests/tree/store/test_golden.py` read them with the code of today. When a format changes, add a folder beside the old
ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

GOLDEN = Path(__file__).resolve().parent
ROOT = GOLDEN.parents[1]
DATASET, RUN = GOLDEN / "dataset", GOLDEN / "run"
STEPS, FURTHER = 4, 6
NOT_KEPT = ("training_curve.png", "report.html", ".lock")
"""Files of a run that nothing reads back, or that say where it was made."""


def settings(output: Path) -> dict[str, Any]:
    """A run of every mechanism of the dynamic source, as small as it gets."""
    return {
        "data": "tests/golden/dataset",
        "output": str(output),
        "negatives": "dynamic",
        "negatives_options": {"refresh_every": 2, "landmarks": 12, "leaf_size": 4, "probes": 3},
        "dimension": 8,
        "vocabulary_size": 256,
        "num_negatives": 4,
        "batch_size": 16,
        "steps": STEPS,
        "save_every": STEPS,
        "device": "cpu",
    }


def resumed(run: Path) -> dict[str, Any]:
    """Resume the run from its checkpoint and go on to `FURTHER` steps: its measures and the sum of its weights."""
    from hardwood import RunConfig, train

    config = dataclasses.replace(
        RunConfig.load(run / "run.yaml"), data=str(DATASET), output=str(run), steps=FURTHER, save_every=None
    )
    result = train(config, resume=True, quiet=True)
    weights = [parameter.double().abs().sum().item() for parameter in result.model.parameters()]
    return {"weights": weights, "test": result.metrics["test"], "steps": result.metrics["training"]["steps"]}


def write_dataset() -> None:
    """The tests' dataset of ailments, and what is read from it."""
    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import make_dataset

    data = make_dataset()
    data.save(DATASET, overwrite=True)
    kept = {
        "targets": len(data.corpus),
        "queries": len(data.queries),
        "first": [data.corpus.ids([0])[0], data.corpus.texts([0])[0]],
        "fingerprints": [data.corpus.fingerprint(), data.queries.fingerprint()],
        "splits": {name: len(split) for name, split in data.splits.items()},
    }
    DATASET.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")


def write_run() -> None:
    """A run with its checkpoint, and what resuming it came to."""
    from hardwood import RunConfig, __version__, train

    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="hardwood-golden-") as temporary:
        run = Path(temporary) / "run"
        train(RunConfig(**settings(run)), quiet=True)
        shutil.rmtree(RUN, ignore_errors=True)
        shutil.copytree(run, RUN, ignore=shutil.ignore_patterns(*NOT_KEPT))
        kept = {"hardwood": __version__, **resumed(run)}
    run_file = RUN / "run.yaml"
    run_file.write_text(run_file.read_text().replace(str(run), "tests/golden/run"))
    RUN.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")


def write_indexes() -> None:
    """The golden indexes, each in a process of its own."""
    for dtype in ("float32", "bfloat16"):
        folder = GOLDEN / "index" / dtype
        if not folder.exists():
            command = [sys.executable, str(GOLDEN / "write_index.py"), str(folder), "--dtype", dtype]
            subprocess.run(command, check=True)


def main() -> None:
    """Write what is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="write dataset and run anew")
    again = parser.parse_args().again
    if again or not DATASET.exists():
        write_dataset()
    if again or not RUN.exists():
        write_run()
    write_indexes()


if __name__ == "__main__":
    main()
