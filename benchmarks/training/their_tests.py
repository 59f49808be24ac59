"""Runs sentence-transformers' own tests of its losses against ours.

Their folder of tests is copied from a checkout of their repository, and runs with the installed sentence-transformers
in which ours stands under the names of their losses: first their cached losses alone are ours, so that ours is compared
with theirs; then both sides of each comparison are, with the batch alone, and with targets drawn besides. The models
that they load from the hub are made on the spot.

    git clone https://github.com/huggingface/sentence-transformers
    python -m benchmarks.training.their_tests --repository sentence-transformers
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

LOSSES = "tests/sentence_transformer/losses"
WAYS = {
    "theirs": "theirs as they are",
    "beside": "our cached loss beside their plain one",
    "batch": "ours throughout",
    "drawn": "ours, with drawn targets",
}
REFUSED = "can't be wrapped in sentence-transformers'"


def run(tests: Path, way: str, scratch: Path, chosen: str) -> dict[str, tuple[str, str]]:
    """Outcome and reason of each test, run in one way."""
    report = scratch / f"{way}.jsonl"
    path = [str(Path(__file__).parent), *filter(None, sys.path)]
    settings = {"THEIR_TESTS_WAY": way, "THEIR_TESTS_REPORT": str(report), "PYTHONPATH": os.pathsep.join(path)}
    settings |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "_their_plugin", "-p", "no:cacheprovider", "-c", os.devnull]
    done = subprocess.run(
        [*command, "--rootdir", str(tests), "-k", chosen, LOSSES],
        cwd=tests, env={**os.environ, **settings}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    (scratch / f"{way}.txt").write_text(done.stdout + done.stderr)
    if done.returncode > 1:
        raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    found: dict[str, tuple[str, str]] = {}
    for line in report.read_text().splitlines():
        record = json.loads(line)
        outcome, says = record["outcome"], record["says"].removeprefix("Skipped: ")
        if outcome == "passed":
            says = "; ".join(record["words"])
        elif outcome == "failed" and REFUSED in says:
            outcome = "refused"
        found[record["test"]] = (outcome, says)
    return found


def table(found: dict[str, dict[str, tuple[str, str]]]) -> list[str]:
    """A row for each test: what came of it in each way, and why it does not apply."""
    lines = [f"| test | {' | '.join(WAYS[way] for way in found)} | |", "| --- |" + " --- |" * (len(found) + 1)]
    for test in next(iter(found.values())):
        outcomes = [results.get(test, ("-", "")) for results in found.values()]
        said = [(outcome, says) for outcome, says in outcomes[1:] if says and says != "none of it is ours"]
        words = [says for _, says in sorted(said, key=lambda one: one[0] == "skipped")]
        note = (words[0].splitlines()[0] if words else "").replace("|", "\\|")
        shown = [{"skipped": "-"}.get(outcome, outcome) for outcome, _ in outcomes]
        lines.append(f"| `{test}` | {' | '.join(shown)} | {note[:160]} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, required=True, help="a checkout of sentence-transformers")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("-k", dest="chosen", default="", help="as pytest's -k")
    parser.add_argument("--output", type=Path, help="a folder for the table, and what pytest printed")
    options = parser.parse_args()
    if not (options.repository / LOSSES).is_dir():
        parser.error(f"{options.repository} has no {LOSSES}: give the folder of a checkout of sentence-transformers")
    with tempfile.TemporaryDirectory() as scratch:
        # A copy, so that their sources don't come before the installed package.
        tests = Path(scratch) / "copy"
        shutil.copytree(options.repository / "tests", tests / "tests")
        found = {way: run(tests, way, Path(scratch), options.chosen) for way in options.ways}
        lines = table(found)
        counts = {
            way: ", ".join(f"{count} {outcome}" for outcome, count in Counter(o for o, _ in results.values()).items())
            for way, results in found.items()
        }
        lines += ["", *(f"- {WAYS[way]}: {count}" for way, count in counts.items())]
        print("\n".join(lines))
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            (options.output / "their_tests.md").write_text("\n".join(lines) + "\n")
            for way in found:
                shutil.copy(Path(scratch) / f"{way}.txt", options.output)
    sys.exit(
        any(outcome == "failed" for way, results in found.items() if way != "theirs" for outcome, _ in results.values())
    )


if __name__ == "__main__":
    main()
