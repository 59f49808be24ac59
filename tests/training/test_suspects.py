"""The report of suspected false negatives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hardwood.data import RetrievalDataset
from hardwood.training.corpus import suspects as module
from hardwood.training.corpus.suspects import SuspectedNegatives


def test_counts_and_leads_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PENDING", 50)
    generator = np.random.default_rng(0)
    suspects = SuspectedNegatives(num_targets=7)
    counts: dict[tuple[int, int], list[float]] = {}
    for _ in range(40):
        queries, targets = generator.integers(0, 4, 6), generator.integers(0, 7, 6)
        leads = generator.random(6)
        suspects.observe(queries, targets, leads)
        for query, target, lead in zip(queries.tolist(), targets.tolist(), leads.tolist(), strict=True):
            counts.setdefault((query, target), []).append(lead)
    got = suspects.most_often(limit=100, at_least=1)
    assert {(q, t): (n, pytest.approx(lead)) for q, t, n, lead in got} == {
        pair: (len(leads), float(np.mean(leads))) for pair, leads in counts.items()
    }
    assert [n for _, _, n, _ in got] == sorted((n for _, _, n, _ in got), reverse=True)
    assert suspects.most_often(limit=2, at_least=1) == got[:2]


def test_memory_is_bounded_and_frequent_pairs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PENDING", 100)
    monkeypatch.setattr(module, "_KEPT", 200)
    suspects = SuspectedNegatives(num_targets=10**6)
    for step in range(100):
        once = np.arange(50) + 50 * step
        suspects.observe(np.append(once, 3), np.append(once, 9), np.ones(51))
    suspects._settle()
    assert len(suspects._keys) <= 200 + 150
    assert suspects.most_often(limit=1)[0] == (3, 9, 100, 1.0)


def test_the_report_shows_texts(dataset: RetrievalDataset, tmp_path: Path) -> None:
    suspects = SuspectedNegatives(len(dataset.corpus))
    for _ in range(3):
        suspects.observe(np.array([0]), np.array([5]), np.array([0.25]))
    suspects.observe(np.array([0]), np.array([6]), np.array([0.25]))  # once is chance
    assert suspects.write(tmp_path / "report.jsonl", dataset) == 1
    (record,) = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert record == {
        "query_id": "q0",
        "query": dataset.queries.texts([0])[0],
        "target_id": "c5",
        "target": dataset.corpus.texts([5])[0],
        "positives": dataset.corpus.texts([0]),
        "times_above_positive": 3,
        "mean_score_lead": 0.25,
    }
