"""The main job: train an encoder, measure it, and write down everything."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardwood._files import folder_written_whole, written_whole
from hardwood._processors import set_threads
from hardwood._waiting import waiting
from hardwood.encoders import check_device, load_encoder
from hardwood.evaluation import evaluate_splits
from hardwood.negatives.cost import added_up, reset_peaks
from hardwood.ranks import Ranks, join
from hardwood.report import Trace
from hardwood.report.run import try_to_write_report
from hardwood.training.batch.sizes import (
    FRESH_EPOCHS,
    advice_on_epochs,
    announcement,
    announcement_of_epochs,
)
from hardwood.training.checkpoint.seal import STATE_FOLDER
from hardwood.training.evaluator import RetrievalEvaluator
from hardwood.training.job.assembly import make_loss, make_trainer
from hardwood.training.job.config import RunConfig
from hardwood.training.job.figure import training_curve
from hardwood.training.job.last_step import train_on
from hardwood.training.job.run_folder import (
    BESIDE_SPLITS,
    LAUNCH,
    METRICS,
    begin,
    checkpoint_to_resume,
    claimed,
    goes_on_by_itself,
    shards_to_resume,
    sizes_as_begun,
    what_is_kept,
    what_is_kept_is_noted,
)
from hardwood.training.softmax_loss import CorpusSoftmaxLoss

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer

    from hardwood.data import RetrievalDataset

SUSPECTS = "suspected_false_negatives.jsonl"


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        model: the trained encoder.
        metrics: as in ``metrics.json``: measures by split, ``"cost"`` and ``"training"``, and ``"left_out"`` where the
            dataset was read leniently.
        history: the trainer's log, a record a logging step.
    """

    model: SentenceTransformer
    metrics: dict[str, Any]
    history: list[dict[str, Any]]


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    dataset: RetrievalDataset | None = None,
) -> RunResult:
    """Train as ``config`` says and write the run's folder.

    The folder holds ``model/`` (loads with plain ``SentenceTransformer``), ``metrics.json``, ``run.yaml`` (repeats the
    run), ``report.html`` and its ``trace.json`` (`hardwood.report`), ``training_curve.png``, ``log.json``,
    ``suspected_false_negatives.jsonl`` (see `SuspectedNegatives`) and, if asked for, ``checkpoints/``.

    Args:
        config: the settings.
        resume: go on from the newest whole checkpoint in the folder, or, where there is none yet, with the encodings
            of the corpus that are there; the end is that of a run which was not broken off.
        overwrite: remove the run that the folder holds, once this one's data and encoder are loaded.
        quiet: no progress bars.
        dataset: use this one instead of reading ``config.data`` (which still names it in ``run.yaml``).

    Raises:
        ValueError: bad settings or data, an output folder in use, nothing to resume from, or an encoder that diverges.
            An error in mid-run carries a note (``__notes__``) of the checkpoint to go on from.
    """
    import torch
    from transformers import set_seed

    output = Path(config.output)
    device = _device(config.device)
    ranks = join(device)
    ranks.advise(partial(what_is_kept, output))
    with ranks.during("where the run begins"), claimed(output):
        checkpoint, shards, resume, overwrite = _agreed_start(ranks, config, resume=resume, overwrite=overwrite)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
            set_threads(config.threads)  # the tree's
        reset_peaks()
        set_seed(config.seed)
        with waiting(f"Reading {config.data}", show=not quiet):
            data = config.read_data() if dataset is None else dataset
        config = _sized(config, data, ranks, resume=resume, quiet=quiet)
        splits = splits_to_measure(config, data)
        model = load_encoder(
            config.encoder,
            data,
            towers=config.towers,
            dimension=config.dimension,
            vocabulary_size=config.vocabulary_size,
            max_length=config.max_length,
            seed=config.seed,
            device=device,
            trust_remote_code=config.trust_remote_code,
        )
        model.float()  # one that was saved in 16 bits comes so, and small updates of such weights would be rounded away
        loss = make_loss(model, data, config)
        loss.num_shards = shards or loss.num_shards
        loss.targets.progress = not quiet and ranks.is_first
        # An example for the model card; without one the trainer reads a thousand texts to choose some.
        model.model_card_data.widget = [{"text": data.queries.texts([0])[0]}]
        trace = Trace(data, split=config.train_split, texts=config.report_texts) if config.report else None
        trainer = make_trainer(model, data, loss, config, quiet=quiet, resume_from=checkpoint, trace=trace)
        begin(config, output, resume=resume, overwrite=overwrite, left_out=data.left_out)
        ranks.together()
        with what_is_kept_is_noted(output):
            return _trained(trainer, data, loss, config, splits, checkpoint, quiet, trace)


def _sized(config: RunConfig, data: RetrievalDataset, ranks: Ranks, *, resume: bool, quiet: bool) -> RunConfig:
    """The settings with the sizes of a step; those that were chosen by the number of passes are said."""
    if resume:
        config = sizes_as_begun(config, Path(config.output))
    num_pairs = data.split(config.train_split).positives.values.size
    sized = config.sized(num_pairs, ranks.size)
    if ranks.is_first and not quiet:
        if sized.sizes != config.sizes and config.steps is not None:
            batch = config.sizes.pairs * config.gradient_accumulation * ranks.size
            sys.stderr.write(announcement(config.steps, batch, num_pairs, sized.sizes) + "\n")
        elif sized.epochs != config.epochs and config.has_free_sizes:
            sys.stderr.write(announcement_of_epochs() + "\n")
        elif config.has_free_sizes and config.epochs is not None and config.epochs < FRESH_EPOCHS:
            sys.stderr.write(advice_on_epochs(config.epochs) + "\n")
    return sized


def _agreed_start(
    ranks: Ranks, config: RunConfig, *, resume: bool, overwrite: bool
) -> tuple[Path | None, int | None, bool, bool]:
    """The checkpoint to go on from, or the number of shards whose encodings there are, and whether the run resumes or
    overwrites one: as the first process finds it, since the folder changes from then on."""
    output = Path(config.output)

    def look() -> list[Any]:
        resumes, overwrites = goes_on_by_itself(output, resume=resume, overwrite=overwrite)
        found = checkpoint_to_resume(config, output, resume=resumes, overwrite=overwrites)
        shards = shards_to_resume(config, output, ranks.size) if resumes and found is None else None
        return [None if found is None else str(found), shards, resumes, overwrites]

    found, shards, resumes, overwrites = ranks.first(look)
    return None if found is None else Path(found), shards, resumes, overwrites


def _trained(
    trainer: SentenceTransformerTrainer,
    data: RetrievalDataset,
    loss: CorpusSoftmaxLoss,
    config: RunConfig,
    splits: list[str],
    checkpoint: Path | None,
    quiet: bool,
    trace: Trace | None,
) -> RunResult:
    """Train, measure, and write what is found."""
    model, output, ranks = loss.targets.model, Path(config.output), loss.meet_ranks()
    # Compiles on a machine's first run, which is no part of the run's seconds.
    loss.source.warm_up(progress=False if quiet or not ranks.is_first else None)
    options: dict[str, Any] = {
        "train_split": config.train_split,
        "leave_out": config.leave_out,
        "progress": False if quiet or not ranks.is_first else None,
        "ranks": ranks,
    }
    measured = partial(evaluate_splits, model, data, splits, **options)
    if trace is not None and config.report_base and not trace.has_base(checkpoint and checkpoint / STATE_FOLDER):
        trace.measure("base", measured)
    began = time.perf_counter()
    train_on(trainer, checkpoint)
    seconds = time.perf_counter() - began - (0.0 if trace is None else trace.seconds_in_training)
    # The trainer leaves its autocast around the model's forward: measure what is saved, as it will be loaded.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    metrics: dict[str, Any] = dict(measured() if trace is None else trace.measure("trained", measured))
    _store_in_card(trainer, data, metrics, config)
    metrics["cost"] = _cost_of_all(loss, ranks)
    metrics["training"] = {"steps": trainer.state.global_step, "seconds": round(seconds, 3)}
    if data.left_out is not None:
        metrics["left_out"] = data.left_out
    history = trainer.state.log_history
    if trace is not None:
        metrics["training"]["report_seconds"] = round(sum(trace.seconds.values()), 3)
    if ranks.is_first:
        opinion = None if loss.judge is None else loss.judge.opinion
        loss.suspects.write(output / SUSPECTS, data, config.train_split, opinion=opinion)
        if trace is not None:
            trace.write(output)
        _write_outputs(output, model, metrics, history, config)
        if trace is not None:
            with waiting("Writing report.html", show=not quiet):
                try_to_write_report(output)
    ranks.together()
    return RunResult(model, metrics, history)


def _cost_of_all(loss: CorpusSoftmaxLoss, ranks: Ranks) -> dict[str, Any]:
    """The costs of all processes; peaks of memory are those of the one that had the highest."""
    everyone = ranks.tell([loss.cost.state_dict(), loss.cost.report()])
    whole = {**loss.cost.report(), **added_up([state for state, _ in everyone])}
    peaks = {name: max(report[name] for _, report in everyone) for name in whole if name.startswith("peak_")}
    seconds = {part: round(value, 3) for part, value in whole["seconds"].items()}
    return {**whole, **peaks, "seconds": seconds} | ({} if ranks.is_alone else {"processes": ranks.size})


def _store_in_card(
    trainer: SentenceTransformerTrainer, data: RetrievalDataset, measures: dict[str, Any], config: RunConfig
) -> None:
    """Put the measures by split into the model card, in the place of those of the last evaluation in training."""
    for split, of_split in measures.items():
        if "mrr@10" not in of_split:  # a split that is measured by answers alone; the card's main measure is this one
            continue
        evaluator = trainer.evaluator
        if not isinstance(evaluator, RetrievalEvaluator) or evaluator.split != split:
            evaluator = RetrievalEvaluator(data, split, config.leave_out)
        of_card = {name: value for name, value in of_split.items() if name != "queries"}  # alike, so in one table
        evaluator.store(trainer.model, of_card, trainer.state.epoch or 0, trainer.state.global_step)


def _device(wanted: str | None) -> str:
    """The device to train on: "cpu", or the first accelerator that this process may see."""
    import torch

    if wanted not in (None, "cpu", "cuda", "cuda:0"):
        raise ValueError(
            f"the device must be cpu or cuda, got {wanted!r}: choose one of several with CUDA_VISIBLE_DEVICES"
        )
    check_device(wanted)
    if wanted is None:  # not Apple's "mps": sampling needs float64, which it lacks
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted != "cpu" and torch.cuda.device_count() > 1 and not torch.distributed.is_torchelastic_launched():
        raise ValueError(
            f"{torch.cuda.device_count()} GPUs are visible, and the trainer would split each batch over them in one "
            "process, which embedding bags do not survive: set CUDA_VISIBLE_DEVICES to one, or start with torchrun"
        )
    return wanted


def splits_to_measure(config: RunConfig, data: RetrievalDataset) -> list[str]:
    """The splits that are measured at the end of a run.

    Raises:
        ValueError: a split that the settings name is not in the data, or has a name that is taken in ``metrics.json``.
    """
    data.split(config.train_split)
    if config.evaluate_every is not None and config.curve_split not in data.splits:
        raise ValueError(
            f"evaluate_every={config.evaluate_every} measures on the split {config.curve_split!r}, and {data.name} has "
            f"{', '.join(data.splits)}: leave it out, or hold such a split out with hardwood data split DATA "
            f"--test-share 0.1 --name {config.curve_split} --output NEW"
        )
    splits = config.evaluation_splits
    answered = {} if data.answers is None else data.answers.splits
    if splits is None:
        splits = [name for name in {**data.splits, **answered} if name != config.train_split]
    for name in splits:
        if name not in answered:
            data.split(name)
        if name in BESIDE_SPLITS:
            raise ValueError(
                f"a split can't be measured under the name {name!r}, under which {METRICS} has something else: rename "
                "it, or choose others as evaluation_splits"
            )
    return splits


def _write_outputs(
    output: Path, model: SentenceTransformer, metrics: dict[str, Any], history: list[dict[str, Any]], config: RunConfig
) -> None:
    with folder_written_whole(output / "model") as fresh:
        model.save_pretrained(str(fresh))
    with written_whole(output / "log.json") as temporary:
        temporary.write_text(json.dumps(history, indent=1))
    title = f"{config.negatives} negatives, {config.encoder}"
    training_curve(history, output / "training_curve.png", title, config.negatives)
    with written_whole(output / METRICS) as temporary:  # last: its presence says that the run is complete
        temporary.write_text(json.dumps(metrics, indent=1))
    (output / LAUNCH).unlink(missing_ok=True)
