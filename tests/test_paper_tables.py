"""The run files of the paper's tables: all rows are settings that a run takes, and tables show what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hardwood.training import RunConfig

FOLDER = Path(__file__).parents[1] / "benchmarks" / "paper"
sys.path.insert(0, str(FOLDER))
import table  # noqa: E402

EMPTY = ["nq", "msmarco", "zeshel", "taxonomy"]
FILLED = ["hpo", "medquad"]
TABLES = EMPTY + FILLED


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_run(name: str, tmp_path: Path) -> None:
    rows = table.rows_of(name, tmp_path)
    assert rows["dynamic"].weighting_in_force == "uncorrected"
    assert rows["dynamic"].differs_in(RunConfig.load(FOLDER / f"{name}.yaml")) == ["output"]
    assert rows["oracle"].make_source().top  # type: ignore[attr-defined]
    assert rows["in-batch"].uniform_negatives == 0
    assert len({config.output for config in rows.values()}) == len(rows)
    whole = table.read_tables()[name]
    for row in whole["rows"].values():
        assert len((row or {}).get("paper", whole["measures"])) == len(whole["measures"])


@pytest.mark.parametrize("name", EMPTY)
def test_the_page_has_the_empty_table(name: str) -> None:
    assert table.markdown(name, {}) in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", FILLED)
def test_the_page_has_the_table_that_was_measured(name: str) -> None:
    measured = (FOLDER.parent / "results" / f"paper-{name}.md").read_text()
    assert measured in (FOLDER / "README.md").read_text()
    empty = table.markdown(name, {}).splitlines()
    assert [line.split(" | ")[0] for line in measured.splitlines()] == [line.split(" | ")[0] for line in empty]
    assert "|  |  |  |" not in measured


def test_a_table_has_ours_beside_theirs_and_the_share_of_the_gap(tmp_path: Path) -> None:
    def run(value: float) -> dict[str, Any]:
        return {"dev.small": {"mrr@10": value}}

    ours = {"uniform": [run(0.2), run(0.3)], "oracle": [run(0.35)], "dynamic": [run(0.325)]}
    lines = table.markdown("msmarco", ours).splitlines()
    assert lines[0] == "| system | dev.small mrr@10: paper | ours | gap closed (dev.small mrr@10) |"
    assert "| uniform | 0.305 | 0.250 ± 0.071 |  |" in lines
    assert "| dynamic | 0.334 | 0.325 | 75% |" in lines
    assert "| in-batch | 0.242 |  |  |" in lines


def test_what_is_there_is_not_trained_again_and_what_is_not_is(
    tmp_path: Path, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"data": str(dataset_folder), "steps": 2, "batch_size": 8, "evaluation_splits": ["test"]}
    monkeypatch.setattr(RunConfig, "load", lambda path: RunConfig(**small, output="unused"))
    tables = {"small": {"run": "hpo.yaml", "measures": ["test mrr@10"], "rows": {"uniform": {"negatives": "uniform"}}}}
    monkeypatch.setattr(table, "read_tables", lambda: tables)
    (tmp_path / "uniform-seed1/checkpoints").mkdir(parents=True)  # a run that was broken off before its first one
    (tmp_path / "uniform-seed1/run.yaml").touch()
    monkeypatch.setattr(sys, "argv", ["table.py", "small", "--seeds", "2", "--output", str(tmp_path)])
    table.main()
    found = [json.loads((tmp_path / f"uniform-seed{seed}/metrics.json").read_text()) for seed in (0, 1)]
    assert table.markdown("small", {"uniform": found}) in capsys.readouterr().out
    monkeypatch.setattr(table, "train", None)
    table.main()
    assert (tmp_path / "table.md").read_text() == table.markdown("small", {"uniform": found})
