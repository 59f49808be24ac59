"""The study that a practitioner would ask for: which way to negatives, at equal texts and at equal seconds.

    python -m benchmarks.studies.practitioner --data hpo --encoder wordllama        # hpo, taxa or a BEIR folder
    python -m benchmarks.studies.practitioner --data hpo --encoder minilm           # pretrained transformer: hours
    python -m benchmarks.studies.practitioner --data hpo --encoder wordllama --report   # what is finished so far
    python -m benchmarks.studies.practitioner --data hpo --encoder static --quick   # one seed, few steps: a look

In-batch negatives, sentence-transformers' recipe (hard negatives mined once with the base model, then its losses, in
its trainer) and the sources of this library get the same data, learning-rate schedule, scale and seeds, and are
measured by the same exact retrieval. Two budgets:

- *equal texts*: the same number of steps for all, each of at most as many texts as the dynamic source encodes at most.
  What is encoded besides, without gradient (mining, refreshes), is counted and shown.
- *equal seconds*: as many steps as fit into the seconds that the reference (dynamic with its default prior) takes for
  its own, by what the method's first run at equal texts took; mining counts. The whole learning-rate schedule is spread
  over those steps.

Seconds are CPU seconds of the process on one thread, so that company on the machine counts little; those of the wall
stand beside them. Each run is a process of its own and leaves one JSON file; what is done is not repeated, and several
of these commands may work on one study. The report goes to ``benchmarks/results/practitioner-DATA-ENCODER.json`` and
``.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._models import folder_of
from benchmarks._report import ROOT
from benchmarks._study import claimed, data_folder, slug
from benchmarks.studies._practitioner_report import EQUAL_SECONDS, EQUAL_TEXTS, identity, report

from hardwood.negatives import SOURCES
from hardwood.training import RunConfig

PRIOR, PUSH = "unasked_prior", "unasked_push"
DEFAULT = "default"


@dataclass(frozen=True)
class Method:
    """A way to negatives.

    Attributes:
        source: of this library; for a recipe ``in-batch``, which is not used.
        options: of the source.
        prior: weight of targets that no training query asks for; ``"default"``: the library's, which does not move them
            either. Rivals have 1, and move them, as they were published.
        loss: of sentence-transformers, on mined n-tuples; empty: ours.
        mined: negatives a pair; ``None``: as many as asked for with ``--mined``.
        same_texts: the batch is enlarged to the texts that the dynamic source encodes at most.
    """

    source: str = "in-batch"
    options: dict[str, Any] = field(default_factory=dict)
    prior: float | str = 1.0
    loss: str = ""
    mined: int | None = None
    same_texts: bool = False


METHODS: dict[str, Method] = {
    "in-batch": Method(same_texts=True),
    "in-batch, batch of pairs": Method(),
    "mined, MultipleNegativesRankingLoss": Method(loss="MultipleNegativesRankingLoss", same_texts=True),
    "mined, CachedMultipleNegativesRankingLoss": Method(loss="CachedMultipleNegativesRankingLoss", same_texts=True),
    "mined, GISTEmbedLoss": Method(loss="GISTEmbedLoss", mined=1, same_texts=True),  # it takes triplets alone
    "mined, CachedGISTEmbedLoss": Method(loss="CachedGISTEmbedLoss", same_texts=True),
    "pool 1 %": Method("pool", {"share": 0.01}),
    "pool 3 %": Method("pool", {"share": 0.03}),
    "pool 10 %": Method("pool", {"share": 0.1}),
    "cache": Method("cache"),
    "periodic (ANCE)": Method("periodic"),
    "exact (oracle)": Method("exact"),
    "exact (oracle), default prior": Method("exact", prior=DEFAULT),
    "dynamic, prior 1": Method("dynamic"),
    "dynamic": Method("dynamic", prior=DEFAULT),
}
REFERENCE = "dynamic"

RATES = {"static": 0.2, "wordllama": 0.2, "minilm": 5e-5}
"""Peak learning rates: the library's default; the best of --rates for in-batch on dev; the usual for MiniLM."""
SIZES = {"static": (800, 128, 8), "wordllama": (800, 128, 8), "minilm": (300, 32, 2)}
"""Steps, pairs a batch, draws a query."""


def unavailable(method: Method) -> str:
    """Why this version of the library can't run a method, if so."""
    if method.prior == DEFAULT and PRIOR not in _fields():
        return f"this version has no option {PRIOR}"
    if method.source not in SOURCES:
        return f"this version has no source {method.source}"
    return ""


def reference() -> str:
    """The method whose seconds all others get."""
    return "dynamic, prior 1" if unavailable(METHODS[REFERENCE]) else REFERENCE


def _fields() -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(RunConfig)}


def spec_of(arguments: argparse.Namespace, name: str, seed: int, budget: str, steps: int) -> dict[str, Any]:
    """Everything that determines a run."""
    method = METHODS[name]
    draws, pairs = arguments.num_negatives, arguments.batch_size
    mined = (method.mined or arguments.mined) if method.loss else 0
    batch = round(pairs * (2 + draws) / (2 + mined)) if method.same_texts else pairs
    config: dict[str, Any] = {
        "data": str(arguments.folder),
        "encoder": arguments.encoder_folder,
        "max_length": arguments.max_length,
        "negatives": method.source,
        "negatives_options": method.options,
        "num_negatives": draws,
        "batch_size": batch,
        "steps": steps,
        "learning_rate": arguments.learning_rate,
        "scale": arguments.scale,
        "seed": seed,
        "threads": 1,
    }
    if arguments.precision != "float32":  # what earlier runs were made with is not said in them
        config["precision"] = arguments.precision
    if PRIOR in _fields() and method.prior != DEFAULT:
        config |= {PRIOR: method.prior, PUSH: 1.0}  # the plain softmax over the corpus
    prior = _fields()[PRIOR] if method.prior == DEFAULT else method.prior
    spec = {"method": name, "budget": budget, "prior": prior, "loss": method.loss, "mined": mined}
    study = {"steps": arguments.steps, "pairs_a_batch": pairs}  # of the reference
    return {**spec, "study": study, "config": config}


class Study:
    """The runs of a study and what is known of them so far: files in a folder."""

    def __init__(self, arguments: argparse.Namespace, runs: Path) -> None:
        self.arguments = arguments
        self.runs = runs
        self.first = arguments.first_seed
        self.seeds = range(self.first, self.first + arguments.seeds)

    def path(self, name: str, seed: int, budget: str) -> Path:
        """Where the result of a run is or will be."""
        return self.runs / f"{slug(f'{budget} {name}'.replace('%', 'percent'), seed)}.json"

    def result(self, spec: dict[str, Any]) -> dict[str, Any] | None:
        """The result of a run; ``None`` if it isn't done."""
        path = self.path(spec["method"], spec["config"]["seed"], spec["budget"])
        if not path.exists():
            return None
        result = json.loads(path.read_text())
        if identity(result["spec"]) != identity(spec):
            raise SystemExit(f"{path} is of a run with other settings: move it away, or use another folder (--runs)")
        return dict(result)

    def at_equal_texts(self, name: str, seed: int) -> dict[str, Any]:
        """What determines the run with as many steps as asked for."""
        return spec_of(self.arguments, name, seed, EQUAL_TEXTS, self.arguments.steps)

    def at_equal_seconds(self, name: str, seed: int) -> dict[str, Any] | None:
        """What determines the run with as many steps as the time allows; ``None`` where that isn't known yet, where it
        is the run at equal texts, or where there is no such method for this encoder."""
        if name == reference():
            return None
        first, measure = (self.result(self.at_equal_texts(each, self.first)) for each in (name, reference()))
        if first is None or measure is None or "refused" in first:
            return None
        fixed = first["mining"]["cpu_seconds"] if first["mining"] else 0.0
        steps = int((measure["cpu_seconds"] - fixed) / (first["cpu_seconds"] - fixed) * self.arguments.steps)
        return spec_of(self.arguments, name, seed, EQUAL_SECONDS, max(steps, 0))

    def open_runs(self) -> Iterator[dict[str, Any]]:
        """What can be done now and isn't: first what others wait for."""
        for seed in self.seeds:
            for name in sorted(self.arguments.only, key=lambda name: name != reference()):
                yield self.at_equal_texts(name, seed)
            for name in self.arguments.only:
                if EQUAL_SECONDS in self.arguments.budgets and (spec := self.at_equal_seconds(name, seed)):
                    yield spec

    def work(self) -> None:
        """Do everything that no other process has in hand."""
        progress = True
        while progress:  # what is done allows others
            progress = False
            for spec in self.open_runs():
                path = self.path(spec["method"], spec["config"]["seed"], spec["budget"])
                if self.result(spec) is not None:
                    continue
                with claimed(path) as ours:
                    if ours and self.result(spec) is None:
                        print(f"{path.stem} ({spec['config']['steps']} steps)", flush=True)
                        self.run(spec, path)
                        progress = True

    def run(self, spec: dict[str, Any], path: Path) -> None:
        """Do a run, in a process of its own."""
        one_thread = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
        command = [sys.executable, "-m", "benchmarks.studies._practitioner_run", json.dumps(spec), str(path.resolve())]
        if subprocess.run(command, cwd=ROOT, env={**os.environ, **one_thread}, check=False).returncode:
            raise SystemExit(f"the run {path.stem} failed: its own message is above")


def find_rate(arguments: argparse.Namespace) -> None:
    """MRR@10 of in-batch training on dev by learning rate, a few short runs: the best is for all methods."""
    for rate in arguments.rates:
        arguments.learning_rate = rate
        study = Study(arguments, arguments.runs / f"rate-{rate:g}")
        spec = study.at_equal_texts("in-batch", study.first)
        result = study.result(spec)
        if result is None:
            study.run(spec, study.path("in-batch", study.first, EQUAL_TEXTS))
            result = study.result(spec)
        assert result is not None
        print(f"learning rate {rate:g}: MRR@10 on dev {result['metrics']['dev']['mrr@10']:.4f}", flush=True)


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hpo", help="hpo, taxa, or a BEIR folder")
    parser.add_argument("--encoder", default="static", help="static, wordllama, minilm, or a folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help=f"default by encoder: {SIZES}: steps, pairs a batch, draws a query")
    parser.add_argument("--batch-size", type=int, help="pairs a batch, of the dynamic source")
    parser.add_argument("--num-negatives", type=int, help="draws a query")
    parser.add_argument("--mined", type=int, help="mined negatives a pair; default: as the draws, at most 5")
    parser.add_argument("--learning-rate", type=float, help=f"peak; default by encoder: {RATES}")
    parser.add_argument("--scale", type=float, default=20.0, help="inverse temperature")
    parser.add_argument("--max-length", type=int, help="tokens of a text, of a transformer; default: its own")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of all forward passes")
    parser.add_argument(
        "--only", nargs="+", choices=list(METHODS), metavar="METHOD", help=", ".join(METHODS).replace("%", "%%")
    )
    parser.add_argument("--budgets", nargs="+", choices=[EQUAL_TEXTS, EQUAL_SECONDS], metavar="BUDGET")
    parser.add_argument("--rates", nargs="+", type=float, help="try these learning rates in batch, on dev; no study")
    parser.add_argument("--report", action="store_true", help="only report what is finished")
    parser.add_argument("--quick", action="store_true", help="one seed, 60 steps")
    parser.add_argument("--runs", type=Path, help="else runs/practitioner/DATA-ENCODER")
    parser.add_argument("--output", type=Path, help="else benchmarks/results")
    arguments = parser.parse_args()
    kind = Path(arguments.encoder).name
    sizes = SIZES.get(kind, SIZES["minilm"])
    for option, value in zip(("steps", "batch_size", "num_negatives"), sizes, strict=True):
        if getattr(arguments, option) is None:
            setattr(arguments, option, value)
    arguments.learning_rate = arguments.learning_rate or RATES.get(kind, RATES["minilm"])
    arguments.mined = arguments.mined or min(arguments.num_negatives, 5)
    arguments.budgets = arguments.budgets or [EQUAL_TEXTS, EQUAL_SECONDS]
    arguments.only = arguments.only or list(METHODS)
    if arguments.quick:
        arguments.steps, arguments.seeds = 60, 1
    arguments.folder = data_folder(arguments.data).resolve()
    arguments.name = f"practitioner-{arguments.folder.name}-{kind}" + ("-quick" if arguments.quick else "")
    arguments.runs = arguments.runs or ROOT / "runs" / "practitioner" / arguments.name.removeprefix("practitioner-")
    arguments.output = arguments.output or (ROOT / "runs" if arguments.quick else ROOT / "benchmarks" / "results")
    return arguments


def main() -> None:
    arguments = arguments_of()
    arguments.encoder_folder = folder_of(arguments.encoder)
    if arguments.rates:
        find_rate(arguments)
        return
    for name in list(arguments.only):
        if reason := unavailable(METHODS[name]):
            print(f"{name}: left out, {reason}")
            arguments.only.remove(name)
    if not arguments.report:
        Study(arguments, arguments.runs).work()
    report(arguments.runs, arguments.output / arguments.name, list(METHODS), reference())


if __name__ == "__main__":
    main()
