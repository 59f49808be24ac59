"""What every drift model promises, put to every model, with a tolerance table: a new model brings its rows."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hardwood.drift import DRIFT_MODELS, DriftModel, cosine_error, make_drift

from .conftest import loose_drift, smooth_drift

ALL = pytest.mark.parametrize("name", DRIFT_MODELS)
LEARNING = pytest.mark.parametrize("name", [name for name in DRIFT_MODELS if name != "stale"])

# Share of the stale cosine error that may remain on a smooth drift with 400 landmarks in 8 dimensions.
REMAINS = {"linear": 0.6, "nystrom": 0.05, "corrector": 0.3}

# How far a prediction may be from that in blocks of other sizes: float32 products of other shapes round otherwise.
ROUNDING = {"stale": 0.0, "linear": 1e-6, "nystrom": 1e-5, "corrector": 1e-6}

# Largest error, relative to the length scale, on a linear drift of vectors of any length, with 300 landmarks.
LINEAR_DRIFT = {"linear": 1e-5, "nystrom": 0.1, "corrector": 0.35}

SHAPES = {
    "one": lambda old, new: (old[:1], new[:1]),
    "two": lambda old, new: (old[:2], new[:2]),
    "four": lambda old, new: (old[:4], new[:4]),
    "nine": lambda old, new: (old[:9], new[:9]),
    "duplicates": lambda old, new: (np.repeat(old[:2], 20, axis=0), np.repeat(new[:2], 20, axis=0)),
    "one place, many motions": lambda old, new: (np.repeat(old[:1], 40, axis=0), new),
    "all zeros": lambda old, new: (np.zeros_like(old), new),
    "to zero": lambda old, new: (old, np.zeros_like(new)),
    "one dimension": lambda old, new: (old[:, :1], new[:, :1]),
    "fewer than dimensions": lambda old, new: (np.tile(old, (1, 9)), np.tile(new, (1, 9))),
    "one moved": lambda old, new: (old, np.vstack([new[:1], old[1:]])),
}


@LEARNING
def test_it_recovers_a_smooth_drift(name: str) -> None:
    model = make_drift(name).fit(*smooth_drift(400, seed=0))
    old, new = smooth_drift(500, seed=1)
    error, stale = model.error(old, new), make_drift("stale").fit(old, new).error(old, new)
    assert stale.cosine > 0.05
    assert error.cosine < REMAINS[name] * stale.cosine
    assert error.score < stale.score
    np.testing.assert_allclose(np.linalg.norm(model.predict(old), axis=1), 1, atol=1e-6)


@LEARNING
def test_more_landmarks_are_better(name: str) -> None:
    old, new = smooth_drift(500, seed=1)
    errors = [make_drift(name).fit(*smooth_drift(count, seed=0)).error(old, new).cosine for count in (25, 100, 400)]
    assert errors[2] < errors[1] < errors[0] <= cosine_error(old, new)


@ALL
def test_nothing_moves_if_no_landmark_does(name: str) -> None:
    old, _ = smooth_drift(60, seed=0)
    others = smooth_drift(70, seed=1)[0].astype(np.float32)
    for landmarks in (old, old[:1], old[:0]):
        model = make_drift(name).fit(landmarks, landmarks)
        assert np.array_equal(model.predict(others), others)
    moved = make_drift(name).fit(*smooth_drift(60, seed=0))
    assert np.array_equal(moved.fit(old, old).predict(others), others)


@LEARNING
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_linear_drift_of_any_length_is_recovered(name: str, scale: float) -> None:
    others, true = loose_drift(40, seed=1, scale=scale)
    predicted = make_drift(name).fit(*loose_drift(300, seed=0, scale=scale)).predict(others)
    np.testing.assert_allclose(predicted / scale, true / scale, atol=LINEAR_DRIFT[name])
    assert np.abs(true - others).max() / scale > LINEAR_DRIFT[name]


@ALL
def test_blocks_and_kinds_of_arrays_do_not_matter(name: str) -> None:
    model = make_drift(name).fit(*smooth_drift(60, seed=0))
    old = smooth_drift(101, seed=1)[0].astype(np.float32)
    whole = model.predict(old)
    assert isinstance(whole, np.ndarray)
    assert whole.dtype == np.float32
    for block in (1, 7, 101, 1000):
        np.testing.assert_allclose(model.predict(old, block=block), whole, atol=ROUNDING[name], rtol=0)
    begins, parts = zip(*model.predict_blocks(old, block=25), strict=True)
    assert begins == (0, 25, 50, 75, 100)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=ROUNDING[name], rtol=0)
    tensor = model.predict(torch.from_numpy(old).requires_grad_())
    assert isinstance(tensor, torch.Tensor)
    assert not tensor.requires_grad
    assert np.array_equal(tensor.numpy(), whole)
    assert model.predict(old[:0]).shape == (0, 8)
    assert list(model.predict_blocks(old[:0])) == []


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(name: str, dtype: torch.dtype) -> None:
    landmarks = [torch.from_numpy(array).to(dtype) for array in smooth_drift(60, seed=0)]
    others = torch.from_numpy(smooth_drift(20, seed=1)[0]).to(dtype)
    model = make_drift(name).fit(*landmarks)
    predicted = model.predict(others)
    assert predicted.dtype == torch.float32
    exact = model.predict(others.float().numpy())
    np.testing.assert_allclose(predicted.numpy(), exact, atol=ROUNDING[name] or 1e-7)


@ALL
def test_predictions_can_be_written_in_place(name: str, tmp_path: Path) -> None:
    model = make_drift(name).fit(*smooth_drift(60, seed=0))
    old = smooth_drift(50, seed=1)[0].astype(np.float32)
    whole = model.predict(old)
    stored = np.memmap(tmp_path / "stored", dtype=np.float32, mode="w+", shape=old.shape)
    stored[:] = old
    stored.flush()
    read_only = np.memmap(tmp_path / "stored", dtype=np.float32, mode="r", shape=old.shape)
    assert np.array_equal(model.predict(read_only), whole)
    assert model.predict(stored, out=stored) is stored
    assert np.array_equal(stored, whole)
    for wrong in (np.empty((50, 8)), np.empty((49, 8), dtype=np.float32), torch.empty(50, 8), [[0.0]]):
        with pytest.raises(ValueError, match=r"out must be float32 of shape \(50, 8\)"):
            model.predict(old, out=wrong)


@ALL
def test_inputs_are_left_as_they_are(name: str) -> None:
    landmarks, others = smooth_drift(60, seed=0), smooth_drift(20, seed=1)[0].astype(np.float32)
    arrays = [*landmarks, others, torch.from_numpy(others.copy())]
    copies = [array.copy() for array in (*landmarks, others, others)]
    model = make_drift(name).fit(*landmarks)
    model.predict(arrays[2])
    model.predict(arrays[3])
    model.error(*landmarks)
    for array, copy in zip(arrays, copies, strict=True):
        assert torch.equal(torch.as_tensor(array), torch.as_tensor(copy))


@ALL
@pytest.mark.parametrize("kind", SHAPES)
def test_singular_and_tiny_inputs_give_finite_predictions(name: str, kind: str) -> None:
    old, new = SHAPES[kind](*smooth_drift(40, seed=0))
    model = make_drift(name).fit(old, new)
    for others in (old, old + 0.3, 100 * old):
        predicted = model.predict(others)
        assert np.isfinite(predicted).all()
    if name in ("linear", "nystrom") and kind == "one":  # all there is to know is one motion
        np.testing.assert_allclose(model.predict(old), new, atol=1e-6)


@ALL
def test_normalize(name: str) -> None:
    old, new = smooth_drift(60, seed=0)
    others = smooth_drift(20, seed=1)[0]
    free = make_drift(name, normalize=False).fit(old, new).predict(others)
    forced = make_drift(name, normalize=True).fit(3 * old, 3 * new).predict(3 * others)
    if name == "stale":
        return
    assert np.abs(np.linalg.norm(free, axis=1) - 1).max() > 1e-4
    np.testing.assert_allclose(np.linalg.norm(forced, axis=1), 1, atol=1e-6)
    long = make_drift(name).fit(3 * old, 3 * new).predict(3 * others)
    assert np.abs(np.linalg.norm(long, axis=1) - 1).min() > 0.5
    with pytest.raises(ValueError, match="normalize must be True, False, or None to decide by the landmarks, got 3"):
        make_drift(name, normalize=3)


@ALL
def test_a_fit_is_repeatable_and_replaces_the_last(name: str) -> None:
    first, second = smooth_drift(60, seed=0), smooth_drift(60, seed=0, amount=0.1)
    others = smooth_drift(20, seed=1)[0]
    global_state = torch.get_rng_state()
    again = [make_drift(name).fit(*second).predict(others) for _ in range(2)]
    assert np.array_equal(*again)
    assert torch.equal(torch.get_rng_state(), global_state)  # the training run's own random stream
    if name != "corrector":  # that one goes on learning
        assert np.array_equal(make_drift(name).fit(*first).fit(*second).predict(others), again[0])
        assert name == "stale" or not np.array_equal(make_drift(name).fit(*first).predict(others), again[0])


@ALL
def test_state_goes_through_a_file(name: str, tmp_path: Path) -> None:
    model = make_drift(name).fit(*smooth_drift(60, seed=0))
    others = smooth_drift(20, seed=1)[0]
    save_file(model.state_dict(), tmp_path / "state.safetensors")
    resumed = make_drift(name, **model.settings())
    resumed.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert np.array_equal(resumed.predict(others), model.predict(others))
    for each in (model, resumed):  # what is learnt afterwards is the same too
        each.fit(*smooth_drift(60, seed=2))
    assert np.array_equal(resumed.predict(others), model.predict(others))
    state = resumed.state_dict()
    resumed.load_state_dict(state)
    for value in (*state.values(), *resumed.state_dict().values()):
        value.zero_()  # copies, not the model's own
    assert np.array_equal(resumed.predict(others), model.predict(others))
    resumed.load_state_dict(make_drift(name).state_dict())
    with pytest.raises(ValueError, match="not fitted yet"):
        resumed.predict(others)


@ALL
def test_the_state_of_another_model_is_an_error(name: str) -> None:
    model = make_drift(name).fit(*smooth_drift(60, seed=0))
    others = smooth_drift(20, seed=1)[0]
    before = model.predict(others)
    state = model.state_dict()
    wrong = [
        {"what": torch.zeros(1)},
        {"fitted": torch.zeros(3, dtype=torch.int64)},
        {**state, "what": torch.zeros(1)},
        {key: value[..., :-1] if value.ndim else value for key, value in state.items()},
    ]
    if name != "stale":
        wrong += [{**state, key: value[None]} for key, value in state.items()]
        wrong += [{**state, "fitted": torch.tensor([7, 1, 1])}]
    for broken in wrong:
        with pytest.raises(ValueError, match=rf"load what state_dict\(\) of a '{name}' drift model"):
            model.load_state_dict(broken)
    assert np.array_equal(model.predict(others), before)


@ALL
def test_settings_make_the_same_model(name: str) -> None:
    model = make_drift(name, normalize=False)
    assert make_drift(name, **model.settings()).settings() == model.settings()
    assert all(key in repr(model) for key in model.settings())


@ALL
def test_bad_input_is_an_error_and_changes_nothing(name: str) -> None:
    old, new = smooth_drift(30, seed=0)
    model: DriftModel = make_drift(name)
    with pytest.raises(ValueError, match="is not fitted yet"):
        model.predict(old)
    model.fit(old, new)
    before = model.predict(old)
    broken = old.copy()
    broken[4, 2] = np.nan
    for arguments, message in (
        ((broken, new), "old has NaN or infinite numbers in row 4"),
        ((old, torch.from_numpy(broken)), "new has NaN or infinite numbers in row 4"),
        ((old, new[:5]), r"must have the same shape, a row a target, got \(30, 8\) and \(5, 8\)"),
        ((old[0], new[0]), r"old must be encodings \(m, d\), got an array of shape \(8,\)"),
        ((old[:, :0], new[:, :0]), r"got an array of shape \(30, 0\)"),
        ((old.astype(np.uint16), new), "old must be floating-point encodings, got uint16: decode them first"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(*arguments)
    for arguments, message in (
        ((old[:, :3],), r"fitted in 8 dimensions, but old is \(30, 3\)"),
        ((old, 0), "block must be at least 1, got 0"),
        ((broken, 3), "old has NaN or infinite numbers in row 4"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(*arguments)
    with pytest.raises(ValueError, match=r"queries must be \(B, 8\) as the encodings, got \(30, 3\)"):
        model.error(old, new, queries=old[:, :3])
    assert np.array_equal(model.predict(old), before)


@ALL
def test_errors_are_those_of_a_loop(name: str) -> None:
    model = make_drift(name).fit(*smooth_drift(60, seed=0))
    (old, new), queries = smooth_drift(30, seed=1), smooth_drift(7, seed=2)[0]
    predicted = model.predict(old).astype(np.float64)
    cosines = [p @ y / np.linalg.norm(p) / np.linalg.norm(y) for p, y in zip(predicted, new, strict=True)]
    scores = [abs(x @ p - x @ y) for x in queries for p, y in zip(predicted, new, strict=True)]
    error = model.error(old, new, queries=queries)
    assert error == pytest.approx((1 - np.mean(cosines), np.mean(scores)), abs=1e-7)
    stand_ins = [abs(x @ p - x @ y) for x in new for p, y in zip(predicted, new, strict=True)]
    assert model.error(old, new).score == pytest.approx(np.mean(stand_ins), abs=1e-7)
    assert model.error(old[:0], new[:0]) == (0, 0)


@ALL
def test_a_million_targets_need_a_block_of_temporaries(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # NumPy reports its arrays to tracemalloc; torch does not, so the largest block that a model is handed is counted:
    # 16 MB are the result, and with 512 landmarks a kernel of all rows would be 2 GB, of a block 32 MiB.
    model = make_drift(name).fit(*smooth_drift(512, seed=0, dimension=4))
    old = np.tile(smooth_drift(1000, seed=1, dimension=4)[0].astype(np.float32), (1000, 1))
    largest = 0

    def counted(block: torch.Tensor, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, len(block))
        return torch.zeros_like(block)

    monkeypatch.setattr(model, "_motion", counted)
    tracemalloc.start()
    model.predict(old)
    for _, part in model.predict_blocks(old[:300_000], block=1000):
        assert len(part) == 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    kernel_and_more = {"stale": 0, "linear": 64, "nystrom": 512 * 4, "corrector": 256 * 16}
    assert largest * kernel_and_more[name] <= 33 * 2**20
    assert peak < 16e6 + 40e6


def test_unknown_models_and_options_are_errors() -> None:
    with pytest.raises(
        ValueError, match="no drift model is called 'wind'; there are stale, linear, nystrom, corrector"
    ):
        make_drift("wind")
    with pytest.raises(ValueError, match="'linear' drift model has no option 'width'; it has penalty, normalize"):
        make_drift("linear", width=1.0)
