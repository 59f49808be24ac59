"""One run of the practitioner's study, in a process of its own: ``python _practitioner_run.py SPEC RESULT``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardwood._files import folder_written_whole, written_whole
from hardwood.data import RetrievalDataset
from hardwood.encoders import document_prompt, load_encoder, query_prompt
from hardwood.evaluation import evaluate_splits
from hardwood.training import RunConfig
from hardwood.training.job.assembly import _training_arguments, make_loss, make_trainer
from hardwood.training.job.config import versions

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer

RELATIVE_MARGIN = 0.05
"""As sentence-transformers' documentation recommends (TopK-PercPos of NV-Retriever, arXiv:2407.15831)."""
MINI_BATCH = 32
"""Of the cached losses: their default."""


class Clock:
    """CPU and wall seconds of a block of code."""

    def __enter__(self) -> Clock:
        self._begun = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.cpu_seconds = time.process_time() - self._begun[0]
        self.wall_seconds = time.perf_counter() - self._begun[1]


def run(spec: dict[str, Any], kept: Path) -> dict[str, Any]:
    """Train and measure as ``spec`` says.

    Args:
        spec: as `practitioner.spec_of` makes it.
        kept: folder where mined negatives are kept for the other runs that need them.
    """
    import torch
    from transformers import set_seed

    if spec["config"]["steps"] < 1:
        return {"spec": spec, "refused": "mining alone takes longer"}
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(output=folder, evaluation_splits=None, **spec["config"])
        torch.set_num_threads(1)
        set_seed(config.seed)
        data = RetrievalDataset.load(config.data)
        model = load_encoder(config.encoder, data, max_length=config.max_length, seed=config.seed, device="cpu").float()
        try:
            trained = _recipe(spec, config, model, data, kept) if spec["loss"] else _ours(config, model, data)
        except RefusedError as error:
            return {"spec": spec, "refused": str(error)}
    splits = [name for name in data.splits if name != config.train_split]
    metrics = evaluate_splits(model, data, splits, progress=False)
    return {"spec": spec, "metrics": metrics, **trained, "versions": versions()}


class RefusedError(Exception):
    """A loss does not take this encoder; says why."""


def _ours(config: RunConfig, model: SentenceTransformer, data: RetrievalDataset) -> dict[str, Any]:
    loss = make_loss(model, data, config)
    loss.targets.progress = False
    trainer = make_trainer(model, data, loss, config, quiet=True)
    loss.source.warm_up()  # compiles, once in a machine's life
    with Clock() as clock:
        trainer.train()
    return {
        **_seconds(clock),
        "mining": None,
        "targets_reencoded": loss.cost.targets_reencoded,
        "texts_a_step": loss.cost.texts_encoded / config.steps,
        "parts": loss.cost.report(),
    }


def _recipe(
    spec: dict[str, Any], config: RunConfig, model: SentenceTransformer, data: RetrievalDataset, kept: Path
) -> dict[str, Any]:
    """sentence-transformers from its documentation: mine once with the base model, then train on n-tuples."""
    make = _loss_maker(spec, config, model)  # refuses before anything is mined
    tuples, mining = _mined(spec, config, model, data, kept)
    trainer = _their_trainer(config, model, tuples, make())
    with Clock() as clock:
        trainer.train()
    seconds = _seconds(clock)
    return {
        **{name: seconds[name] + mining[name] for name in seconds},
        "mining": mining,
        "targets_reencoded": mining["texts_encoded"],
        "texts_a_step": float(config.batch_size * (2 + spec["mined"])),
    }


def _seconds(clock: Clock) -> dict[str, float]:
    return {"cpu_seconds": clock.cpu_seconds, "wall_seconds": clock.wall_seconds}


def _loss_maker(spec: dict[str, Any], config: RunConfig, model: SentenceTransformer) -> Callable[[], Any]:
    import copy

    from sentence_transformers.sentence_transformer import losses

    options: dict[str, Any] = {"mini_batch_size": MINI_BATCH} if spec["loss"].startswith("Cached") else {}
    if "GIST" in spec["loss"]:
        guide = copy.deepcopy(model).requires_grad_(False).eval()  # the base model
        options |= {"guide": guide, "temperature": 1 / config.scale}
    else:
        options["scale"] = config.scale
    try:
        loss = getattr(losses, spec["loss"])(model, **options)
    except ValueError as error:
        raise RefusedError(str(error)) from None
    return lambda: loss


def _mined(
    spec: dict[str, Any], config: RunConfig, model: SentenceTransformer, data: RetrievalDataset, kept: Path
) -> tuple[Dataset, dict[str, Any]]:
    """The n-tuples, mined with the base model among the whole corpus, and what that took; kept for the next run that
    would mine the same."""
    from datasets import load_from_disk
    from sentence_transformers.util import mine_hard_negatives

    of_seed = f"-seed{config.seed}" if config.encoder == "static" else ""  # the base model is another for each seed
    cut = f"-{config.max_length}-tokens" if config.max_length else ""
    folder = kept / f"mined-{spec['mined']}{of_seed}{cut}"
    if not (folder / "mining.json").exists():
        pairs, corpus = data.training_pairs().remove_columns("label"), list(data.corpus.texts())
        with Clock() as clock:
            tuples = mine_hard_negatives(
                pairs,
                model,
                corpus=corpus,
                relative_margin=RELATIVE_MARGIN,
                num_negatives=spec["mined"],
                sampling_strategy="top",
                output_format="n-tuple",
                query_prompt=query_prompt(model),
                corpus_prompt=document_prompt(model),
                faiss_batch_size=1024,  # queries scored at a time: memory, not results
                verbose=False,
            )
        texts = {"texts_encoded": len(set(corpus)) + len(set(pairs["anchor"]))}
        about = {**_seconds(clock), **texts, "pairs": len(pairs), "pairs_kept": len(tuples)}
        with folder_written_whole(folder) as fresh:
            tuples.save_to_disk(str(fresh / "tuples"))
            (fresh / "mining.json").write_text(json.dumps(about, indent=1))
    return load_from_disk(str(folder / "tuples")), json.loads((folder / "mining.json").read_text())


def _their_trainer(
    config: RunConfig, model: SentenceTransformer, tuples: Dataset, loss: Any
) -> SentenceTransformerTrainer:
    """sentence-transformers' trainer with the arguments of ours, and batches as its documentation recommends them."""
    from sentence_transformers import SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers
    from transformers import PrinterCallback

    arguments = _training_arguments(model, config, quiet=True)
    arguments.batch_sampler = BatchSamplers.NO_DUPLICATES_HASHED
    if arguments.prompts:
        prompt = arguments.prompts.get("positive")
        negatives = [column for column in tuples.column_names if column.startswith("negative")]
        arguments.prompts |= dict.fromkeys(negatives, prompt) if prompt else {}
    model.model_card_data.widget = [{"text": tuples[0]["anchor"]}]  # without it the trainer reads a thousand texts
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=tuples, loss=loss)
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> None:
    spec, path = json.loads(sys.argv[1]), Path(sys.argv[2])
    result = run(spec, path.parent)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
