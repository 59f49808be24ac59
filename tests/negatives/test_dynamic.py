"""The dynamic source while its encoder moves: what it re-encodes, how true it stays, and what each part is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.errors import DataError
from hardwood.negatives import Cost, Draw, DynamicNegatives, RefreshPolicy, Request, make_source
from hardwood.negatives.dynamic import policy
from hardwood.negatives.dynamic.drift_fits import DriftFits
from hardwood.negatives.dynamic.staleness import Staleness, measure_staleness, scores_of_draws
from hardwood.negatives.dynamic.true_encodings import TrueEncodings
from hardwood.tree import TargetIndex

from .conftest import ArrayTargets

NUM_TARGETS, DIMENSION, BATCH = 600, 12, 8


def unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


class MovingCorpus:
    """Clustered unit vectors that a slowly turning, smooth map moves, as an encoder in training does."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(20, DIMENSION, generator=generator)
        noise = 0.5 * torch.randn(NUM_TARGETS, DIMENSION, generator=generator)
        self.start = unit(centres[torch.arange(NUM_TARGETS) % 20] + noise)
        self.turn = torch.randn(DIMENSION, DIMENSION, generator=generator)
        self.cost = Cost()
        self.targets = ArrayTargets(self.start.clone(), self.cost, block_size=256)

    def move(self, amount: float) -> None:
        self.targets.vectors = unit(self.start + amount * torch.tanh(self.start @ self.turn))


def request(corpus: MovingCorpus, seed: int, ceiling: Tensor | None = None) -> Request:
    generator = torch.Generator().manual_seed(seed)
    positives = torch.randint(NUM_TARGETS, (BATCH,), generator=generator)
    queries = unit(corpus.targets.vectors[positives] + 0.3 * torch.randn(BATCH, DIMENSION, generator=generator))
    own = RaggedRows.from_pairs(np.arange(BATCH), positives.numpy(), BATCH)
    return Request(queries, positives, 6, 8.0, own, ceiling, seed)


def run(steps: int = 40, **options: object) -> tuple[MovingCorpus, float, dict[str, float]]:
    """Train-like steps; returns the corpus, the mean cosine error of the tree's vectors at the end, and diagnostics."""
    corpus = MovingCorpus()
    source = make_source(
        "dynamic", **{"start_step": 0, "landmarks": 60, "leaf_size": 16, "refresh_when": None, **options}
    )
    source.attach(corpus.targets, corpus.cost)
    for step in range(steps):
        corpus.move(0.4 * step / steps)
        source.begin_step(step)
        asked = request(corpus, step)
        draw = source.sample(asked)
        rows = torch.unique(torch.cat([asked.positives, draw.ids.flatten()]))
        source.observe(asked, draw, rows, corpus.targets.vectors[rows])
    source.finish()
    stored = torch.from_numpy(source._moving.index.vectors(np.arange(NUM_TARGETS)))
    error = 1 - torch.nn.functional.cosine_similarity(stored, corpus.targets.vectors, dim=1)
    source._moving.index.check()
    return corpus, float(error.mean()), source.diagnostics()


def test_each_part_keeps_the_tree_truer() -> None:
    nothing = run(refresh_every=None, write_back=False)
    written = run(refresh_every=None)
    predicted = run(refresh_every=10, write_back=False)
    both = run(refresh_every=10)
    assert nothing[1] > 0.01  # the encoder does move
    assert written[1] < 0.8 * nothing[1]
    assert predicted[1] < 0.5 * nothing[1]
    assert both[1] < written[1]
    assert both[1] < predicted[1]
    assert both[2]["stale_cosine_error"] < nothing[2]["stale_cosine_error"]
    assert both[2]["stale_score_error"] < nothing[2]["stale_score_error"]


def test_only_landmarks_are_re_encoded() -> None:
    assert run(steps=41, refresh_every=10)[0].cost.targets_reencoded == NUM_TARGETS + 4 * 60
    assert run(steps=41, refresh_every=None)[0].cost.targets_reencoded == NUM_TARGETS


def test_the_oldest_are_re_encoded_besides() -> None:
    plain = run(steps=41, refresh_every=10, write_back=False)
    renewed = run(steps=41, refresh_every=10, write_back=False, refresh_reencode=100)
    # No landmark is of an old period, so none of the hundred is encoded for nothing.
    assert renewed[0].cost.targets_reencoded == NUM_TARGETS + 4 * 160
    assert renewed[1] < 0.9 * plain[1]


def test_a_tree_and_true_encodings_in_bfloat16() -> None:
    full = run(refresh_every=10)
    halved = run(refresh_every=10, index_dtype="bfloat16", true_dtype="bfloat16")
    assert halved[1] == pytest.approx(full[1], rel=0.05)
    assert halved[1] != full[1]
    state = TrueEncodings(unit(torch.randn(50, 12)).numpy(), np.array([3]), dtype="bfloat16").state_dict()
    assert state["encodings"].dtype == torch.bfloat16
    rows = np.array([4, 2])
    assert np.array_equal(TrueEncodings.from_state(state).read(rows), state["encodings"][rows].float().numpy())


def test_it_starts_from_an_index(tmp_path: Path) -> None:
    corpus = MovingCorpus()
    TargetIndex.build(corpus.start, leaf_size=16, progress=False).save(tmp_path / "index")
    encoded, loaded = (run(refresh_every=10, **options) for options in ({}, {"index": str(tmp_path / "index")}))
    of_the_first_step = NUM_TARGETS - (encoded[0].cost.targets_reencoded - loaded[0].cost.targets_reencoded)
    assert 64 + BATCH <= of_the_first_step <= 64 + BATCH * 7  # to see whose tree it is, and to know the encoder's noise
    assert encoded[1] == pytest.approx(loaded[1], rel=1e-4)  # the same tree: the same draws, and so all the rest
    assert encoded[2] == pytest.approx(loaded[2], rel=1e-4, abs=1e-6)


def test_an_index_of_something_else_is_an_error(tmp_path: Path) -> None:
    corpus = MovingCorpus()
    for name, vectors, ids in (
        ("short", corpus.start[:10], None),
        ("named", corpus.start, 7 + np.arange(NUM_TARGETS)),
    ):
        TargetIndex.build(vectors, ids, progress=False).save(tmp_path / name)
    for name, message in (
        ("short", "has 10 targets in 12 dimensions, but this corpus and model need 600 in 12"),
        ("named", "are not the rows 0 to 599 of the corpus"),
    ):
        source = make_source("dynamic", start_step=0, index=str(tmp_path / name))
        source.attach(corpus.targets, corpus.cost)
        with pytest.raises(ValueError, match=message):
            source.begin_step(0)
    source = make_source("dynamic", start_step=0, index=str(tmp_path / "nowhere"))
    source.attach(corpus.targets, corpus.cost)
    with pytest.raises(DataError, match="nowhere"):
        source.begin_step(0)


def begun(corpus: MovingCorpus, index: Path) -> None:
    source = make_source("dynamic", start_step=0, index=str(index))
    source.attach(corpus.targets, corpus.cost)
    source.begin_step(0)


@pytest.mark.parametrize("dimension", [None, 8])
def test_an_index_of_another_model_or_metric_is_an_error(dimension: int | None, tmp_path: Path) -> None:
    corpus = MovingCorpus()
    assert corpus.start.norm(dim=1) == pytest.approx(np.ones(NUM_TARGETS), abs=1e-5)
    rng = np.random.default_rng(0)
    common = rng.standard_normal(12)  # any two texts are alike
    vectors = {
        "other": rng.standard_normal(corpus.start.shape),
        "order": corpus.start.numpy()[::-1].copy(),
        "alike": 3 * common + rng.standard_normal(corpus.start.shape),
    }
    for name, found in vectors.items():
        of_length_1 = np.ascontiguousarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)
        TargetIndex.build(of_length_1, dimension=dimension, progress=False).save(tmp_path / name)
        with pytest.raises(ValueError, match="is of another model, or of another order of the corpus"):
            begun(corpus, tmp_path / name)
    longer = np.float32(7) * corpus.start.numpy()
    TargetIndex.build(longer, dimension=dimension, progress=False).save(tmp_path / "longer")
    with pytest.raises(ValueError, match=r"lengths up to (7|6.9).* build the index with metric='cosine'"):
        begun(corpus, tmp_path / "longer")
    TargetIndex.build(longer, dimension=dimension, metric="cosine", progress=False).save(tmp_path / "unit")
    begun(corpus, tmp_path / "unit")
    corpus.targets.vectors *= 7  # a model that compares by dot products
    with pytest.raises(ValueError, match=r"metric='cosine'.* lengths from 7 to 7: build it with metric='dot'"):
        begun(corpus, tmp_path / "unit")


def test_the_corrector_learns_between_refreshes() -> None:
    pairs = [(np.eye(12, dtype=np.float32)[[i % 12]], np.eye(12, dtype=np.float32)[[(i + 1) % 12]]) for i in range(3)]
    fits = DriftFits("corrector")
    for old, new in pairs:
        fits.observe(old, new)
    assert float(fits.state_dict()["steps"]) == 3
    resumed = DriftFits("corrector")
    resumed.load_state_dict(fits.state_dict())
    # Two landmarks are too few to learn from: what is predicted of the first period was learnt online.
    old, new = np.eye(12, dtype=np.float32)[:2], np.eye(12, dtype=np.float32)[1:3]
    for each in (fits, resumed):
        each.begin_refresh()
        assert not np.array_equal(each.for_periods([old, old, new])[0](old), old)
        assert np.array_equal(each.for_periods([old, old, new])[1](old), old)
    assert np.array_equal(fits.for_periods([old, new])[0](old), resumed.for_periods([old, new])[0](old))
    assert DriftFits("nystrom").state_dict() == {}
    assert not DriftFits("nystrom").learns_online


def test_landmarks_teach_the_corrector_once_a_refresh() -> None:
    old = unit(torch.randn(200, DIMENSION, generator=torch.Generator().manual_seed(0))).numpy()
    history = [old, old + np.float32(0.3)]
    fits = DriftFits("corrector")
    fits.begin_refresh()
    first = fits.for_periods(history)[0](old)
    fits.observe(old, history[1])
    learnt = fits.state_dict()
    assert float(learnt["steps"]) > 1
    resumed = DriftFits("corrector")
    resumed.load_state_dict(learnt)
    assert np.array_equal(resumed.for_periods(history)[0](old), fits.for_periods(history)[0](old))
    assert not np.array_equal(first, fits.for_periods(history)[0](old))
    assert all(torch.equal(tensor, learnt[name]) for name, tensor in resumed.state_dict().items())
    resumed.begin_refresh()
    assert resumed.for_periods(history)[0] is not None
    assert float(resumed.state_dict()["steps"]) > float(learnt["steps"])
    for wrong in ({}, {"trusted": torch.tensor(2)}, {"trusted": torch.tensor(1.0)}):
        with pytest.raises(ValueError, match="'trusted' of the corrector's state"):
            resumed.load_state_dict({**{k: v for k, v in learnt.items() if k != "trusted"}, **wrong})
    with pytest.raises(ValueError, match="'nystrom' drift keeps no state"):
        DriftFits("nystrom").load_state_dict(learnt)


def test_only_encodings_of_the_first_period_teach_the_corrector(monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[tuple[np.ndarray, np.ndarray]] = []
    monkeypatch.setattr(DriftFits, "observe", lambda self, old, new: taught.append((old, new)))
    corpus = run(steps=20, refresh_every=10, refresh_drift="corrector", write_back=False)[0]
    start = {tuple(vector) for vector in unit(corpus.start).tolist()}
    assert len(taught) == 20
    # Not so the landmarks', which the refresh at step 10 has encoded again.
    assert all(tuple(vector) in start for old, _ in taught for vector in old.tolist())


def test_refresh_by_need() -> None:
    wide = run(refresh_every=None, refresh_when=1e-4, refresh_spacing=15)[0].cost.targets_reencoded
    assert wide == NUM_TARGETS + 2 * 60
    strict = run(refresh_every=None, refresh_when=1e-4)[0].cost.targets_reencoded
    lax = run(refresh_every=None, refresh_when=0.5)[0].cost.targets_reencoded
    assert strict == NUM_TARGETS + 3 * 60  # ten steps apart at the earliest
    assert lax == NUM_TARGETS


def test_refreshes_by_need_are_a_tenth_of_the_run_apart() -> None:
    steps = 150
    found = run(steps=steps, refresh_every=None, refresh_when=1e-6, start_step=0)[0].cost.targets_reencoded
    due, last = 0, 0
    for step in range(1, steps):
        if step - last >= max(10, step // 10):
            due, last = due + 1, step
    assert due < (steps - 1) // 10
    assert found == NUM_TARGETS + due * 60


def test_predictions_that_cannot_be_trusted_are_not_made() -> None:
    old = unit(torch.randn(200, DIMENSION, generator=torch.Generator().manual_seed(0))).numpy()
    anywhere = unit(torch.randn(200, DIMENSION, generator=torch.Generator().manual_seed(1))).numpy()
    near = old + np.float32(0.01)
    for name in ("linear", "nystrom", "corrector"):
        fits = DriftFits(name, predict_below=0.25)
        for period in (0, 1):
            fits.begin_refresh()
            assert fits.for_periods([old, old, anywhere])[period] is None
            fits.begin_refresh()
            predict = fits.for_periods([old, old, near])[period]
            assert predict is not None
            np.testing.assert_allclose(predict(old), old, atol=0.1)
            always = DriftFits(name)
            assert always.for_periods([old, old, anywhere])[period] is not None


def test_a_refresh_without_predictions_leaves_all_others_where_they_are() -> None:
    never = run(steps=11, refresh_every=10, write_back=False, refresh_predict_below=1e-9)
    stale = run(steps=11, refresh_every=10, write_back=False, refresh_drift="stale")
    assert never[1] == pytest.approx(stale[1], rel=1e-6)
    assert never[0].cost.targets_reencoded == NUM_TARGETS + 60


def test_refreshes_by_need_are_rarer_of_many_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    few = run(steps=200, refresh_when=1e-9)[0].cost.targets_reencoded
    asked = run(steps=200, refresh_when=1e-9, refresh_growth=0.5)[0].cost.targets_reencoded
    monkeypatch.setattr(policy, "_MANY", NUM_TARGETS)
    many = run(steps=200, refresh_when=1e-9)[0].cost.targets_reencoded
    assert many == asked < few


def test_targets_above_the_ceiling_are_excluded_and_q_is_renormalised() -> None:
    corpus = MovingCorpus()
    source = make_source("dynamic", start_step=0, leaf_size=16, probes=60)  # every leaf is opened: the search is exact
    source.attach(corpus.targets, corpus.cost)
    source.begin_step(0)
    asked = request(corpus, 1, ceiling=torch.full((BATCH,), 0.7))
    similarities = asked.queries @ corpus.start.T
    above = similarities > 0.7
    assert above.sum() > BATCH
    draw = source.sample(asked)
    assert (similarities.gather(1, draw.ids) <= 0.7 + 1e-5).all()
    log_proposal = source.log_proposal(asked, draw, torch.arange(NUM_TARGETS))
    assert (log_proposal[above] == -torch.inf).all()
    torch.testing.assert_close(log_proposal.exp().sum(dim=1), torch.ones(BATCH))


def test_staleness_is_that_of_a_loop() -> None:
    corpus = MovingCorpus(3)
    asked = request(corpus, 4)
    rows = torch.tensor([9, 3, 30, 7, 11])
    ids = torch.tensor(
        [[3, 7, 11], [30, 30, 9], [3, 9, 500], [7, 3, 9], [11, 7, 3], [9, 9, 9], [3, 30, 7], [30, 11, 3]]
    )
    draw = Draw.plain(ids, torch.zeros(8, 3), torch.zeros(8))
    stored, fresh = corpus.start[rows], unit(corpus.start[rows] + 0.5 * torch.randn(5, DIMENSION))
    differences, changes = [], []
    for query, drawn in enumerate(ids.tolist()):
        known = [row for row in drawn if row in rows.tolist()]
        at = [rows.tolist().index(row) for row in known]
        before, after = ([8.0 * float(asked.queries[query] @ y[i]) for i in at] for y in (stored, fresh))
        differences += [abs(a - b) for a, b in zip(before, after, strict=True)]
        ranks = [sorted(range(len(at)), key=lambda i, s=s: -s[i]) for s in (before, after)]
        changes += [ranks[0].index(i) != ranks[1].index(i) for i in range(len(at))]
    old, new = (scores_of_draws(asked, draw, rows, vectors) for vectors in (stored, fresh))
    got = measure_staleness(stored, fresh, old, new)
    assert got.cosine == pytest.approx(float(1 - (stored * fresh).sum(1).mean()), abs=1e-5)
    assert got.score == pytest.approx(np.mean(differences), rel=1e-4)
    assert got.rank == pytest.approx(np.mean(changes))
    assert measure_staleness(stored, stored, old, old) == Staleness(pytest.approx(0, abs=1e-6), 0.0, 0.0)


def test_periods_that_are_nearest_are_joined() -> None:
    """Of an encoder that moves fast, then slowly: what was written back early keeps landmarks of its time."""
    angles = [0.0, 0.6, 1.1, 1.4, 1.5, 1.52, 1.53, 1.535, 1.54]
    state = TrueEncodings(np.tile([[1.0, 0.0]], (40, 1)).astype(np.float32), np.array([0]), max_periods=6)
    for step, angle in enumerate(angles[1:]):
        now = np.array([[np.cos(angle), np.sin(angle)]], dtype=np.float32)
        state.begin_period(now)
        rows = np.arange(1 + 4 * step, 5 + 4 * step)
        state.write(rows, np.repeat(now, 4, axis=0))
    assert len(state.history) == 6
    labelled = np.arctan2(*np.stack([made[0] for made in state.history])[state.period].T[::-1])
    true = np.arctan2(*state.read(np.arange(40)).T[::-1])
    np.testing.assert_allclose(labelled, true, atol=0.021)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_true_encodings_keep_every_target_with_its_own_period(data: st.DataObject) -> None:
    """Against a twin that remembers everything: no target is lost, each is predicted from its last true encoding."""
    size, landmarks = 30, np.array([2, 11, 20])
    state = TrueEncodings(np.zeros((size, 1), dtype=np.float32), landmarks, max_periods=4)
    last = dict.fromkeys(range(size), 0.0)
    clock = 0.0
    for _ in range(data.draw(st.integers(1, 12))):
        clock += 1
        if data.draw(st.booleans()):
            state.begin_period(np.full((3, 1), clock, dtype=np.float32))
            last |= dict.fromkeys(landmarks.tolist(), clock)
        rows = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=5))), dtype=np.int64)
        state.write(rows, np.full((len(rows), 1), clock, dtype=np.float32))
        last |= dict.fromkeys(rows.tolist(), clock)
    assert len(state.history) <= 4
    assert state.history[0][0, 0] == 0.0  # the first period stays: most targets are of it
    covered: dict[int, float] = {}
    everybody = np.array(data.draw(st.permutations(range(size))), dtype=np.int64)
    for rows, vectors in state.predictions(dict.fromkeys(range(12), lambda known: known), everybody, block=7):
        assert not covered.keys() & set(rows.tolist())
        covered |= dict(zip(rows.tolist(), vectors[:, 0].tolist(), strict=True))
    assert covered == last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refresh_every": 0}, "refresh policy's every must be at least 1, got 0"),
        ({"landmarks": 0}, "landmarks must be at least 1, got 0"),
        ({"refresh_when": 0.0}, "refresh policy's when must be a cosine error above 0, such as 0.02, got 0.0"),
        ({"refresh_spacing": 0}, "refresh policy's spacing must be at least 1, got 0"),
        ({"refresh_reencode": -1}, "refresh policy's reencode must be 0 or more, got -1"),
        ({"refresh_growth": -1.0}, "refresh policy's growth must be a share of the steps so far, .* got -1.0"),
        ({"refresh_predict_below": 0.0}, "refresh policy's predict_below must be a cosine error above 0"),
        ({"refresh_drift": "wind"}, "no drift model is called 'wind'; there are"),
        ({"leaf_size": 0}, "leaf_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"index_dtype": "int8"}, "index_dtype must be one of float32, bfloat16, got 'int8'"),
        ({"true_dtype": "int8"}, "true_dtype must be one of float32, bfloat16, got 'int8'"),
    ],
)
def test_options_out_of_range_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_source("dynamic", **options)


def test_the_refresh_policy_is_flat_in_run_files() -> None:
    """One name for each of its fields, and the same record of them."""
    source = make_source("dynamic", refresh_every=7, refresh_drift="linear", refresh_when=None, probes=9)
    assert source.refresh == RefreshPolicy(every=7, when=None, drift="linear")
    settings = source.settings()
    assert settings["refresh_every"] == 7
    assert settings["refresh_spacing"] == 10
    assert not any(isinstance(value, RefreshPolicy) for value in settings.values())
    direct = DynamicNegatives(refresh=RefreshPolicy(every=7, when=None, drift="linear"), probes=9)
    assert direct.settings() == settings == make_source("dynamic", **settings).settings()
    assert repr(direct).startswith("DynamicNegatives(start_step=0, refresh=RefreshPolicy(every=7, when=None, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drift": "linear"}, r"no option 'drift' \(did you mean 'refresh_drift'\?\); they have start_step, refresh_"),
        ({"refresh": {"every": 3}}, r"no option 'refresh'.*they have start_step, refresh_every"),
        ({"probe": 3}, r"no option 'probe' \(did you mean 'probes'\?\)"),
        ({"repair": True}, "no option 'repair'.*; they have start_step, "),
        ({"rebuild_when": 0.2}, "no option 'rebuild_when'.*; they have start_step, "),
        ({"refresh_when": "soon"}, r"'refresh_when' of 'dynamic' negatives must be of type float \| None, got 'soon'"),
    ],
)
def test_options_that_are_not_there_name_those_that_are(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_source("dynamic", **options)
