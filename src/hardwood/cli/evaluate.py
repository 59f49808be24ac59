"""``hardwood evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hardwood.cli._errors import user_errors


@user_errors
def evaluate(
    model: Annotated[str, typer.Argument(help="Sentence-transformers model: a folder, or a name on the hub.")],
    data: Annotated[Path, typer.Argument(help="BEIR folder.")],
    split: Annotated[list[str] | None, typer.Option(help="Split to measure; repeatable.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the measures to this JSON file.")] = None,
    leave_out: Annotated[
        str, typer.Option(help="Of each query's ranking: own-id (the target with its id), own-text or nothing.")
    ] = "own-id",
    ignore_unjudged: Annotated[bool, typer.Option(help="Accept queries that no split judges.")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the model.")] = False,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda; default: what there is.")] = None,
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Measure a model by exact retrieval over the whole corpus, in bounded memory."""
    from hardwood._files import written_whole
    from hardwood.data import RetrievalDataset
    from hardwood.encoders import load_encoder
    from hardwood.evaluation import evaluate_splits

    dataset = RetrievalDataset.load(data, unjudged="ignore" if ignore_unjudged else "error")
    splits = split or ["test"]
    for name in splits:
        dataset.split(name)
    encoder = load_encoder(model, device=device, trust_remote_code=trust_remote_code)
    measures = evaluate_splits(encoder, dataset, splits, leave_out=leave_out, progress=not quiet)  # type: ignore[arg-type]
    print_measures(measures)
    if output is not None:
        with written_whole(output) as temporary:
            temporary.write_text(json.dumps(measures, indent=1))


def print_measures(measures: dict[str, dict[str, float]]) -> None:
    """A table of measures, a row a split."""
    from hardwood.evaluation import LEFT_OUT

    left_out = {split: int(values[LEFT_OUT]) for split, values in measures.items() if LEFT_OUT in values}
    names = [name for name in next(iter(measures.values()), {}) if name != LEFT_OUT]
    table = Table("split", *names)
    for split, values in measures.items():
        table.add_row(split, *(f"{values[name]:.4f}" for name in names))
    console = Console()
    console.print(table)
    for split, count in left_out.items():
        console.print(f"{split}: a query's own document was left out of the rankings of {count:,} queries")
