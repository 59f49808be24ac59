"""``hardwood train`` and ``hardwood compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hardwood.cli._data_options import (
    Corpus,
    CorpusColumn,
    IgnoreUnjudged,
    Lenient,
    Positive,
    Query,
    TestShare,
)
from hardwood.cli._errors import user_errors
from hardwood.cli._train_options import (
    NEGATIVES,
    Accumulation,
    BatchSize,
    CacheSize,
    Config,
    Data,
    Device,
    Dimension,
    EncodeBatchSize,
    Encoder,
    Epochs,
    EvaluateEvery,
    GivenNegatives,
    GuideMargin,
    GuideModel,
    GuideWithin,
    Hardest,
    LearningRate,
    LeaveOut,
    Margin,
    MatryoshkaDim,
    MaxLength,
    MiniBatchSize,
    NumNegatives,
    NumShards,
    Output,
    Precision,
    Quiet,
    RefreshEvery,
    RefreshSize,
    RelativeMargin,
    Report,
    ReportBase,
    ReportTexts,
    ReportTo,
    SaveEvery,
    Scale,
    Seed,
    ShardsOf,
    SourceOption,
    SpoolEncodings,
    StartStep,
    Steps,
    Symmetric,
    TeacherOf,
    TeacherTemperature,
    TeacherWeight,
    Threads,
    Towers,
    TrustRemoteCode,
    UnaskedPrior,
    UnaskedPush,
    UniformNegatives,
    Weighting,
)

# On by default, or by circumstances, so that "off" is something given.
_SWITCHES = ("report", "report_base", "report_texts", "spool_encodings")


@user_errors
def train(
    data: Data = None,
    config: Config = None,
    output: Output = None,
    query: Query = None,
    positive: Positive = None,
    corpus: Corpus = None,
    corpus_column: CorpusColumn = None,
    test_share: TestShare = None,
    negatives: Annotated[
        str | None,
        typer.Option(
            help="in-batch, uniform, static, periodic, cache, pool, exact or dynamic. \\[dynamic]",
            rich_help_panel=NEGATIVES,
        ),
    ] = None,
    num_negatives: NumNegatives = None,
    given_negatives: GivenNegatives = None,
    uniform_negatives: UniformNegatives = None,
    hardest: Hardest = None,
    refresh_every: RefreshEvery = None,
    start_step: StartStep = None,
    cache_size: CacheSize = None,
    refresh_size: RefreshSize = None,
    source_option: SourceOption = None,
    margin: Margin = None,
    relative_margin: RelativeMargin = None,
    guide: GuideModel = None,
    guide_margin: GuideMargin = None,
    guide_within: GuideWithin = None,
    teacher: TeacherOf = None,
    teacher_weight: TeacherWeight = None,
    teacher_temperature: TeacherTemperature = None,
    weighting: Weighting = None,
    unasked_prior: UnaskedPrior = None,
    unasked_push: UnaskedPush = None,
    encoder: Encoder = None,
    towers: Towers = None,
    dimension: Dimension = None,
    max_length: MaxLength = None,
    trust_remote_code: TrustRemoteCode = False,
    batch_size: BatchSize = None,
    steps: Steps = None,
    epochs: Epochs = None,
    scale: Scale = None,
    symmetric: Symmetric = False,
    matryoshka_dim: MatryoshkaDim = None,
    learning_rate: LearningRate = None,
    gradient_accumulation: Accumulation = None,
    mini_batch_size: MiniBatchSize = None,
    encode_batch_size: EncodeBatchSize = None,
    precision: Precision = None,
    seed: Seed = None,
    evaluate_every: EvaluateEvery = None,
    save_every: SaveEvery = None,
    spool_encodings: SpoolEncodings = None,
    report_to: ReportTo = None,
    report: Report = None,
    report_base: ReportBase = None,
    report_texts: ReportTexts = None,
    leave_out: LeaveOut = None,
    ignore_unjudged: IgnoreUnjudged = False,
    lenient: Lenient = False,
    device: Device = None,
    threads: Threads = None,
    shards: ShardsOf = None,
    num_shards: NumShards = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder where it was broken off.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Remove what the folder holds.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train an encoder and measure it: writes model, metrics, run file and training curve."""
    options = {**locals()}
    run_flags = {name: options.pop(name) for name in ("resume", "overwrite", "quiet")}
    if resume and config is None and output is not None:
        options["config"] = _run_file(output)
    run_config = _run_config(options, refuse=True)
    _check_models(run_config)
    from hardwood.cli.evaluate import print_left_out, print_measures
    from hardwood.training import train as train_run
    from hardwood.training._folder import BESIDE_SPLITS, is_first_process

    result = train_run(run_config, **run_flags)
    if not quiet and is_first_process():
        print_left_out(result.metrics.get("left_out"))
        measures = {name: m for name, m in result.metrics.items() if name not in BESIDE_SPLITS}
        if measures:
            print_measures(measures)
        else:
            Console().print(
                f"nothing was measured: there is no split to measure beside {run_config.train_split!r}, the one "
                f"trained on. hardwood evaluate {run_config.output}/model DATA --split SPLIT measures any",
                soft_wrap=True,
            )
        page = " report.html," if run_config.report else ""
        Console().print(f"model,{page} metrics.json, run.yaml and training_curve.png are in {run_config.output}")


@user_errors
def compare(
    data: Data = None,
    config: Config = None,
    output: Output = None,
    query: Query = None,
    positive: Positive = None,
    corpus: Corpus = None,
    corpus_column: CorpusColumn = None,
    test_share: TestShare = None,
    negatives: Annotated[
        str, typer.Option(help="Sources, separated by commas.", rich_help_panel=NEGATIVES)
    ] = "in-batch,uniform,static,periodic,cache,exact,dynamic",
    seeds: Annotated[int, typer.Option(help="Runs a source and budget.")] = 3,
    split: Annotated[str, typer.Option(help="Split of the figure, and first in the table.")] = "test",
    num_negatives: NumNegatives = None,
    given_negatives: GivenNegatives = None,
    uniform_negatives: UniformNegatives = None,
    hardest: Hardest = None,
    margin: Margin = None,
    relative_margin: RelativeMargin = None,
    guide: GuideModel = None,
    guide_margin: GuideMargin = None,
    guide_within: GuideWithin = None,
    teacher: TeacherOf = None,
    teacher_weight: TeacherWeight = None,
    teacher_temperature: TeacherTemperature = None,
    weighting: Weighting = None,
    unasked_prior: UnaskedPrior = None,
    unasked_push: UnaskedPush = None,
    encoder: Encoder = None,
    towers: Towers = None,
    dimension: Dimension = None,
    max_length: MaxLength = None,
    trust_remote_code: TrustRemoteCode = False,
    batch_size: BatchSize = None,
    steps: Steps = None,
    epochs: Epochs = None,
    scale: Scale = None,
    symmetric: Symmetric = False,
    matryoshka_dim: MatryoshkaDim = None,
    learning_rate: LearningRate = None,
    gradient_accumulation: Accumulation = None,
    mini_batch_size: MiniBatchSize = None,
    encode_batch_size: EncodeBatchSize = None,
    precision: Precision = None,
    seed: Seed = None,
    evaluate_every: EvaluateEvery = None,
    report: Report = None,
    report_base: ReportBase = None,
    report_texts: ReportTexts = None,
    leave_out: LeaveOut = None,
    ignore_unjudged: IgnoreUnjudged = False,
    lenient: Lenient = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Train every source of negatives on the same data, steps and seeds, and report quality beside cost."""
    options = {**locals()}
    sources = [name.strip() for name in options.pop("negatives").split(",") if name.strip()]
    del options["seeds"], options["split"]
    from hardwood.comparison.plan import check_plan

    check_plan(sources, seeds)
    base = _run_config(options)
    _check_models(base)
    from hardwood.cli.evaluate import print_left_out
    from hardwood.comparison import compare as compare_runs
    from hardwood.comparison import markdown_table
    from hardwood.ranks import refuse_several_processes

    refuse_several_processes("compare")
    console = Console()
    compared = compare_runs(base, sources, num_seeds=seeds, split=split, announce=console.print)
    print_left_out(compared["runs"][0]["metrics"].get("left_out"))
    print_table(console, markdown_table(compared["summary"], split))
    console.print(f"report.html, comparison.json, comparison.md and comparison.png are in {base.output}")


def print_table(console: Console, table: str) -> None:
    """A Markdown table as it is: a terminal too narrow for it must not fold it."""
    console.print(table, soft_wrap=True, highlight=False, markup=False)


def _run_config(options: dict[str, Any], *, refuse: bool = False) -> Any:
    """Options of the command line over those of the run file over the defaults; ``refuse`` those without effect."""
    from hardwood.data.read import check_source
    from hardwood.training._unused import refuse_unused
    from hardwood.training._yaml import read_settings
    from hardwood.training.config import STATIC, STATIC_SIZES, RunConfig

    config = options.pop("config")
    settings = {} if config is None else read_settings(config)
    if settings.get("trust_remote_code") and not options["trust_remote_code"]:
        raise ValueError(
            f"{config} asks to run code that comes with the encoder {settings.get('encoder')!r}: a file can't allow "
            "that, so if you trust that code, add --trust-remote-code"
        )
    switches = {name: options.pop(name) for name in _SWITCHES if options.get(name) is not None}
    given = {name: value for name, value in options.items() if value is not None and value is not False} | switches
    if given.pop("ignore_unjudged", False):
        given["unjudged"] = "ignore"
    if widths := given.pop("matryoshka_dim", None):
        given["matryoshka_dims"] = list(widths)
    for name in ("data", "output", "corpus"):
        if name in given:
            given[name] = str(given[name])
    if "steps" in given:
        settings.pop("epochs", None)
    if "epochs" in given:
        settings.pop("steps", None)
    source_options: dict[str, Any] = {
        name: given.pop(name) for name in ("refresh_every", "start_step", "cache_size", "refresh_size") if name in given
    }
    source_options |= _named_values(given.pop("source_option", []))
    if given.get("encoder", STATIC) != STATIC:  # nor does another encoder than the run file's inherit its sizes
        settings = {name: value for name, value in settings.items() if name not in STATIC_SIZES}
    if isinstance(data := given.get("data", settings.get("data")), str):
        check_source(data)
    # Another source than the run file's does not inherit its options.
    same_source = given.get("negatives", settings.get("negatives")) == settings.get("negatives")
    inherited = (settings.get("negatives_options") or {}) if same_source else {}
    if not isinstance(inherited, dict):
        raise ValueError(f"{config}: negatives_options must be options by name, got {type(inherited).__name__}")
    try:
        run = RunConfig.from_mapping({**settings, **given, "negatives_options": {**inherited, **source_options}})
        if refuse:
            refuse_unused(sorted(given.keys() | RunConfig.given_in(settings)), run)
        return run
    except ValueError as error:
        raise ValueError(f"{config}: {error}" if config is not None else str(error)) from error


def _check_models(config: Any) -> None:
    """Refuse an encoder or guide that can't be had before torch is loaded and the data is read."""
    from hardwood._hub import check_model
    from hardwood.encoders import check_encoder_name

    check_encoder_name(config.encoder)
    if config.guide is not None:
        check_model(config.guide, "guide")


def _run_file(output: Path) -> Path:
    """The settings of the run that ``output`` holds."""
    path = output / "run.yaml"
    if not path.is_file():
        raise ValueError(f"nothing to resume: {output} holds no run (there is no {path})")
    return path


def _named_values(words: list[str]) -> dict[str, Any]:
    """``["write_back=false", "probes=64"]`` as a mapping; values are YAML, as in a run file."""
    import yaml

    named = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ValueError(f"--source-option takes NAME=VALUE, such as write_back=false, got {word!r}")
        named[name] = yaml.safe_load(value)
    return named
