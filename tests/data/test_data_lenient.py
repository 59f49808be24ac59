"""Reading public sets as they are: what is left out, what still counts, and how much of each is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner
from woods import FILES

from hardwood import DataError
from hardwood.cli.app import app
from hardwood.data import RetrievalDataset, left_out_in_words

MakeFolder = Callable[[dict[str, str | bytes | None]], Path]
CORPUS = FILES["corpus.jsonl"] + '{"_id": "empty", "title": "", "text": " "}\n{"_id": "null", "text": null}\n'
QUERIES = FILES["queries.jsonl"] + '{"_id": "q4", "text": ""}\n{"_id": "q5", "text": "five?"}\n'
TRAIN = FILES["qrels/train.tsv"]


def test_strict_is_the_default_and_says_the_way_out(make_folder: MakeFolder) -> None:
    for changes in (
        {"corpus.jsonl": CORPUS.replace('\n{"_id": "null", "text": null}', "")},
        {"queries.jsonl": QUERIES},
        {"qrels/train.tsv": TRAIN + "q1\tgone\t1\n"},
        {"qrels/train.tsv": TRAIN + "q9\td1\t1\n"},
        {"qrels/train.tsv": TRAIN + "3\td1\t0\n"},
    ):
        with pytest.raises(DataError, match=r"lenient=True \(--lenient\)"):
            RetrievalDataset.load(make_folder({**FILES, **changes}))


def test_each_kind_is_counted(make_folder: MakeFolder) -> None:
    train = TRAIN + (
        "q1\tgone\t2\nq2\tgone\t0\nq2\tempty\t1\nq9\td1\t1\nq4\td1\t1\n"  # missing targets, two of them positives
        "q1\td1\t1\n"  # once more
        "3\td1\t0\n3\td3\t-1\n"  # nothing above 0
    )
    folder = make_folder({"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES, "qrels/train.tsv": train})
    dataset = RetrievalDataset.load(folder, lenient=True)
    assert dataset.left_out == {
        "targets without text": 2,
        "queries without text": 1,
        "judgements of missing queries": 2,
        "judgements of 0 of missing targets": 1,
        "missing positives, which count as not found": 2,
        "repeated judgements": 1,
        "queries judged 0 only": 1,
        "queries without a judgement": 1,
    }
    assert "targets without text: 2; queries without text: 1;" in left_out_in_words(dataset.left_out)
    assert dataset.corpus.ids() == ["d1", "2", "d3"]
    assert dataset.queries.ids() == ["q1", "q2", "3", "q5"]
    judged = dataset.split("train")
    assert dataset.queries.ids(judged.queries) == ["q2", "q1"]
    assert [row.tolist() for row in judged.positives] == [[1], [0, 2]]
    assert judged.missing.ids == ("empty", "gone")
    assert judged.missing.places.tolist() == [0, 1]
    assert judged.missing.grades.tolist() == [1, 2]
    assert dataset.training_pairs()["anchor"][:] == ["soft?", "hard?", "hard?"]


def test_a_sound_folder_is_the_same(make_folder: MakeFolder) -> None:
    folder = make_folder({})
    strict, lenient = RetrievalDataset.load(folder), RetrievalDataset.load(folder, lenient=True)
    assert strict.left_out is None
    assert lenient.left_out == {}
    assert left_out_in_words({}) == "left out as broken: nothing"
    for name, split in strict.splits.items():
        assert lenient.split(name).queries.tolist() == split.queries.tolist()
        assert lenient.split(name).grades.tolist() == split.grades.tolist()


def test_saved_it_has_the_same_measures(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({"qrels/train.tsv": TRAIN + "q1\tgone\t2\nq1\tlost\t1\n3\tlost\t1\n"})
    dataset = RetrievalDataset.load(folder, lenient=True)
    dataset.save(tmp_path / "saved")
    again = RetrievalDataset.load(tmp_path / "saved", lenient=True)
    one, two = dataset.split("train").missing, again.split("train").missing
    assert (one.ids, one.grades.tolist()) == (two.ids, two.grades.tolist()) == (("gone", "lost", "lost"), [2, 1, 1])
    assert (
        dataset.left_out
        == again.left_out
        == {
            "missing positives, which count as not found": 3,
            "queries whose every positive is missing, which count as not answered": 1,
        }
    )
    assert again.split("train").with_positives().queries.tolist() == [1, 0]
    assert again.split("train").with_positives().missing.ids == ("gone", "lost")


def test_what_is_contradictory_is_an_error(make_folder: MakeFolder) -> None:
    for line, message in (("q1\td1\t2", "already judged on line 5"), ("q1\td1\tx", "not an integer")):
        with pytest.raises(DataError, match=message):
            RetrievalDataset.load(make_folder({"qrels/train.tsv": f"{TRAIN}{line}\n"}), lenient=True)
    with pytest.raises(DataError, match="nothing is left of this split"):
        RetrievalDataset.load(make_folder({"qrels/train.tsv": "q9\td1\t1\nq1\td1\t0\n"}), lenient=True)
    twice = '{"_id": "a", "text": ""}\n{"_id": "b", "text": "x"}\n{"_id": "a", "text": ""}\n{"_id": "b", "text": "y"}\n'
    with pytest.raises(DataError, match="already on line 2") as caught:
        RetrievalDataset.load(make_folder({"corpus.jsonl": twice}), lenient=True)
    assert caught.value.line == 4


@pytest.mark.parametrize("header", ["corpus-id\tquery-id\tscore", "doc_id\tqid\trel", "corpus-id\twhatever\tscore"])
def test_headers_in_another_order_are_honoured(make_folder: MakeFolder, header: str) -> None:
    dataset = RetrievalDataset.load(make_folder({"qrels/train.tsv": f"{header}\n2\tq2\t1\nd3\tq1\t2\nd1\tq1\t1\n"}))
    assert [row.tolist() for row in dataset.split("train").positives] == [[1], [0, 2]]


def test_the_score_may_come_first(make_folder: MakeFolder) -> None:
    train = "score\tquery-id\tcorpus-id\n1\tq2\t2\n1\tq1\td1\n"
    dataset = RetrievalDataset.load(make_folder({"qrels/train.tsv": train}))
    assert [row.tolist() for row in dataset.split("train").positives] == [[1], [0]]


def test_headers_that_name_a_column_twice_are_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="names a column twice") as caught:
        RetrievalDataset.load(make_folder({"qrels/train.tsv": "query-id\tqid\tscore\nq2\t2\t1\n"}))
    assert caught.value.line == 1


def test_ids_that_are_called_like_columns_are_ids(make_folder: MakeFolder) -> None:
    queries = FILES["queries.jsonl"] + '{"_id": "query", "text": "x"}\n'
    dataset = RetrievalDataset.load(
        make_folder({"queries.jsonl": queries, "qrels/train.tsv": "query\td1\t1\nq1\t2\t1\nq2\t2\t1"})
    )
    assert dataset.split("train").queries.tolist() == [3, 0, 1]


@pytest.mark.parametrize("score", ["1.0", "1.", "+1", " 1.000 "])
def test_whole_scores_are_integers_however_they_are_written(make_folder: MakeFolder, score: str) -> None:
    dataset = RetrievalDataset.load(make_folder({"qrels/train.tsv": f"q1\td1\t{score}\nq2\t2\t2.0\n"}))
    assert dataset.split("train").grades.tolist() == [1, 2]
    assert dataset.split("train").grades.dtype == np.int32


def test_the_commands_say_what_was_left_out(dataset_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    RetrievalDataset.load(dataset_folder).save(broken)
    with (broken / "corpus.jsonl").open("a") as handle:
        handle.write('{"_id": "empty", "text": ""}\n')
    with (broken / "qrels" / "test.tsv").open("a") as handle:
        handle.write("q3\tempty\t1\nq0\tempty\t1\n")  # q0 has no other positive here
    counts = {
        "targets without text": 1,
        "missing positives, which count as not found": 2,
        "queries whose every positive is missing, which count as not answered": 1,
    }
    words = "targets without text: 1; missing positives, which count as not found: 2"
    run = tmp_path / "run"

    def invoke(*arguments: object) -> str:
        answer = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert answer.exit_code == 0, answer.output
        return answer.output

    options = ("--negatives", "uniform", "--steps", 2, "--dimension", 16, "--batch-size", 8, "--output", run)
    strict = CliRunner().invoke(app, [str(word) for word in ("train", broken, *options)])
    assert strict.exit_code == 2
    assert "--lenient" in strict.output
    assert words in invoke("train", broken, *options, "--lenient")
    assert json.loads((run / "metrics.json").read_text())["left_out"] == counts
    noted = yaml.safe_load((run / "run.yaml").read_text())
    assert noted["left_out"] == counts
    assert noted["lenient"] is True
    again = tmp_path / "again"
    assert words in invoke("train", "--config", run / "run.yaml", "--output", again)  # what is noted is no setting
    model, measures = run / "model", tmp_path / "measures.json"
    assert words in invoke("evaluate", model, broken, "--lenient", "--output", measures)
    found = json.loads(measures.read_text())
    assert found["left_out"] == counts
    assert found["test"] == json.loads((run / "metrics.json").read_text())["test"]
    (broken / "qrels" / "test.tsv").rename(broken / "qrels" / "left_out.tsv")  # a name that the measures have already
    for arguments in (
        ("evaluate", model, broken, "--lenient", "--split", "left_out"),
        ("train", broken, *options[:-1], tmp_path / "more", "--lenient"),
    ):
        refused = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert refused.exit_code == 2
        assert "rename it" in " ".join(refused.output.split())
    (broken / "qrels" / "left_out.tsv").rename(broken / "qrels" / "test.tsv")
    mined = tmp_path / "mined.jsonl"
    mining = ("--lenient", "--split", "test", "--format", "tevatron", "--output", mined)
    assert words in invoke("mine", model, broken, *mining)
    assert words in invoke("data", "split", broken, "--lenient", "--output", tmp_path / "new")


def test_queries_whose_positives_are_all_missing_are_neither_seen_nor_unseen(make_folder: MakeFolder) -> None:
    test = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\tgone\t1\n3\td3\t1\n"
    train = "query-id\tcorpus-id\tscore\nq1\td1\t1\n"
    files = {name: text for name, text in FILES.items() if not name.startswith("qrels/")}
    folder = make_folder({**files, "qrels/train.tsv": train, "qrels/test.tsv": test})
    dataset = RetrievalDataset.load(folder, lenient=True)
    judged = dataset.split("test")
    ids = {name: dataset.queries.ids(judged.queries[rows]) for name, rows in dataset.seen_and_unseen("test").items()}
    assert ids == {"seen": ["q1"], "unseen": ["3"]}
