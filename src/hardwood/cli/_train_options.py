"""The options of ``hardwood train`` and ``hardwood compare``, by the panels of their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardwood.cli._data_options import DATA_HELP

MODEL, NEGATIVES, TRAINING, REPORT = "Encoder", "Negatives", "Training", "Report"

Data = Annotated[str | None, typer.Argument(help=DATA_HELP, show_default=False)]
Config = Annotated[Path | None, typer.Option(help="YAML run file; options given besides it win.")]
Output = Annotated[Path | None, typer.Option(help="Folder of the run; must be new or empty.", show_default=False)]
Encoder = Annotated[
    str | None, typer.Option(help="static, a name on the hub, or a folder. \\[static]", rich_help_panel=MODEL)
]
Towers = Annotated[str | None, typer.Option(help="shared or separate. \\[shared]", rich_help_panel=MODEL)]
Dimension = Annotated[int | None, typer.Option(help="Of a static encoder. [128]", rich_help_panel=MODEL)]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Tokens of a text that a transformer reads. \\[its own number]", rich_help_panel=MODEL),
]
NumNegatives = Annotated[int | None, typer.Option(help="Draws a query. [8]", rich_help_panel=NEGATIVES)]
GivenNegatives = Annotated[
    int | None,
    typer.Option(help="Targets judged 0 or below, so many a query, as candidates. [0]", rich_help_panel=NEGATIVES),
]
UniformNegatives = Annotated[
    int | None,
    typer.Option(help="Uniform draws a query beside the source's, weighed together. [0]", rich_help_panel=NEGATIVES),
]
Hardest = Annotated[
    int | None,
    typer.Option(
        help="Of the source's draws for a query only so many with the highest scores count; biased. \\[all]",
        rich_help_panel=NEGATIVES,
    ),
]
Symmetric = Annotated[
    bool, typer.Option(help="Query to targets, and target to the batch's queries.", rich_help_panel=TRAINING)
]
MatryoshkaDim = Annotated[
    list[int] | None,
    typer.Option(help="A width at which the loss is taken; repeatable. [the full one]", rich_help_panel=TRAINING),
]
RefreshEvery = Annotated[
    int | None,
    typer.Option(help="Steps between two encodings of the corpus, or two pools.", rich_help_panel=NEGATIVES),
]
StartStep = Annotated[
    int | None, typer.Option(help="First step with drawn negatives; before: in-batch.", rich_help_panel=NEGATIVES)
]
CacheSize = Annotated[int | None, typer.Option(help="Targets in the cache.", rich_help_panel=NEGATIVES)]
RefreshSize = Annotated[int | None, typer.Option(help="Targets renewed a step in it.", rich_help_panel=NEGATIVES)]
SourceOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Any other option of the source, as NAME=VALUE, such as write_back=false; repeatable.",
        rich_help_panel=NEGATIVES,
    ),
]
Margin = Annotated[
    float | None,
    typer.Option(help="Drop negatives above the positive's similarity less this.", rich_help_panel=NEGATIVES),
]
RelativeMargin = Annotated[
    float | None,
    typer.Option(help="Drop negatives above this share below the positive.", rich_help_panel=NEGATIVES),
]
GuideModel = Annotated[
    str | None,
    typer.Option(
        "--guide",
        help="A second model against false negatives: a bi-encoder or cross-encoder, by name or folder.",
        rich_help_panel=NEGATIVES,
    ),
]
GuideMargin = Annotated[
    float | None,
    typer.Option(
        help="The guide rejects what it scores above the positive's score less this. [0]", rich_help_panel=NEGATIVES
    ),
]
GuideWithin = Annotated[
    float | None,
    typer.Option(help="It judges what is at most this far below the positive. \\[0.1]", rich_help_panel=NEGATIVES),
]
TeacherOf = Annotated[
    str | None,
    typer.Option(
        "--teacher", help="The guide's scores as a target too: kl or margin-mse. \\[none]", rich_help_panel=TRAINING
    ),
]
TeacherWeight = Annotated[
    float | None, typer.Option(help="Of that term beside the cross entropy. [1]", rich_help_panel=TRAINING)
]
TeacherTemperature = Annotated[
    float | None,
    typer.Option(
        help="The guide's scores are divided by it. \\[1; 1/scale for kl with a bi-encoder]", rich_help_panel=TRAINING
    ),
]
Weighting = Annotated[
    str | None,
    typer.Option(
        help="Of drawn candidates: shared, tempered, own or uncorrected. \\[dynamic tempered, others shared]",
        rich_help_panel=NEGATIVES,
    ),
]
UnaskedPrior = Annotated[
    float | None,
    typer.Option(
        help="What a target counts in the softmax that no training query asks for, above 0 to 1. \\[0.2]",
        rich_help_panel=NEGATIVES,
    ),
]
UnaskedPush = Annotated[
    float | None,
    typer.Option(help="Share of the gradient that moves such a target, 0 to 1. \\[0]", rich_help_panel=NEGATIVES),
]
BatchSize = Annotated[int | None, typer.Option(help="Pairs a forward pass. [128]", rich_help_panel=TRAINING)]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps.", rich_help_panel=TRAINING)]
Epochs = Annotated[float | None, typer.Option(help="Passes over the pairs. [1]", rich_help_panel=TRAINING)]
Scale = Annotated[float | None, typer.Option(help="Inverse temperature. [20]", rich_help_panel=TRAINING)]
LearningRate = Annotated[float | None, typer.Option(help="Peak. [0.2 static, 2e-5 others]", rich_help_panel=TRAINING)]
Accumulation = Annotated[int | None, typer.Option(help="Batches an optimiser step. [1]", rich_help_panel=TRAINING)]
MiniBatchSize = Annotated[
    int | None,
    typer.Option(
        help="Texts a forward pass, recomputing activations: big batches in little memory.", rich_help_panel=TRAINING
    ),
]
EncodeBatchSize = Annotated[
    int | None, typer.Option(help="Texts a forward pass without gradient. [256]", rich_help_panel=TRAINING)
]
Precision = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16. \\[float32]", rich_help_panel=TRAINING)
]
Seed = Annotated[int | None, typer.Option(help="Of everything random. [0]", rich_help_panel=TRAINING)]
EvaluateEvery = Annotated[
    int | None, typer.Option(help="Steps between two evaluations on dev.", rich_help_panel=TRAINING)
]
SaveEvery = Annotated[int | None, typer.Option(help="Steps between two checkpoints.", rich_help_panel=TRAINING)]
SpoolEncodings = Annotated[
    bool | None,
    typer.Option(
        "--spool-encodings/--no-spool-encodings",
        help="Keep encodings of the corpus on disk until the next checkpoint, so that --resume goes on where a crash "
        "broke them off. \\[where they take long]",
        rich_help_panel=TRAINING,
    ),
]
ReportTo = Annotated[
    list[str] | None, typer.Option(help="tensorboard, wandb, …; repeatable.", rich_help_panel=TRAINING)
]
Report = Annotated[
    bool | None,
    typer.Option("--report/--no-report", help="Write report.html, with a trace. \\[report]", rich_help_panel=REPORT),
]
ReportBase = Annotated[
    bool | None,
    typer.Option(
        "--report-base/--no-report-base",
        help="Measure the base model too: one evaluation more. \\[report-base]",
        rich_help_panel=REPORT,
    ),
]
ReportTexts = Annotated[
    bool | None,
    typer.Option(
        "--texts/--no-texts",
        help="Texts in report and trace; without, ids alone, for confidential data. \\[texts]",
        rich_help_panel=REPORT,
    ),
]
LeaveOut = Annotated[
    str | None,
    typer.Option(help="Of each query's ranking: own-id (the target with its id), own-text or nothing. \\[own-id]"),
]
TrustRemoteCode = Annotated[bool, typer.Option(help="Run code that comes with the model.", rich_help_panel=MODEL)]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda; default: what there is.")]
Threads = Annotated[
    int | None,
    typer.Option(help="Of PyTorch and of the tree; default: OMP_NUM_THREADS or all cores, and all cores for the tree."),
]
ShardsOf = Annotated[
    str | None,
    typer.Option(
        "--shards",
        help="Of several processes: divided, each keeps a part of the corpus; replicated, a copy. \\[divided]",
        rich_help_panel=NEGATIVES,
    ),
]
NumShards = Annotated[
    int | None,
    typer.Option(help="Parts of the corpus; draws depend on it. [one a process]", rich_help_panel=NEGATIVES),
]
Quiet = Annotated[bool, typer.Option(help="No progress bars.")]
