"""Kills (SIGKILL) jobs that write files, at random, and checks what they leave; then lets them finish.

After each kill every file under its final name must be whole; in the end the result must be that of an unbroken run,
bit for bit, with no temporary file left.

    python -m benchmarks.stress.kills --part train --kills 100
    python -m benchmarks.stress.kills --part index,train,trainer,mine,data --kills 100
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import numpy as np
from benchmarks.stress._kills import Ended, Tally, moment, run_forked, temporaries

STEPS = 12
OPTIONS = ("refresh_every=3", "landmarks=20", "leaf_size=8", "probes=3")
TRAIN = ["--negatives", "dynamic", "--steps", str(STEPS), "--save-every", "2", "--batch-size", "16",
         "--dimension", "16", "--num-negatives", "4", "--device", "cpu", "--quiet",
         *(word for option in OPTIONS for word in ("--source-option", option))]  # fmt: skip


class Part:
    """A job, what must hold of its folder at any moment, and what it must have left in the end."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def job(self, folder: Path) -> Callable[[], None]:
        """What to do next in this folder, be it from scratch or after a kill."""
        raise NotImplementedError

    def check(self, folder: Path, tally: Tally) -> None:
        """Raises if anything under its final name is not whole."""
        raise NotImplementedError

    def result(self, folder: Path) -> Any:
        """What must be the same as in an unbroken run."""
        raise NotImplementedError


def command(*arguments: object) -> None:
    from hardwood.cli.app import app

    app([str(word) for word in arguments])


class Train(Part):
    """``hardwood train``, then ``hardwood train --resume``."""

    def job(self, folder: Path) -> Callable[[], None]:
        from hardwood.training import last_checkpoint

        if last_checkpoint(folder / "run" / "checkpoints") is not None:
            return lambda: command("train", "--resume", "--output", folder / "run", "--quiet")
        return lambda: command("train", self.data, "--output", folder / "run", "--overwrite", *TRAIN)

    def check(self, folder: Path, tally: Tally) -> None:
        from sentence_transformers import SentenceTransformer

        from hardwood import TargetIndex
        from hardwood.training import RunConfig
        from hardwood.training.checkpoint.seal import read_seal
        from hardwood.training.job.yaml_file import read_settings

        run = folder / "run"
        if (run / "run.yaml").exists():
            RunConfig.from_mapping(read_settings(run / "run.yaml"))
        for name in ("metrics.json", "log.json"):
            if (run / name).exists():
                json.loads((run / name).read_text())
        if (run / "model").exists():
            SentenceTransformer(str(run / "model"), device="cpu")
        if (run / "metrics.json").exists():
            assert (run / "model").exists(), "metrics.json without a model"
        sealed = [read_seal(path) is not None for path in (run / "checkpoints").glob("checkpoint-*")]
        tally.cut_short += sealed.count(False)
        tally.resumed += any(sealed)
        tally.started += not any(sealed)
        for path in (run / "checkpoints").glob("checkpoint-*"):
            if read_seal(path) is not None and (path / "hardwood" / "index").exists():
                TargetIndex.load(path / "hardwood" / "index", verify=True).check()

    def result(self, folder: Path) -> Any:
        run = folder / "run"
        metrics = json.loads((run / "metrics.json").read_text())
        return (
            metrics["test"],
            metrics["dev"],
            metrics["cost"]["targets_reencoded"],
            metrics["cost"]["texts_encoded"],
            (run / "model" / "model.safetensors").read_bytes(),
            (run / "suspected_false_negatives.jsonl").read_bytes(),
        )


class Trainer(Part):
    """``SentenceTransformerTrainer`` with the loss and the callback, resumed from ``last_checkpoint``."""

    def job(self, folder: Path) -> Callable[[], None]:
        def train() -> None:
            from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
            from transformers import set_seed

            from hardwood import CorpusSoftmaxLoss, NegativesCallback, RetrievalDataset, load_encoder
            from hardwood.negatives import make_source
            from hardwood.training import last_checkpoint

            set_seed(0)
            data = RetrievalDataset.load(self.data)
            model = load_encoder("static", data, dimension=16, vocabulary_size=300, device="cpu")
            source = make_source("dynamic", refresh_every=3, landmarks=20, leaf_size=8, probes=3)
            loss = CorpusSoftmaxLoss(model, data, source, num_negatives=4)
            arguments = SentenceTransformerTrainingArguments(
                str(folder / "out"), max_steps=STEPS, save_steps=2, save_total_limit=2, per_device_train_batch_size=16,
                learning_rate=0.1, report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
            )  # fmt: skip
            trainer = SentenceTransformerTrainer(
                model, arguments, data.training_pairs(), loss=loss, callbacks=[NegativesCallback(loss)]
            )
            checkpoint = last_checkpoint(folder / "out")
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

        return train

    def check(self, folder: Path, tally: Tally) -> None:
        from hardwood import TargetIndex
        from hardwood.training.checkpoint.seal import read_seal

        sealed = {path: read_seal(path) is not None for path in (folder / "out").glob("checkpoint-*")}
        tally.cut_short += list(sealed.values()).count(False)
        tally.resumed += any(sealed.values())
        tally.started += not any(sealed.values())
        for path, whole in sealed.items():
            if whole:
                TargetIndex.load(path / "hardwood" / "index", verify=True).check()

    def result(self, folder: Path) -> Any:
        last = folder / "out" / f"checkpoint-{STEPS}"
        names = ("model.safetensors", "hardwood/source.safetensors", "hardwood/index/vectors.safetensors",
                 "hardwood/index/nodes.safetensors", "hardwood/suspects.safetensors")  # fmt: skip
        return [(last / name).read_bytes() for name in names]


class Index(Part):
    """`TargetIndex.build` from an iterator, changed, and `save` over an index that is there."""

    def job(self, folder: Path) -> Callable[[], None]:
        def build() -> None:
            from hardwood import TargetIndex

            rng = np.random.default_rng(0)
            vectors = rng.standard_normal((4000, 16)).astype(np.float32)
            index = TargetIndex.build(iter(np.split(vectors, 8)), leaf_size=16, threads=1, progress=False)
            for factor in (1, 2, 4):
                index.update(vectors * np.float32(factor), np.arange(4000))
                index.save(folder / "index")

        return build

    def check(self, folder: Path, tally: Tally) -> None:
        from hardwood import TargetIndex

        if (folder / "index").exists():
            index = TargetIndex.load(folder / "index", verify=True)
            index.check()
            first = np.random.default_rng(0).standard_normal((4000, 16)).astype(np.float32)
            assert any(np.array_equal(index.vectors(np.arange(4000)), first * np.float32(f)) for f in (1, 2, 4)), (
                "mixed"
            )

    def result(self, folder: Path) -> Any:
        return [(path.name, path.read_bytes()) for path in sorted((folder / "index").iterdir())]


class Data(Part):
    """``hardwood data hpo --overwrite``: the whole demo set."""

    def job(self, folder: Path) -> Callable[[], None]:
        return lambda: command("data", "hpo", folder / "hpo", "--overwrite")

    def check(self, folder: Path, tally: Tally) -> None:
        from hardwood import RetrievalDataset

        if (folder / "hpo").exists():
            assert len(RetrievalDataset.load(folder / "hpo").corpus) == 19_034

    def result(self, folder: Path) -> Any:
        return [(path.name, path.read_bytes()) for path in sorted((folder / "hpo").rglob("*.*l"))]


class Mine(Part):
    """``hardwood mine``, to JSON lines and then to a ``datasets`` folder, over what is there."""

    def job(self, folder: Path) -> Callable[[], None]:
        def mine() -> None:
            mined("n.jsonl")
            mined("rows")

        def mined(name: str) -> None:
            with suppress(SystemExit):
                command("mine", self.data.parent / "model", self.data, "--num-negatives", 3, "--quiet",
                        "--output", folder / name, "--overwrite", "--device", "cpu")  # fmt: skip

        return mine

    def check(self, folder: Path, tally: Tally) -> None:
        import datasets

        if (folder / "n.jsonl").exists():
            assert len([json.loads(line) for line in (folder / "n.jsonl").open()]) == 60
        if (folder / "rows").exists():
            assert len(datasets.load_from_disk(str(folder / "rows"))) == 60

    def result(self, folder: Path) -> Any:
        import datasets

        return (folder / "n.jsonl").read_bytes(), datasets.load_from_disk(str(folder / "rows")).to_list()


PARTS = {"train": Train, "trainer": Trainer, "index": Index, "data": Data, "mine": Mine}


def campaign(part: Part, kills: int, seed: int, work: Path) -> Tally:
    """Kill ``part``'s job until ``kills`` kills are done, in as many folders as that takes."""
    rng, tally = random.Random(seed), Tally()
    whole = work / "whole"
    run_forked(part.job(whole), whole)  # the first one warms caches
    shutil.rmtree(whole)
    unbroken = run_forked(part.job(whole), whole)
    assert unbroken.code == 0, f"the unbroken run failed: see {work / 'whole.log'}"
    wanted = part.result(whole)
    for number in range(10_000):
        if tally.kills >= kills:
            break
        _one_life(part, work / f"life{number}", unbroken, wanted, rng, tally, kills)
    return tally


def _one_life(
    part: Part, folder: Path, unbroken: Ended, wanted: Any, rng: random.Random, tally: Tally, kills: int
) -> None:
    """One folder from nothing to the end, killed on the way as often as chance has it."""
    for _ in range(rng.randint(1, 6)):
        if tally.kills >= kills:
            break
        where = moment(rng, unbroken)
        ended = run_forked(part.job(folder), folder, **where)  # type: ignore[arg-type]
        if ended.code == -9:
            tally.kills += 1
            tally.at_operations += "kill_at" in where
        elif ended.code != 0:
            tally.problems.append(f"{folder.name} {where}: ended with {ended.code}; see its .log")
        try:
            part.check(folder, tally)
        except Exception as error:
            tally.problems.append(f"{folder.name} {where}: {type(error).__name__}: {error}")
    before = len(temporaries(folder))
    ended = run_forked(part.job(folder), folder)
    tally.compared += 1
    tally.leftovers_swept += before
    if ended.code != 0:
        tally.problems.append(f"{folder.name}: could not finish (exit code {ended.code}); see its .log")
    elif part.result(folder) != wanted:
        tally.problems.append(f"{folder.name}: another result than the unbroken run")
    if left := temporaries(folder):
        tally.problems.append(f"{folder.name}: left over: {left}")
    if not tally.problems:
        shutil.rmtree(folder)


def prepare(work: Path) -> Path:
    """A tiny dataset and a model, for all parts; and everything imported and compiled before the first fork."""
    import datasets  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import sentence_transformers  # noqa: F401

    from conftest import make_dataset
    from hardwood import load_encoder
    from hardwood.tree import warmup

    dataset = make_dataset()
    dataset.save(work / "ailments")
    load_encoder("static", dataset, dimension=16, vocabulary_size=300, device="cpu").save_pretrained(
        str(work / "model")
    )
    warmup()
    return work / "ailments"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default=",".join(PARTS), help="one or several, separated by commas")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="hardwood-kills-"))
    data = prepare(work)
    columns = ["part", "kills", "at a file operation", "then anew / resumed", "checkpoints cut short", "leftovers",
               "ends compared", "problems", "seconds"]  # fmt: skip
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)
    failed = False
    for name in options.part.split(","):
        began = time.perf_counter()
        (work / name).mkdir()
        tally = campaign(PARTS[name](data), options.kills, options.seed, work / name)
        row = [name, tally.kills, tally.at_operations, f"{tally.started} / {tally.resumed}", tally.cut_short,
               tally.leftovers_swept, tally.compared, len(tally.problems),
               round(time.perf_counter() - began)]  # fmt: skip
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        for problem in tally.problems:
            print(problem)
        failed |= bool(tally.problems)
    if failed or options.keep:
        print(f"folders and logs: {work}")
    else:
        shutil.rmtree(work)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
