"""``hardwood mine``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hardwood import _checks
from hardwood.cli._data_options import DataOptions, Source
from hardwood.cli._errors import user_errors
from hardwood.cli._groups import grouped
from hardwood.cli._model_options import ModelOptions, Trained


@user_errors
@grouped
def mine(
    *,
    model: Trained,
    data: Source,
    output: Annotated[Path, typer.Option(help="File to write; for triplets a name without .jsonl is a folder.")],
    options: DataOptions,
    num_negatives: Annotated[int, typer.Option(help="Negatives a query.")] = 8,
    form: Annotated[
        str,
        typer.Option("--format", help="triplets (sentence-transformers n-tuples), tevatron or flagembedding."),
    ] = "triplets",
    split: Annotated[str, typer.Option(help="Split whose queries get negatives.")] = "train",
    margin: Annotated[
        float | None, typer.Option(help="Leave out what is above the positive's similarity less this.")
    ] = None,
    relative_margin: Annotated[
        float | None, typer.Option(help="Leave out what is above this share below the positive.")
    ] = None,
    skip_top: Annotated[int, typer.Option(help="Best candidates to skip, as likely false negatives.")] = 0,
    depth: Annotated[int | None, typer.Option(help="Candidates a query. \\[negatives + skipped + 100]")] = None,
    sampling: Annotated[str, typer.Option(help="top: the hardest; random: any of the candidates.")] = "top",
    seed: Annotated[int, typer.Option(help="Of random sampling.")] = 0,
    scores: Annotated[bool, typer.Option(help="Write similarities.")] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    loading: ModelOptions,
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Write a model's hard negatives for other trainers."""
    from hardwood._waiting import waiting
    from hardwood.cli.evaluate import print_left_out
    from hardwood.mining import FORMATS, mine, write_negatives
    from hardwood.mining._mine import check_mining
    from hardwood.negatives.margin import MarginFilter

    _checks.one_of(FORMATS, form, "--format")
    check_mining(num_negatives, skip_top, depth, seed, sampling=sampling)
    MarginFilter(margin, relative_margin)
    loading.check(model)
    with waiting(f"Reading {data}", show=not quiet):
        dataset = options.read(data, test_share=0)  # a test is for measuring: all pairs get negatives
    from hardwood.ranks import join  # loads torch: not before the settings are known to be good

    ranks = join(loading.device)
    encoder = loading.load(model)
    with ranks.during("while mining"):
        mined = mine(
            encoder,
            dataset,
            split,
            num_negatives,
            per="pair" if form == "triplets" else "query",
            margin=margin,
            relative_margin=relative_margin,
            skip_top=skip_top,
            depth=depth,
            sampling=sampling,  # type: ignore[arg-type]  # checked by `mine`, with the value received
            seed=seed,
            progress=False if quiet or not ranks.is_first else None,
            ranks=ranks,
        )
    if not ranks.is_first:
        return
    print_left_out(dataset.left_out)
    with waiting(f"Writing {output}", show=not quiet):
        written = write_negatives(mined, dataset, output, form, scores=scores, overwrite=overwrite)  # type: ignore[arg-type]
    dropped = f"; {written.dropped:,} with too few negatives left out" if written.dropped else ""
    console = Console()
    console.print(f"{output}: {written.rows:,} rows{dropped}", highlight=False)
    if mined.cut_short:
        console.print(
            f"{mined.cut_short:,} found fewer than {num_negatives} within the margins among their best candidates; "
            "a larger --depth may find more",
            highlight=False,
        )
