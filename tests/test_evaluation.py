"""Ranking against brute force, measures against hand computation, and both together with real models."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardwood import evaluation
from hardwood._divided_ranking import rows_dealt_out
from hardwood._ragged import RaggedRows
from hardwood._ranking import best_of
from hardwood.data import Judgements, RetrievalDataset, TextTable
from hardwood.encoding import query_vectors, target_vectors
from hardwood.evaluation import evaluate, evaluate_splits, measure, measure_each, rank_vectors, retrieve
from hardwood.ranks import Ranks
from tiny_models import WORDS, make_bert, make_static


def naive_ranking(queries, targets, k, exclude=None):
    """Every score, sorted by (score downwards, row upwards)."""
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for i, x in enumerate(queries.astype(np.float64)):
        s = targets.astype(np.float64) @ x
        allowed = np.setdiff1d(np.arange(len(targets)), [] if exclude is None else exclude[i])
        order = allowed[np.lexsort((allowed, -s[allowed]))][:k]
        rows[i, : len(order)], scores[i, : len(order)] = order, s[order]
    return rows, scores


def in_blocks(vectors, size, order=None):
    rows = np.arange(len(vectors)) if order is None else order
    for start in range(0, len(rows), size):
        yield rows[start : start + size], vectors[rows[start : start + size]]


def judge(grades: list[dict[int, int]]) -> Judgements:
    triples = [(q, t, g) for q, of_query in enumerate(grades) for t, g in of_query.items()]
    return Judgements.from_triples(*(np.array(column, dtype=np.int64) for column in zip(*triples, strict=True)))


@given(data=st.data(), n=st.integers(1, 60), d=st.integers(1, 4), k=st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_ranking_is_brute_force_with_ties_by_row(data, n, d, k):
    """Small integers: products are exact, ties are everywhere, so the answer is one and only one."""
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    queries = generator.integers(-2, 3, (5, d)).astype(np.float32)
    targets = generator.integers(-2, 3, (n, d)).astype(np.float32)
    excluded = np.unique(generator.integers(0, [5, n], (data.draw(st.integers(0, 30)), 2)), axis=0)
    exclude = RaggedRows.from_pairs(excluded[:, 0], excluded[:, 1], 5)
    want = naive_ranking(queries, targets, k, exclude)
    order = generator.permutation(n) if data.draw(st.booleans()) else None
    blocks = in_blocks(targets, data.draw(st.integers(1, n)), order)
    rows, scores = rank_vectors(queries, blocks, k, exclude=exclude)
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(rows, want[0])
    np.testing.assert_array_equal(scores, want[1])


@given(data=st.data(), n=st.integers(1, 60), k=st.integers(1, 70), size=st.integers(1, 4), block=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_what_several_processes_rank_is_one_ranking(data, n, k, size, block):
    """Each ranks the blocks that it is dealt, some of them none; their best are those of all, ties by row."""
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    queries, targets = (generator.integers(-2, 3, (count, 3)).astype(np.float32) for count in (5, n))
    excluded = np.unique(generator.integers(0, [5, n], (data.draw(st.integers(0, 30)), 2)), axis=0)
    exclude = RaggedRows.from_pairs(excluded[:, 0], excluded[:, 1], 5)
    of_each = []
    for number in range(size):
        dealt = rows_dealt_out(n, block, Ranks(number, size))
        own = rank_vectors(queries, in_blocks(targets, block, dealt), k, exclude=exclude)
        of_each.append(tuple(map(torch.from_numpy, own)))
    rows, scores = best_of(of_each)
    want = naive_ranking(queries, targets, k, exclude)
    np.testing.assert_array_equal(rows, want[0])
    np.testing.assert_array_equal(scores, want[1])
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("d", [1, 2, 7, 40, 100])
@pytest.mark.parametrize("block", [1, 33, 1000])
def test_real_vectors_rank_as_by_brute_force_but_for_rounding(d, block):
    generator = np.random.default_rng(d)
    queries, targets = generator.normal(size=(9, d)), generator.normal(size=(500, d))
    rows, scores = rank_vectors(queries.astype(np.float32), in_blocks(targets.astype(np.float32), block), 20)
    _, want = naive_ranking(queries, targets, 20)
    tolerance = 1e-5 * d**0.5
    np.testing.assert_allclose(scores, want, atol=tolerance)
    exact = np.take_along_axis(queries @ targets.T, rows, axis=1)
    np.testing.assert_allclose(exact, want, atol=tolerance)  # swaps only among rounding ties
    assert all(len(set(row)) == 20 for row in rows.tolist())


def test_small_matrices_of_scores_change_nothing(monkeypatch):
    import hardwood._ranking as module

    generator = np.random.default_rng(0)
    queries = generator.integers(-1, 2, (50, 2)).astype(np.float32)
    targets = generator.integers(-1, 2, (300, 2)).astype(np.float32)
    exclude = RaggedRows.from_pairs(np.arange(50), np.arange(50), 50)
    want = rank_vectors(queries, in_blocks(targets, 300), 10, exclude=exclude)
    monkeypatch.setattr(module, "_SCORES_AT_A_TIME", 700)
    got = rank_vectors(queries, in_blocks(targets, 300), 10, exclude=exclude)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[0], naive_ranking(queries, targets, 10, exclude)[0])


def test_autocast_around_it_does_not_round_the_scores():
    generator = np.random.default_rng(0)
    queries, targets = (generator.normal(size=(n, 8)).astype(np.float32) for n in (4, 50))
    want = rank_vectors(queries, in_blocks(targets, 20), 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = rank_vectors(queries, in_blocks(targets, 20), 10)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


def test_rows_beyond_two_to_the_31_survive():
    rows = np.array([2**32 - 1, 2**31, 7])
    got, scores = rank_vectors(np.ones((1, 1)), [(rows, np.array([[-3.0], [-3.0], [-4.0]]))], 4)
    assert got.tolist() == [[2**31, 2**32 - 1, 7, -1]]
    assert scores.tolist() == [[-3.0, -3.0, -4.0, -np.inf]]


@pytest.mark.parametrize(
    ("queries", "block", "settings", "message"),
    [
        (np.ones(3), np.ones((2, 3)), {}, r"shape \(Q, d\), got \(3,\)"),
        (np.ones((1, 3)), np.ones((2, 4)), {}, r"shape \(2, 4\) for queries of shape \(1, 3\)"),
        (np.ones((1, 3)), np.ones((2, 3)), {"k": 0}, "k must be at least 1, got 0"),
        (np.ones((1, 3)), np.full((2, 3), np.nan), {}, "target vector at 0 is not finite"),
        (np.full((1, 3), np.inf), np.ones((2, 3)), {}, "query vector at 0"),
        (np.ones((1, 3)), np.ones((2, 3)), {"exclude": RaggedRows.empty(2)}, "2 rows for 1 queries"),
    ],
)
def test_bad_vectors_are_refused(queries, block, settings, message):
    with pytest.raises(ValueError, match=message):
        rank_vectors(queries, [(np.arange(2), block)], **{"k": 1, **settings})


def test_memory_does_not_grow_with_the_corpus():
    """100 000 targets in blocks of 1 000: the peak stays at a few blocks, not the 12.8 MB of all vectors."""
    queries = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)

    def blocks():
        for i in range(100):
            generator = np.random.default_rng(i)
            yield np.arange(i * 1000, (i + 1) * 1000), generator.normal(size=(1000, 32)).astype(np.float32)

    rank_vectors(queries, blocks(), 100)  # imports and warms up
    tracemalloc.start()
    rank_vectors(queries, blocks(), 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_measures_by_hand():
    judgements = judge([{0: 1}, {1: 3, 2: 1}, {3: 1, 4: 1, 5: 2}, {6: 1}])
    ranking = np.array(
        [
            [0, 9, 8, 7],  # the positive first
            [8, 2, 1, 9],  # grade 1 at rank 2, grade 3 at rank 3
            [5, 9, 8, 3],  # grade 2 first, grade 1 fourth, one missed
            [9, 8, -1, -1],  # nothing found, and fewer retrieved
        ]
    )
    each = measure_each(ranking, judgements)
    np.testing.assert_allclose(each["recall@1"], [1, 0, 1 / 3, 0])
    np.testing.assert_allclose(each["recall@10"], [1, 1, 2 / 3, 0])
    np.testing.assert_allclose(each["recall@100"], [1, 1, 2 / 3, 0])
    np.testing.assert_allclose(each["mrr@10"], [1, 1 / 2, 1, 0])
    log = np.log2
    ndcg = [
        1,
        (1 / log(3) + 3 / log(4)) / (3 / log(2) + 1 / log(3)),
        (2 / log(2) + 1 / log(5)) / (2 / log(2) + 1 / log(3) + 1 / log(4)),
        0,
    ]
    np.testing.assert_allclose(each["ndcg@10"], ndcg)
    means = measure(ranking, judgements)
    assert {name: type(value) for name, value in means.items()} == dict.fromkeys(each, float)
    assert means["mrr@10"] == pytest.approx(2.5 / 4)
    assert means["ndcg@10"] == pytest.approx(sum(ndcg) / 4)


def test_cutoffs_fall_where_they_should():
    places = [0, 1, 9, 10, 99, 100]
    ranking = np.tile(np.arange(101), (6, 1))
    each = measure_each(ranking, judge([{place: 1} for place in places]))
    assert each["recall@1"].tolist() == [1, 0, 0, 0, 0, 0]
    assert each["recall@10"].tolist() == [1, 1, 1, 0, 0, 0]
    assert each["recall@100"].tolist() == [1, 1, 1, 1, 1, 0]
    np.testing.assert_allclose(each["mrr@10"], [1, 1 / 2, 1 / 10, 0, 0, 0])


def test_our_order_is_the_one_measured_whatever_the_names_are():
    """Evaluators that sort by score and name would put 9 before 10, or 10 before 9, by their digits."""
    for ranking in ([[9, 10, 100]], [[100, 10, 9]]):
        assert measure(np.array(ranking), judge([{ranking[0][0]: 1}]))["recall@1"] == 1


def test_measures_are_alike_in_any_blocks_of_queries(monkeypatch):
    import hardwood.evaluation as module

    generator = np.random.default_rng(3)
    ranking = np.argsort(generator.random((50, 30)), axis=1)
    judgements = judge([{int(t): 1 for t in generator.integers(0, 30, 3)} for _ in range(50)])
    want = measure(ranking, judgements)
    monkeypatch.setattr(module, "_MEASURED_AT_A_TIME", 7)
    assert measure(ranking, judgements) == want


@pytest.mark.parametrize("bad", [np.zeros((2, 3), int), np.zeros((1, 3)), np.zeros(3, int)])
def test_rankings_of_the_wrong_shape_are_refused(bad):
    with pytest.raises(ValueError, match=r"shape \(1, k\)"):
        measure(bad, judge([{0: 1}]))


def test_a_target_retrieved_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        measure(np.array([[4, 5, 4]]), judge([{0: 1}]))


@pytest.fixture(scope="module")
def dataset():
    """Targets of two words; queries of the first word, which another target has too."""
    corpus = TextTable.from_columns([f"t{i}" for i in range(120)], [f"{w} {w[::-1]}" for w in WORDS[:120]])
    queries = TextTable.from_columns([f"q{i}" for i in range(40)], WORDS[:40])
    judgements = judge([{i: 2, (i + 60) % 120: 1} for i in range(40)])
    return RetrievalDataset(
        corpus, queries, {"test": judgements, "none": Judgements.from_triples(*[np.zeros(0, int)] * 3)}
    )


@pytest.mark.parametrize("kind", ["static", "bert", "dot"])
def test_evaluation_end_to_end_is_brute_force(kind, dataset, tmp_path):
    model = make_bert(tmp_path) if kind == "bert" else make_static()
    if kind == "dot":
        model.similarity_fn_name = "dot"
    model.train()
    got = evaluate(model, dataset, block=17)
    assert model.training
    queries, targets = query_vectors(model, dataset.queries), target_vectors(model, dataset.corpus)
    want = measure(naive_ranking(queries, targets, 100)[0], dataset.splits["test"])
    assert got == pytest.approx(want)
    assert evaluate(model, dataset, block=1000) == pytest.approx(got)
    assert list(got) == ["recall@1", "recall@10", "recall@100", "mrr@10", "ndcg@10"]
    if kind == "static":
        assert got["recall@1"] > 0.25  # half of the positives have the query's word; the other half can't count


def test_splits_together_are_measured_as_one_by_one(dataset, monkeypatch):
    model, splits = make_static(), ["test", "few", "others"]
    parts = {name: judge([{i: 1, (i + step) % 120: 2} for i in range(count)]) for name, count, step in
             (("test", 40, 60), ("few", 7, 3), ("others", 30, 11))}  # fmt: skip
    dataset = RetrievalDataset(dataset.corpus, dataset.queries, parts)
    want = {name: evaluate(model, dataset, split=name, progress=False) for name in splits}
    encoded: list[int] = []
    original = evaluation.encode_targets

    def counting(model, texts, *args, **kwargs):
        encoded.append(len(texts))
        return original(model, texts, *args, **kwargs)

    monkeypatch.setattr(evaluation, "encode_targets", counting)
    assert evaluate_splits(model, dataset, splits, progress=False) == want
    assert encoded == [len(dataset.corpus)]
    assert evaluate_splits(model, dataset, []) == {}
    with pytest.raises(ValueError, match="nowhere"):
        evaluate_splits(model, dataset, [*splits, "nowhere"])


def test_the_query_itself_is_left_out_by_its_id(dataset):
    """As in ArguAna: a query is a target of the same id and text, and another target is right."""
    model, count = make_static(), 12
    queries = TextTable.from_columns([f"d{i}" for i in range(count)], dataset.corpus.texts(range(count)))
    corpus = TextTable.from_columns([f"d{i}" for i in range(len(dataset.corpus))], dataset.corpus.texts())
    splits = {"test": judge([{i + 20: 1} for i in range(count)]), "itself": judge([{i: 1} for i in range(count)])}
    data = RetrievalDataset(corpus, queries, splits)
    ranking, _ = retrieve(model, corpus, queries, 100, exclude=RaggedRows(np.arange(count + 1), np.arange(count)))
    want = measure(ranking, splits["test"])
    got = evaluate_splits(model, data, ["itself", "test"], progress=False)
    assert got["test"] == {**want, "own_left_out": count}
    assert got["itself"]["recall@1"] == 1  # what is judged right is never left out
    assert "own_left_out" not in got["itself"]
    kept = evaluate(model, data, leave_out="nothing", progress=False)
    assert "own_left_out" not in kept
    assert kept["mrr@10"] < got["test"]["mrr@10"]
    train = judge([{i + 20: 1} for i in range(5)])
    parts = evaluate_splits(model, RetrievalDataset(corpus, queries, {**splits, "train": train}), ["test"])
    assert parts["test"] == got["test"]
    assert {name: (values.get("queries"), values["own_left_out"]) for name, values in parts.items()} == {
        "test": (None, count),
        "test/seen": (5, 5),
        "test/unseen": (count - 5, count - 5),
    }
    with pytest.raises(ValueError, match="leave_out must be one of"):
        evaluate(model, data, leave_out="own")


def test_seen_and_unseen_targets_are_measured_apart(dataset):
    model = make_static()
    parts = {
        "train": judge([{i: 1} for i in range(20)]),
        "test": judge([{i: 1, i + 15: 2} for i in range(40)]),  # from 20 on neither is trained on
        "test_unseen": judge([{i + 50: 1} for i in range(10)]),
    }
    dataset = RetrievalDataset(dataset.corpus, dataset.queries, parts)
    found = evaluate_splits(model, dataset, list(parts), progress=False)
    assert list(found) == ["train", "test", "test/seen", "test/unseen", "test_unseen"]
    seen = RetrievalDataset(dataset.corpus, dataset.queries, {"s": parts["test"].take(np.arange(20))})
    unseen = RetrievalDataset(dataset.corpus, dataset.queries, {"s": parts["test"].take(np.arange(20, 40))})
    assert found["test/seen"] == {**evaluate(model, seen, "s", progress=False), "queries": 20}
    assert found["test/unseen"] == {**evaluate(model, unseen, "s", progress=False), "queries": 20}
    assert found["test/seen"] != found["test/unseen"]
    one = evaluate_splits(model, dataset, ["test"], train_split=None, progress=False)
    assert one == {"test": found["test"]} == evaluate_splits(model, dataset, ["test"], train_split="no", progress=False)
    other = evaluate_splits(model, dataset, ["test"], train_split="test_unseen", progress=False)
    assert list(other) == ["test", "test/seen", "test/unseen"]
    assert other["test/seen"]["queries"] == 5  # targets 50 to 54, which are the second ones of queries 35 to 39


def test_missing_positives_count_as_not_found():
    """The same as positives that nobody finds; nDCG's ideal ranking has them too."""
    triples = np.array([[0, 1, 2], [0, 2, 1], [1, 3, 1], [2, -1, 3], [0, -2, 3]])
    missing = Judgements.from_triples(*triples.T[:2], triples.T[2].astype(np.int32), ["gone", "lost"])
    there = triples.copy()
    there[3:, 1] = [90, 91]
    ranking = np.array([[1, 5, 2], [3, 6, 7], [4, 5, 6]])
    whole = measure_each(ranking, Judgements.from_triples(*there.T[:2], there.T[2].astype(np.int32)))
    found = measure_each(ranking, missing)
    for name, values in whole.items():
        assert found[name].tolist() == values.tolist()
    assert found["recall@10"].tolist() == [2 / 3, 1, 0]
    assert missing.take(np.array([2, 0])).missing.ids == ("gone", "lost")
    assert measure(ranking[[2, 0]], missing.take(np.array([2, 0])))["recall@10"] == pytest.approx(1 / 3)


def test_retrieval_of_some_queries_with_exclusions(dataset):
    model = make_static()
    some = np.array([7, 3, 7])
    exclude = RaggedRows.from_pairs([0], [7], 3)
    rows, scores = retrieve(model, dataset.corpus, dataset.queries, 5, query_rows=some, exclude=exclude)
    assert rows.shape == scores.shape == (3, 5)
    assert rows[1, 0] == 3
    assert rows[2, 0] == 7
    assert 7 not in rows[0]
    np.testing.assert_array_equal(rows[0, :4], rows[2, 1:])
    texts = retrieve(model, dataset.corpus.texts(), dataset.queries.texts(some), 5, exclude=exclude)
    np.testing.assert_array_equal(texts[0], rows)


def test_errors_of_evaluate_name_the_way_out(dataset):
    model = make_static()
    with pytest.raises(ValueError, match="no split 'dev'"):
        evaluate(model, dataset, "dev")
    with pytest.raises(ValueError, match="has no queries to measure"):
        evaluate(model, dataset, "none")
    with pytest.raises(ValueError, match="'euclidean' is no inner product"):
        evaluate(model, dataset, similarity="euclidean")


def test_importing_loads_nothing_heavy():
    code = "import sys, hardwood.evaluation, hardwood.mining; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "sentence_transformers", "datasets", "ir_measures", "rich"} & set(loaded.split())
