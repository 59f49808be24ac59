"""Mined negatives against a naive twin, and every format through the consumer that reads it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hardwood.data import Judgements, RetrievalDataset, TextTable
from hardwood.encoding import query_vectors, target_vectors
from hardwood.errors import DataError
from hardwood.mining import FORMATS, MinedNegatives, mine, write_negatives
from tiny_models import WORDS, make_bert, make_static

N, Q = 90, 30
COPY = 89  # a target with the text of target 3


@pytest.fixture(scope="module")
def model():
    return make_static()


@pytest.fixture(scope="module")
def dataset():
    """Targets of two words; queries with one to three positives, and further ones in another split."""
    texts = [f"{w} {w[::-1]}" for w in WORDS[:N]]
    texts[COPY] = texts[3]
    titles = [f"title {i % 7}" for i in range(N)]
    titles[COPY] = titles[3]
    corpus = TextTable.from_columns([f"t{i}" for i in range(N)], texts, titles)
    queries = TextTable.from_columns([f"q{i}" for i in range(Q)], [f"{w} é" for w in WORDS[:Q]])
    train = [(q, (q + 31 * j) % N, 1 + j) for q in range(Q) for j in range(1 + q % 3)]
    test = [(q, (q + 50) % N, 1) for q in range(0, Q, 2)]
    splits = {name: Judgements.from_triples(*np.array(t).T) for name, t in (("train", train), ("test", test))}
    return RetrievalDataset(corpus, queries, splits)


def forbidden(dataset, query):
    """Known positives of any split, and whatever has their text."""
    known = {t for name in dataset.splits for t in dataset.known_positives(name)[query].tolist()}
    texts = dataset.corpus.texts()
    return {t for t in range(len(texts)) if texts[t] in {texts[p] for p in known}}


def naive_mine(model, dataset, k, *, per, absolute=None, relative=None, skip_top=0, similarity=None):
    targets = target_vectors(model, dataset.corpus, similarity=similarity)
    queries = query_vectors(model, dataset.queries, similarity=similarity)
    split = dataset.split("train")
    entries = []
    for place, query in enumerate(split.queries.tolist()):
        s = targets @ queries[query]
        allowed = [t for t in np.lexsort((np.arange(N), -s)) if t not in forbidden(dataset, query)][skip_top:]
        groups = [split.positives[place].tolist()]
        for group in groups if per == "query" else [[p] for p in groups[0]]:
            pos = min(s[p] for p in group)
            ceiling = min(
                np.inf if absolute is None else pos - absolute,
                np.inf if relative is None else pos - relative * abs(pos),
            )
            chosen = [t for t in allowed if s[t] <= ceiling][:k]
            entries.append((query, group, chosen, s[chosen], s[group]))
    return entries


def test_a_query_is_never_mined_for_itself(model):
    """Questions and their paraphrases: each question is a target, under its own id or another."""
    texts = [f"{w} {w[::-1]}" for w in WORDS[:20]]
    corpus = TextTable.from_columns([f"t{i}" for i in range(40)], texts + texts)
    queries = TextTable.from_columns([f"t{i}" if i < 10 else f"q{i}" for i in range(20)], texts)
    data = RetrievalDataset(
        corpus, queries, {"train": Judgements.from_triples(*np.array([(q, (q + 1) % 20, 1) for q in range(20)]).T)}
    )
    mined = mine(model, data, num_negatives=3)
    assert (mined.counts == 3).all()
    for query, negatives in zip(mined.queries, mined.negatives, strict=True):
        assert texts[query] not in corpus.texts(negatives)


@pytest.mark.parametrize("per", ["query", "pair"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("filters", [(None, None, 0), (0.31, None, 2), (None, 0.43, 0), (0.2, 0.3, 5)], ids=str)
@pytest.mark.parametrize("block", [13, pytest.param(1000, marks=pytest.mark.slow)])
def test_mining_is_its_naive_twin(model, dataset, *, per, similarity, filters, block):
    absolute, relative, skip_top = filters
    mined = mine(
        model,
        dataset,
        num_negatives=4,
        per=per,
        margin=absolute,
        relative_margin=relative,
        skip_top=skip_top,
        block=block,
        similarity=similarity,
    )
    naive = {"absolute": absolute, "relative": relative, "skip_top": skip_top, "similarity": similarity}
    want = naive_mine(model, dataset, 4, per=per, **naive)
    assert len(mined) == len(want) == (Q if per == "query" else 60)
    assert mined.cut_short == 0  # the default depth sees the whole corpus
    for i, (query, group, chosen, scores, positive_scores) in enumerate(want):
        assert mined.queries[i] == query
        assert mined.positives[i].tolist() == group
        found = mined.negatives[i] >= 0
        assert mined.counts[i] == len(chosen)
        # a copy's score is its original's but for rounding, so either may come first
        same = np.where(mined.negatives[i] == COPY, 3, mined.negatives[i])[found]
        assert same.tolist() == [3 if t == COPY else t for t in chosen]
        np.testing.assert_allclose(mined.scores[i][found], scores, atol=1e-5)
        assert (mined.scores[i][~found] == -np.inf).all()
        part = slice(mined.positives.offsets[i], mined.positives.offsets[i + 1])
        np.testing.assert_allclose(mined.positive_scores[part], positive_scores, atol=1e-5)


@pytest.mark.parametrize("sampling", ["top", "random"])
def test_no_known_positive_nor_its_copy_is_ever_a_negative(model, dataset, sampling):
    mined = mine(model, dataset, num_negatives=N - 1, sampling=sampling)
    for query, negatives in zip(mined.queries.tolist(), mined.negatives, strict=True):
        found = set(negatives[negatives >= 0].tolist())
        assert not found & forbidden(dataset, query)
        assert found == set(range(N)) - forbidden(dataset, query)  # and nothing else is left out
    assert COPY in forbidden(dataset, 3)


def test_random_draws_hold_the_margin_repeat_and_differ_by_seed(model, dataset, monkeypatch):
    from hardwood.mining import _mine

    settings = {"num_negatives": 5, "per": "pair", "margin": 0.1, "sampling": "random", "depth": 40}
    first = mine(model, dataset, seed=1, **settings)
    second = mine(model, dataset, seed=2, **settings)
    monkeypatch.setattr(_mine, "_CANDIDATES_AT_A_TIME", 130)  # a few queries at a time
    again = mine(model, dataset, seed=1, block=7, **settings)
    np.testing.assert_array_equal(first.negatives, again.negatives)
    assert (first.negatives != second.negatives).any()
    ceiling = first.positive_scores[:, None] - np.float32(0.1)
    assert (first.scores <= ceiling).all()
    assert (first.scores[:, 1:] <= first.scores[:, :-1]).all()  # hardest first


@pytest.mark.slow
def test_random_draws_are_uniform_over_the_candidates(model, dataset):
    """10 of 40 candidates drawn with 400 seeds: each of 1 200 counts is binomial(400, 1/4).

    Five deviations either way: by the normal tail, 0.07 % of false alarms over all seeds; these are fixed.
    """
    top = mine(model, dataset, num_negatives=40, depth=40)
    counts = np.zeros((Q, N))
    for seed in range(400):
        drawn = mine(model, dataset, num_negatives=10, depth=40, sampling="random", seed=seed).negatives
        np.add.at(counts, (np.arange(Q)[:, None], drawn), 1)
    candidates = np.take_along_axis(counts, np.where(top.negatives < 0, 0, top.negatives), axis=1)
    full = top.counts == 40
    assert full.sum() > 20
    assert np.abs(candidates[full] - 100).max() < 5 * (400 * 0.25 * 0.75) ** 0.5


def test_a_depth_too_small_is_told(model, dataset):
    with pytest.warns(UserWarning, match="none of the 30 entries has a negative"):
        mined = mine(model, dataset, num_negatives=4, depth=6, margin=0.5)
    short = mined.counts < 4
    assert 0 < mined.cut_short == short.sum()
    assert mine(model, dataset, num_negatives=4, margin=0.5).cut_short == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"skip_top": -1}, "skip_top must be 0 or more, got -1"),
        ({"depth": 9, "skip_top": 2}, "depth is 9, but skip_top and num_negatives together need 10"),
        ({"per": "row"}, "per must be one of query, pair, got .row."),
        ({"sampling": "best"}, "sampling must be one of top, random, got .best."),
        ({"seed": -1}, "got -1"),
        ({"margin": -0.1}, "margin must be 0 or more and finite, got -0.1"),
        ({"relative_margin": float("nan")}, "got nan"),
        ({"split": "dev"}, "no split 'dev'"),
        ({"similarity": "euclidean"}, "euclidean"),
    ],
)
def test_bad_settings_are_refused(model, dataset, settings, message):
    with pytest.raises(ValueError, match=message):
        mine(model, dataset, **settings)


@pytest.fixture(scope="module")
def mined(model, dataset):
    """By pair, with a margin so wide that some entries have fewer than three, and some none."""
    mined = mine(model, dataset, num_negatives=3, per="pair", margin=0.55)
    assert 0 < (mined.counts == 0).sum() < (mined.counts < 3).sum() < len(mined)
    return mined


def check_triplets(rows, mined, dataset, written):
    assert list(rows.column_names) == [
        "anchor",
        "positive",
        "negative_1",
        "negative_2",
        "negative_3",
        "scores",
    ]
    full = np.flatnonzero(mined.counts == 3)
    assert (written.rows, written.dropped) == (len(full), len(mined) - len(full)) == (len(rows), written.dropped)
    for row, i in zip(rows, full.tolist(), strict=True):
        assert row["anchor"] == dataset.queries.texts([mined.queries[i]])[0]
        assert row["positive"] == dataset.corpus.texts(mined.positives[i])[0]
        assert [row[f"negative_{j}"] for j in (1, 2, 3)] == dataset.corpus.texts(mined.negatives[i])
        np.testing.assert_allclose(row["scores"], [mined.positive_scores[i], *mined.scores[i]], rtol=1e-6)


def test_triplets_load_from_disk(mined, dataset, tmp_path):
    import datasets

    written = write_negatives(mined, dataset, tmp_path / "triplets")
    check_triplets(datasets.load_from_disk(tmp_path / "triplets"), mined, dataset, written)
    assert [path.name for path in tmp_path.iterdir()] == ["triplets"]


def test_triplets_load_as_json(mined, dataset, tmp_path, monkeypatch):
    import datasets

    from hardwood.mining import _write

    monkeypatch.setattr(_write, "_ENTRIES_AT_A_TIME", 4)
    path = tmp_path / "deep" / "triplets.jsonl"
    written = write_negatives(mined, dataset, path)
    loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    check_triplets(loaded, mined, dataset, written)


@pytest.mark.parametrize("loss_name", ["MultipleNegativesRankingLoss", "MarginMSELoss"])
def test_sentence_transformers_trains_on_triplets(loss_name, mined, dataset, tmp_path):
    import datasets
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses

    write_negatives(mined, dataset, tmp_path / "triplets")
    model = make_bert(tmp_path)
    before = model[0].auto_model.embeddings.word_embeddings.weight.detach().clone()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.load_from_disk(tmp_path / "triplets"),
        loss=getattr(losses, loss_name)(model),
    )
    assert np.isfinite(trainer.train().training_loss)
    assert (model[0].auto_model.embeddings.word_embeddings.weight != before).any()


@pytest.mark.parametrize("per", ["query", "pair"])
def test_tevatron_lines(model, dataset, tmp_path, per):
    import datasets

    mined = mine(model, dataset, num_negatives=3, per=per, margin=0.55)
    path = tmp_path / "tevatron.jsonl"
    written = write_negatives(mined, dataset, path, "tevatron")
    some = np.flatnonzero(mined.counts > 0)
    assert written == (len(some), len(mined) - len(some))
    loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(loaded.column_names) == {"query_id", "query", "positive_passages", "negative_passages"}
    for row, i in zip(loaded, some.tolist(), strict=True):
        assert row["query_id"] == f"q{mined.queries[i]}"
        assert row["query"] == dataset.queries.texts([mined.queries[i]])[0]
        negatives = mined.negatives[i][mined.negatives[i] >= 0]
        for passages, rows in (("positive_passages", mined.positives[i]), ("negative_passages", negatives)):
            assert [p["docid"] for p in row[passages]] == dataset.corpus.ids(rows)
            fields = dataset.corpus.fields(rows)
            assert [p["title"] for p in row[passages]] == [field["title"] for field in fields]
            assert [p["text"] for p in row[passages]] == [field["text"] for field in fields]
        scores = [p["score"] for p in row["negative_passages"]]
        np.testing.assert_allclose(scores, mined.scores[i][: len(scores)], rtol=1e-6)


def test_flagembedding_lines(model, dataset, tmp_path):
    mined = mine(model, dataset, num_negatives=3, margin=0.55)
    path = tmp_path / "flag.jsonl"
    write_negatives(mined, dataset, path, "flagembedding")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    some = np.flatnonzero(mined.counts > 0)
    assert len(lines) == len(some)
    for line, i in zip(lines, some.tolist(), strict=True):
        assert list(line) == ["query", "pos", "neg", "pos_scores", "neg_scores"]
        assert line["pos"] == dataset.corpus.texts(mined.positives[i])
        assert line["neg"] == dataset.corpus.texts(mined.negatives[i][mined.negatives[i] >= 0])
        assert len(line["pos"]) == len(line["pos_scores"])
        assert len(line["neg"]) == len(line["neg_scores"])
    assert "é" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("format", FORMATS)
def test_scores_can_be_left_out(mined, dataset, tmp_path, format):
    path = tmp_path / "plain.jsonl"
    write_negatives(mined, dataset, path, format, scores=False)
    assert "score" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["out.jsonl", "out"])
def test_a_write_that_fails_leaves_what_was_there(mined, dataset, tmp_path, monkeypatch, name):
    from hardwood.mining import _write

    path = tmp_path / name
    write_negatives(mined, dataset, path)
    before = sorted(path.rglob("*")) if path.is_dir() else path.read_bytes()
    monkeypatch.setattr(_write, "_ENTRIES_AT_A_TIME", 1)
    calls = iter(range(100))
    real = _write._triplets

    def failing(*arguments):
        if next(calls) == 2:
            raise OSError("the disk is full")
        return real(*arguments)

    monkeypatch.setattr(_write, "_triplets", failing)
    with pytest.raises(OSError, match="disk is full"):
        write_negatives(mined, dataset, path, overwrite=True)
    assert (sorted(path.rglob("*")) if path.is_dir() else path.read_bytes()) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["out.jsonl", "out"])
def test_overwriting_must_be_allowed(mined, dataset, tmp_path, name):
    write_negatives(mined, dataset, tmp_path / name)
    with pytest.raises(DataError, match="overwrite=True"):
        write_negatives(mined, dataset, tmp_path / name)
    again = write_negatives(mined, dataset, tmp_path / name, scores=False, overwrite=True)
    assert again.rows
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_paths_that_do_not_fit_are_refused(mined, dataset, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for path, format, message in (
        ("mine", "triplets", "something other than a dataset"),
        ("mine", "tevatron", "this is a folder"),
        ("file", "triplets", "this is a file"),
        ("out.parquet", "triplets", r"\.parquet is not written"),
    ):
        with pytest.raises(DataError, match=message):
            write_negatives(mined, dataset, tmp_path / path, format, overwrite=True)
    with pytest.raises(ValueError, match="got 'csv'"):
        write_negatives(mined, dataset, tmp_path / "x", "csv")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_nothing_to_write_is_an_error(mined, dataset, tmp_path):
    empty = MinedNegatives(
        mined.queries,
        mined.positives,
        mined.positive_scores,
        np.full_like(mined.negatives, -1),
        np.full_like(mined.scores, -np.inf),
    )
    with pytest.raises(ValueError, match="none of the 60 entries has 3 negatives"):
        write_negatives(empty, dataset, tmp_path / "out.jsonl")
    assert not list(tmp_path.iterdir())
