"""The page of a comparison: its numbers, its links, and what it says of its axes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hardwood.comparison import summarize
from hardwood.errors import DataError
from hardwood.report import write_comparison

MEASURES = ("mrr@10", "ndcg@10", "recall@1", "recall@10", "recall@100")


def record(negatives: str, seed: int, mrr: float, batch: int = 8) -> dict[str, Any]:
    cost = {
        "targets_reencoded": 100,
        "texts_encoded": 50,
        "seconds": {"encode": 1.0, "index": 0.0, "sample": 1.0, "forward_backward": 2.0},
        "peak_host_bytes": 2**20,
        "peak_accelerator_bytes": 0,
    }
    measures = dict.fromkeys(MEASURES, mrr)
    metrics = {
        "dev": measures,
        "test": measures,
        "test/seen": dict.fromkeys(MEASURES, mrr / 2),
        "cost": cost,
        "training": {"steps": 10, "seconds": 9.0},
    }
    both = ["equal batch", "equal texts"]
    budgets = both if negatives != "in-batch" else both[:1] if batch == 8 else both[1:]
    return {"negatives": negatives, "budgets": budgets, "seed": seed, "batch_size": batch, "metrics": metrics}


def write(folder: Path, records: list[dict[str, Any]], **settings: Any) -> Path:
    content = {"settings": settings, "versions": {"hardwood": "0"}, "summary": summarize(records), "runs": records}
    folder.mkdir(exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(content))
    return folder


def test_means_links_and_axes_are_those_of_the_runs(tmp_path: Path) -> None:
    records = [
        record("exact", 0, 0.70),
        record("exact", 1, 0.72),
        record("in-batch", 0, 0.60),
        record("in-batch", 0, 0.61, 40),
    ]
    folder = write(tmp_path / "cmp", records, data="sets/<b>hpo</b>", encoder="static")
    made = folder / "runs" / "exact-seed0"
    made.mkdir(parents=True)
    (made / "report.html").write_text("")
    (folder / "runs" / "<i>&x").mkdir()
    page = write_comparison(folder).read_text(encoding="utf-8")
    assert "0.7100 ± 0.0141" in page
    assert '<a href="runs/exact-seed0/report.html">exact-seed0</a>' in page
    assert "&lt;i&gt;&amp;x" in page
    assert "<b>hpo" not in page
    assert "in-batch, batch 40" in page
    assert page.index("MRR@10, test<") < page.index("MRR@10, test/seen") < page.index("MRR@10, dev")
    assert "does not begin at 0" in page  # 0.60 to 0.72
    folder = write(tmp_path / "wide", [record("exact", 0, 0.7), record("in-batch", 0, 0.1)])
    assert "does not begin at 0" not in write_comparison(folder).read_text(encoding="utf-8")


def test_a_comparison_of_nothing_has_a_page_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert "No run was measured" in write_comparison(write(tmp_path / "empty", [])).read_text(encoding="utf-8")
    with pytest.raises(DataError, match="there is no such file"):
        write_comparison(tmp_path)
    (tmp_path / "comparison.json").write_text('{"summary": [3]}')
    with pytest.raises(DataError, match="holds no summary"):
        write_comparison(tmp_path)
