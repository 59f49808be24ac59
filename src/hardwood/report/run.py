"""The page of one run, from the files in its folder."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardwood._json import read_object
from hardwood.report import charts
from hardwood.report._run_files import number, read_log, read_run_file, read_trace, series, splits_of
from hardwood.report._texts import LOG, METRICS, RUN_FILE, SUSPECTS, TRACE
from hardwood.report.decisions import pair_check, read_suspects
from hardwood.report.page import class_of, safe, write_page

PAGE = "report.html"
_MEASURES = ("mrr@10", "ndcg@10", "recall@1", "recall@10", "recall@100")
_OF_ANSWERS = ("answer_recall@20", "answer_recall@100")
_SUSPECTS_SHOWN = 200


def write_report(folder: str | Path) -> Path:
    """Make ``report.html`` of what a run's folder holds, and write it there.

    What a run has not left (an older version, ``--no-report``) is said on the page.

    Args:
        folder: of the run.

    Returns:
        The page's path.

    Raises:
        DataError: a file of the run is damaged.
        ValueError: the folder is none of a run: it has neither run file, nor metrics, nor trace.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in (RUN_FILE, METRICS, TRACE)):
        near = [parent for parent in folder.resolve().parents if (parent / RUN_FILE).is_file()][:1]
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{folder} holds no run: there is no {RUN_FILE}, {METRICS} or {TRACE} in it{hint}")
    settings = read_run_file(folder / RUN_FILE)
    metrics = read_object(folder / METRICS) if (folder / METRICS).is_file() else {}
    history = read_log(folder / LOG)
    trace = read_trace(folder / TRACE)
    source = str(settings.get("negatives") or (trace or {}).get("negatives") or "unknown")
    colour = class_of(source)
    suspects = read_suspects(folder / SUSPECTS, _SUSPECTS_SHOWN)
    has_texts = bool((trace or {}).get("has_texts", settings.get("report_texts", True)))
    split = str(settings.get("train_split") or (trace or {}).get("split") or "train")
    splits = splits_of(metrics, trace)
    marks = _refreshes(trace)
    last = float((trace or {}).get("steps") or 0)
    return write_page(
        folder / PAGE,
        "run.html.j2",
        _data(trace, suspects, has_texts, split, str(settings.get("data", ""))),
        title=f"{source} negatives, {_name_of_data(settings, trace)}",
        facts=_facts(settings, metrics, trace, source),
        colour=colour,
        measured=_measured(splits, colour),
        compared=_compared(splits, trace, colour),
        curves=_curves(history, marks, splits, colour, last),
        refreshes=_refreshes_in_words(trace, marks),
        negatives=_negatives(trace, colour, last),
        num_suspects=len(suspects),
        has_texts=has_texts,
        staleness=_staleness(history, trace, marks, colour, last),
        costs=_costs(metrics, trace, colour),
        tree=_tree(trace, colour),
        settings={name: value for name, value in settings.items() if name != "made_with"},
        versions=settings.get("made_with") or {},
        command=_command(folder, settings),
        has_trace=trace is not None,
        num_watched=len((trace or {}).get("watched") or []),
    )


def try_to_write_report(folder: Path) -> None:
    """As `write_report`, at the end of a run: what it has trained is worth more than a page, so an error is a
    warning."""
    try:
        write_report(folder)
    except Exception as error:
        warnings.warn(
            f"the run is complete, but its {PAGE} could not be made ({type(error).__name__}: {error}); hardwood report "
            f"{folder} tries again",
            stacklevel=3,
        )


def _measured(splits: Mapping[str, Mapping[str, Any]], colour: str) -> dict[str, Any]:
    if not splits:
        return {}

    def of(entry: Mapping[str, Any], which: str, measure: str) -> float | None:
        return number((entry.get(which) or {}).get(measure))

    shown = [(name, of(entry, "base", "mrr@10"), of(entry, "trained", "mrr@10")) for name, entry in splits.items()]
    answered = [name for name in _OF_ANSWERS if any(name in (entry.get("trained") or {}) for entry in splits.values())]
    measures = (*_MEASURES, *answered)
    table = [
        {
            "split": name,
            "queries": (entry.get("compared") or {}).get("queries") or (entry.get("trained") or {}).get("queries"),
            "values": [(of(entry, "base", measure), of(entry, "trained", measure)) for measure in measures],
        }
        for name, entry in splits.items()
    ]
    return {
        "chart": safe(charts.before_and_after(shown, "MRR@10", colour)),
        "second": safe(
            charts.before_and_after(
                [(name, of(e, "base", "recall@10"), of(e, "trained", "recall@10")) for name, e in splits.items()],
                "recall@10",
                colour,
            )
        ),
        "measures": measures,
        "table": table,
        "has_base": any(entry.get("base") for entry in splits.values()),
    }


def _compared(splits: Mapping[str, Mapping[str, Any]], trace: Mapping[str, Any] | None, colour: str) -> dict[str, Any]:
    rows = [(name, entry["compared"]) for name, entry in splits.items() if entry.get("compared")]
    if not rows or trace is None:
        return {}
    queries, targets = trace["queries"], trace["targets"]

    def words(table: list[list[str]], place: int | None) -> str:
        return "(its positives are not in the corpus)" if place is None else table[place][-1]

    moved = []
    for name, entry in splits.items():
        for kind, members in (entry.get("moved") or {}).items():
            lines = [
                (words(queries, query), words(targets, target), before or "not found", after or "not found")
                for query, target, before, after in members
            ]
            if lines:
                moved.append({"split": name, "kind": kind, "lines": lines})
    return {
        "bars": safe(charts.won_and_lost(rows, colour)),
        "differences": safe(charts.differences(rows, "mrr@10", colour)),
        "rows": [{"split": name, **found} for name, found in rows],
        "moves": [
            {"split": name, "chart": safe(charts.rank_moves(found["moves"]))} for name, found in rows if "/" not in name
        ],
        "moved": moved,
    }


def _curves(
    history: list[dict[str, Any]],
    marks: list[float],
    splits: Mapping[str, Mapping[str, Any]],
    colour: str,
    last: float,
) -> list[dict[str, Any]]:
    """The drawings of the log: the loss, the measures on the way, and the learning rate."""
    found = []
    if loss := series(history, "loss"):
        drawing, from_zero = charts.over_steps(
            [("loss", "own", loss)], "loss", colour=colour, last=last, marks=marks, from_zero=False
        )
        found.append({"chart": safe(drawing), "note": "" if from_zero else "The loss axis does not begin at 0."})
    keys = dict.fromkeys(key for record in history for key in record if key.endswith("_mrr@10"))
    for key in keys:
        split = key.removesuffix("_mrr@10").removeprefix("eval_")
        points = series(history, key)
        base = number(((splits.get(split) or {}).get("base") or {}).get("mrr@10"))
        if base is not None and points and points[0][0] > 0:
            points = [(0.0, base), *points]
        if points:
            options: dict[str, Any] = {"colour": colour, "last": last, "marks": marks, "dots": len(points) < 40}
            drawing, _ = charts.over_steps([(split, "own", points)], f"MRR@10, {split}", **options)
            found.append({"chart": safe(drawing), "note": ""})
    parts = [(name, kind, series(history, key)) for name, kind, key in _LOSS_PARTS]
    if all(points for _, _, points in parts):
        parts = [
            (name, kind, points if name != "positive" else [(x, -y) for x, y in points]) for name, kind, points in parts
        ]
        label = "parts of the loss: log Z less the positive's score"
        drawing, from_zero = charts.over_steps(parts, label, colour=colour, last=last, marks=marks, from_zero=False)
        found.append({"chart": safe(drawing), "note": "" if from_zero else "The axis does not begin at 0."})
    return found


_LOSS_PARTS = (("log Z", "base", "log_partition"), ("positive", "own", "positive_score"))
"""What the trainer logs of the loss; it logs the positive's score with a minus."""


def _negatives(trace: Mapping[str, Any] | None, colour: str, last: float) -> dict[str, Any]:
    snapshots = (trace or {}).get("snapshots") or []
    if not snapshots:
        return {}

    def hardest(query: Mapping[str, Any]) -> float | None:
        return max((negative[4] for negative in query["negatives"] if negative[4] is not None), default=None)

    def mean(query: Mapping[str, Any]) -> float | None:
        values = [negative[4] for negative in query["negatives"] if negative[4] is not None]
        return sum(values) / len(values) if values else None

    lines = [
        ("positive", "own", charts.mean_by_step(snapshots, lambda query: query["positive"])),
        ("hardest drawn", "lost", charts.mean_by_step(snapshots, hardest)),
        ("mean drawn", "base", charts.mean_by_step(snapshots, mean)),
    ]
    drawing, _ = charts.over_steps(lines, "similarity, mean over queries", colour=colour, last=last, dots=True)
    share = [("", "own", charts.mean_by_step(snapshots, lambda query: query["mass"]))]
    second, _ = charts.over_steps(share, "the positive's share of the softmax", colour=colour, last=last, dots=True)
    return {
        "chart": safe(drawing),
        "second": safe(second),
        "queries": len(snapshots[0]["queries"]),
        "steps": [snapshot["step"] for snapshot in snapshots],
    }


def _staleness(
    history: list[dict[str, Any]], trace: Mapping[str, Any] | None, marks: list[float], colour: str, last: float
) -> list[dict[str, Any]]:
    found = []
    for key, label in (
        ("stale_cosine_error", "1 − cosine of stored and fresh"),
        ("stale_score_error", "mean error of a score (exponent)"),
        ("stale_rank_changes", "share of draws that change rank"),
    ):
        if points := series(history, key):
            drawing, _ = charts.over_steps([("", "own", points)], label, colour=colour, last=last, marks=marks)
            found.append({"chart": safe(drawing)})

    def error(query: Mapping[str, Any]) -> float | None:
        known = [abs(n[3] - n[4]) for n in query["negatives"] if n[3] is not None and n[4] is not None]
        return sum(known) / len(known) if known else None

    if points := charts.mean_by_step((trace or {}).get("snapshots") or [], error):
        label = "|stale − fresh| similarity, watched queries"
        drawing, _ = charts.over_steps([("", "own", points)], label, colour=colour, last=last, marks=marks, dots=True)
        found.append({"chart": safe(drawing)})
    return found


def _costs(metrics: Mapping[str, Any], trace: Mapping[str, Any] | None, colour: str) -> dict[str, Any]:
    cost = metrics.get("cost") or {}
    seconds = {name: value for name, value in (cost.get("seconds") or {}).items() if number(value) is not None}
    of_report = (trace or {}).get("seconds") or {}
    if not seconds and not of_report:
        return {}
    training = metrics.get("training") or {}
    facts = [
        ("targets encoded outside the loss", cost.get("targets_reencoded"), "{:,}"),
        ("of earlier processes, read from disk", cost.get("targets_reused") or None, "{:,}"),
        ("texts encoded by the loss", cost.get("texts_encoded"), "{:,}"),
        ("pairs judged by a guide", cost.get("pairs_judged") or None, "{:,}"),
        ("wall clock of training, evaluations included", training.get("seconds"), "s"),
        ("for this report", training.get("report_seconds"), "s"),
        ("most memory", cost.get("peak_host_bytes"), "bytes"),
        ("most memory of the accelerator", cost.get("peak_accelerator_bytes") or None, "bytes"),
    ]
    shown = [(name, _in_words(value, form)) for name, value, form in facts if value is not None]
    return {"chart": safe(charts.costs(seconds, of_report, colour)), "facts": shown}


def _tree(trace: Mapping[str, Any] | None, colour: str) -> dict[str, Any]:
    tree = (trace or {}).get("tree")
    if not tree:
        return {}
    leaves = tree["leaves"]
    heaviest = sorted(range(len(leaves)), key=lambda place: -leaves[place][3])[:12]
    return {
        "chart": safe(charts.tree_map(tree, colour)),
        "total": tree["total"],
        "trees": tree.get("trees", 1),  # older traces have one tree, and do not say it
        "explained": tree["explained"],
        "shown": len(leaves),
        "heaviest": [(place, leaves[place][2], leaves[place][3]) for place in heaviest],
    }


def _data(
    trace: Mapping[str, Any] | None, suspects: list[dict[str, Any]], has_texts: bool, split: str, data: str
) -> dict[str, Any]:
    """What the page's script works with."""
    names = ("watched", "snapshots", "queries", "targets", "tree", "knows_scores", "scale")
    known = {name: (trace or {}).get(name) for name in names}
    return {**known, "suspects": [_suspect(one, has_texts) for one in suspects], "split": split, "data": data}


def _suspect(record: Mapping[str, Any], has_texts: bool) -> dict[str, Any]:
    names = {"query_id", "target_id", "times_above_positive", "mean_score_lead"}
    if has_texts:
        names |= {"query", "target", "positives"}
    numbers = {
        name: value
        for name, value in record.items()
        if name not in ("query", "target", "positives") and isinstance(value, (bool, int, float))
    }
    kept = {name: record[name] for name in names if name in record}
    return {**numbers, **kept, "check": pair_check(str(record["query"]), str(record["target"]))}


def _facts(
    settings: Mapping[str, Any], metrics: Mapping[str, Any], trace: Mapping[str, Any] | None, source: str
) -> list[tuple[str, str]]:
    training = metrics.get("training") or {}
    steps = training.get("steps", (trace or {}).get("steps"))
    facts = [
        ("negatives", source),
        ("encoder", settings.get("encoder")),
        ("data", settings.get("data") or (trace or {}).get("data")),
        ("targets", f"{trace['targets_in_corpus']:,}" if trace else None),
        ("steps", f"{steps:,}" if isinstance(steps, int) else None),
        ("batch", settings.get("batch_size")),
        ("seed", settings.get("seed")),
    ]
    return [(name, str(value)) for name, value in facts if value is not None]


def _name_of_data(settings: Mapping[str, Any], trace: Mapping[str, Any] | None) -> str:
    return str((trace or {}).get("data") or Path(str(settings.get("data", ""))).name or "unnamed data")


def _command(folder: Path, settings: Mapping[str, Any]) -> str | None:
    if not settings:
        return None
    trust = " --trust-remote-code" if settings.get("trust_remote_code") else ""
    return f"hardwood train --config {shlex.quote(str(folder / RUN_FILE))} --output NEW_FOLDER{trust}"


def _refreshes(trace: Mapping[str, Any] | None) -> list[float]:
    """The steps of refreshes; none where almost every step has one, as of a cache."""
    if trace is None or trace.get("refreshes_seen", 0) > 0.5 * max(trace.get("steps") or 0, 1):
        return []
    return [float(step) for step, _ in trace["refreshes"]]


def _refreshes_in_words(trace: Mapping[str, Any] | None, marks: list[float]) -> str:
    if trace is None:
        return ""
    seen = trace.get("refreshes_seen", 0)
    if not seen:
        return "No targets were encoded for the source of negatives."
    if not marks:
        return f"Targets were encoded before {seen:,} of {trace['steps']:,} steps: too many to mark."
    return f"Vertical marks: steps before which targets were encoded ({seen:,} times)."


def _in_words(value: Any, form: str) -> str:
    if number(value) is None:
        return str(value)
    if form == "s":
        return charts.seconds_in_words(float(value))
    return f"{value / 2**20:,.0f} MiB" if form == "bytes" else form.format(value)
