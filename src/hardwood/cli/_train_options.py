"""The options that ``hardwood train`` and ``hardwood compare`` share, by the panels of their help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hardwood.cli._data_options import DATA_HELP, DataOptions, TestShare

MODEL, NEGATIVES, TRAINING, REPORT = "Encoder", "Negatives", "Training", "Report"

Data = Annotated[str | None, typer.Argument(help=DATA_HELP, show_default=False)]
Config = Annotated[Path | None, typer.Option(help="YAML run file; options given besides it win.")]
Output = Annotated[Path | None, typer.Option(help="Folder of the run; must be new or empty.", show_default=False)]


@dataclass(frozen=True, kw_only=True)
class RunOptions(DataOptions):
    """Of a run, or of every run of a comparison: what is ``None`` or off was not given, but for the switches of the
    report."""

    test_share: TestShare = None
    num_negatives: Annotated[
        int | None, typer.Option(help="Draws a query. \\[8; 3 or 1 in short runs]", rich_help_panel=NEGATIVES)
    ] = None
    given_negatives: Annotated[
        int | None,
        typer.Option(help="Targets judged 0 or below, so many a query, as candidates. [0]", rich_help_panel=NEGATIVES),
    ] = None
    uniform_negatives: Annotated[
        int | None,
        typer.Option(
            help="Uniform draws a query beside the source's, weighed together. [0]", rich_help_panel=NEGATIVES
        ),
    ] = None
    hardest: Annotated[
        int | None,
        typer.Option(
            help="Of the source's draws for a query only so many with the highest scores count; biased. \\[all]",
            rich_help_panel=NEGATIVES,
        ),
    ] = None
    margin: Annotated[
        float | None,
        typer.Option(help="Drop negatives above the positive's similarity less this.", rich_help_panel=NEGATIVES),
    ] = None
    relative_margin: Annotated[
        float | None,
        typer.Option(help="Drop negatives above this share below the positive.", rich_help_panel=NEGATIVES),
    ] = None
    guide: Annotated[
        str | None,
        typer.Option(
            "--guide",
            help="A second model against false negatives: a bi-encoder or cross-encoder, by name or folder.",
            rich_help_panel=NEGATIVES,
        ),
    ] = None
    guide_margin: Annotated[
        float | None,
        typer.Option(
            help="The guide rejects what it scores above the positive's score less this. [0]", rich_help_panel=NEGATIVES
        ),
    ] = None
    guide_within: Annotated[
        float | None,
        typer.Option(help="It judges what is at most this far below the positive. \\[0.1]", rich_help_panel=NEGATIVES),
    ] = None
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", help="The guide's scores as a target too: kl or margin-mse. \\[none]", rich_help_panel=TRAINING
        ),
    ] = None
    teacher_weight: Annotated[
        float | None, typer.Option(help="Of that term beside the cross entropy. [1]", rich_help_panel=TRAINING)
    ] = None
    teacher_temperature: Annotated[
        float | None,
        typer.Option(
            help="The guide's scores are divided by it. \\[1; 1/scale for kl with a bi-encoder]",
            rich_help_panel=TRAINING,
        ),
    ] = None
    weighting: Annotated[
        str | None,
        typer.Option(
            help="Of drawn candidates: shared, tempered, own or uncorrected. \\[dynamic tempered, others shared]",
            rich_help_panel=NEGATIVES,
        ),
    ] = None
    unasked_prior: Annotated[
        float | None,
        typer.Option(
            help="What a target counts in the softmax that no training query asks for, above 0 to 1. \\[0.2]",
            rich_help_panel=NEGATIVES,
        ),
    ] = None
    unasked_push: Annotated[
        float | None,
        typer.Option(help="Share of the gradient that moves such a target, 0 to 1. \\[0]", rich_help_panel=NEGATIVES),
    ] = None
    encoder: Annotated[
        str | None, typer.Option(help="static, a name on the hub, or a folder. \\[static]", rich_help_panel=MODEL)
    ] = None
    towers: Annotated[str | None, typer.Option(help="shared or separate. \\[shared]", rich_help_panel=MODEL)] = None
    dimension: Annotated[int | None, typer.Option(help="Of a static encoder. [128]", rich_help_panel=MODEL)] = None
    max_length: Annotated[
        int | None,
        typer.Option(help="Tokens of a text that a transformer reads. \\[its own number]", rich_help_panel=MODEL),
    ] = None
    trust_remote_code: Annotated[
        bool, typer.Option(help="Run code that comes with the model.", rich_help_panel=MODEL)
    ] = False
    batch_size: Annotated[
        int | None,
        typer.Option(help="Pairs a forward pass. \\[128; 256 or 427 in short runs]", rich_help_panel=TRAINING),
    ] = None
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", rich_help_panel=TRAINING)] = None
    epochs: Annotated[
        float | None,
        typer.Option(help="Passes over the pairs. \\[2 of 256 pairs; 1 if a size is given]", rich_help_panel=TRAINING),
    ] = None
    scale: Annotated[float | None, typer.Option(help="Inverse temperature. [20]", rich_help_panel=TRAINING)] = None
    symmetric: Annotated[
        bool, typer.Option(help="Query to targets, and target to the batch's queries.", rich_help_panel=TRAINING)
    ] = False
    matryoshka_dim: Annotated[
        list[int] | None,
        typer.Option(help="A width at which the loss is taken; repeatable. [the full one]", rich_help_panel=TRAINING),
    ] = None
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak. [0.2 static, 2e-5 others]", rich_help_panel=TRAINING)
    ] = None
    gradient_accumulation: Annotated[
        int | None, typer.Option(help="Batches an optimiser step. [1]", rich_help_panel=TRAINING)
    ] = None
    mini_batch_size: Annotated[
        int | None,
        typer.Option(
            help="Texts a forward pass, recomputing activations: big batches in little memory.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    encode_batch_size: Annotated[
        int | None, typer.Option(help="Texts a forward pass without gradient. [256]", rich_help_panel=TRAINING)
    ] = None
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. \\[float32]", rich_help_panel=TRAINING)
    ] = None
    seed: Annotated[int | None, typer.Option(help="Of everything random. [0]", rich_help_panel=TRAINING)] = None
    evaluate_every: Annotated[
        int | None, typer.Option(help="Steps between two evaluations on dev.", rich_help_panel=TRAINING)
    ] = None
    report: Annotated[
        bool | None,
        typer.Option(
            "--report/--no-report", help="Write report.html, with a trace. \\[report]", rich_help_panel=REPORT
        ),
    ] = None
    report_base: Annotated[
        bool | None,
        typer.Option(
            "--report-base/--no-report-base",
            help="Measure the base model too: one evaluation more. \\[report-base]",
            rich_help_panel=REPORT,
        ),
    ] = None
    report_texts: Annotated[
        bool | None,
        typer.Option(
            "--texts/--no-texts",
            help="Texts in report and trace; without, ids alone, for confidential data. \\[texts]",
            rich_help_panel=REPORT,
        ),
    ] = None
    leave_out: Annotated[
        str | None,
        typer.Option(help="Of each query's ranking: own-id (the target with its id), own-text or nothing. \\[own-id]"),
    ] = None
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda; default: what there is.")] = None
    threads: Annotated[
        int | None,
        typer.Option(
            help="Of PyTorch and of the tree; default: OMP_NUM_THREADS or all cores, and all cores for the tree."
        ),
    ] = None
