"""Recall by answer strings, against DPR's rule written out word by word, and through ``evaluate``."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from hardwood import DataError, evaluate
from hardwood.answer_recall import answer_recall, first_answers, has_answer
from hardwood.cli.app import app
from hardwood.data import RetrievalDataset, TextTable, write_nq
from hardwood.evaluation import evaluate_splits
from public_files import NQ, write_files
from tiny_models import make_static


def words(text: str) -> list[str]:
    """The tokens of DPR's SimpleTokenizer, uncased."""
    normalised = unicodedata.normalize("NFD", text)
    found = regex.finditer(r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", normalised, regex.I + regex.M)
    return [match.group().lower() for match in found]


def stands_in(answer: list[str], passage: list[str]) -> bool:
    return any(passage[i : i + len(answer)] == answer for i in range(len(passage) - len(answer) + 1))


@pytest.mark.parametrize(
    ("text", "answer", "is_there"),
    [
        ("It was Émile Zola's novel.", "emile zola", False),  # an accent is a mark, and marks count
        ("It was Émile Zola's novel.", "E\u0301MILE ZOLA", True),  # however it is spelled
        ("They met in 1985, in Rome.", "1985", True),
        ("They met in 19850.", "1985", False),  # not within a word
        ("the U.S. Senate", "u . s . senate", True),  # punctuation is a word of its own
        ("the U.S. Senate", "US Senate", False),
        ("a\u00a0New\tYork\nplan", "new york", True),
        ("New\u200bYork", "new york", True),  # a format character is no word, but ends one
        ("x \u2260 y", "=", True),  # which is an equals sign and a mark
        ("oaks", "", True),
        ("", "oaks", False),
    ],
)
def test_answers_are_found_word_for_word(text: str, answer: str, is_there: bool) -> None:
    assert has_answer(text, ["not this", answer]) is is_there
    assert stands_in(words(answer), words(text)) is is_there


TEXTS = st.text(st.sampled_from("aAbé≠=é\u0301\u0130ßΣς1½٣ .,'-\t\n\u00a0\u200b日本"), max_size=12)


@given(TEXTS, st.lists(TEXTS, max_size=2))
@settings(max_examples=500, deadline=None)
def test_the_rule_is_dprs(text: str, answers: list[str]) -> None:
    assert has_answer(text, answers) is any(stands_in(words(answer), words(text)) for answer in answers)


def test_the_first_passage_with_an_answer_counts_and_titles_do_not() -> None:
    corpus = TextTable.from_columns(["0", "1", "2"], ["an oak", "a beech", "an ash"], ["beech", "", ""])
    ranking = np.array([[0, 1, 2], [2, -1, -1], [2, 0, 1]])
    assert first_answers(ranking, corpus, [["beech"], ["oak"], ["nothing", "oak", "ash"]]).tolist() == [1, 3, 0]
    found = answer_recall(ranking, corpus, [["beech"], ["oak"], ["ash"]])
    assert found == {
        "answer_recall@1": 1 / 3,
        **{f"answer_recall@{k}": 2 / 3 for k in (5, 10, 20, 100)},
    }


def test_answers_without_words_are_warned_of() -> None:
    corpus = TextTable.from_columns(["0"], ["an oak"])
    with pytest.warns(UserWarning, match="1 questions have an answer without any word"):
        assert first_answers(np.array([[0]]), corpus, [["\u200b"]]).tolist() == [0]


@pytest.fixture
def nq(tmp_path: Path) -> Path:
    write_nq(tmp_path / "nq", write_files(tmp_path / "source", NQ))
    return tmp_path / "nq"


def test_evaluate_measures_answers_where_there_are_some(nq: Path) -> None:
    dataset, model = RetrievalDataset.load(nq), make_static()
    measures = evaluate_splits(model, dataset, ["test", "dev", "train"])
    assert set(measures["test"]) == {f"answer_recall@{k}" for k in (1, 5, 10, 20, 100)}
    # Of four passages all are among the first five: "Wuppertal" stands in one of them, "the prophet Aaron" in none.
    assert measures["test"]["answer_recall@5"] == 0.5
    assert measures["dev"]["recall@10"] == 1  # of the one question that has a positive
    assert measures["dev"]["answer_recall@10"] == 0.5  # of both
    assert measures["train"]["answer_recall@100"] == 1
    assert evaluate(model, dataset, "test") == measures["test"]
    without = RetrievalDataset(dataset.corpus, dataset.queries, dataset.splits)
    assert "answer_recall@1" not in evaluate(model, without, "dev")
    assert evaluate(model, without, "dev")["mrr@10"] == measures["dev"]["mrr@10"]
    with pytest.raises(ValueError, match="there is no split 'other'"):
        evaluate(model, dataset, "other")


def test_the_commands_measure_answers(nq: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    options = ["--negatives", "uniform", "--num-negatives", "1", "--steps", "1", "--batch-size", "2", "--quiet"]
    trained = CliRunner().invoke(app, ["train", str(nq), *options, "--output", run])
    assert trained.exit_code == 0, trained.output
    measures = json.loads((tmp_path / "run/metrics.json").read_text())
    assert measures["test"]["answer_recall@100"] == 0.5
    command = ["evaluate", f"{run}/model", str(nq), "--quiet", "--output", str(tmp_path / "m.json")]
    result = CliRunner().invoke(app, [*command, "--split", "test"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "answer_recall@20" in result.output
    assert "mrr@10" not in result.output
    assert json.loads((tmp_path / "m.json").read_text())["test"] == measures["test"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "nobody", "answers": ["a"]}', r"answers\.jsonl:1: the query 'nobody' is not in queries"),
        ('{"_id": "test-0", "answers": ["a"]}\n{"_id": "test-0", "answers": ["b"]}', r":2: .*on another line"),
        ('{"_id": "test-0", "answers": "a"}', "must be a list of texts"),
        ('{"_id": "test-0", "answers": [" "]}', "must be a list of texts"),
        ('{"_id": 3, "answers": ["a"]}', "no object with the _id"),
        ("[", "not JSON"),
        ("", "the file is empty"),
        ('{"_id": "test-0", "answers": ["a"]}', "has no target in any split"),  # test-1 is nobody's now
    ],
)
def test_answers_are_checked(line: str, message: str, nq: Path) -> None:
    (nq / "answers.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        RetrievalDataset.load(nq)


def test_a_lenient_reader_counts_answers_of_missing_queries(nq: Path) -> None:
    with (nq / "answers.jsonl").open("a") as handle:
        handle.write('{"_id": "nobody", "answers": ["a"]}\n')
    assert RetrievalDataset.load(nq, lenient=True).left_out == {"answers of missing queries": 1}
