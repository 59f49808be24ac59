"""From suspects to a dataset: what a report exports, what comes of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hardwood.cli.app import app
from hardwood.data import Judgements, RetrievalDataset, TextTable
from hardwood.errors import DataError
from hardwood.report import add_decisions, read_decisions
from hardwood.report.decisions import pair_check


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def decision(query: str, target: str, what: str = "positive", **more: Any) -> dict[str, Any]:
    return {"query_id": query, "target_id": target, "decision": what, **more}


def test_accepted_decisions_are_positives_of_a_new_dataset(
    dataset: RetrievalDataset, dataset_folder: Path, tmp_path: Path
) -> None:
    check = pair_check(dataset.queries.texts([0])[0], dataset.corpus.texts([7])[0])
    file = lines(
        tmp_path / "decisions.jsonl",
        decision("q0", "c7", split="train", check=check),
        decision("q2", "c3"),
        decision("q2", "c3"),  # twice the same is no error
        decision("q2", "c5", "negative"),
        decision("q0", "c0"),  # known before
    )
    output = tmp_path / "cleaned"
    done = CliRunner().invoke(app, ["clean", str(dataset_folder), str(file), "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert "2 positives added; 1 were positives before; 1 decided negatives change nothing" in done.output
    made, before = RetrievalDataset.load(output), RetrievalDataset.load(dataset_folder)
    was, now = ({tuple(pair) for pair in np.transpose(one.split("train").pairs()).tolist()} for one in (before, made))
    assert now == was | {(0, 7), (2, 3)}
    for name in ("dev", "test"):
        assert np.array_equal(before.split(name).pairs(), made.split(name).pairs())
    assert made.corpus.fingerprint() == before.corpus.fingerprint()


def test_grades_missing_positives_and_judged_negatives_stay() -> None:
    corpus = TextTable.from_columns(list("abcd"), ["one", "two", "three", "four"])
    queries = TextTable.from_columns(["p", "q"], ["first", "second"])
    judged = Judgements.from_triples(
        np.array([1, 0, 0, 0, 0, 1]),
        np.array([0, 3, 1, 2, -1, 2]),
        np.array([1, 3, 0, -2, 2, 0], dtype=np.int32),
        ["gone"],
    )
    found = add_decisions(
        RetrievalDataset(corpus, queries, {"train": judged}),
        read_decisions_of([decision("p", "b"), decision("p", "a"), decision("q", "d")]),
    )
    assert (found.added, found.known, found.replaced) == (3, 0, 1)
    train = found.dataset.split("train")
    of = {int(query): place for place, query in enumerate(train.queries)}
    assert train.positives[of[0]].tolist() == [0, 1, 3]
    assert train.positives[of[1]].tolist() == [0, 3]
    offsets = train.positives.offsets
    assert train.grades[offsets[of[0]] : offsets[of[0] + 1]].tolist() == [1, 1, 3]
    assert train.negatives is not None
    assert train.negatives[of[0]].tolist() == [2]
    assert train.negatives[of[1]].tolist() == [2]
    assert train.negative_grades is not None
    assert sorted(train.negative_grades.tolist()) == [-2, 0]
    assert train.missing.ids == ("gone",)


def read_decisions_of(records: list[dict[str, Any]]) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return read_decisions(lines(Path(folder) / "decisions.jsonl", *records))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([decision("q0", "nothing")], r"decisions.jsonl:1: there is no target 'nothing'"),
        ([decision("q0", "c7"), decision("who", "c7")], r":2: there is no query 'who'"),
        ([decision("q0", "c7", split="trian")], r"no split 'trian'; ailments has"),
        ([decision("q1", "c7")], r"the split 'train' does not judge the query 'q1'"),
        ([decision("q0", "c7", check="0" * 16)], r"not those that were looked at"),
        ([decision("q0", "c7", "yes")], r"positive or negative, got 'yes'"),
        (
            [decision("q0", "c7"), decision("q0", "c7", "negative")],
            r":2: the pair 'q0', 'c7' is negative here",
        ),
        ([{"query_id": "q0"}], r":1: a decision is an object"),
        ([decision("q0", "c7", split=3)], r"split and check are texts"),
        ([], r"holds no decisions"),
    ],
)
def test_bad_decisions_are_errors_that_name_the_line(
    records: list[dict[str, Any]], message: str, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    file = lines(tmp_path / "decisions.jsonl", *records)
    with pytest.raises(DataError, match=message):
        add_decisions(dataset, read_decisions(file), where=file)


def test_what_is_no_decisions_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_decisions(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_decisions(tmp_path)
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"x\.jsonl:1: is not readable JSON"):
        read_decisions(tmp_path / "x.jsonl")


def test_the_dataset_itself_is_not_written_over(dataset_folder: Path, tmp_path: Path) -> None:
    file = lines(tmp_path / "decisions.jsonl", decision("q0", "c7"))
    arguments = ["clean", str(dataset_folder), str(file), "--output", str(dataset_folder), "--overwrite"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "is the dataset itself" in done.output
