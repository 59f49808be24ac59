"""What a loss can't know from inside its forward pass: optimiser steps, their time, and checkpoints."""

from __future__ import annotations

import hashlib
import shutil
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from hardwood.errors import DataError
from hardwood.training._best_model import compare_anew
from hardwood.training._settings import changes, plain_settings
from hardwood.training.checkpoints import STATE_FOLDER, read_seal, seal, unseal

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from hardwood.training.softmax_loss import CorpusSoftmaxLoss

_SUSPECTS = "suspects.safetensors"


class NegativesCallback(TrainerCallback):
    """Drives the loss's source of negatives by optimiser steps, and keeps it in the trainer's checkpoints.

    Without it the loss counts its own forward passes, which is the same only without gradient accumulation, and a
    resumed run starts with an empty source.

    After a crash, resume from ``last_checkpoint(output_dir)`` (`hardwood.training.last_checkpoint`): the newest
    checkpoint that is whole. Keep two (``save_total_limit=2``, or none removed): the trainer removes the oldest before
    the newest is whole.

    Args:
        loss: the loss given to the trainer.
        resume_from: the checkpoint folder given to ``trainer.train(resume_from_checkpoint=...)`` if it is not the
            trainer's own ``output_dir/checkpoint-STEP``.

    Raises:
        ValueError: when training resumes from a checkpoint that is not whole, with another source's state, other
            settings of loss or source, or the state of other weights or data; when a checkpoint's weights are not
            finite.
    """

    def __init__(self, loss: CorpusSoftmaxLoss, resume_from: str | Path | None = None) -> None:
        self.loss = loss
        self.resume_from = None if resume_from is None else Path(resume_from)
        self._step_began = 0.0
        self._before: dict[str, float] = {}
        self._data: str | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Encode as the trainer trains (precision), compile, and take up a checkpoint's state if there is one."""
        half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        self.loss.targets.autocast_dtype = half
        if self.loss.target_prompt and not getattr(args, "prompts", None):
            warnings.warn(
                f"the model puts {self.loss.target_prompt!r} before targets, and so does the loss before drawn ones, "
                "but the trainer has no prompts for queries and positives: give its arguments "
                "**encoder_arguments(model), or the loss target_prompt=''",
                stacklevel=2,
            )
        if args.save_total_limit == 1 and args.save_strategy != "no":
            warnings.warn(
                "with save_total_limit=1 the trainer removes the last checkpoint before the next one is whole, and a "
                "crash at that moment leaves none: keep 2",
                stacklevel=2,
            )
        pairs = getattr(kwargs.get("train_dataloader"), "dataset", None)
        if fault := self.loss.fault_of(pairs):
            warnings.warn(fault, stacklevel=2)
        self.loss.start_over()
        self.loss.source.warm_up()
        if state.global_step > 0:
            self._load(self.resume_from or _checkpoint(args, state.global_step))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Announce the step; the source refreshes what is due. Where draws begin, the best loss so far is forgotten."""
        self._step_began = time.perf_counter()
        self._before = dict(self.loss.cost.seconds)
        if state.is_world_process_zero:  # what an earlier run has left there is written over if this step is saved
            unseal(_checkpoint(args, state.global_step + 1))
        drew = self.loss.source.is_ready(state.global_step - 1)
        self.loss.begin_step(state.global_step)
        if not drew and self.loss.source.is_ready(state.global_step):
            compare_anew(args, state, kwargs.get("lr_scheduler"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Book the step's time."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.loss.cost.add_step(time.perf_counter() - self._step_began, self._before)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What the source has under way is done, or its error raised; a run without this callback counts for itself."""
        self.loss.source.finish()
        self.loss.steps_are_announced = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the source's state beside the trainer's own files, and declare the checkpoint whole."""
        if state.is_world_process_zero:
            self._save(_checkpoint(args, state.global_step))

    def _save(self, checkpoint: Path) -> None:
        from safetensors.torch import save_file

        _check_weights(self.loss.targets.model, checkpoint)
        folder = checkpoint / STATE_FOLDER
        shutil.rmtree(folder, ignore_errors=True)  # what another run has left there would pass for ours
        folder.mkdir(parents=True)
        self.loss.source.save_state(folder)
        save_file(self.loss.suspects.state_dict(), folder / _SUSPECTS)
        description = {
            "negatives": self.loss.source.name,
            "weighting": self.loss.weighting,
            "settings": plain_settings(self.loss.get_config_dict()),
            "weights": weights_fingerprint(self.loss.targets.model),
            "data": self._data_fingerprint(),
            "cost": self.loss.cost.state_dict(),
        }
        seal(checkpoint, description)

    def check(self, checkpoint: Path) -> dict[str, Any]:
        """Whether the trainer may resume from ``checkpoint``, before it has loaded anything; gives its description.

        Raises:
            ValueError: it is not whole, or of another source, other settings or other data.
        """
        if not checkpoint.is_dir():
            raise ValueError(
                f"there is no {checkpoint}: where the trainer resumes from another folder than its output_dir, tell "
                "NegativesCallback(loss, resume_from=FOLDER) too"
            )
        description = read_seal(checkpoint)
        if description is None:
            raise ValueError(
                f"{checkpoint} is not whole: a crash has cut it short, or it was saved without NegativesCallback. "
                "Resume from hardwood.training.last_checkpoint(output_dir), or start anew"
            )
        if description["negatives"] != self.loss.source.name:
            raise ValueError(
                f"the checkpoint in {checkpoint} was trained with {description['negatives']!r} negatives, this run "
                f"asks for {self.loss.source.name!r}: resume with the same source, or start anew"
            )
        if description.get("weighting", self.loss.weighting) != self.loss.weighting:
            raise ValueError(
                f"the checkpoint in {checkpoint} was trained with {description['weighting']!r} weighting, this run has "
                f"{self.loss.weighting!r}: give the loss weighting={description['weighting']!r}, or start anew"
            )
        if changed := changes(description.get("settings", {}), plain_settings(self.loss.get_config_dict())):
            raise ValueError(
                f"the checkpoint in {checkpoint} was trained with other settings ({'; '.join(changed)}): resume with "
                "the same, or start anew"
            )
        if description["data"] != self._data_fingerprint():
            raise ValueError(
                f"the checkpoint in {checkpoint} was made with other data: corpus, queries or positives have changed "
                "since. Resume with the same, or start anew"
            )
        return description

    def _load(self, checkpoint: Path) -> None:
        from safetensors.torch import load_file

        description = self.check(checkpoint)
        if description["weights"] != weights_fingerprint(self.loss.targets.model):
            raise ValueError(
                f"the state in {checkpoint} belongs to other weights than the model has now: resume with the weights "
                "of the same checkpoint, or start anew"
            )
        self.loss.source.load_state(checkpoint / STATE_FOLDER)
        self.loss.suspects.load_state_dict(load_file(checkpoint / STATE_FOLDER / _SUSPECTS))
        try:
            self.loss.cost.load_state_dict(description["cost"])
        except ValueError as error:
            raise DataError(f"{error}: it is damaged.", checkpoint / STATE_FOLDER) from None

    def _data_fingerprint(self) -> str:
        if self._data is None:
            self._data = self.loss.data_fingerprint()
        return self._data


def _checkpoint(args: TrainingArguments, step: int) -> Path:
    return Path(args.output_dir) / f"checkpoint-{step}"


def _check_weights(model: torch.nn.Module, checkpoint: Path) -> None:
    """A checkpoint to go on from must be worth it: this one stays unsealed, and the one before is the last."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(
                f"the model has diverged: its weights {name!r} hold NaN or infinite numbers after "
                f"{checkpoint.name.removeprefix('checkpoint-')} steps, and this checkpoint is not kept. Lower the "
                "learning rate"
            )


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A hash of all parameters and buffers, names and values: the same for the same weights, on any device."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
