"""A split of unseen targets: what leaves training, where it goes, and when it can't be had."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hardwood import DataError
from hardwood.data import Judgements, RetrievalDataset, TextTable, split_unseen


def make(
    answers: list[list[int]],
    queries: list[str] | None = None,
    targets: list[str] | None = None,
    test: list[list[int]] | None = None,
) -> RetrievalDataset:
    """Query ``i`` of the training split is answered by the targets ``answers[i]``; those of ``test`` follow."""
    everything = [*answers, *(test or [])]
    texts = queries or [f"query {row}" for row in range(len(everything))]
    size = max(target for answer in everything for target in answer) + 1
    corpus = TextTable.from_columns(
        [f"t{row}" for row in range(size)], targets or [f"target {row}" for row in range(size)]
    )
    table = TextTable.from_columns([f"q{row}" for row in range(len(everything))], texts)

    def judge(rows: range) -> Judgements:
        pairs = [(row, target, 1 + target % 3) for row in rows for target in everything[row]]
        query_rows, target_rows, grades = np.array(pairs).T
        return Judgements.from_triples(query_rows, target_rows, grades.astype(np.int32))

    splits = {"train": judge(range(len(answers)))}
    if test:
        splits["test"] = judge(range(len(answers), len(everything)))
    return RetrievalDataset(corpus, table, splits, "made up")


def by_id(dataset: RetrievalDataset, split: str) -> dict[str, dict[str, int]]:
    judgements = dataset.split(split)
    return {
        query: {
            dataset.corpus.ids([target])[0]: int(grade)
            for target, grade in zip(
                judgements.positives[place],
                judgements.grades[judgements.positives.offsets[place] : judgements.positives.offsets[place + 1]],
                strict=True,
            )
        }
        for place, query in enumerate(dataset.queries.ids(judgements.queries))
    }


@pytest.mark.parametrize("seed", range(5))
def test_no_unseen_target_is_asked_for_in_training(seed: int) -> None:
    random = np.random.default_rng(seed)
    dataset = make([random.choice(400, size=1 + (row % 7 == 0), replace=False).tolist() for row in range(300)])
    before = by_id(dataset, "train")
    made = split_unseen(dataset, 0.2, seed=seed)
    train, unseen = by_id(made, "train"), by_id(made, "test_unseen")
    assert {**train, **unseen} == before  # no judgement is lost, and grades go with them
    assert not {t for answer in train.values() for t in answer} & {t for answer in unseen.values() for t in answer}
    asked = {t for answer in before.values() for t in answer}
    assert len({t for answer in unseen.values() for t in answer}) == pytest.approx(0.2 * len(asked), rel=0.1)
    assert by_id(dataset, "train") == before  # what was given is as it was


def test_the_seed_chooses() -> None:
    dataset = make([[row] for row in range(50)])
    chosen = [tuple(by_id(split_unseen(dataset, count=5, seed=seed), "test_unseen")) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 5
    assert len(by_id(split_unseen(dataset), "test_unseen")) == 5  # a tenth


@pytest.mark.parametrize("seed", range(8))
def test_copies_of_a_target_leave_with_it(seed: int) -> None:
    """Targets 0 and 1 say the same, and so do queries 2 and 3: all that hangs together goes the same way."""
    dataset = make(
        [[0], [1], [2], [3], [4], [5]],
        queries=["a", "b", "same", "same", "c", "d"],
        targets=["copy", "copy", "two", "three", "four", "five"],
    )
    made = split_unseen(dataset, count=2, seed=seed)
    unseen = set(by_id(made, "test_unseen"))
    assert len(set(made.corpus.texts(made.split("test_unseen").positives.values))) == 2
    assert not {"q0", "q1"} & unseen or {"q0", "q1"} <= unseen
    assert not {"q2", "q3"} & unseen or {"q2", "q3"} <= unseen


def test_other_splits_stay() -> None:
    dataset = make([[row] for row in range(20)], test=[[3], [7, 8]])
    made = split_unseen(dataset, count=4)
    assert by_id(made, "test") == by_id(dataset, "test")
    assert list(made.splits) == ["train", "test", "test_unseen"]


def test_targets_that_all_hang_together() -> None:
    """A chain: no target can be held out with all its queries' targets, so some queries go nowhere."""
    dataset = make([[row, row + 1] for row in range(100)] + [[row] for row in range(101)], test=[[0]])
    with pytest.warns(UserWarning, match=r"(\d+) of 201 queries are left out of 'train' and 'test_unseen'"):
        made = split_unseen(dataset, count=10)
    train, unseen = by_id(made, "train"), by_id(made, "test_unseen")
    trained_on = {t for answer in train.values() for t in answer}
    asked = {t for answer in unseen.values() for t in answer}
    assert len(asked) == 10
    assert not asked & trained_on
    left_out = set(by_id(dataset, "train")) - set(train) - set(unseen)
    assert left_out
    for query in left_out:
        assert set(by_id(dataset, "train")[query]) & asked
        assert set(by_id(dataset, "train")[query]) & trained_on
    assert not left_out & set(made.queries.ids())  # so the folder loads
    assert by_id(made, "test") == by_id(dataset, "test")


def test_when_it_cannot_be_done() -> None:
    tangled = make([[0, row] for row in range(1, 30)])
    with pytest.raises(DataError, match="unseen targets can't be had: of 29 queries"):
        split_unseen(tangled, count=5)
    few = make([[0], [1]])
    with pytest.raises(DataError, match="of 2 targets with a training query 0 can't be held out"):
        split_unseen(few)
    with pytest.raises(DataError, match="of 2 targets with a training query 2 can't be held out"):
        split_unseen(few, count=2)
    with pytest.raises(DataError, match="has a split 'test_unseen' already"):
        split_unseen(split_unseen(few, count=1))
    for wrong in ({"share": 0.0}, {"share": 1.0}, {"count": 0}, {"share": 0.1, "count": 1}):
        with pytest.raises(ValueError, match=r"got|both"):
            split_unseen(few, **wrong)
    with pytest.raises(ValueError, match="no split 'training'"):
        split_unseen(few, train_split="training")


def test_command(make_folder: Callable[[dict], Path], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from hardwood.cli.app import app

    folder = make_folder({})
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    new = tmp_path / "new"
    answer = CliRunner().invoke(app, ["data", "split", str(folder), "--output", str(new), "--count", "1"])
    assert answer.exit_code == 0, answer.output
    assert "test_unseen 1" in answer.output
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = RetrievalDataset.load(new)
    assert {name: len(split) for name, split in made.splits.items()} == {"test": 1, "test_unseen": 1, "train": 1}
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    itself = CliRunner().invoke(
        app, ["data", "split", str(folder), "--output", str(folder), "--count", "1", "--overwrite"]
    )
    assert itself.exit_code == 2
    assert "stays as it is" in itself.output


def test_command_takes_a_table_of_pairs(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from hardwood.cli.app import app

    pairs = tmp_path / "pairs.csv"
    pairs.write_text("ask,say,more\n" + "".join(f"query {i},target {i // 2},x\n" for i in range(40)), encoding="utf-8")
    words = ["data", "split", str(pairs), "--query", "ask", "--positive", "say", "--count", "3"]
    for more, sizes in (
        ([], {"test_unseen": 6, "train": 34}),
        (["--test-share", "0.1", "--name", "dev"], {"dev": 6, "test": 4, "train": 30}),
    ):
        answer = CliRunner().invoke(app, [*words, *more, "--output", str(tmp_path / f"new-{len(sizes)}")])
        assert answer.exit_code == 0, answer.output
        made = RetrievalDataset.load(tmp_path / f"new-{len(sizes)}")
        assert {name: len(split) for name, split in made.splits.items()} == sizes
        assert len(made.corpus) == 20
