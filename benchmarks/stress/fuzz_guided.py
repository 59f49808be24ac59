"""Feed the parsers what a coverage-guided fuzzer makes of good files.

atheris (libFuzzer) keeps inputs that reach new code and goes on from them, where `fuzz` damages blindly. Each
parser runs in a process of its own, with its Python instrumented and kernels that check their bounds, and is judged as
in `fuzz`: refused with an error that names the file, or read as a naive reader has it. Ends with status 1 where
there was anything else, with the input's place. Needs the package ``atheris``, which is no requirement of ours.

    pip install atheris
    python -m benchmarks.stress.fuzz_guided --seconds 120
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import NamedTuple

from benchmarks.stress._fuzz_data import Dataset, Metrics, RunFile
from benchmarks.stress._fuzz_state import ForgedIndex, Index, sign
from benchmarks.stress._fuzz_target import Target
from benchmarks.stress.fuzz import REFUSALS, ROOT, checked_kernels

INSTRUMENTED = (
    "hardwood.data.files.beir_lines", "hardwood.data.files.lines", "hardwood.data.records.table",
    "hardwood.data.records.judgements",
    "hardwood.data.records.splits", "hardwood.data._dataset", "hardwood._json", "hardwood.training.job.config",
    "hardwood.training.job.yaml_file", "hardwood.tree.store.folder", "hardwood.tree.store.validate",
    "yaml.reader", "yaml.scanner", "yaml.parser", "yaml.composer", "yaml.constructor", "yaml.resolver",
)  # fmt: skip
LIMITS = ("-timeout=20", "-rss_limit_mb=3000", "-max_len=8192", "-print_final_stats=1")


class Parser(NamedTuple):
    """The reader, which of its files is made up, and what must be done before it is read."""

    reader: type[Target]
    file: str
    before: Callable[[Path], None] = lambda folder: None


PARSERS = {
    "corpus": Parser(Dataset, "corpus.jsonl"),
    "queries": Parser(Dataset, "queries.jsonl"),
    "qrels": Parser(Dataset, "qrels/train.tsv"),
    "gzipped-corpus": Parser(Dataset, "corpus.jsonl.gz", lambda folder: (folder / "corpus.jsonl").unlink()),
    "run-file": Parser(RunFile, "run.yaml"),
    "metrics": Parser(Metrics, "metrics.json"),
    "manifest": Parser(Index, "manifest.json"),
    "nodes": Parser(ForgedIndex, "nodes.safetensors", sign),  # checksums made to fit, or nothing were reached
    "vectors": Parser(ForgedIndex, "vectors.safetensors", sign),
}


def main() -> int:
    """Every parser in turn, and the table; or one of them, in this process."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--parser", action="append", choices=PARSERS, help="all when left out")
    made.add_argument("--seconds", type=int, default=60, help="for each")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--work", type=Path, help="folder of what is found; default: a new one, temporary")
    made.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = made.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="hardwood-guided-"))
    if options.child:
        fuzz(options.parser[0], options.seconds, options.seed, work)
    failed = 0
    print("| parser | inputs | that reached new code | faults |\n| --- | --- | --- | --- |", flush=True)
    for name in options.parser or PARSERS:
        words = ["--child", "--parser", name, "--seconds", options.seconds, "--seed", options.seed, "--work", work]
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.stress.fuzz_guided", *map(str, words)],
            cwd=ROOT, env=checked_kernels(), capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        counts = dict(re.findall(r"stat::(\w+):\s+(\d+)", ended.stderr))
        row = (name, f"{int(counts.get('number_of_executed_units', 0)):,}", counts.get("new_units_added", "?"))
        print("| " + " | ".join(row) + f" | {int(ended.returncode != 0)} |", flush=True)
        if ended.returncode:
            failed = 1
            print(f"FAULT of {name}, see {work / name}:\n{(ended.stdout + ended.stderr)[-3000:]}", flush=True)
    if not failed and options.work is None:
        shutil.rmtree(work)
    return failed


def fuzz(name: str, seconds: int, seed: int, work: Path) -> None:
    """One parser's inputs, until the time is up; libFuzzer ends the process."""
    import atheris

    for module in INSTRUMENTED:
        for function in functions(importlib.import_module(module)):
            atheris.instrument_func(function)
    parser, folder = PARSERS[name], work / name
    (folder / "found").mkdir(parents=True, exist_ok=True)
    (folder / "seeds").mkdir(exist_ok=True)
    target = parser.reader(folder)
    target.options = {"mmap": False, "verify": True}  # type: ignore[attr-defined]
    seed_file = folder / "seeds" / Path(parser.file).name
    if parser.file.endswith(".gz"):
        seed_file.write_bytes(gzip.compress((target.good / parser.file).with_suffix("").read_bytes()))
    else:
        seed_file.write_bytes((target.good / parser.file).read_bytes())

    def one(content: bytes) -> None:
        shutil.rmtree(target.bad, ignore_errors=True)
        shutil.copytree(target.good, target.bad)
        try:
            (target.bad / parser.file).write_bytes(content)
            parser.before(target.bad)
            target.read()
        except REFUSALS as error:
            if target.names_file and str(target.bad.parent) not in str(error):
                raise AssertionError(f"a refusal that names no file: {error!r}") from error

    words = [sys.argv[0], f"-max_total_time={seconds}", f"-seed={seed}", f"-artifact_prefix={folder}/", *LIMITS]
    atheris.Setup([*words, str(folder / "found"), str(folder / "seeds")], one)
    atheris.Fuzz()


def functions(module: ModuleType) -> Iterator[FunctionType]:
    """A module's own functions and methods in Python, which is what can be instrumented (compiled kernels can't)."""
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for member in vars(value).values() if isinstance(value, type) else (value,):
            function = getattr(member, "__func__", member)  # class methods and static methods
            if isinstance(function, FunctionType):
                yield function


if __name__ == "__main__":
    sys.exit(main())
