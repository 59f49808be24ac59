"""The moving encoder: the dynamic tree against the oracle, periodic re-encoding and its own ablations.

    python -m benchmarks.studies.dynamic --data hpo --seeds 3                       # every variant
    python -m benchmarks.studies.dynamic --data taxa --batch-size 160 --num-negatives 2 --only exact dynamic
    python -m benchmarks.studies.dynamic --data hpo --encoder transformer           # two layers, from scratch
    python -m benchmarks.studies.dynamic --data hpo --encoder minilm --batch-size 32 --max-length 32   # pretrained
    python -m benchmarks.studies.dynamic --data hpo --report                        # what is finished so far
    python -m benchmarks.studies.dynamic --quick                                    # one seed, few steps: a look

Each run is a process of its own; what is done is not repeated, so an interrupted study goes on where it was, and
several of these commands may work on one study at a time: each takes runs that no other has. At the end (and
with ``--report``) come ``study-DATA-ENCODER.json`` in benchmarks/results and the figure in docs/images, made of every
finished run there is, those of an earlier report included (remove it to begin anew);
``python tools/update_docs.py --studies`` puts them into docs/results/study.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._models import LEARNING_RATE, folder_of, small_transformer
from benchmarks._report import ROOT
from benchmarks._study import PLAIN_SOFTMAX, claimed, collect, data_folder, described, report, slug

from hardwood.comparison import PlannedRun, run_one
from hardwood.data import RetrievalDataset
from hardwood.training import RunConfig
from hardwood.training._limits import Weighting


@dataclass(frozen=True)
class Variant:
    """A source with its options; ``equal_texts``: in-batch with as many texts a step as the others encode at most;
    ``weighting``: of what is drawn, ``None``: the source's."""

    source: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    equal_texts: bool = False
    weighting: Weighting | None = None

    def settings(self) -> dict[str, Any]:
        """What ``RunConfig`` is given."""
        return {"negatives": self.source, "negatives_options": self.options, "weighting": self.weighting}


WHOLE = "whole softmax"
PREDICTING: dict[str, Any] = {"refresh_predict_below": None}  # whatever the predictions are worth
NO_MOTION: dict[str, Any] = {"refresh_drift": "stale"}
VARIANTS: dict[str, Variant] = {
    "in-batch": Variant("in-batch"),
    "in-batch, equal texts": Variant("in-batch", equal_texts=True),
    "uniform": Variant("uniform"),
    "static": Variant("static"),
    "periodic 500": Variant("periodic", {"refresh_every": 500}),
    "periodic 200": Variant("periodic", {"refresh_every": 200}),
    "periodic 100": Variant("periodic", {"refresh_every": 100}),
    "periodic 50": Variant("periodic", {"refresh_every": 50}),
    "exact": Variant("exact"),  # the oracle: every 20 steps
    "exact from step 0": Variant("exact", {"start_step": 0}),
    "cache": Variant("cache"),
    "static, tempered": Variant("static", weighting="tempered"),
    "periodic 200, tempered": Variant("periodic", {"refresh_every": 200}, weighting="tempered"),
    "exact, tempered": Variant("exact", weighting="tempered"),
    "dynamic": Variant("dynamic"),
    "dynamic, shared weights": Variant("dynamic", weighting="shared"),  # the default of the ablations below
    "dynamic from step 20": Variant("dynamic", {"start_step": 20}),
    "dynamic, all re-encoded": Variant(  # every 20 steps, as the oracle: what the tree and its draws alone are worth
        "dynamic", {"refresh_reencode": 200_000, "refresh_every": 20, "refresh_when": None, **NO_MOTION}
    ),
    "dynamic, 64 leaves of 128, bfloat16": Variant(
        "dynamic", {"probes": 64, "leaf_size": 128, "index_dtype": "bfloat16"}
    ),
    "dynamic, bfloat16": Variant("dynamic", {"index_dtype": "bfloat16"}),
    "dynamic, 64 leaves": Variant("dynamic", {"probes": 64}),
    "dynamic, 5500 re-encoded each 20 steps, none predicted": Variant(  # 5 % of the oracle's encodings, at an even pace
        "dynamic", {"refresh_every": 20, "refresh_when": None, "refresh_reencode": 5500, **NO_MOTION}
    ),
    "dynamic, predicting": Variant("dynamic", PREDICTING),
    "dynamic, predicting, denser": Variant("dynamic", {**PREDICTING, "refresh_growth": 0.1}),
    "dynamic, predicting, 256 landmarks": Variant("dynamic", {**PREDICTING, "landmarks": 256}),
    "dynamic, 32 probes": Variant("dynamic", {**PREDICTING, "refresh_growth": 0.1, "probes": 32}),
    "dynamic, predicting, 64 probes": Variant("dynamic", {**PREDICTING, "landmarks": 256, "probes": 64}),
    "dynamic, predicting, no write-back": Variant("dynamic", {**PREDICTING, "write_back": False}),
    "dynamic, 1024 re-encoded, none predicted": Variant("dynamic", {"refresh_reencode": 1024, **NO_MOTION}),
    "dynamic, 8192 re-encoded, none predicted": Variant("dynamic", {"refresh_reencode": 8192, **NO_MOTION}),
    "dynamic, 16384 re-encoded, none predicted": Variant("dynamic", {"refresh_reencode": 16384, **NO_MOTION}),
    "dynamic, 16384 re-encoded": Variant("dynamic", {"refresh_reencode": 16384}),
    "dynamic, write-back only": Variant("dynamic", {"refresh_when": None}),
    "dynamic, no write-back": Variant("dynamic", {"write_back": False}),
    "dynamic, stale drift": Variant("dynamic", {"refresh_drift": "stale"}),
    "dynamic, linear drift": Variant("dynamic", {"refresh_drift": "linear"}),
    "dynamic, nystrom drift": Variant("dynamic", {"refresh_drift": "nystrom"}),
    "dynamic, corrector drift": Variant("dynamic", {"refresh_drift": "corrector"}),
    "dynamic, neither": Variant("dynamic", {"refresh_when": None, "write_back": False}),
    WHOLE: Variant("uniform"),  # by ceiling.py: only with the static encoder
}
# Ablations are of one and the same thing: all were run with these weights.
VARIANTS |= {
    name: dataclasses.replace(made, weighting="shared")
    for name, made in VARIANTS.items()
    if name.startswith("dynamic,")
}
FEWER = ["in-batch", "in-batch, equal texts", "uniform", "static", "periodic 200", "exact", "cache", "dynamic"]
FEWER += ["dynamic, write-back only", "dynamic, no write-back"]
"""Where a run takes long."""

PRETRAINED_RATE = 5e-5
"""Peak, for a pretrained transformer."""


def plan(arguments: argparse.Namespace, data: Path, runs: Path) -> list[PlannedRun]:
    """A run for each variant and seed, seed by seed; variants that only spell a default out are left to the default."""
    planned: list[PlannedRun] = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        base = RunConfig(
            **PLAIN_SOFTMAX,
            data=str(data),
            output=str(runs),
            seed=seed,
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            num_negatives=arguments.num_negatives,
            threads=arguments.threads or None,
            **encoder_settings(arguments, data, seed),
        )
        seen: list[tuple[str, str]] = []
        for name in arguments.only:
            variant = VARIANTS[name]
            config = dataclasses.replace(base, output=str(runs / slug(name, seed)), **variant.settings())
            if variant.equal_texts:
                config = dataclasses.replace(config, batch_size=round(base.sizes.pairs * (1 + base.sizes.draws / 2)))
            same = (f"{config.batch_size} {name == WHOLE}", described(config))
            if same in seen:
                print(f"{name}: the same as a variant before it, left out")
                continue
            seen.append(same)
            planned.append(PlannedRun(name, ("equal batch",), config))
    return planned


def encoder_settings(arguments: argparse.Namespace, data: Path, seed: int) -> dict[str, Any]:
    """What ``RunConfig`` is given for the encoder; a transformer is made for each seed if it is not there."""
    if arguments.encoder == "static":
        return {}
    if arguments.encoder != "transformer":
        rate = arguments.learning_rate or PRETRAINED_RATE
        return {
            "encoder": folder_of(arguments.encoder),
            "max_length": arguments.max_length,
            "learning_rate": rate,
        }
    folder = ROOT / "runs" / "models" / f"{data.name}-transformer-seed{seed}"
    if not (folder / "modules.json").exists():
        small_transformer(RetrievalDataset.load(data), folder, seed=seed)
    return {"encoder": str(folder), "learning_rate": arguments.learning_rate or LEARNING_RATE}


def execute(run: PlannedRun) -> None:
    """Do a run if it isn't done, and drop its model: the study wants only the measures."""
    folder = Path(run.config.output)
    if run.negatives != WHOLE:
        run_one(run)
    elif not (folder / "metrics.json").exists():
        settings = folder.with_name(f"{folder.name}.yaml")
        run.config.save(settings)
        command = [sys.executable, "-m", "benchmarks.training.ceiling", "--config", str(settings.resolve())]
        subprocess.run(command, cwd=ROOT, check=True)
        settings.unlink()
    shutil.rmtree(folder / "model", ignore_errors=True)


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hpo", help="hpo, taxa, or a BEIR folder")
    parser.add_argument("--encoder", default="static", help="static, transformer, minilm, or a folder")
    parser.add_argument("--learning-rate", type=float, help="peak, of a transformer; default: what suits it")
    parser.add_argument("--max-length", type=int, help="tokens of a text, of a pretrained model; default: its own")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1, help="of a run; 0: OMP_NUM_THREADS, for the tree all cores")
    parser.add_argument("--num-negatives", type=int, default=8, help="draws a query")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--report", action="store_true", help="only report what is finished")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--runs", type=Path, default=None, help="else runs/study/DATA-ENCODER")
    parser.add_argument("--output", type=Path, default=None, help="else benchmarks/results and docs/images")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.seeds = 60, 1
    if arguments.only is None:
        arguments.only = list(VARIANTS) if arguments.data == "hpo" and arguments.encoder == "static" else FEWER
    return arguments


def main() -> None:
    arguments = arguments_of()
    data = data_folder(arguments.data)
    name = f"{data.name}-{Path(arguments.encoder).name}" + ("-quick" if arguments.quick else "")
    runs = arguments.runs or ROOT / "runs" / "study" / name
    planned = [] if arguments.report else plan(arguments, data, runs)
    for number, run in enumerate(planned, start=1):
        with claimed(Path(run.config.output)) as ours:
            whose = "" if ours else ": another does it"
            print(f"[{number}/{len(planned)}] {Path(run.config.output).name}{whose}", flush=True)
            if ours:
                execute(run)
    output = arguments.output or (ROOT / "runs" / "study" if arguments.quick else None)
    sources = {name: described(RunConfig("", "", **made.settings())) for name, made in VARIANTS.items()}
    report(collect(runs, sources), sources, f"study-{name}", output)


if __name__ == "__main__":
    main()
