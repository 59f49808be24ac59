"""A dict of datasets with a dict of losses: each loss's state is in the checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import set_seed

from hardwood.data import RetrievalDataset
from hardwood.negatives import make_source
from hardwood.training import CorpusSoftmaxLoss, NegativesCallback, last_checkpoint
from hardwood.training.checkpoint.seal import read_seal

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")


@pytest.fixture(scope="module")
def other() -> RetrievalDataset:
    rows = [(f"{color} {thing}", f"the {color} {thing} is kept there") for color in ("red", "blue", "green")
            for thing in ("cart", "door", "lamp", "book", "chair", "rope", "bowl", "knife")]  # fmt: skip
    pairs = datasets.Dataset.from_dict({"anchor": [a for a, _ in rows], "positive": [p for _, p in rows]})
    return RetrievalDataset.from_pairs(pairs)


def _trainer(
    make_static: Callable, one: RetrievalDataset, other: RetrievalDataset, folder: Path, steps: int = 8, **options: Any
) -> SentenceTransformerTrainer:
    set_seed(0)
    model = make_static()
    losses = {
        "one": CorpusSoftmaxLoss(model, one, make_source("dynamic", refresh_every=3, leaf_size=8), num_negatives=3),
        "other": CorpusSoftmaxLoss(model, other, make_source("cache", start_step=1, cache_size=10), num_negatives=2),
    }
    sets = {"one": one.training_pairs(), "other": other.training_pairs()}
    names = options.pop("callbacks", ("one", "other"))
    loss, only = options.pop("loss", None), options.pop("only", None)
    if only is not None:
        losses, sets = {only: losses[only]}, {only: sets[only]}
    arguments = SentenceTransformerTrainingArguments(
        str(folder), max_steps=steps, save_strategy="steps", save_steps=4, per_device_train_batch_size=8,
        learning_rate=0.1, report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    return SentenceTransformerTrainer(
        model, arguments, sets, loss=losses if loss is None else losses[loss],
        callbacks=[NegativesCallback(losses[name]) for name in names],
    )  # fmt: skip


def _weights(trainer: SentenceTransformerTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_two_losses_resume_bit_for_bit(
    make_static: Callable, dataset: RetrievalDataset, other: RetrievalDataset, tmp_path: Path
) -> None:
    whole = _trainer(make_static, dataset, other, tmp_path)
    whole.train()
    checkpoint = tmp_path / "checkpoint-4"
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-8"
    description = read_seal(checkpoint)
    assert description is not None
    assert [loss["negatives"] for loss in description["losses"]] == ["dynamic", "cache"]
    for names in (("one", "other"), ("other", "one")):  # in whatever order
        resumed = _trainer(make_static, dataset, other, tmp_path, callbacks=names)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert torch.equal(_weights(resumed), _weights(whole))
        for name, loss in whole.loss.items():
            again = resumed.loss[name]
            assert again.cost.targets_reencoded == loss.cost.targets_reencoded > 0
            assert again.cost.texts_encoded == loss.cost.texts_encoded > 0
            ours, theirs = (one.source.state_dict() for one in (again, loss))
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert whole.loss["one"].cost.seconds["forward_backward"] > 0


def test_a_checkpoint_of_other_losses_says_so(
    make_static: Callable, dataset: RetrievalDataset, other: RetrievalDataset, tmp_path: Path
) -> None:
    _trainer(make_static, dataset, other, tmp_path, steps=4).train()
    with pytest.raises(ValueError, match=r"state of 2 of the trainer's losses, and this run has .* for 1"):
        _trainer(make_static, dataset, other, tmp_path, callbacks=("one",)).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-4")
        )
    (tmp_path / "checkpoint-4" / "hardwood" / "loss-1" / "suspects.safetensors").unlink()
    assert last_checkpoint(tmp_path) is None
    shutil.rmtree(tmp_path)
    _trainer(make_static, dataset, other, tmp_path, steps=4, callbacks=("one",), only="one").train()
    with pytest.raises(ValueError, match=r"state of 1 of the trainer's losses, none of them with the data of this one"):
        _trainer(make_static, dataset, other, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    with pytest.raises(ValueError, match="two NegativesCallbacks of one loss"):
        _trainer(make_static, dataset, other, tmp_path, callbacks=("one", "one")).train()


def test_a_loss_without_a_callback_beside_one_that_has_is_refused(
    make_static: Callable, dataset: RetrievalDataset, other: RetrievalDataset, tmp_path: Path
) -> None:
    """Its state would be missing in a checkpoint that counts as whole."""
    for names in (("one",), ("other",)):
        trainer = _trainer(make_static, dataset, other, tmp_path, callbacks=names)
        with pytest.raises(ValueError, match=r"1 of the trainer's losses have .* and a CorpusSoftmaxLoss has none"):
            trainer.train()
        assert last_checkpoint(tmp_path) is None
    # All have one, or none.
    for names in (("one", "other"), ()):
        _trainer(make_static, dataset, other, tmp_path, steps=2, callbacks=names).train()


def test_one_loss_for_two_datasets_is_refused(
    make_static: Callable, dataset: RetrievalDataset, other: RetrievalDataset, tmp_path: Path
) -> None:
    for callbacks in (("one",), ()):
        trainer = _trainer(make_static, dataset, other, tmp_path, callbacks=callbacks, loss="one")
        with pytest.raises(ValueError, match=r"8 of 8 positives of a batch .* give each dataset a loss of its own"):
            trainer.train()
    only_other = _trainer(make_static, dataset, other, tmp_path, loss="one")
    del only_other.train_dataset["one"]
    with pytest.raises(ValueError, match=r"of 24 training pairs that were checked 24 name other texts"):
        only_other.train()
