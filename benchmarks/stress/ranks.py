"""Kills (SIGKILL) and stops (SIGSTOP) one of several processes that train together, at random, and starts them again.

After each the others must have ended in time, one of them with one message that names the rank, and every checkpoint
that passes for whole must be; in the end the run must have the weights of an unbroken one, to the bit.

    python -m benchmarks.stress.ranks --failures 12              # ten minutes on two cores
    python -m benchmarks.stress.ranks --failures 100 --seed 1

Half of the failures come in a phase of training (encode, sample, exchange, save and others), at one of its calls, the
others at any moment after the processes have met: before that it is for the launcher to see.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks._report import table
from tests.conftest import make_dataset
from tests.processes.launch import start

GLOBAL_BATCH = 12
SILENCE = 15.0
"""Seconds without a sign of life after which a process counts as stopped, here."""
ALLOWED = 30.0
"""Seconds in which all must have ended, beyond those."""
LONGEST = 1200.0
"""Seconds of a whole run that nothing breaks."""
OPTIONS = ("refresh_every=3", "landmarks=20", "leaf_size=8", "probes=3")
TRAIN = ["--negatives", "dynamic", "--steps", "12", "--save-every", "2", "--dimension", "16", "--num-negatives", "4",
         "--device", "cpu", "--quiet",
         *(word for option in OPTIONS for word in ("--source-option", option))]  # fmt: skip
HOW = {signal.SIGKILL: "was killed or has crashed", signal.SIGSTOP: "no sign of life"}

Moment = dict[str, Any]


@dataclass
class Ended:
    """How processes ended: exit codes, what each wrote to stderr, and seconds from the failure to the last end.

    ``late`` are those that had to be ended from outside, without one that was stopped on purpose.
    """

    codes: list[int]
    errors: list[str]
    seconds: float | None
    late: list[int] = field(default_factory=list)


@dataclass
class Tally:
    """What a campaign counts: failures by how and where; the longest end, for each way to fail; how processes were
    started after them; ends compared; and what should not be."""

    failures: collections.Counter[str] = field(default_factory=collections.Counter)
    places: collections.Counter[str] = field(default_factory=collections.Counter)
    longest: dict[str, float] = field(default_factory=lambda: {"SIGKILL": 0.0, "SIGSTOP": 0.0})
    resumed: int = 0
    anew: int = 0
    after_the_end: int = 0
    compared: int = 0
    problems: list[str] = field(default_factory=list)

    def row(self, size: int, seconds: float) -> dict[str, Any]:
        return {
            "processes": size,
            "killed": self.failures["SIGKILL"],
            "stopped": self.failures["SIGSTOP"],
            "where": ", ".join(f"{place} {count}" for place, count in sorted(self.places.items())),
            "longest end, killed (s)": self.longest["SIGKILL"],
            "stopped (s)": self.longest["SIGSTOP"],
            "resumed / anew": f"{self.resumed} / {self.anew}",
            "all was done": self.after_the_end,
            "ends compared": self.compared,
            "problems": len(self.problems),
            "seconds": round(seconds),
        }


def training(folder: Path, data: Path, size: int, moment: Moment) -> list[subprocess.Popen[str]]:
    """The processes, started as after whatever the folder holds."""
    from hardwood.training import last_checkpoint

    note = folder / "notes"
    shutil.rmtree(note, ignore_errors=True)
    note.mkdir(parents=True)
    if last_checkpoint(folder / "run" / "checkpoints") is not None:
        command = ["train", "--resume", "--output", str(folder / "run"), "--quiet"]
    else:
        batch = ["--batch-size", str(GLOBAL_BATCH // size)]
        command = ["train", str(data), "--output", str(folder / "run"), "--overwrite", *batch, *TRAIN]
    moment = {**moment, "note": str(note)}
    module = ["-m", "benchmarks.stress._failing_rank", json.dumps(moment)]
    return start(size, [*module, *command], HARDWOOD_RANK_TIMEOUT=str(SILENCE))


def wait(processes: list[subprocess.Popen[str]], moment: Moment, note: Path) -> Ended:
    """Until all have ended that can, or for as long as they may take."""
    began, failed, last = time.time(), None, 0.0
    running = set(range(len(processes)))
    while running:
        time.sleep(0.05)
        for rank in [rank for rank in running if processes[rank].poll() is not None]:
            running.discard(rank)
            last = time.time()
        if failed is None and (note / "failed").exists() and (text := (note / "failed").read_text()):
            failed = float(text)
        if failed is not None and running == {moment["rank"]}:
            break
        until = began + LONGEST if failed is None else failed + SILENCE + ALLOWED
        if time.time() > until:
            break
    late = sorted(running - ({moment["rank"]} if failed is not None else set()))
    for process in processes:
        if process.poll() is None:
            process.kill()
    errors = [process.communicate()[1] for process in processes]
    seconds = None if failed is None else max(last - failed, 0.0)
    return Ended([process.returncode for process in processes], errors, seconds, late)


def random_moment(rng: random.Random, size: int, unbroken: list[dict[str, Any]]) -> Moment:
    """Where one of the processes fails next."""
    rank = rng.randrange(size)
    moment: Moment = {"rank": rank, "signal": int(rng.choice(list(HOW)))}
    if rng.random() < 0.5:
        return {**moment, "seconds": rng.uniform(0, unbroken[rank]["seconds"])}
    calls = {phase: count for phase, count in unbroken[rank]["calls"].items() if count}
    phase = rng.choice(sorted(calls))
    return {**moment, "phase": phase, "call": rng.randint(1, calls[phase])}


def check(folder: Path, size: int, moment: Moment, ended: Ended, tally: Tally) -> bool:
    """Hold what became of a broken run against what must. Gives whether it had come to its end before."""
    others = [rank for rank in range(size) if rank != moment["rank"]]
    was_done = not ended.late and (ended.seconds is None or all(ended.codes[rank] == 0 for rank in others))
    problems = [f"rank {rank} had not ended" for rank in ended.late]
    problems += [f"rank {rank} wrote a traceback" for rank in others if "Traceback" in ended.errors[rank]]
    spoken = [line for text in ended.errors for line in text.splitlines() if line.startswith("error: ")]
    if ended.seconds is None and ended.late:
        problems.append(f"the run took more than {LONGEST:g} s")
    elif was_done:
        problems += [f"all was done, and yet: {line}" for line in spoken]
        if not (folder / "run" / "metrics.json").exists():
            problems.append(f"ended with {ended.codes}, and without metrics.json")
    else:
        problems += _broken(size, moment, ended, spoken, tally)
    problems += _not_whole(folder / "run" / "checkpoints", size)
    if problems:
        (folder / f"problem-{len(tally.problems)}.log").write_text("\n\n".join(ended.errors))
    tally.problems += [f"{folder.name} {moment}: {problem}" for problem in problems]
    return was_done


def _broken(size: int, moment: Moment, ended: Ended, spoken: list[str], tally: Tally) -> list[str]:
    """What is wrong with how the others ended."""
    how = signal.Signals(moment["signal"])
    seconds = ended.seconds or 0.0
    tally.longest[how.name] = max(tally.longest[how.name], seconds)
    problems = []
    if len(spoken) != 1:
        problems.append(f"{len(spoken)} messages: {spoken}")
    elif f"rank {moment['rank']} of {size}" not in spoken[0] or HOW[how] not in spoken[0]:
        problems.append(f"the message does not say what happened: {spoken[0]}")
    if any(code != 1 for rank, code in enumerate(ended.codes) if rank != moment["rank"]):
        problems.append(f"ended with {ended.codes}")
    if how == signal.SIGKILL and seconds > ALLOWED:
        problems.append(f"took {seconds:.0f} s to end")
    return problems


def _not_whole(checkpoints: Path, size: int) -> list[str]:
    """What passes for a whole checkpoint, and is none; raises where a tree is damaged."""
    from hardwood import TargetIndex
    from hardwood.training.checkpoint.seal import read_seal

    problems = []
    for path in (one for one in checkpoints.glob("checkpoint-*") if read_seal(one) is not None):
        found = sorted(path.glob("hardwood/shard-*/index"))
        if len(found) != size:
            problems.append(f"{path.name} passes for whole, and has {len(found)} trees")
        for index in found:
            TargetIndex.load(index, verify=True).check()
    return problems


def result(folder: Path) -> tuple[Any, ...]:
    """What must be that of an unbroken run."""
    run = folder / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    cost = [metrics["cost"][name] for name in ("targets_reencoded", "texts_encoded")]
    steps = metrics["training"]["steps"]
    return metrics["test"], metrics["dev"], *cost, steps, (run / "model" / "model.safetensors").read_bytes()


def campaign(size: int, failures: int, seed: int, work: Path) -> Tally:
    """Break trainings of ``size`` processes until ``failures`` have failed, in as many folders as that takes."""
    rng, tally = random.Random(seed), Tally()
    data, whole = work / "ailments", work / "whole"
    ended = wait(training(whole, data, size, {}), {}, whole / "notes")
    if any(ended.codes):
        raise SystemExit("the unbroken run failed:\n" + "\n".join(ended.errors))
    unbroken = [json.loads((whole / "notes" / f"calls-{rank}.json").read_text()) for rank in range(size)]
    wanted = result(whole)
    number = 0
    while tally.failures.total() < failures:
        number += 1
        _one_life(work / f"life{number}", data, size, unbroken, wanted, rng, tally, failures)
    return tally


def _one_life(
    folder: Path,
    data: Path,
    size: int,
    unbroken: list[dict[str, Any]],
    wanted: Any,
    rng: random.Random,
    tally: Tally,
    failures: int,
) -> None:
    """One folder from nothing to the end, broken on the way as often as chance has it."""
    from hardwood.training import last_checkpoint

    before, is_done = len(tally.problems), False
    for _ in range(rng.randint(1, 4)):
        if tally.failures.total() >= failures:
            break
        moment = random_moment(rng, size, unbroken)
        ended = wait(training(folder, data, size, moment), moment, folder / "notes")
        if ended.seconds is not None:
            tally.failures[signal.Signals(moment["signal"]).name] += 1
            tally.places[moment.get("phase", "any moment")] += 1
        is_done = check(folder, size, moment, ended, tally)
        if is_done:
            tally.after_the_end += ended.seconds is not None
            break
        resumes = last_checkpoint(folder / "run" / "checkpoints") is not None
        tally.resumed, tally.anew = tally.resumed + resumes, tally.anew + (not resumes)
    if not is_done:
        ended = wait(training(folder, data, size, {}), {}, folder / "notes")
        if any(ended.codes) or ended.late:
            (folder / "unfinished.log").write_text("\n\n".join(ended.errors))
            tally.problems.append(f"{folder.name}: could not finish {ended.codes}; see unfinished.log")
            return
    tally.compared += 1
    if result(folder) != wanted:
        tally.problems.append(f"{folder.name}: another result than the unbroken run")
    if len(tally.problems) == before:
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failures", type=int, default=12, help="for each number of processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    options = parser.parse_args()
    if wrong := [size for size in options.processes if size < 2 or GLOBAL_BATCH % size]:
        parser.error(f"--processes must be from 2 on and divide {GLOBAL_BATCH}, got {wrong}")
    work = Path(tempfile.mkdtemp(prefix="hardwood-ranks-"))
    rows, problems = [], []
    for size in options.processes:
        began = time.perf_counter()
        place = work / str(size)
        make_dataset().save(place / "ailments")
        tally = campaign(size, options.failures, options.seed, place)
        rows.append(tally.row(size, time.perf_counter() - began))
        problems += tally.problems
        print(rows[-1], *tally.problems, sep="\n", flush=True)
    print("\n" + table(rows) + "\n")
    if problems or options.keep:
        print(f"folders and logs: {work}")
    else:
        shutil.rmtree(work)
    return int(bool(problems))


if __name__ == "__main__":
    raise SystemExit(main())
