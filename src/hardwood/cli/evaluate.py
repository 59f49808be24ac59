"""``hardwood evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hardwood.cli._data_options import DataOptions, Source, TestShare
from hardwood.cli._errors import user_errors
from hardwood.cli._groups import grouped
from hardwood.cli._model_options import ModelOptions, Trained


@user_errors
@grouped
def evaluate(
    *,
    model: Trained,
    data: Source,
    split: Annotated[list[str] | None, typer.Option(help="Split to measure; repeatable.")] = None,
    train_split: Annotated[
        str | None, typer.Option(help="Split whose targets count as seen. \\[train, if there is one]")
    ] = None,
    options: DataOptions,
    test_share: TestShare = None,
    output: Annotated[Path | None, typer.Option(help="Also write the measures to this JSON file.")] = None,
    leave_out: Annotated[
        str, typer.Option(help="Of each query's ranking: own-id (the target with its id), own-text or nothing.")
    ] = "own-id",
    loading: ModelOptions,
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Measure a model by exact retrieval over the whole corpus, in bounded memory."""
    from hardwood._files import check_writable, written_whole
    from hardwood._waiting import waiting
    from hardwood.data.read import TEST_SHARE
    from hardwood.evaluation import evaluate_splits

    splits = split or ["test"]
    loading.check(model)
    if output is not None:
        check_writable(output)
    with waiting(f"Reading {data}", show=not quiet):
        share = 0 if "test" not in splits else TEST_SHARE if test_share is None else test_share
        dataset = options.read(data, test_share=share, train_split=train_split or "train")
    answered = {} if dataset.answers is None else dataset.answers.splits
    for name in splits if train_split is None else [*splits, train_split]:
        if name not in answered:
            dataset.split(name)
    if dataset.left_out is not None and "left_out" in splits:
        raise ValueError("a split 'left_out' has the name of the counts of what --lenient left out: rename it")
    from hardwood.ranks import join  # loads torch: not before the settings are known to be good

    ranks = join(loading.device)
    encoder = loading.load(model)
    settings: dict[str, Any] = {"train_split": train_split or "train", "leave_out": leave_out, "ranks": ranks}
    settings["progress"] = not quiet and ranks.is_first
    with ranks.during("in an evaluation"):
        measures = evaluate_splits(encoder, dataset, splits, **settings)
    if not ranks.is_first:
        return
    print_left_out(dataset.left_out)
    print_measures(measures)
    if output is not None:
        noted = {} if dataset.left_out is None else {"left_out": dataset.left_out}
        with written_whole(output) as temporary:
            temporary.write_text(json.dumps({**measures, **noted}, indent=1))


def print_left_out(left_out: dict[str, int] | None) -> None:
    """What a lenient reader left out, if it was one."""
    from hardwood.data import left_out_in_words

    if left_out is not None:
        Console().print(left_out_in_words(left_out), highlight=False, soft_wrap=True)


def print_measures(measures: dict[str, dict[str, float]]) -> None:
    """A table of measures, a row a split; two more for one that asks for seen and unseen targets. Recall by answers
    has a table of its own."""
    from hardwood.answer_recall import NAMES
    from hardwood.evaluation import MEASURES, OWN_LEFT_OUT

    if not measures:
        Console().print("nothing to measure: the data has no split but the one that was trained on")
        return
    console = Console()
    judged = {split: values for split, values in measures.items() if MEASURES.keys() <= values.keys()}
    has_parts = any("queries" in values for values in measures.values())
    table = Table("split", *(["queries"] if has_parts else []), *MEASURES)
    for split, values in judged.items():
        size = [f"{values['queries']:,}" if "queries" in values else ""] if has_parts else []
        table.add_row(split, *size, *(f"{values[name]:.4f}" for name in MEASURES))
    if judged:
        console.print(table)
    answered = {split: values for split, values in measures.items() if values.keys() >= set(NAMES)}
    table = Table("split", *NAMES)
    for split, values in answered.items():
        table.add_row(split, *(f"{values[name]:.4f}" for name in NAMES))
    if answered:
        console.print(table)
    for split, values in measures.items():
        if count := int(values.get(OWN_LEFT_OUT, 0)):
            console.print(f"{split}: a query's own document was left out of the rankings of {count:,} queries")
