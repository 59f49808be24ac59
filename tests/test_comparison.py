"""Which runs a comparison plans, and what it makes of their metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardwood.comparison import markdown_table, plan_runs, summarize
from hardwood.training import RunConfig


def base(**changes: Any) -> RunConfig:
    return RunConfig(**{"data": "d", "output": "o", "batch_size": 128, "num_negatives": 8, "seed": 5, **changes})


def test_runs_differ_in_source_seed_and_the_in_batch_batch_alone() -> None:
    planned = plan_runs(base(), ["in-batch", "uniform"], num_seeds=2)
    assert [(run.negatives, run.config.seed, run.config.batch_size, len(run.budgets)) for run in planned] == [
        ("in-batch", 5, 128, 1),
        ("in-batch", 5, 640, 1),
        ("uniform", 5, 128, 2),
        ("in-batch", 6, 128, 1),
        ("in-batch", 6, 640, 1),
        ("uniform", 6, 128, 2),
    ]
    assert len({run.config.output for run in planned}) == 6
    assert all(Path(run.config.output).parent == Path("o/runs") for run in planned)


def test_options_go_to_their_own_source() -> None:
    planned = plan_runs(base(negatives="exact", negatives_options={"refresh_every": 3}), ["periodic", "exact"], 1)
    assert [run.config.negatives_options for run in planned] == [{}, {"refresh_every": 3}]


@pytest.mark.parametrize("sources", [[], ["exact", "exact"], ["exakt"]])
def test_bad_lists_of_sources_are_errors(sources: list[str]) -> None:
    with pytest.raises(ValueError, match=r"name each source|no source of negatives is called"):
        plan_runs(base(), sources, 1)


def record(seed: int, mrr: float, seconds: float) -> dict[str, Any]:
    measures = dict.fromkeys(("mrr@10", "ndcg@10", "recall@1", "recall@10", "recall@100"), mrr)
    cost = {
        "targets_reencoded": 100,
        "texts_encoded": 50,
        "seconds": {"encode": seconds, "index": 0.0, "sample": 1.0, "forward_backward": 2.0},
        "peak_host_bytes": 2**20,
        "peak_accelerator_bytes": 0,
    }
    metrics = {"test": measures, "cost": cost, "training": {"steps": 10, "seconds": 9.0}}
    return {"negatives": "exact", "budgets": ["equal batch"], "seed": seed, "batch_size": 8, "metrics": metrics}


def test_means_and_deviations_are_those_by_hand() -> None:
    (row,) = summarize([record(0, 0.5, 1.0), record(1, 0.7, 3.0)])
    assert row["seeds"] == [0, 1]
    assert row["measures"]["test"]["mrr@10"]["mean"] == pytest.approx(0.6)
    assert row["measures"]["test"]["mrr@10"]["deviation"] == pytest.approx(0.02**0.5)
    assert row["cost"]["seconds"]["mean"] == pytest.approx(5.0)
    assert row["cost"]["texts_a_step"]["mean"] == pytest.approx(5.0)
    assert "0.6000 ± 0.1414" in markdown_table([row])


def test_seen_and_unseen_targets_have_columns_beside_their_split() -> None:
    runs = [record(seed, 0.5, 1.0) for seed in range(2)]
    for run in runs:
        measures = run["metrics"]["test"]
        run["metrics"] |= {name: {**measures, "queries": 7} for name in ("dev", "test/seen", "test/unseen", "test")}
        run["metrics"]["left_out"] = {"targets without text": 1}
    (row,) = summarize(runs)
    header = markdown_table([row]).splitlines()[0]
    assert "| nDCG@10 test | MRR@10 test/seen | MRR@10 test/unseen | MRR@10 dev |" in header
    del runs[1]["metrics"]["test/seen"]  # of an earlier version
    assert "MRR@10 test/seen" not in markdown_table(summarize(runs))
    other = {**record(0, 0.5, 1.0), "negatives": "uniform"}  # a row that doesn't tell them apart
    assert markdown_table(summarize([runs[0], other])).splitlines()[3].count("–") == 3


def test_a_single_seed_has_no_deviation() -> None:
    (row,) = summarize([record(0, 0.5, 1.0)])
    assert row["measures"]["test"]["mrr@10"] == {"mean": 0.5, "deviation": 0.0}


def test_the_table_says_what_was_left_out() -> None:
    run = record(0, 0.5, 1.0)
    run["metrics"]["test"]["own_left_out"] = 12.0
    table = markdown_table(summarize([run]))
    assert table.endswith("\n\ntest: a query's own document was left out of the rankings of 12 queries.")
    assert "left out" not in markdown_table(summarize([record(0, 0.5, 1.0)]))
