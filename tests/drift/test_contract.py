"""What every drift model promises, put to every model, with a tolerance table."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from hardwood.drift import DRIFT_MODELS, DriftModel, make_drift
from hardwood.drift.base import cosine_error

ALL = pytest.mark.parametrize("name", DRIFT_MODELS)
LEARNING = pytest.mark.parametrize("name", [name for name in DRIFT_MODELS if name != "stale"])

# Share of the stale error that may remain on a smooth drift with 400 landmarks in 8 dimensions.
REMAINS = {"linear": 0.6, "nystrom": 0.15, "corrector": 0.25}


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def smooth_drift(count: int, seed: int, amount: float = 0.5, dimension: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors before and after a smooth, not linear, motion that is the same for every seed."""
    generator = np.random.default_rng(99)
    turn, bend = generator.normal(size=(2, dimension, dimension)) / dimension**0.5
    old = unit(np.random.default_rng(seed).normal(size=(count, dimension)))
    return old, unit(old + amount * (np.tanh(2 * old @ turn) + np.sin(2 * old @ bend) ** 2))


@LEARNING
def test_it_recovers_a_smooth_drift(name: str) -> None:
    model = make_drift(name).fit(*smooth_drift(400, seed=0))
    old, new = smooth_drift(500, seed=1)
    assert model.error(old, new) < REMAINS[name] * cosine_error(old, new)
    np.testing.assert_allclose(np.linalg.norm(model.predict(old), axis=1), 1, atol=1e-5)


@LEARNING
def test_more_landmarks_are_better(name: str) -> None:
    old, new = smooth_drift(500, seed=1)
    errors = [make_drift(name).fit(*smooth_drift(count, seed=0)).error(old, new) for count in (25, 400)]
    assert errors[1] < errors[0]


@ALL
def test_nothing_moves_if_no_landmark_does(name: str) -> None:
    old, _ = smooth_drift(60, seed=0)
    others = smooth_drift(70, seed=1)[0].astype(np.float32)
    for landmarks in (old, old[:1], old[:0]):
        assert np.array_equal(make_drift(name).fit(landmarks, landmarks).predict(others), others)


@pytest.mark.parametrize("name", ["linear", "nystrom"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_linear_drift_of_any_length_is_recovered(name: str, scale: float) -> None:
    generator = np.random.default_rng(5)
    turn = np.eye(6) + 0.1 * generator.normal(size=(6, 6))
    old, others = scale * generator.normal(size=(300, 6)), scale * generator.normal(size=(40, 6))
    predicted = make_drift(name).fit(old, old @ turn + 0.2 * scale).predict(others)
    tolerance = {"linear": 1e-4, "nystrom": 0.15}[name]
    np.testing.assert_allclose(predicted / scale, (others @ turn) / scale + 0.2, atol=tolerance)


def test_linear_is_its_naive_twin() -> None:
    old, new = smooth_drift(80, seed=2)
    model = make_drift("linear").fit(old, new)
    centred = old - old.mean(axis=0)
    unit_of_penalty = (np.linalg.svd(centred, compute_uv=False) ** 2).mean()
    ridge = centred.T @ centred + model.penalty * unit_of_penalty * np.eye(8)
    motion = new - old
    mapped = np.linalg.solve(ridge, centred.T @ (motion - motion.mean(axis=0)))
    others = smooth_drift(30, seed=3)[0]
    expected = unit(others + (others - old.mean(axis=0)) @ mapped + motion.mean(axis=0))
    np.testing.assert_allclose(model.predict(others), expected, atol=1e-5)


def test_nystrom_is_its_naive_twin() -> None:
    old, new = smooth_drift(80, seed=2)
    model = make_drift("nystrom").fit(old, new)
    mean = (new - old).mean(axis=0)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([[np.exp(model.width * (x @ y - 1)) for y in b] for x in a])

    weights = np.linalg.solve(kernel(old, old) + model.penalty * np.eye(80), new - old - mean)
    others = smooth_drift(30, seed=3)[0]
    np.testing.assert_allclose(model.predict(others), unit(others + kernel(others, old) @ weights + mean), atol=2e-5)


@ALL
def test_blocks_and_kinds_of_arrays_do_not_matter(name: str) -> None:
    model = make_drift(name).fit(*smooth_drift(60, seed=0))
    old = smooth_drift(101, seed=1)[0].astype(np.float32)
    whole = model.predict(old)
    # Float32 products of other shapes round otherwise, and a small penalty has large coefficients that cancel.
    np.testing.assert_allclose(model.predict(old, block=7), whole, atol=5e-5)
    np.testing.assert_allclose(model.predict(torch.from_numpy(old)), whole, atol=5e-5)
    assert whole.dtype == np.float32
    assert model.predict(old[:0]).shape == (0, 8)


@ALL
def test_inputs_are_left_as_they_are(name: str) -> None:
    landmarks, others = smooth_drift(60, seed=0), smooth_drift(20, seed=1)[0].astype(np.float32)
    copies = [array.copy() for array in (*landmarks, others)]
    make_drift(name).fit(*landmarks).predict(others)
    for array, copy in zip((*landmarks, others), copies, strict=True):
        assert np.array_equal(array, copy)


@ALL
@pytest.mark.parametrize("kind", ["one", "two", "nine", "duplicates", "zeros", "one dimension"])
def test_singular_and_tiny_inputs_give_finite_predictions(name: str, kind: str) -> None:
    old, new = smooth_drift(40, seed=0)
    count = {"one": 1, "two": 2, "nine": 9}.get(kind, 40)
    old, new = old[:count], new[:count]
    if kind == "duplicates":
        old, new = np.repeat(old[:2], 20, axis=0), np.repeat(new[:2], 20, axis=0)
    if kind == "zeros":
        old = np.zeros_like(old)
    if kind == "one dimension":
        old, new = old[:, :1], new[:, :1]
    predicted = make_drift(name).fit(old, new).predict(old)
    assert np.isfinite(predicted).all()
    if name in ("linear", "nystrom") and kind == "one":  # all there is to know is one motion
        np.testing.assert_allclose(predicted, new, atol=1e-5)


@ALL
def test_a_fit_is_repeatable_and_replaces_the_last(name: str) -> None:
    first, second = smooth_drift(60, seed=0), smooth_drift(60, seed=0, amount=0.1)
    others = smooth_drift(20, seed=1)[0]
    again = [make_drift(name).fit(*second).predict(others) for _ in range(2)]
    assert np.array_equal(*again)
    if name != "corrector":  # that one goes on learning
        assert np.array_equal(make_drift(name).fit(*first).fit(*second).predict(others), again[0])


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
        ((old, new[:5]), r"must have the same shape, got \(30, 8\) and \(5, 8\)"),
        ((old[0], new[0]), r"old must be encodings \(m, d\), got an array of shape \(8,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(*arguments)
    with pytest.raises(ValueError, match="fitted in 8 dimensions"):
        model.predict(old[:, :3])
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        model.predict(old, block=0)
    assert np.array_equal(model.predict(old), before)


@ALL
def test_a_million_targets_need_a_block_of_temporaries(name: str) -> None:
    # NumPy reports its arrays to tracemalloc: the result is 16 MB, a block's kernel 2 MB; that of all rows 256 MB.
    model = make_drift(name).fit(*smooth_drift(64, seed=0, dimension=4))
    old = np.tile(smooth_drift(1000, seed=1, dimension=4)[0].astype(np.float32), (1000, 1))
    tracemalloc.start()
    model.predict(old, block=8192)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6 + 20e6


def test_the_corrector_learns_online() -> None:
    model = make_drift("corrector")
    old, new = smooth_drift(500, seed=1)
    errors = []
    for step in range(300):
        model.observe(*smooth_drift(64, seed=100 + step))
        if step in (0, 299):
            errors.append(model.error(old, new))
    assert errors[1] < 0.5 * cosine_error(old, new)
    assert errors[1] < errors[0]


def test_unknown_models_and_options_are_errors() -> None:
    with pytest.raises(
        ValueError, match="no drift model is called 'wind'; there are stale, linear, nystrom, corrector"
    ):
        make_drift("wind")
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        make_drift("corrector", hidden=0)
    with pytest.raises(ValueError, match="learning_rate must be positive, got 0"):
        make_drift("corrector", learning_rate=0.0)
