"""``hardwood train`` and ``hardwood compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hardwood.cli._errors import user_errors
from hardwood.cli._groups import grouped
from hardwood.cli._train_options import NEGATIVES, TRAINING, Config, Data, Output, RunOptions

# On by default, or by circumstances, so that "off" is something given.
_SWITCHES = ("report", "report_base", "report_texts", "spool_encodings")


@user_errors
@grouped
def train(
    *,
    data: Data = None,
    config: Config = None,
    output: Output = None,
    negatives: Annotated[
        str | None,
        typer.Option(
            help="in-batch, uniform, static, periodic, cache, pool, exact or dynamic. \\[dynamic]",
            rich_help_panel=NEGATIVES,
        ),
    ] = None,
    run: RunOptions,
    refresh_every: Annotated[
        int | None,
        typer.Option(help="Steps between two encodings of the corpus, or two pools.", rich_help_panel=NEGATIVES),
    ] = None,
    start_step: Annotated[
        int | None, typer.Option(help="First step with drawn negatives; before: in-batch.", rich_help_panel=NEGATIVES)
    ] = None,
    cache_size: Annotated[int | None, typer.Option(help="Targets in the cache.", rich_help_panel=NEGATIVES)] = None,
    refresh_size: Annotated[
        int | None, typer.Option(help="Targets renewed a step in it.", rich_help_panel=NEGATIVES)
    ] = None,
    source_option: Annotated[
        list[str] | None,
        typer.Option(
            help="Any other option of the source, as NAME=VALUE, such as write_back=false; repeatable.",
            rich_help_panel=NEGATIVES,
        ),
    ] = None,
    save_every: Annotated[
        int | None, typer.Option(help="Steps between two checkpoints.", rich_help_panel=TRAINING)
    ] = None,
    spool_encodings: Annotated[
        bool | None,
        typer.Option(
            "--spool-encodings/--no-spool-encodings",
            help="Keep encodings of the corpus on disk until the next checkpoint, so that --resume goes on where a "
            "crash broke them off. \\[where they take long]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    report_to: Annotated[
        list[str] | None, typer.Option(help="tensorboard, wandb, …; repeatable.", rich_help_panel=TRAINING)
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(
            "--shards",
            help="Of several processes: divided, each keeps a part of the corpus; replicated, a copy. \\[divided]",
            rich_help_panel=NEGATIVES,
        ),
    ] = None,
    num_shards: Annotated[
        int | None,
        typer.Option(help="Parts of the corpus; draws depend on it. [one a process]", rich_help_panel=NEGATIVES),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder where it was broken off.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Remove what the folder holds.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Train an encoder and measure it: writes model, metrics, run file and training curve."""
    options = {**locals()}
    options |= vars(options.pop("run"))
    run_flags = {name: options.pop(name) for name in ("resume", "overwrite", "quiet")}
    if resume and config is None and output is not None:
        options["config"] = _run_file(output)
    run_config = _run_config(options, refuse=True)
    _check_models(run_config)
    from hardwood.cli.evaluate import print_left_out, print_measures
    from hardwood.training import train as train_run
    from hardwood.training.job.run_folder import BESIDE_SPLITS, is_first_process

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
@grouped
def compare(
    *,
    data: Data = None,
    config: Config = None,
    output: Output = None,
    negatives: Annotated[
        str, typer.Option(help="Sources, separated by commas.", rich_help_panel=NEGATIVES)
    ] = "in-batch,uniform,static,periodic,cache,exact,dynamic",
    seeds: Annotated[int, typer.Option(help="Runs a source and budget.")] = 3,
    split: Annotated[str, typer.Option(help="Split of the figure, and first in the table.")] = "test",
    run: RunOptions,
) -> None:
    """Train every source of negatives on the same data, steps and seeds, and report quality beside cost."""
    sources = [name.strip() for name in negatives.split(",") if name.strip()]
    from hardwood.comparison.plan import check_plan

    check_plan(sources, seeds)
    base = _run_config({"data": data, "config": config, "output": output, **vars(run)})
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
    from hardwood.training.job.config import STATIC, STATIC_SIZES, RunConfig
    from hardwood.training.job.unused import refuse_unused
    from hardwood.training.job.yaml_file import read_settings

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
