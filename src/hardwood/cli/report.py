"""``hardwood report`` and ``hardwood clean``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hardwood.cli._data_options import DataOptions, Source, TestShare
from hardwood.cli._errors import user_errors
from hardwood.cli._groups import grouped


@user_errors
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run or of a comparison.", show_default=False)],
) -> None:
    """Make report.html of a run or comparison that is there, from its files alone."""
    from hardwood.report import write_comparison, write_report
    from hardwood.report.comparison import COMPARISON

    if not run.is_dir():
        raise ValueError(f"{run} is {'a file' if run.exists() else 'not there'}: give the folder of a run")
    page = write_comparison(run) if (run / COMPARISON).is_file() else write_report(run)
    Console().print(f"{page} ({page.stat().st_size:,} bytes)", highlight=False, soft_wrap=True)


@user_errors
@grouped
def clean(
    *,
    data: Source,
    decisions: Annotated[Path, typer.Argument(help="decisions.jsonl, as a report exports it.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Folder to write; must be new or empty.")],
    options: DataOptions,
    test_share: TestShare = None,
    train_split: Annotated[str, typer.Option(help="Split of decisions that name none.")] = "train",
    overwrite: Annotated[bool, typer.Option(help="Replace what the folder holds.")] = False,
) -> None:
    """Add the positives found among suspected false negatives: a new dataset folder."""
    from hardwood.cli.data import print_dataset
    from hardwood.cli.evaluate import print_left_out
    from hardwood.data.read import TEST_SHARE
    from hardwood.report import add_decisions, read_decisions

    if output.exists() and Path(data).exists() and output.resolve() == Path(data).resolve():
        raise ValueError(f"the output folder {output} is the dataset itself: choose another, and it stays as it is")
    found = read_decisions(decisions)
    share = TEST_SHARE if test_share is None else test_share  # as the run that the report is of
    dataset = options.read(data, test_share=share, train_split=train_split)
    cleaned = add_decisions(dataset, found, train_split=train_split, where=decisions)
    cleaned.dataset.save(output, overwrite=overwrite)
    print_left_out(dataset.left_out)
    parts = [f"{cleaned.added:,} positives added"]
    parts += [f"{cleaned.known:,} were positives before"] if cleaned.known else []
    parts += [f"{cleaned.replaced:,} of them had been judged 0 or below"] if cleaned.replaced else []
    parts += [f"{cleaned.negatives:,} decided negatives change nothing"] if cleaned.negatives else []
    Console().print("; ".join(parts), highlight=False, soft_wrap=True)
    print_dataset(output, cleaned.dataset)
