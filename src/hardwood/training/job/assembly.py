"""What a run is put together from: its loss and its trainer, as its settings say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardwood.encoders import document_prompt, has_router, is_static, query_prompt
from hardwood.report import Trace
from hardwood.training.batch.columns import text_columns
from hardwood.training.cached_loss import CachedCorpusSoftmaxLoss
from hardwood.training.callback import NegativesCallback
from hardwood.training.evaluator import RetrievalEvaluator
from hardwood.training.job.config import RunConfig
from hardwood.training.job.run_folder import CHECKPOINTS
from hardwood.training.second_model.guide import Guide, load_guide
from hardwood.training.softmax_loss import CorpusSoftmaxLoss

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer

    from hardwood.data import RetrievalDataset

STATIC_LEARNING_RATE, LEARNING_RATE = 0.2, 2e-5
"""Of static embeddings, and of all other encoders, where none is given."""
_PAIR_COLUMNS = ("anchor", "positive", "label")


def make_loss(model: SentenceTransformer, data: RetrievalDataset, config: RunConfig) -> CorpusSoftmaxLoss:
    """The loss with this run's source of negatives."""
    options: dict[str, Any] = {
        "num_negatives": config.sizes.draws,
        "scale": config.scale,
        "weighting": config.weighting,
        "unasked_prior": config.unasked_prior,
        "unasked_push": config.unasked_push,
        "margin": config.make_margin(),
        "split": config.train_split,
        "seed": config.seed,
        "encode_batch_size": config.encode_batch_size,
        "uniform_negatives": config.uniform_negatives,
        "hardest": config.hardest,
        "symmetric": config.symmetric,
        "matryoshka_dims": config.matryoshka_dims,
        "matryoshka_weights": config.matryoshka_weights,
        "guide": _guide(config, str(model.device)),
        "teacher": config.make_teacher(),
        "shards": config.shards,
        "num_shards": config.num_shards,
    }
    if config.mini_batch_size is None:
        return CorpusSoftmaxLoss(model, data, config.make_source(), **options)
    options["mini_batch_size"] = config.mini_batch_size
    return CachedCorpusSoftmaxLoss(model, data, config.make_source(), **options)


def _guide(config: RunConfig, device: str) -> Guide | None:
    """This run's guide, on the device of the model in training."""
    if config.guide is None:
        return None
    model = load_guide(config.guide, device=device, trust_remote_code=config.trust_remote_code)
    return Guide(model, margin=config.guide_margin, within=config.guide_within)


def make_trainer(
    model: SentenceTransformer,
    data: RetrievalDataset,
    loss: CorpusSoftmaxLoss,
    config: RunConfig,
    *,
    quiet: bool = False,
    resume_from: Path | None = None,
    trace: Trace | None = None,
) -> SentenceTransformerTrainer:
    """A plain ``SentenceTransformerTrainer`` with this run's arguments."""
    from sentence_transformers import SentenceTransformerTrainer

    callback = NegativesCallback(loss, resume_from=resume_from, trace=trace, spool_encodings=config.spool_encodings)
    callback.global_batch = config.sizes.pairs * loss.meet_ranks().size
    if resume_from is not None:
        callback.check(resume_from)
    evaluator = None
    if config.evaluate_every is not None:
        evaluator = RetrievalEvaluator(data, config.curve_split, config.leave_out)
        evaluator.shows_waiting = not quiet
    pairs = data.training_pairs(config.train_split, config.given_negatives)
    trainer = SentenceTransformerTrainer(
        model=model,
        # Several processes leave out an epoch's last, incomplete batch (sentence-transformers), so a run over as many
        # shards does too, whatever the number of its processes is.
        args=_training_arguments(model, config, quiet, pairs.column_names, drop_last=callback.num_shards > 1),
        train_dataset=pairs,
        loss=loss,
        evaluator=evaluator,
        callbacks=[callback],
    )
    if quiet:
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
    return trainer


def _training_arguments(
    model: SentenceTransformer,
    config: RunConfig,
    quiet: bool,
    columns: Iterable[str] = _PAIR_COLUMNS,
    drop_last: bool = False,
) -> Any:
    from sentence_transformers import SentenceTransformerTrainingArguments

    length: dict[str, Any] = (
        {"max_steps": config.steps} if config.steps is not None else {"num_train_epochs": config.epochs or 1.0}
    )
    return SentenceTransformerTrainingArguments(
        output_dir=str(Path(config.output) / CHECKPOINTS),
        per_device_train_batch_size=config.sizes.pairs,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate or (STATIC_LEARNING_RATE if is_static(model) else LEARNING_RATE),
        lr_scheduler_type=config.scheduler,
        warmup_steps=config.warmup_ratio,  # a share of the steps when below 1
        bf16=config.precision == "bfloat16",
        fp16=config.precision == "float16",
        seed=config.seed,
        eval_strategy="no" if config.evaluate_every is None else "steps",
        eval_steps=config.evaluate_every,
        save_strategy="no" if config.save_every is None else "steps",
        save_steps=config.save_every or 500,
        save_total_limit=2,
        logging_steps=10,
        report_to=config.report_to or "none",
        disable_tqdm=quiet,
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=False,
        dataloader_drop_last=drop_last,
        **length,
        **encoder_arguments(model, columns),
    )


def encoder_arguments(model: SentenceTransformer, columns: Iterable[str] = _PAIR_COLUMNS) -> dict[str, Any]:
    """What ``SentenceTransformerTrainingArguments`` must know of a model, by the columns of the training pairs.

    Args:
        model: its prompts and towers count.
        columns: of the pairs (``pairs.column_names``) if they are not those of ``training_pairs()``: renamed ones, or
            given negatives beside. The first column of texts has queries, all others have targets.

    Returns:
        ``{"prompts", "router_mapping"}``, to be passed on by ``**``; without it a trainer puts no prompts before
        queries and positives, and knows no way through a ``Router``.

    Raises:
        ValueError: fewer than two columns of texts.
    """
    names = list(columns)
    query, *targets = text_columns(names) or [""]
    if not targets:
        raise ValueError(f"pairs have a column of queries and one of targets, got {', '.join(names) or 'no column'}")
    prompts = {query: query_prompt(model), **dict.fromkeys(targets, document_prompt(model))}
    return {
        "prompts": {column: prompt for column, prompt in prompts.items() if prompt} or None,
        "router_mapping": {query: "query", **dict.fromkeys(targets, "document")} if has_router(model) else None,
    }
