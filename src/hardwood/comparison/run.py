"""Running a comparison: one process a run, skipping what is done already."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardwood._files import written_whole
from hardwood._json import read_object
from hardwood.comparison.figure import comparison_figure
from hardwood.comparison.plan import PlannedRun, check_plan, plan_runs
from hardwood.comparison.report import markdown_table, summarize
from hardwood.report import write_comparison
from hardwood.training.batch.sizes import announcement
from hardwood.training.job.config import RunConfig, versions

if TYPE_CHECKING:
    from hardwood.data import RetrievalDataset


def compare(
    base: RunConfig,
    sources: Sequence[str],
    *,
    num_seeds: int = 3,
    split: str = "test",
    announce: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every source with every seed and report.

    Writes ``report.html``, ``comparison.json``, ``comparison.md`` and ``comparison.png`` into ``base.output``, and each
    run's own folder under ``runs/``. A run that is there complete, with the same settings, is not repeated: an
    interrupted comparison goes on where it was.

    Args:
        base: settings that all runs share (see `plan_runs`).
        sources: names of sources.
        num_seeds: runs a source and budget.
        split: measured in the figure and first in the table.
        announce: called with a line about each run before it starts.

    Returns:
        What ``comparison.json`` holds: ``"settings"``, ``"versions"``, ``"runs"`` and ``"summary"``.

    Raises:
        ValueError: bad settings, or a run's folder that holds a run with other settings.
        RuntimeError: a run failed; its own message has been shown.
    """
    check_plan(sources, num_seeds)
    data = base.read_data(quiet=True)  # each run says what was guessed or made
    _check_measured(base, data, split)
    num_pairs = data.split(base.train_split).positives.values.size
    sized = base.sized(num_pairs)  # as many pairs and draws for all
    if announce is not None and base.steps is not None and sized.sizes != base.sizes:
        announce(announcement(base.steps, base.sizes.pairs * base.gradient_accumulation, num_pairs, sized.sizes))
    if sized.steps is None:  # in-batch training has larger batches, and would have fewer steps
        epochs, sized = sized.epochs, sized.in_steps(num_pairs)
        if announce is not None:
            announce(
                f"{sized.steps:,} steps for every source, as many as {epochs:g} epochs of {sized.sizes.pairs} pairs"
            )
    base = sized
    planned = plan_runs(base, sources, num_seeds)
    return run_all(planned, base.output, settings=dataclasses.asdict(base), split=split, announce=announce)


def _check_measured(base: RunConfig, data: RetrievalDataset, split: str) -> None:
    """``ValueError`` now and not after the last run, where the split that is reported won't be measured."""
    from hardwood.training.job.run import splits_to_measure

    measured = splits_to_measure(base, data)
    if split not in measured:
        raise ValueError(
            f"the runs would not measure the split {split!r} that the report is about; they measure "
            f"{', '.join(measured) or 'none'}: choose one of these (--split), or add it to the data"
        )


def run_all(
    planned: Sequence[PlannedRun],
    output: str | Path,
    *,
    settings: dict[str, Any],
    split: str = "test",
    announce: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Do the runs of a plan, whatever they compare, and report as `compare` does.

    Args:
        planned: runs, each with a folder of its own; those of one name and budget make a row.
        output: folder of the report.
        settings: what the runs share, to be noted in the report.
        split: as in `compare`.
        announce: as in `compare`.

    Raises:
        ValueError: as in `compare`.
        RuntimeError: as in `compare`.
    """
    records = []
    for number, run in enumerate(planned, start=1):
        done = _finished_metrics(run)
        if announce is not None:
            state = "done before" if done is not None else "running"
            announce(f"[{number}/{len(planned)}] {Path(run.config.output).name}: {state}")
        metrics = run_one(run) if done is None else done
        records.append(
            {
                "negatives": run.negatives,
                "budgets": list(run.budgets),
                "seed": run.config.seed,
                "batch_size": run.config.batch_size,
                "metrics": metrics,
            }
        )
    report: dict[str, Any] = {
        "settings": settings,
        "versions": versions(),
        "summary": summarize(records),
        "runs": records,
    }
    output = Path(output)
    with written_whole(output / "comparison.md") as temporary:
        temporary.write_text(markdown_table(report["summary"], split) + "\n", encoding="utf-8")
    comparison_figure(report["summary"], split, output / "comparison.png")
    with written_whole(output / "comparison.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1), encoding="utf-8")
    write_comparison(output, split)
    return report


def run_one(run: PlannedRun) -> dict[str, Any]:
    """Do one run in a process of its own, unless it is done already; its metrics.

    Args:
        run: as planned, with a folder of its own.

    Raises:
        ValueError: the folder holds a finished run with other settings.
        RuntimeError: the run failed; its own message has been shown.
    """
    done = _finished_metrics(run)
    return _train_in_process(run) if done is None else done


def _finished_metrics(run: PlannedRun) -> dict[str, Any] | None:
    folder = Path(run.config.output)
    if not (folder / "metrics.json").is_file():
        return None
    different = run.config.differs_in(RunConfig.load(folder / "run.yaml"))
    if different:
        raise ValueError(
            f"{folder} holds a run with other settings ({', '.join(different)}): choose another output folder"
        )
    return read_object(folder / "metrics.json")


def _train_in_process(run: PlannedRun) -> dict[str, Any]:
    folder = Path(run.config.output)
    settings = folder.parent / f"{folder.name}.yaml"
    run.config.save(settings)
    # The child must find this very package, however it was made importable here.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-m", "hardwood", "train", "--config", str(settings), "--overwrite", "--quiet"]
    if run.config.trust_remote_code:  # a run file can't say so
        command.append("--trust-remote-code")
    # Nothing is imported from the current folder, which may hold anybody's files (Python 3.11 and newer heed this).
    safe = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    finished = subprocess.run(command, env=safe, check=False)
    if finished.returncode != 0:
        code = finished.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"failed (exit code {code})"
        raise RuntimeError(f"the run {folder.name} {how}; its settings: {settings}")
    settings.unlink()
    return read_object(folder / "metrics.json")
