"""A run's folder: one process at a time, cleared only when asked, resumed only with the settings that began it."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from hardwood._files import named_if_not_writable, sweep, written_whole
from hardwood._launch import launch_name, launchers_store, restarts, restarts_left
from hardwood.training.checkpoint.resume_rules import MAY_DIFFER
from hardwood.training.checkpoint.seal import last_checkpoint, read_seal, remove_cut_short
from hardwood.training.checkpoint.spool_folder import SPOOL_FOLDER, spooled
from hardwood.training.job.config import RunConfig
from hardwood.training.job.yaml_file import read_settings

CHECKPOINTS, RUN_FILE, METRICS = "checkpoints", "run.yaml", "metrics.json"
LAUNCH = ".launch"
"""Which launch by torchrun is at work here: if it starts the processes anew, they know the run for their own."""
BESIDE_SPLITS = ("cost", "training", "left_out")
"""What the metrics have beside the measures of each split."""
_CHECKPOINT_KNOWS = ("batch_size", "shards", "num_shards")
"""What may differ with another number of processes: the checkpoint says what the batch of all of them was, and how many
shards there were."""
_LITTLE_ROOM = 16 << 20


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Keep all other runs out of the folder, which is made, and removed again if nothing has come into it.

    A run whose parent was killed goes on without it; a second one beside it would write into the same files. The
    claim dies with the process. Processes that train together (torchrun) are one run: the first one claims.

    Raises:
        ValueError: another process has claimed it.
    """
    existed = output.exists()
    with named_if_not_writable(output):
        output.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(output):
            yield
    finally:
        for folder in (output / CHECKPOINTS, output):  # the trainer makes the first one even when it saves nothing
            with suppress(OSError):
                if folder != output or not existed:
                    folder.rmdir()


def goes_on_by_itself(output: Path, *, resume: bool, overwrite: bool) -> tuple[bool, bool]:
    """Whether to resume and whether to overwrite, where torchrun may have started the processes anew after a failure.

    What the same launch has begun is resumed, or begun again where there is nothing yet to resume. What was in the
    folder before the launch is not touched by that.

    Raises:
        ValueError: the processes were started anew, and it can't be known which launch has begun the run.
    """
    launch = launch_name(launchers_store())
    if launch is None and restarts() > 0:
        raise ValueError(
            f"torchrun has restarted this run ({restarts()} times) without a store that outlives its processes "
            "(TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1), so the run can't know whether what lies in the folder is its own: "
            "unset that, or leave out --max-restarts and start the same command again with --resume"
        )
    note = output / LAUNCH
    if launch is None or not note.is_file() or note.read_text(encoding="utf-8") != launch:
        return resume, overwrite
    kept = last_checkpoint(output / CHECKPOINTS) is not None or spooled(output / CHECKPOINTS / SPOOL_FOLDER) is not None
    return kept, not kept


def checkpoint_to_resume(config: RunConfig, output: Path, *, resume: bool, overwrite: bool) -> Path | None:
    """Whether a run may begin here, and from which checkpoint; changes nothing.

    Raises:
        ValueError: the folder is in use, holds another run or something else, or there is nothing to resume.
    """
    if resume and overwrite:
        raise ValueError("resume goes on with what the folder holds, overwrite removes it: give one of them")
    if resume:
        checkpoint = last_checkpoint(output / CHECKPOINTS)
        if checkpoint is None:
            _check_spooled(config, output)
            return None
        known = (read_seal(checkpoint) or {}).get("settings", {})
        _check_same_run(config, output / RUN_FILE, _CHECKPOINT_KNOWS if "global_batch" in known else ())
        return checkpoint
    sweep(output / RUN_FILE)  # a run that was killed before it had written anything
    used = any(entry.name != LAUNCH for entry in output.iterdir())
    if used and not overwrite:
        raise ValueError(
            f"the output folder {output} is not empty: choose another, go on with the run in it (--resume), or remove "
            "it (--overwrite)"
        )
    if used and not (output / RUN_FILE).is_file():
        raise ValueError(f"{output} does not look like a run's folder (it has no {RUN_FILE}): remove it yourself")
    return None


def sizes_as_begun(config: RunConfig, output: Path) -> RunConfig:
    """The settings of a run that is resumed: what they leave open of its length and a step's sizes is as it began."""
    began = RunConfig.from_mapping(read_settings(output / RUN_FILE))
    return dataclasses.replace(
        config,
        batch_size=config.batch_size or began.batch_size,
        num_negatives=config.num_negatives or began.num_negatives,
        epochs=config.epochs or (began.epochs if config.steps is None else None),
    )


def shards_to_resume(config: RunConfig, output: Path, processes: int) -> int | None:
    """Into how many shards the corpus was divided whose encodings there are; ``None``: that is of no use here, or
    ``config`` says it."""
    there = spooled(output / CHECKPOINTS / SPOOL_FOLDER)
    if there is None or config.shards != "divided" or config.num_shards is not None:
        return None
    shards = max(int(note["shards"]) for note in there.notes)
    return shards if shards >= processes and shards > 1 else None


def begin(
    config: RunConfig, output: Path, *, resume: bool, overwrite: bool, left_out: Mapping[str, int] | None = None
) -> None:
    """Clear away what is in the way of the run, and write its run file, with what its dataset's reader left out."""
    if not is_first_process():
        return
    # First of all what says that a run is complete: from here on it is another one.
    (output / METRICS).unlink(missing_ok=True)
    if overwrite:
        _clear(output)
    if resume:
        remove_cut_short(output / CHECKPOINTS)
    (output / LAUNCH).unlink(missing_ok=True)
    if (launch := launch_name(launchers_store())) is not None:  # before the run file, so that a restart knows its own
        with written_whole(output / LAUNCH) as temporary:
            temporary.write_text(launch, encoding="utf-8")
    config.save(output / RUN_FILE, left_out)


@contextmanager
def what_is_kept_is_noted(output: Path) -> Iterator[None]:
    """If training stops by an error or a signal, say with the error what there is to go on from."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            notes = [what_is_kept(output)]
            room = shutil.disk_usage(output).free
            if room < _LITTLE_ROOM:
                notes.append(f"the disk of {output} is full: {room:,} bytes are free")
            # As `add_note` of Python 3.11 keeps them.
            error.__notes__ = [*getattr(error, "__notes__", []), *notes]
        raise


def is_first_process() -> bool:
    """Whether this is the only process of the run, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def what_is_kept(output: Path) -> str:
    """A line on what a run that has failed can go on from, and how."""
    checkpoint = last_checkpoint(output / CHECKPOINTS)
    there = spooled(output / CHECKPOINTS / SPOOL_FOLDER) if checkpoint is None else None
    if checkpoint is not None:
        kept = f"the last whole checkpoint is that of step {checkpoint.name.rsplit('-', 1)[1]}"
    elif there is not None:
        kept = f"no checkpoint was written yet, but the encodings of {there.targets:,} targets are kept"
    else:
        kept = "no checkpoint was written yet"
    if restarts_left() > 0:
        return f"{kept}; torchrun starts the processes again"
    if checkpoint is None and there is None:
        return f"{kept}: start anew with --overwrite (and --save-every, to have checkpoints)"
    return f"{kept}; go on with: hardwood train --resume --output {output}"


def _clear(output: Path) -> None:
    """Remove what a run has left, its run file last: after a crash it still looks like a run's folder."""
    for entry in output.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != RUN_FILE:
            entry.unlink()
    (output / RUN_FILE).unlink(missing_ok=True)


def _check_spooled(config: RunConfig, output: Path) -> None:
    """Whether a run without a checkpoint may begin again with the encodings that are there."""
    there = spooled(output / CHECKPOINTS / SPOOL_FOLDER)
    if there is None:
        raise ValueError(
            f"nothing to resume: no whole checkpoint in {output / CHECKPOINTS}, and no encodings of the corpus. Start "
            "anew (--overwrite), with --save-every to have checkpoints"
        )
    _check_same_run(config, output / RUN_FILE, _CHECKPOINT_KNOWS)
    batch = sizes_as_begun(config, output).sizes.pairs * int(os.environ.get("WORLD_SIZE", "1"))
    if (then := there.notes[0]["global_batch"]) != batch:
        raise ValueError(
            f"the run in {output} was started with other settings (global_batch was {then}, is {batch}): resume with "
            "the same, or start anew"
        )


def _check_same_run(config: RunConfig, run_file: Path, but_for: tuple[str, ...]) -> None:
    """A resumed run may be longer or run elsewhere, but it must be the same run, ``but_for`` what is checked later."""
    there = RunConfig.from_mapping(read_settings(run_file))
    different = [name for name in config.differs_in(there) if name not in MAY_DIFFER and name not in but_for]
    if different:
        raise ValueError(
            f"{run_file} was started with other settings ({', '.join(different)}): resume with the same, or start anew"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if is_first_process():
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another process is training in {folder}: wait for it, end it, or choose another folder"
                ) from None
            except OSError:
                pass  # a disk without locks
        yield
    finally:
        os.close(handle)
