"""Whatever ``train`` reads, ``compare`` reads, and a split that is asked for and is not there can be had."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hardwood.cli.app import app
from hardwood.data import RetrievalDataset

SHORT = ["--steps", "2", "--batch-size", "8", "--dimension", "16", "--device", "cpu"]


@pytest.fixture
def pairs(dataset: RetrievalDataset, tmp_path: Path) -> Path:
    """A table of the training pairs."""
    path = tmp_path / "pairs.csv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["question", "answer"])
        writer.writerows((row["anchor"], row["positive"]) for row in dataset.training_pairs("train"))
    return path


def run(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], prog_name="hardwood")
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


@pytest.mark.slow
def test_pairs_are_compared_on_the_test_that_is_made_of_them(pairs: Path, tmp_path: Path) -> None:
    columns = ["--query", "question", "--positive", "answer"]
    output = tmp_path / "compared"
    run("compare", pairs, *columns, "--negatives", "uniform", "--seeds", 1, *SHORT, "--output", output)
    (row,) = {row["negatives"]: row for row in json.loads((output / "comparison.json").read_text())["summary"]}.values()
    assert list(row["measures"]) == ["test"]


def test_a_comparison_of_pairs_knows_their_splits_before_the_first_run(pairs: Path, tmp_path: Path) -> None:
    output = tmp_path / "compared"
    said = run("compare", pairs, "--negatives", "uniform", "--split", "exam", *SHORT, "--output", output, code=2)
    assert "would not measure the split 'exam'" in said
    assert "they measure test:" in said
    assert not output.exists()


def test_the_way_out_that_is_named_where_no_curve_can_be_measured(pairs: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    measured = ["--evaluate-every", "1", "--output", str(output), *SHORT]
    for command in (["train"], ["compare", "--negatives", "uniform"]):
        said = run(*command, pairs, *measured, code=2)
        assert "evaluate_every=1 measures on the split 'dev', and pairs has" in said
    split = re.search(r"hardwood data split \S+ (.*?)--output", said)
    assert split is not None
    run("data", "split", pairs, *split[1].split(), "--output", tmp_path / "split")
    assert set(RetrievalDataset.load(tmp_path / "split").splits) == {"train", "dev", "test"}
    run("train", tmp_path / "split", *measured)
    curve = json.loads((output / "log.json").read_text())
    assert [record["step"] for record in curve if "eval_dev_mrr@10" in record] == [1, 2]
