"""Feed damaged files to every reader, and count what came of it.

Each reader runs in a process of its own, with kernels that check their bounds (``NUMBA_BOUNDSCHECK=1``), so that a
crash of the interpreter, a read out of bounds, a hang and memory out of proportion are all seen, and reported with the
number of the input: ``--target T --seed S --only N`` does it again. Ends with status 1 where there was any.

    python -m benchmarks.stress.fuzz --count 2000
    python -m benchmarks.stress.fuzz --seconds 600 --target forged-index
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.stress._fuzz_data import Dataset, Metrics, Pairs, RunFile
from benchmarks.stress._fuzz_state import Checkpoint, Drift, ForgedIndex, Index
from benchmarks.stress._fuzz_target import Fault, Target

TARGETS: dict[str, type[Target]] = {
    "dataset": Dataset, "pairs": Pairs, "run-file": RunFile, "index": Index, "forged-index": ForgedIndex,
    "checkpoint": Checkpoint, "drift": Drift, "metrics": Metrics,
}  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
SLOW_SECONDS, ANY_MEMORY, MEMORY_A_BYTE = 20, 96 << 20, 64
REFUSALS = (ValueError, OSError, KeyError)


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--target", action="append", choices=sorted(TARGETS), help="readers; all when left out")
    made.add_argument("--count", type=int, default=None, help="inputs for each reader")
    made.add_argument("--seconds", type=float, default=None, help="instead: time for each reader")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--only", type=int, default=None, help="this input alone, in this process, with its traceback")
    made.add_argument("--report", type=Path, default=None, help="a JSON file of all counts")
    made.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return made.parse_args(words)


def main() -> None:
    """The command line's work."""
    arguments = options()
    if arguments.child:
        child(arguments)
    elif arguments.only is not None:
        with tempfile.TemporaryDirectory(prefix="hardwood-fuzz-") as folder:
            target = TARGETS[arguments.target[0]](Path(folder))
            print(one(target, arguments.seed, arguments.only, show=True))
    else:
        sys.exit(campaign(arguments))


def campaign(arguments: argparse.Namespace) -> int:
    """Every reader in turn; the table; 1 if there was a fault."""
    report, faults = {}, 0
    for name in arguments.target or TARGETS:
        began = time.perf_counter()
        counts, found = run_child(name, arguments)
        seconds = time.perf_counter() - began
        report[name] = {
            "inputs": sum(counts.values()),
            "outcomes": dict(counts),
            "faults": found,
            "seconds": round(seconds),
        }
        print(f"{name}: {sum(counts.values()):,} inputs in {seconds:.0f} s", flush=True)
        for outcome, count in counts.most_common():
            print(f"    {count:>9,}  {outcome}")
        for fault in found[:10]:
            print(f"    FAULT {fault}")
        faults += len(found)
    total = sum(entry["inputs"] for entry in report.values())
    print(f"{total:,} inputs, {faults} faults (seed {arguments.seed})")
    if arguments.report:
        arguments.report.write_text(json.dumps({"seed": arguments.seed, "readers": report}, indent=1) + "\n")
    return 1 if faults else 0


def run_child(name: str, arguments: argparse.Namespace) -> tuple[Counter[str], list[str]]:
    """One reader's inputs, by as many processes as it takes: one that dies or hangs is an input's fault, and the next
    goes on behind it."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    left, first = arguments.seconds, 0
    count = arguments.count or (1000 if arguments.seconds is None else 10**9)
    environment = checked_kernels()
    while first < count:
        words = [
            "--child",
            "--target",
            name,
            "--seed",
            str(arguments.seed),
            "--only",
            str(first),
            "--count",
            str(count),
        ]
        words += [] if left is None else ["--seconds", str(left)]
        command = [sys.executable, "-m", "benchmarks.stress.fuzz", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
        timer, began = Watch(process), time.perf_counter()
        number, ended = first, False
        assert process.stdout is not None
        for line in process.stdout:
            timer.fed()
            note = json.loads(line)
            number, ended = note["number"] + 1, note.get("end", False)
            if "outcome" in note:
                counts[note["outcome"]] += 1
            if "fault" in note:
                faults.append(f"--target {name} --seed {arguments.seed} --only {note['number']}: {note['fault']}")
        timer.stop()
        status = process.wait()
        if ended:
            break
        what = "hung" if timer.hung else f"killed its process (status {status})"
        counts[f"FAULT: {what}"] += 1
        faults.append(f"--target {name} --seed {arguments.seed} --only {number}: {what}")
        first = number + 1
        if left is not None:
            left -= time.perf_counter() - began
            if left < 1:
                break
    return counts, faults


def checked_kernels() -> dict[str, str]:
    """The environment of a process whose kernels check their bounds."""
    return {
        **os.environ, "NUMBA_BOUNDSCHECK": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "NUMBA_CACHE_DIR": str(Path(tempfile.gettempdir()) / "hardwood-fuzz-numba"),
    }  # fmt: skip


class Watch:
    """Kills a process that says nothing for long. The first input may wait for kernels to be compiled."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.hung, self._last, self._over = process, False, time.monotonic() + 580, False
        threading.Thread(target=self._watch, daemon=True).start()

    def fed(self) -> None:
        """It has said something."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """It has ended."""
        self._over = True

    def _watch(self) -> None:
        while not self._over:
            time.sleep(0.5)
            if time.monotonic() - self._last > 3 * SLOW_SECONDS and not self._over:
                self.hung = True
                self.process.send_signal(signal.SIGKILL)
                return


def child(arguments: argparse.Namespace) -> None:
    """Inputs from ``--only`` to ``--count``, a line of JSON each."""
    faulthandler.enable()
    name = arguments.target[0]
    with tempfile.TemporaryDirectory(prefix="hardwood-fuzz-") as folder:
        target = TARGETS[name](Path(folder))
        deadline = time.monotonic() + (arguments.seconds or 1e18)
        number = arguments.only
        while number < arguments.count and time.monotonic() < deadline:
            print(json.dumps(one(target, arguments.seed, number)), flush=True)
            number += 1
        print(json.dumps({"number": number, "end": True}), flush=True)


def one(target: Target, seed: int, number: int, show: bool = False) -> dict[str, Any]:
    """One input: what came of it, and what of that is a fault."""
    rng = np.random.default_rng([seed, number])
    began, before = time.perf_counter(), peak_restarted()
    note: dict[str, Any] = {"number": number}
    try:
        note["outcome"] = target.run(rng)
    except REFUSALS as error:
        note["outcome"] = f"refused: {type(error).__name__}"
        if target.names_file and str(target.bad.parent) not in str(error) and "/" not in str(error):
            note["fault"] = f"a refusal that names no file: {str(error)[:200]!r}"
    except Fault as error:
        note["outcome"], note["fault"] = "FAULT: accepted", str(error)[:300]
    except Exception as error:
        note["outcome"], note["fault"] = f"FAULT: {type(error).__name__}", f"{type(error).__name__}: {str(error)[:300]}"
        if show:
            traceback.print_exc()
    size = sum(path.lstat().st_size for path in target.bad.rglob("*")) if target.bad.exists() else 0
    seconds, grown = time.perf_counter() - began, peak() - before
    if grown > ANY_MEMORY + MEMORY_A_BYTE * size and number > 200:  # the first compile kernels
        note["fault"] = f"{grown >> 20} MiB for {size} bytes of files"
    if seconds > SLOW_SECONDS and number > 200:
        note["fault"] = f"{seconds:.0f} s for {size} bytes of files"
    return note


def peak_restarted() -> int:
    """Resident bytes now, which is where the peak begins anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The most resident bytes since then."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
