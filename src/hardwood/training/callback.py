"""What a loss can't know from inside its forward pass: optimiser steps, their time, and checkpoints."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from hardwood._files import written_whole
from hardwood._json import read_object, stamped, without_stamp
from hardwood.errors import DataError

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from hardwood.training.softmax_loss import CorpusSoftmaxLoss

STATE_FOLDER = "hardwood"
DESCRIPTION = "source.json"


class NegativesCallback(TrainerCallback):
    """Drives the loss's source of negatives by optimiser steps, and keeps it in the trainer's checkpoints.

    Without it the loss counts its own forward passes, which is the same only without gradient accumulation, and a
    resumed run starts with an empty source.

    Args:
        loss: the loss given to the trainer.
        resume_from: the checkpoint folder given to ``trainer.train(resume_from_checkpoint=...)`` if it is not the
            trainer's own ``output_dir/checkpoint-STEP``.

    Raises:
        ValueError: when training resumes from a checkpoint without the source's state, or with another source's.
    """

    def __init__(self, loss: CorpusSoftmaxLoss, resume_from: str | Path | None = None) -> None:
        self.loss = loss
        self.resume_from = None if resume_from is None else Path(resume_from)
        self._step_began = 0.0
        self._before: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Encode as the trainer trains (precision), and take up a checkpoint's state if there is one."""
        half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        self.loss.targets.autocast_dtype = half
        if self.loss.target_prompt and not getattr(args, "prompts", None):
            warnings.warn(
                f"the model puts {self.loss.target_prompt!r} before targets, and so does the loss before drawn ones, "
                "but the trainer has no prompts for queries and positives: give its arguments "
                "**encoder_arguments(model), or the loss target_prompt=''",
                stacklevel=2,
            )
        self.loss.start_over()
        if state.global_step > 0:
            own = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._load((self.resume_from or own) / STATE_FOLDER)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Announce the step; the source refreshes what is due."""
        self._step_began = time.perf_counter()
        self._before = dict(self.loss.cost.seconds)
        self.loss.begin_step(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Book the step's time."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.loss.cost.add_step(time.perf_counter() - self._step_began, self._before)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the source's state beside the trainer's own files."""
        if state.is_world_process_zero:
            self._save(Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FOLDER)

    def _save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.loss.source.save_state(folder)
        description = {
            "negatives": self.loss.source.name,
            "weights": weights_fingerprint(self.loss.targets.model),
            "cost": self.loss.cost.state_dict(),
        }
        with written_whole(folder / DESCRIPTION) as temporary:
            temporary.write_text(json.dumps(stamped(description), indent=1))

    def _load(self, folder: Path) -> None:
        if not (folder / DESCRIPTION).is_file():
            raise ValueError(
                f"{folder} does not hold the state of a source of negatives: this checkpoint was saved without "
                "NegativesCallback. Start anew, or resume from a checkpoint that has it"
            )
        description = read_description(folder)
        source = self.loss.source
        if description["negatives"] != source.name:
            raise ValueError(
                f"the checkpoint in {folder.parent} was trained with {description['negatives']!r} negatives, this run "
                f"asks for {source.name!r}: resume with the same source, or start anew"
            )
        if description["weights"] != weights_fingerprint(self.loss.targets.model):
            raise ValueError(
                f"the state in {folder} belongs to other weights than the model has now: resume with the weights of "
                "the same checkpoint, or start anew"
            )
        source.load_state(folder)
        try:
            self.loss.cost.load_state_dict(description["cost"])
        except ValueError as error:
            raise DataError(f"{error}: it is damaged.", folder / DESCRIPTION) from None


def read_description(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of its source: ``"negatives"``, ``"weights"`` and ``"cost"``.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = folder / DESCRIPTION
    description = without_stamp(read_object(path), path)
    kinds = {"negatives": str, "weights": str, "cost": dict}
    if set(description) != set(kinds) or not all(isinstance(description[key], kind) for key, kind in kinds.items()):
        raise DataError(f"must hold {', '.join(kinds)} and nothing else: it is damaged.", path)
    return description


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A hash of all parameters and buffers, names and values: the same for the same weights, on any device."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
