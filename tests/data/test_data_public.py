"""Converters of public releases: small files of exactly their forms, and files that are broken in one place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hardwood import DataError
from hardwood.cli.app import app
from hardwood.data import FolderSummary, RetrievalDataset, write_msmarco, write_nq, write_zeshel
from hardwood.data.files.json_array import numbered_elements
from public_files import MSMARCO, NQ, NQ_TRAIN, ZESHEL, write_files

Write = Callable[..., FolderSummary]

PASSAGES, DEV = "data/wikipedia_split/psgs_w100.tsv.gz", "data/retriever/nq-dev.json"
TEST = "data/retriever/qas/nq-test.csv"


def changed(name: str, old: str, new: str) -> dict[str, str]:
    """A file of ZESHEL with one thing changed."""
    return {name: ZESHEL[name].replace(old, new)}


def judged(dataset: RetrievalDataset, split: str) -> dict[str, dict[str, int]]:
    """Grades by query text and target id."""
    judgements = dataset.split(split)
    found: dict[str, dict[str, int]] = {}
    groups = [(judgements.positives, judgements.grades)]
    if judgements.negatives is not None and judgements.negative_grades is not None:
        groups.append((judgements.negatives, judgements.negative_grades))
    for rows, grades in groups:
        owners = dataset.queries.texts(judgements.queries[rows.row_ids()])
        for query, target, grade in zip(owners, dataset.corpus.ids(rows.values), grades.tolist(), strict=True):
            found.setdefault(query, {})[target] = grade
    return found


def answers_of(dataset: RetrievalDataset) -> dict[str, tuple[str, ...]]:
    assert dataset.answers is not None
    return {dataset.queries.texts([row])[0]: texts for row, texts in dataset.answers.texts.items()}


def test_nq_has_passages_questions_given_negatives_and_answers(tmp_path: Path) -> None:
    summary = write_nq(tmp_path / "nq", write_files(tmp_path / "source", NQ))
    dataset = RetrievalDataset.load(tmp_path / "nq")
    assert dataset.corpus.fields([0])[0] == {
        "id": "1",
        "title": "Aaron",
        "text": 'Aaron is a prophet, "high priest", and the brother of Moses.',
    }
    assert len(dataset.corpus) == summary.num_targets == 4
    assert judged(dataset, "train") == {
        "who is the brother of moses": {"1": 1, "3": 1, "4": 0},
        "what are oaks": {"4": 1},  # found by title and text
    }
    assert judged(dataset, "dev") == {"when did café müller open": {"2": 1}}
    assert dataset.answers is not None
    assert {name: dataset.queries.texts(rows) for name, rows in dataset.answers.splits.items()} == {
        "dev": ["who was born"],
        "test": ["where did cafe muller open", 'who is "high priest"'],
    }
    assert answers_of(dataset)["where did cafe muller open"] == ("Wuppertal", "Wuppertal 's centre")
    assert answers_of(dataset)["what are oaks"] == ("hardwoods", "trees")
    assert summary.queries == {"dev": 2, "test": 2, "train": 2}
    assert "nq-dev.qa.csv is not read" in " ".join(summary.notes)
    assert summary.left_out["passages that a question names twice (the first counts)"] == 1
    assert dataset.training_pairs(given_negatives=0)[:]["anchor"].count("who is the brother of moses") == 2


def test_nq_takes_the_first_positive_alone(tmp_path: Path) -> None:
    write_nq(tmp_path / "nq", write_files(tmp_path / "source", NQ), positives="first")
    found = judged(RetrievalDataset.load(tmp_path / "nq"), "train")
    assert found["who is the brother of moses"] == {"1": 1, "4": 0, "3": 0}


def test_nq_leaves_out_with_a_count_what_the_passages_lack(tmp_path: Path) -> None:
    changed = json.loads(json.dumps(NQ_TRAIN))
    changed[0]["positive_ctxs"][1]["passage_id"] = "77"
    source = write_files(tmp_path / "source", {**NQ, "nq-train.json": json.dumps(changed, indent=1)})
    (source / "data/retriever/biencoder-nq-train.json.gz").unlink()
    with pytest.raises(DataError, match=r"nq-train\.json:2: .*positive_ctxs \(at 1"):
        write_nq(tmp_path / "nq", source)
    assert not (tmp_path / "nq").exists()
    summary = write_nq(tmp_path / "nq", source, lenient=True)
    assert summary.left_out["positive_ctxs that are not in the passages"] == 1
    assert judged(RetrievalDataset.load(tmp_path / "nq"), "train")["who is the brother of moses"] == {
        "1": 1,
        "4": 0,
        "3": 0,
    }


def test_answers_survive_whatever_makes_a_dataset_of_one(tmp_path: Path) -> None:
    write_nq(tmp_path / "nq", write_files(tmp_path / "source", NQ))
    runner = CliRunner()
    for command in (
        ["data", "convert", str(tmp_path / "nq"), "--output", str(tmp_path / "convert")],
        ["data", "beir", str(tmp_path / "nq"), "--output", str(tmp_path / "beir")],
        ["data", "split", str(tmp_path / "nq"), "--count", "1", "--output", str(tmp_path / "split")],
    ):
        assert runner.invoke(app, command).exit_code == 0, command
    expected = answers_of(RetrievalDataset.load(tmp_path / "nq"))
    for name in ("convert", "beir", "split"):
        dataset = RetrievalDataset.load(tmp_path / name)
        assert answers_of(dataset) == expected
        assert dataset.answers is not None
        assert len(dataset.answers.splits["test"]) == 2


def test_msmarco_has_passages_queries_and_negatives_of_triples(tmp_path: Path) -> None:
    summary = write_msmarco(tmp_path / "m", write_files(tmp_path / "source", MSMARCO), given_negatives=2)
    dataset = RetrievalDataset.load(tmp_path / "m")
    assert dataset.corpus.ids() == ["0", "1", "2", "7187158"]
    assert dataset.corpus.texts([0]) == ['The presence of "communication" amid scientific minds']
    assert judged(dataset, "train") == {
        "define extreme": {"0": 1, "1": 0, "2": 0},
        "what does chattel mean": {"1": 1, "2": 1},
    }
    assert judged(dataset, "dev.small") == {"cost of endless pools": {"7187158": 1}}
    assert set(judged(dataset, "dev")) == {"cost of endless pools", "what is pcnt"}
    assert len(dataset.queries) == 4
    assert {kind: count for kind, count in summary.left_out.items() if count} == {
        "triples of queries that qrels.train.tsv does not judge": 1,
        "negatives of triples that are positives of the query": 1,
        "queries that no split judges": 1,
    }
    assert any("first 2 negatives are kept; 2 triples" in note for note in summary.notes)


def test_zeshel_has_mentions_in_context_and_the_documents_of_all_worlds(tmp_path: Path) -> None:
    write_zeshel(tmp_path / "z", write_files(tmp_path / "source", ZESHEL), context=2)
    dataset = RetrievalDataset.load(tmp_path / "z")
    assert sorted(dataset.corpus.ids()) == ["000523A4D586C293", "0009247003C7CB16", "33B704F9C31B1D57"]
    assert judged(dataset, "train") == {"technician of [START_ENT] C . W . Jessen [END_ENT]": {"33B704F9C31B1D57": 1}}
    assert judged(dataset, "dev") == {"led the [START_ENT] base [END_ENT]": {"000523A4D586C293": 1}}
    assert list(judged(dataset, "test")) == ["[START_ENT] Winnie Tyler [END_ENT] Winnie Tyler"]


@pytest.mark.parametrize(
    ("write", "files", "changes", "message"),
    [
        (write_nq, NQ, {PASSAGES: "id\ttext\ttitle\n1\ta\n"}, r"gz:2: .*2 columns, not 3"),
        (write_nq, NQ, {PASSAGES: '1\t"a\tb\n'}, r"gz:1: .*CSV's quotes"),
        (write_nq, NQ, {DEV: '[\n{"question": "a"\n "b"}]'}, r"nq-dev\.json:3: this is not JSON"),
        (write_nq, NQ, {DEV: '{"a": []}'}, "must hold a JSON array"),
        (write_nq, NQ, {DEV: '[{"question": "a"}\n'}, r"dev\.json:2: the file ends"),
        (write_nq, NQ, {DEV: '[{"question": "a"}]'}, "neither a positive nor answers"),
        (write_nq, NQ, {DEV: '[{"question": 3}]'}, "no object with a question"),
        (write_nq, NQ, {TEST: "who\t__import__('os')\n"}, r"test\.csv:1: the answers are no"),
        (write_nq, NQ, {"data/retriever/nq-train.json": "[]"}, "says the same"),
        (write_msmarco, MSMARCO, {"collection.tsv": "0\ta\n1 b\n"}, r"collection\.tsv:2: .*1 tab-separated"),
        (write_msmarco, MSMARCO, {"collection.tsv": "0\ta\n"}, r"qrels\.dev\.tsv:1: .*does not have \(8 of 9"),
        (write_msmarco, MSMARCO, {"collection.tsv": MSMARCO["collection.tsv"] + "1\tb\n"}, "the target id '1'"),
        (
            write_msmarco,
            MSMARCO,
            {"queries.train.tsv": "121352\ta\n"},
            r"qrels\.train\.tsv:2: the query '634306' is in no",
        ),
        (write_msmarco, MSMARCO, {"qrels.train.tsv": "121352\t0\t0\n"}, r"qrels\.train\.tsv:1: .*TREC|integer grade"),
        (write_msmarco, MSMARCO, {"qrels.train.tsv": "121352\t0\t0\t0\n"}, "no passage of a grade above 0"),
        (write_msmarco, MSMARCO, {"qrels.dev.tsv": "1\t0\t1\t1\n1\t0\t1\t1\n"}, r"qrels\.dev\.tsv:2: .*earlier line"),
        (write_zeshel, ZESHEL, changed("mentions/val.json", ": 4", ": 3"), r"val\.json:1: the mention is 'base'"),
        (
            write_zeshel,
            ZESHEL,
            {"documents/lego.json.gz": '{"document_id": "1"}'},
            r"lego\.json\.gz:1: this line needs",
        ),
        (
            write_zeshel,
            ZESHEL,
            {"documents/copy.json": ZESHEL["documents/lego.json.gz"]},
            "two rows have the target id",
        ),
        (write_zeshel, ZESHEL, {"mentions/test.json": "[]"}, r"test\.json:1: this line is no JSON object"),
        (write_zeshel, ZESHEL, changed("mentions/train.json", "33B704", "33B705"), r"train\.json:1: .*1 of 3"),
        (write_zeshel, ZESHEL, changed("mentions/train.json", "000523", "000524"), "no world has the context"),
    ],
)
def test_what_is_broken_is_said_with_file_and_line_and_nothing_is_written(
    write: Write, files: dict[str, str], changes: dict[str, str], message: str, tmp_path: Path
) -> None:
    source = write_files(tmp_path / "source", {**files, **changes})
    with pytest.raises(DataError, match=message):
        write(tmp_path / "out", source)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("write", "files", "missing", "message"),
    [
        (write_nq, NQ, "data/wikipedia_split/psgs_w100.tsv.gz", r"there is no psgs_w100\.tsv"),
        (write_nq, NQ, "data/retriever/biencoder-nq-train.json.gz", r"no nq-train\.json"),
        (write_msmarco, MSMARCO, "qrels.train.tsv", r"no qrels\.train\.tsv"),
        (write_zeshel, ZESHEL, "mentions/val.json", r"no val\.json"),
    ],
)
def test_a_missing_file_is_named(
    write: Write, files: dict[str, str], missing: str, message: str, tmp_path: Path
) -> None:
    source = write_files(tmp_path / "source", {name: text for name, text in files.items() if name != missing})
    with pytest.raises(DataError, match=message):
        write(tmp_path / "out", source)


@pytest.mark.parametrize(
    ("command", "files", "said"),
    [
        ("nq", NQ, "4 targets; queries: test 2, dev 2, train 2"),
        ("msmarco", MSMARCO, "4 targets; queries: dev 2, dev.small 1, train 2"),
        ("zeshel", ZESHEL, "3 targets; queries: test 1, train 1, dev 1"),
    ],
)
def test_the_commands_write_a_folder_and_say_what_is_in_it(
    command: str, files: dict[str, str], said: str, tmp_path: Path
) -> None:
    source = write_files(tmp_path / "source", files)
    options = ["data", command, str(source), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert said in re.sub(r"\s+", " ", result.output)
    again = CliRunner().invoke(app, options)
    assert again.exit_code == 2
    assert CliRunner().invoke(app, [*options, "--overwrite"]).exit_code == 0


@pytest.mark.parametrize("indent", [None, 1])
def test_elements_of_an_array_come_one_at_a_time_with_their_lines(
    indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardwood.data.files.lines._PIECE_BYTES", 3)  # every element lies across pieces
    values: list[Any] = [1234567, "ä]\\", {"a": [1, {"b": None}]}, [], -2.5e-3, "", True, 77]
    path = tmp_path / "a.json"
    path.write_text("\n" + json.dumps(values, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    found = list(numbered_elements(path))
    assert [value for _, value in found] == values
    assert [line for line, _ in found] == ([2] * 8 if indent is None else [3, 4, 5, 13, 14, 15, 16, 17])
    path.write_text(" [ ] ", encoding="utf-8")
    assert list(numbered_elements(path)) == []
    path.write_text("[1]\n2", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json:2: something follows"):
        list(numbered_elements(path))
