"""What does a process keep, how long does a step take by part, and what does it send, by the number of processes?

    python -m benchmarks.processes.cost                                     # 100,000 targets, 1 and 2 processes
    python -m benchmarks.processes.cost --targets 1000000 --processes 1 2 4 # half an hour on an idle machine

Whole trainings with static embeddings over names of the taxonomy (`hardwood.data.write_scale`), dynamic negatives and
the same global batch, by processes of this machine that talk over gloo, each with one thread. Give it as many cores as
processes: else they wait for each other's turns.

- Memory is the growth of a process's own (its pages, not those of mapped files) from before the corpus is encoded: when
  the tree is **built**, at the **end** with the optimiser's state and gradients, and at its **peak**. Of the process
  that has most.
- **seconds** are medians over the steps without a refresh, and means over processes. *exchange* is all that goes over
  the host's network, waiting for the slower process included; the other parts are without it.
- **sent** is what a process gives to all others in such a step; the gradients that ``DistributedDataParallel`` sends
  come on top.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks._report import ROOT, Row, finish, parser
from tests.processes.launch import run
from transformers import TrainerCallback

from hardwood.data import RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.negatives import Cost
from hardwood.ranks import Ranks, join

PARTS = ("encode", "sample", "index", "forward_backward", "exchange")
REFRESH_EVERY = 10
QUICK = 20_000


def main() -> None:
    arguments = options()
    if arguments.child:
        train(arguments)
        return
    if arguments.quick:
        arguments.targets = QUICK
    data = corpus(arguments.targets)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        encoder = Path(folder) / "encoder"
        found = RetrievalDataset.load(data)
        load_encoder("static", found, dimension=arguments.dimension, device="cpu").save_pretrained(str(encoder))
        del found
        for size in arguments.processes:
            if arguments.batch_size % size:
                raise SystemExit(f"--batch-size {arguments.batch_size} can't be divided among {size} processes")
            command = ["-m", "benchmarks.processes.cost", "--child", "--data", str(data), "--encoder", str(encoder)]
            command += ["--run", str(Path(folder) / f"run-{size}"), "--batch-size", str(arguments.batch_size // size)]
            command += ["--steps", str(arguments.steps), "--seed", str(arguments.seed)]
            lines = run(size, command, timeout=7200, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
            notes = [json.loads(line.splitlines()[-1]) for line in lines]
            rows.append(summary(size, notes, 8 * arguments.targets * arguments.dimension))
            print(rows[-1], flush=True)
    finish(arguments, "processes", rows)


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.set_defaults(threads=1)
    made.add_argument("--targets", type=int, default=100_000)
    made.add_argument("--dimension", type=int, default=128)
    made.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    made.add_argument("--batch-size", type=int, default=128, help="of all processes together")
    made.add_argument("--steps", type=int, default=20, help=f"a refresh comes every {REFRESH_EVERY}")
    for hidden in ("--data", "--encoder", "--run"):
        made.add_argument(hidden, help=argparse.SUPPRESS)
    made.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return made.parse_args()


def corpus(targets: int) -> Path:
    """The BEIR folder of so many names, written if it is not there."""
    folder = ROOT / "data" / f"scale-{targets}"
    if not (folder / "corpus.jsonl").exists():
        from hardwood.data import write_scale

        write_scale(folder, targets)
    return folder


def summary(size: int, notes: list[Row], both: int) -> Row:
    """A row of the table. ``both``: bytes of all true encodings and the tree's, in float32."""
    steps = [
        {part: statistics.mean(note["steps"][step][part] for note in notes) for part in notes[0]["steps"][step]}
        for step in range(1, len(notes[0]["steps"]))
    ]
    plain = [found for step, found in enumerate(steps, 1) if step % REFRESH_EVERY]
    refreshing = [found for step, found in enumerate(steps, 1) if step % REFRESH_EVERY == 0]
    middle = {part: statistics.median(found[part] for found in plain) for part in plain[0]}
    of_refresh = statistics.mean(found["all"] for found in refreshing) if refreshing else float("nan")
    return {
        "processes": size,
        "8 n d / W (MiB)": both / size / 2**20,
        **{f"{name} (MiB)": max(note[name] for note in notes) / 2**20 for name in ("built", "end", "peak")},
        "first step (s)": max(note["steps"][0]["all"] for note in notes),
        "a step (ms)": 1e3 * middle["all"],
        **{f"{part.replace('_', ' and ')} (ms)": 1e3 * middle[part] for part in PARTS},
        "a step with a refresh (ms)": 1e3 * of_refresh,
        "sent a step (kB)": middle["sent"] / 1e3,
        "exchanges a step": middle["exchanges"],
    }


class Meter(TrainerCallback):
    """Notes seconds by part, bytes and memory after each step of this process."""

    def __init__(self, cost: Cost, ranks: Ranks) -> None:
        self.cost, self.ranks = cost, ranks
        self.steps: list[Row] = []
        self.exchange = 0.0
        self._open: list[str] = []  # the parts that are being timed
        self._inside: dict[str, float] = dict.fromkeys(PARTS, 0.0)  # exchanges within each part
        self._last: Row = {}
        self.before = self.built = self.peak = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Every exchange is timed, apart from the part of a step that it belongs to."""
        gather, timed = Ranks.gather, Cost.timed

        def timed_gather(ranks: Ranks, tensors: Any) -> Any:
            begin = time.perf_counter()
            try:
                return gather(ranks, tensors)
            finally:
                seconds = 0.0 if ranks.is_alone else time.perf_counter() - begin
                self.exchange += seconds
                if self._open:
                    self._inside[self._open[-1]] += seconds

        @contextmanager
        def noted(cost: Cost, part: str) -> Iterator[None]:
            self._open.append(part)
            try:
                with timed(cost, part):
                    yield
            finally:
                self._open.pop()

        done = threading.Event()
        follower = threading.Thread(target=self._follow, args=(done,), daemon=True)
        with mock.patch.object(Ranks, "gather", timed_gather), mock.patch.object(Cost, "timed", noted):
            follower.start()
            try:
                yield
            finally:
                done.set()
                follower.join()

    def _follow(self, done: threading.Event) -> None:
        while not done.wait(0.01):
            self.peak = max(self.peak, own_memory())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before = self.peak = own_memory()
        self._last = self._now()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.built = self.built or own_memory()  # the first step begins with the tree; other callbacks came before

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now, before = self._now(), self._last
        found = {name: now[name] - before[name] for name in now}
        # What is not in a part of its own: the loss, its gradient and the optimiser.
        found["forward_backward"] = found["all"] - sum(found[part] for part in PARTS if part in found)
        self.steps.append(found)
        self._last = now

    def _now(self) -> Row:
        parts = {part: self.cost.seconds[part] - self._inside[part] for part in ("encode", "sample", "index")}
        sent = {"sent": self.ranks.sent, "exchanges": self.ranks.exchanges}
        return {**parts, "exchange": self.exchange, "all": time.perf_counter(), **sent}


def own_memory() -> int:
    """Bytes of this process's own pages."""
    status = Path("/proc/self/status").read_text()
    return 1024 * sum(int(value) for value in re.findall(r"Rss(?:Anon|Shmem):\s*(\d+)", status))


def train(arguments: argparse.Namespace) -> None:
    """One of the processes."""
    import torch
    from transformers import set_seed

    from hardwood._processors import set_threads
    from hardwood.training import RunConfig
    from hardwood.training.job.assembly import make_loss, make_trainer
    from hardwood.tree import warmup

    torch.set_num_threads(1)
    set_threads(1)
    ranks = join("cpu")
    set_seed(arguments.seed)
    warmup(training=True, progress=False)
    config = RunConfig(
        data=arguments.data,
        output=arguments.run,
        encoder=arguments.encoder,
        negatives="dynamic",
        negatives_options={"refresh_when": None, "refresh_every": REFRESH_EVERY},
        batch_size=arguments.batch_size,
        learning_rate=0.05,
        steps=arguments.steps,
        threads=1,
        seed=arguments.seed,
        device="cpu",
    )
    data = config.read_data()
    model = load_encoder(config.encoder, data, device="cpu")
    loss = make_loss(model, data, config)
    loss.targets.progress = False
    trainer = make_trainer(model, data, loss, config, quiet=True)
    meter = Meter(loss.cost, ranks)
    trainer.add_callback(meter)
    with meter.reading():
        trainer.train()
    memory = {"built": meter.built, "end": own_memory(), "peak": meter.peak}
    print(
        json.dumps({"steps": meter.steps, **{name: size - meter.before for name, size in memory.items()}}), flush=True
    )


if __name__ == "__main__":
    main()
