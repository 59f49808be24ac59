"""What a loss can't know from inside its forward pass: optimiser steps, their time, and checkpoints."""

from __future__ import annotations

import shutil
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from hardwood._checkpoint_tensors import read_state, write_state
from hardwood._files import sync_all
from hardwood._waiting import waiting
from hardwood.errors import DataError
from hardwood.negatives.cost import added_up
from hardwood.negatives.sharded import ShardedNegatives, shard_folder
from hardwood.ranks import Ranks
from hardwood.training._announced import announce, training_ended
from hardwood.training.batch.sizes import log_advice
from hardwood.training.checkpoint.best_model import compare_anew
from hardwood.training.checkpoint.fingerprint import weights_fingerprint
from hardwood.training.checkpoint.resume_rules import changes, shared_settings
from hardwood.training.checkpoint.seal import (
    LOSSES,
    STATE_FOLDER,
    check_arrived,
    loss_folder,
    read_description,
    read_seal,
    seal,
    sizes_of,
    unseal,
)
from hardwood.training.checkpoint.spooling import open_spool
from hardwood.training.estimate.one_batch import refuse_sharded_weights

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from hardwood.report import Trace
    from hardwood.training.softmax_loss import CorpusSoftmaxLoss

_SUSPECTS = "suspects.safetensors"
_JUDGEMENTS = "judgements.safetensors"


class NegativesCallback(TrainerCallback):
    """Drives the loss's source of negatives by optimiser steps, and keeps it in the trainer's checkpoints.

    Without it the loss counts its own forward passes, which is the same only without gradient accumulation, and a
    resumed run starts with an empty source.

    After a crash, resume from ``last_checkpoint(output_dir)`` (`hardwood.training.last_checkpoint`): the newest
    checkpoint that is whole. Keep two (``save_total_limit=2``, or none removed): the trainer removes the oldest before
    the newest is whole.

    A trainer with several losses (a dict, by dataset) has a callback for each that is a `CorpusSoftmaxLoss`; the state
    of each is in its checkpoints. One without a callback beside others with one is an error when it first trains.

    Args:
        loss: the loss given to the trainer.
        resume_from: the checkpoint folder given to ``trainer.train(resume_from_checkpoint=...)`` if it is not the
            trainer's own ``output_dir/checkpoint-STEP``.
        trace: notes what a report shows (`hardwood.report.Trace`); ``None``: nothing is noted.
        spool_encodings: whether the first encodings of the corpus are kept in ``output_dir/_encodings`` (``4 n d``
            bytes) until a checkpoint has what was made of them, or training ends: a training that is begun again with
            the same weights, texts and settings takes what is there and encodes the rest, bit for bit as if nothing had
            happened. ``None``: of more than 16,384 targets a shard, but not by static embeddings.

    Raises:
        ValueError: when training resumes from a checkpoint that is not whole, with another source's state, other
            settings of loss or source, or the state of other weights or data; when a checkpoint's weights are not
            finite.
    """

    def __init__(
        self,
        loss: CorpusSoftmaxLoss,
        resume_from: str | Path | None = None,
        *,
        trace: Trace | None = None,
        spool_encodings: bool | None = None,
    ) -> None:
        self.loss = loss
        self.trace = trace
        self.spool_encodings = spool_encodings
        self.resume_from = None if resume_from is None else Path(resume_from)
        self._together = [self]  # the callbacks of all losses of a training, in the trainer's order
        self._step_began = 0.0
        self._encoded_before = 0
        self._before: dict[str, float] = {}
        self._data: str | None = None
        self._num_resumed = 0  # losses in the checkpoint that was resumed from
        # Known when training begins: pairs a forward pass, of all processes, and whether an epoch's rest is left out.
        self.global_batch: int | None = None
        self.drops_last: bool | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Encode as the trainer trains (precision), compile, and load a checkpoint's state if there is one."""
        half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        self.loss.targets.autocast_dtype = half
        if args.save_total_limit == 1 and args.save_strategy != "no":
            warnings.warn(
                "with save_total_limit=1 the trainer removes the last checkpoint before the next one is whole, and a "
                "crash at that moment leaves none: keep 2",
                stacklevel=2,
            )
        self._join(state)
        announce(self.loss.targets.model, self.loss, is_first=self._together[0] is self)
        refuse_sharded_weights(self.loss.model)
        self.loss._meet(kwargs.get("train_dataloader"), getattr(args, "prompts", None))
        self._num_resumed = 0
        self.loss._start_over()
        ranks = self.loss.meet_ranks()
        if self.global_batch is None and state.is_world_process_zero:  # a script's own training
            log_advice(self.loss, state.max_steps, args, kwargs.get("train_dataloader"))
        self.global_batch = args.per_device_train_batch_size * ranks.size
        self.drops_last = args.dataloader_drop_last
        with ranks.during("where training begins"):
            self.loss.source.warm_up()
            if self.trace is not None:
                self.trace.start(self.loss, state.max_steps, state.global_step)
            if state.global_step > 0:
                checkpoint = self.resume_from or _checkpoint(args, state.global_step)
                with waiting(f"Reading the negatives of {checkpoint}", show=not args.disable_tqdm):
                    self._load(checkpoint)
            place, batch = self._together.index(self), self.global_batch
            self.loss.targets.spool = open_spool(
                self.loss, Path(args.output_dir), self.spool_encodings, place=place, global_batch=batch
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Announce the step; the source refreshes what is due. Where draws begin, the best loss so far is forgotten."""
        if self._num_resumed > len(self._together):
            raise ValueError(
                f"the checkpoint has the state of {self._num_resumed} of the trainer's losses, and this run has a "
                f"NegativesCallback for {len(self._together)}: resume with the losses that it was made with"
            )
        _refuse_step_beyond(state)
        self._step_began = time.perf_counter()
        self._before, self._encoded_before = dict(self.loss.cost.seconds), self.loss.cost.texts_encoded
        if state.is_world_process_zero:  # what an earlier run has left there is written over if this step is saved
            unseal(_checkpoint(args, state.global_step + 1))
        drew = self.loss.source.is_ready(state.global_step - 1)
        with waiting(
            f"Renewing {self.loss.source.name} negatives before step {state.global_step + 1}",
            show=not args.disable_tqdm,
        ):
            self.loss.begin_step(state.global_step)
        if not drew and self.loss.source.is_ready(state.global_step):
            compare_anew(args, state, kwargs.get("lr_scheduler"))
        if self.trace is not None:  # which asks the source, so on all processes
            with self.loss.meet_ranks().during("while the report's negatives are drawn"):
                self._step_began += self.trace.begin_step(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Book the step's time."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        if self.loss.cost.texts_encoded > self._encoded_before:  # else the step was another loss's
            self.loss.cost.add_step(time.perf_counter() - self._step_began, self._before)
        if self.trace is not None:
            self.trace.end_step(state.global_step - 1)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What the source has under way is done, or its error raised; a run without this callback counts for itself."""
        training_ended(self.loss.targets.model)
        with waiting(f"Finishing {self.loss.source.name} negatives", show=not args.disable_tqdm):
            self.loss.source.finish()
        if self.loss.targets.spool is not None:
            self.loss.targets.spool.remove()
            self.loss.targets.spool = None
        self.loss._steps_are_announced = False
        if self.trace is not None:
            with self.loss.meet_ranks().during("while the report's map is made"):
                self.trace.finish(state.log_history, writes=state.is_world_process_zero)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the source's state beside the trainer's own files, and declare the checkpoint whole."""
        if self._together[0] is self:  # the first one does it for all
            checkpoint = _checkpoint(args, state.global_step)
            saving = waiting(f"Saving the negatives of {checkpoint}", show=not args.disable_tqdm)
            with self.loss.meet_ranks().during(f"while saving {checkpoint}"), saving:
                self._save(checkpoint)
                self.loss.meet_ranks().together()  # it is sealed
            for one in self._together:
                if one.loss.targets.spool is not None:
                    one.loss.targets.spool.checkpoint_has_them()

    def _save(self, checkpoint: Path) -> None:
        """Each process writes what it holds; the first one seals the checkpoint when all have said what they wrote."""
        ranks = self.loss.meet_ranks()
        if ranks.is_first:
            _check_weights(self.loss.targets.model, checkpoint)
            # What another run has left there would pass for ours.
            shutil.rmtree(checkpoint / STATE_FOLDER, ignore_errors=True)
            for _, folder in self._folders():
                (checkpoint / STATE_FOLDER / folder).mkdir(parents=True)
        ranks.together()
        written = [one._save_share(checkpoint / STATE_FOLDER / folder) for one, folder in self._folders()]
        own = sizes_of([checkpoint / _rng_file(ranks), *(path for paths in written for path in paths)], checkpoint)
        costs = [one.loss.cost.state_dict() for one in self._together]
        everyone = ranks.tell({"files": own, "costs": costs})
        if not ranks.is_first:
            return
        check_arrived(checkpoint, [each["files"] for each in everyone])
        descriptions = [one._save_loss(checkpoint / STATE_FOLDER / folder) for one, folder in self._folders()]
        for place, description in enumerate(descriptions):
            description["cost"] = added_up([each["costs"][place] for each in everyone])
        seal(checkpoint, descriptions[0] if len(descriptions) == 1 else {LOSSES: descriptions})

    def _save_share(self, folder: Path) -> list[Path]:
        """Write what this process holds of the source's state, to the disk; gives the files and folders."""
        source = self.loss.source
        if not isinstance(source, ShardedNegatives):
            if self.loss.meet_ranks().is_first:
                source.save_state(folder)
            return []
        source.save_state(folder)
        paths = [folder / shard_folder(number) for number in source.numbers]
        for path in paths:
            sync_all(path)
        return paths

    def _save_loss(self, folder: Path) -> dict[str, Any]:
        """Write the state of this callback's loss but for its source; gives the checkpoint's description of it, but for
        the costs of all processes."""
        write_state(self.loss.suspects.state_dict(), folder / _SUSPECTS)
        if self.loss.judge is not None:
            write_state(self.loss.judge.state_dict(), folder / _JUDGEMENTS)
        if self.trace is not None:
            self.trace.save_state(folder)
        return {
            "negatives": self.loss.source.name,
            "weighting": self.loss.weighting,
            "settings": self._settings(),
            "weights": weights_fingerprint(self.loss.targets.model),
            "data": self._data_fingerprint(),
        }

    def _join(self, state: TrainerState) -> None:
        """Find the callbacks of the trainer's other losses: all of them get one ``state``, new in each training."""
        self._together = vars(state).setdefault("_hardwood_callbacks", [])
        if any(other.loss is self.loss for other in self._together if other is not self):
            raise ValueError("the trainer has two NegativesCallbacks of one loss: give it one for each loss")
        if self not in self._together:
            self._together.append(self)

    def _folders(self) -> list[tuple[NegativesCallback, str]]:
        """Where each loss's state stands within `STATE_FOLDER`."""
        if len(self._together) == 1:
            return [(self, "")]
        return [(one, loss_folder(place)) for place, one in enumerate(self._together)]

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
        losses = description.get(LOSSES, [description])
        description = losses[self._place_in(losses, checkpoint)]
        if description["negatives"] != self.loss.source.name:
            raise ValueError(
                f"the checkpoint in {checkpoint} was trained with {description['negatives']!r} negatives, this run "
                f"asks for {self.loss.source.name!r}: resume with the same source, or start anew"
            )
        if description["weighting"] != self.loss.weighting:
            raise ValueError(
                f"the checkpoint in {checkpoint} was trained with {description['weighting']!r} weighting, this run has "
                f"{self.loss.weighting!r}: give the loss weighting={description['weighting']!r}, or start anew"
            )
        self._share_shards(description)
        if changed := changes(description["settings"], self._settings()):
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

    def _share_shards(self, description: dict[str, Any]) -> None:
        """Divide the corpus as the checkpoint's run did, whatever the number of processes was."""
        then = description["settings"]
        if "processes" in then and "shards" not in then and then["processes"] > 1:
            raise ValueError(
                f"the checkpoint is of {then['processes']} processes that each kept a source of their own (an earlier "
                "version): start anew"
            )
        shards = then.get("shards", 1)
        is_free = self.loss.num_shards is None and self.loss.shards == "divided" and self.loss.source.is_divided
        if is_free and shards != self.num_shards:
            self.loss.meet_ranks(num_shards=shards)

    def _place_in(self, losses: list[dict[str, Any]], checkpoint: Path) -> int:
        """Which of a checkpoint's losses is this one: that with its data, and of several the one in its own place."""
        place = self._together.index(self)
        if place < len(losses) and losses[place]["data"] == self._data_fingerprint():
            return place
        same_data = [i for i, one in enumerate(losses) if one["data"] == self._data_fingerprint()]
        if not same_data and place >= len(losses):
            raise ValueError(
                f"the checkpoint in {checkpoint} has the state of {len(losses)} of the trainer's losses, none of them "
                f"with the data of this one, number {place + 1} with a NegativesCallback: resume with the losses that "
                "it was made with, or start anew"
            )
        return same_data[0] if same_data else place

    def _load(self, checkpoint: Path) -> None:
        description = self.check(checkpoint)
        if description["weights"] != weights_fingerprint(self.loss.targets.model):
            raise ValueError(
                f"the state in {checkpoint} belongs to other weights than the model has now: resume with the weights "
                "of the same checkpoint, or start anew"
            )
        folder = checkpoint / STATE_FOLDER
        losses = read_description(folder).get(LOSSES, [])
        self._num_resumed = max(1, len(losses))
        if losses:
            folder /= loss_folder(self._place_in(losses, checkpoint))
        self.loss.source.load_state(folder)
        self.loss.suspects.load_state_dict(read_state(folder / _SUSPECTS))
        if self.loss.judge is not None:
            judgements = folder / _JUDGEMENTS
            if not judgements.is_file():
                raise ValueError(f"{checkpoint} was made without a guide: resume without one, or start anew")
            self.loss.judge.load_state_dict(read_state(judgements))
        if self.loss.meet_ranks().is_first:  # the costs of all processes are counted on by the first
            try:
                self.loss.cost.load_state_dict(description["cost"])
            except ValueError as error:
                raise DataError(f"{error}: it is damaged.", folder) from None
        if self.trace is not None:
            self.trace.load_state(folder)

    def _settings(self) -> dict[str, Any]:
        """What a resumed run must share. The draws are a function of the shards and of the batch of all processes: with
        these a run goes on with any number of processes."""
        batch = {"global_batch": self.global_batch, "drops_last_batch": self.drops_last}
        known = {name: value for name, value in batch.items() if value is not None}
        return shared_settings({**self.loss.get_config_dict(), "shards": self.num_shards, **known})

    @property
    def num_shards(self) -> int:
        """Into how many shards the corpus is divided; 1 where it is not."""
        source = self.loss.source
        return source.num_shards if isinstance(source, ShardedNegatives) else 1

    def _data_fingerprint(self) -> str:
        if self._data is None:
            self._data = self.loss._data_fingerprint()
        return self._data


def _checkpoint(args: TrainingArguments, step: int) -> Path:
    return Path(args.output_dir) / f"checkpoint-{step}"


def _rng_file(ranks: Ranks) -> str:
    """Where the trainer has put the state of this process's random generators."""
    return "rng_state.pth" if ranks.is_alone else f"rng_state_{ranks.number}.pth"


def _check_weights(model: torch.nn.Module, checkpoint: Path) -> None:
    """A checkpoint to go on from must be worth it: this one stays unsealed, and the one before is the last."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(
                f"the model has diverged: its weights {name!r} hold NaN or infinite numbers after "
                f"{checkpoint.name.removeprefix('checkpoint-')} steps, and this checkpoint is not kept. Lower the "
                "learning rate"
            )


def _refuse_step_beyond(state: TrainerState) -> None:
    """``ValueError`` where a trainer begins a step beyond its last."""
    if 0 < state.max_steps <= state.global_step:
        raise ValueError(
            f"the checkpoint is of step {state.global_step}, the last of {state.max_steps}, and the trainer would make "
            "one more (it looks for its end after a step alone): load the model in the checkpoint, which is that of "
            "the end, or resume with more steps"
        )
