"""`check_dataset` finds what was put wrong, and nothing in data that is right."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from hardwood.cli.app import app
from hardwood.data import RetrievalDataset, check_dataset, read_dataset

EXAMPLE = Path(__file__).parents[2] / "examples" / "pairs.csv"
FAULTS = {
    "corpus.jsonl": '{"_id": "1", "text": "Red oak"}\n{"_id": "2", "text": "red  oak."}\n'
    '{"_id": "3", "text": "Red oak"}\n'
    '{"_id": "4", "text": "elm"}\n{"_id": "5", "text": " "}\n',
    "queries.jsonl": '{"_id": "a", "text": "which?"}\n{"_id": "b", "text": "Which"}\n{"_id": "c", "text": "Elm!"}\n'
    '{"_id": "d", "text": "nothing asks me"}\n',
    "qrels/train.tsv": "a\t1\t1\nc\t4\t1\n",
    "qrels/test.tsv": "b\t2\t1\nc\t9\t1\n",
}


def faulty(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, content in FAULTS.items():
        (folder / name).write_text(content)
    return folder


def test_the_example_has_nothing_to_mend() -> None:
    report = check_dataset(read_dataset(EXAMPLE, announce=lambda line: None))
    facts = {fact.name: fact.value for fact in report.facts}
    assert report.findings == []
    assert facts["targets"] == "50"
    assert facts["queries of test"] == "10"
    assert facts["targets that train never asks for"] == "5 (10.0%)"
    assert facts["queries of test that train has too"] == "0 (0.0%)"


def test_every_fault_is_found(tmp_path: Path) -> None:
    report = check_dataset(RetrievalDataset.load(faulty(tmp_path / "set"), lenient=True))
    found = {fact.name: (fact.value, fact.example) for fact in report.findings}
    assert found == {
        "targets without text": ("1", ""),
        "missing positives, which count as not found": ("1", ""),
        "queries whose every positive is missing, which count as not answered": ("1", ""),
        "queries without a judgement": ("1", ""),
        "targets whose text another has": ("1", "'Red oak'"),
        "targets alike but for case, spaces and punctuation": ("1", "'red  oak.'"),
        "queries of test that train has too": ("2 (100.0%)", "'Which'"),
        "pairs whose query is its target's text": ("1", "'Elm!'"),
    }
    facts = {fact.name: fact.value for fact in report.facts}
    assert facts["targets that no split asks for"] == "1 (25.0%)"
    assert facts["words of queries"] == "median 1, 95 % up to 3, most 3"


def test_tokens_are_counted_where_there_is_a_tokenizer() -> None:
    data = read_dataset(EXAMPLE, announce=lambda line: None)
    facts = {fact.name: fact.value for fact in check_dataset(data, lambda texts: [7] * len(texts)).facts}
    assert facts["tokens of targets"] == "median 7, 95 % up to 7, most 7"
    assert "words of targets" not in facts


def test_exit_codes_and_a_folder_to_go_on_with(tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["data", "check", str(EXAMPLE)])
    assert (done.exit_code, "nothing to mend" in done.output) == (0, True)
    done = run(app, ["data", "check", str(faulty(tmp_path / "set"))])
    assert (done.exit_code, "remove all but one" in done.output) == (1, True)
    assert run(app, ["data", "check", str(tmp_path / "nothing")]).exit_code == 2
    done = run(app, ["data", "convert", str(EXAMPLE), "--output", str(tmp_path / "beir")])
    assert done.exit_code == 0
    made, read = RetrievalDataset.load(tmp_path / "beir"), read_dataset(EXAMPLE, announce=lambda line: None)
    assert made.corpus.texts() == read.corpus.texts()
    assert {name: len(split) for name, split in made.splits.items()} == {"train": 90, "test": 10}
