"""What is particular to each model: naive twins, interpolation, the choice of settings, learning online."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hardwood.drift import CorrectorDrift, IllConditionedWarning, LinearDrift, NystromDrift, cosine_error, make_drift
from hardwood.drift import kernel as kernel_module
from hardwood.drift import linear as linear_module
from hardwood.drift._arrays import on_the_sphere

from .conftest import loose_drift, naive_linear, naive_nystrom, smooth_drift, unit


@pytest.mark.parametrize("penalty", [None, 1e-4, 1.0])
def test_linear_is_its_naive_twin(penalty: float | None) -> None:
    old, new = smooth_drift(80, seed=2)
    model = LinearDrift(penalty=penalty).fit(old, new)
    assert penalty is None or model.chosen == {"penalty": penalty}
    others = smooth_drift(30, seed=3)[0]
    expected = unit(naive_linear(old, new, others, model.chosen["penalty"]))
    np.testing.assert_allclose(model.predict(others), expected, atol=1e-6)


@pytest.mark.parametrize(("width", "penalty"), [(None, None), (1.0, 0.1), (3.0, 1e-5), (0.01, 1e-3)])
def test_nystrom_is_its_naive_twin(width: float | None, penalty: float | None) -> None:
    old, new = smooth_drift(80, seed=2)
    model = NystromDrift(width=width, penalty=penalty).fit(old, new)
    others = smooth_drift(30, seed=3)[0]
    expected = unit(naive_nystrom(old, new, others, **model.chosen))
    np.testing.assert_allclose(model.predict(others), expected, atol=5e-6)


def test_nystrom_of_any_length_is_its_naive_twin() -> None:
    old, new = loose_drift(50, seed=2, scale=7.0)
    old, new = old + 100, new + 100  # far from the origin, distances cancel
    model = NystromDrift(width=1.0, penalty=0.01).fit(old, new)
    others = loose_drift(30, seed=3, scale=7.0)[0] + 100
    square = ((old - old.mean(axis=0)) ** 2).sum(axis=1).mean()
    expected = naive_nystrom(old, new, others, 1.0, 0.01, square)
    np.testing.assert_allclose(model.predict(others), expected, rtol=1e-5)


def test_a_penalty_of_zero_passes_through_every_landmark() -> None:
    old, new = smooth_drift(60, seed=0)
    np.testing.assert_allclose(NystromDrift(width=2.0, penalty=0.0).fit(old, new).predict(old), new, atol=1e-6)
    near = NystromDrift(width=2.0, penalty=1e-7).fit(old, new).predict(old)
    far = NystromDrift(width=2.0, penalty=1.0).fit(old, new).predict(old)
    np.testing.assert_allclose(near, new, atol=1e-3)
    assert np.abs(far - new).max() > 0.05


def test_linear_is_exact_at_full_rank_and_not_below() -> None:
    others, true = loose_drift(40, seed=1)
    exact = LinearDrift(penalty=0.0).fit(*loose_drift(7, seed=0)).predict(others)  # 6 dimensions and a constant
    np.testing.assert_allclose(exact, true, atol=1e-5)
    assert np.abs(LinearDrift(penalty=0.0).fit(*loose_drift(6, seed=0)).predict(others) - true).max() > 1e-2


def test_coinciding_landmarks_without_a_penalty_are_a_typed_warning_not_a_crash() -> None:
    old, new = smooth_drift(30, seed=0)
    old, new = np.vstack([old, old]), np.vstack([new, new[::-1]])  # the same places, other motions
    with pytest.warns(IllConditionedWarning, match="30 of 60 landmarks say nothing that the others don't"):
        model = NystromDrift(width=2.0, penalty=0.0, normalize=False).fit(old, new)
    np.testing.assert_allclose(model.predict(old), (new + np.roll(new, 30, axis=0)) / 2, atol=1e-5)
    with pytest.warns(IllConditionedWarning):
        NystromDrift(width=1e-12, penalty=0.0).fit(*smooth_drift(30, seed=0))
    assert np.isfinite(NystromDrift().fit(old, new).predict(old)).all()  # chosen, it needs no warning


def test_left_out_residuals_are_those_of_refitting_without_each_landmark() -> None:
    old, new = smooth_drift(25, seed=4)
    found = kernel_module._left_out(torch.from_numpy(old), torch.from_numpy(new - old), 2.0, (1e-3, 0.3))
    assert [penalty for penalty, _ in found] == [1e-3, 0.3]
    for penalty, residual in found:
        for row in range(25):
            rest = np.arange(25) != row
            predicted = naive_nystrom(old[rest], new[rest], old[row : row + 1], 2.0, penalty)[0]
            np.testing.assert_allclose(residual[row].numpy(), new[row] - predicted, atol=1e-9)


def test_linear_left_out_residuals_are_those_of_refitting_without_each_landmark() -> None:
    old, new = smooth_drift(25, seed=4)
    left, values, _ = np.linalg.svd(old - old.mean(axis=0), full_matrices=False)
    for ridge in (1e-6, 0.5):
        arrays = (torch.from_numpy(array) for array in (new - old, left, values**2))
        residual = linear_module._left_out(*arrays, ridge)
        assert residual is not None
        for row in range(25):
            rest = np.arange(25) != row
            scale = (np.linalg.svd(old[rest] - old[rest].mean(axis=0), compute_uv=False) ** 2).mean()
            predicted = naive_linear(old[rest], new[rest], old[row : row + 1], ridge / scale)[0]
            np.testing.assert_allclose(residual[row].numpy(), new[row] - predicted, atol=1e-9)


def test_linear_does_not_choose_what_it_cannot_judge() -> None:
    # Ten landmarks in 72 dimensions: without a penalty every landmark is fitted exactly, however wrong the map.
    old, new = (np.tile(array, (1, 9)) / 3 for array in smooth_drift(10, seed=4))
    new += 0.1 * np.random.default_rng(0).normal(size=new.shape)
    old += 0.1 * np.random.default_rng(1).normal(size=new.shape)
    left, values, _ = np.linalg.svd(old - old.mean(axis=0), full_matrices=False)
    arrays = [torch.from_numpy(array) for array in (new - old, left, values**2)]
    assert linear_module._left_out(*arrays, 0.0) is None
    assert linear_module._left_out(*arrays, 0.1) is not None
    assert LinearDrift().fit(old, new).chosen["penalty"] >= 1e-3


def test_a_prediction_without_direction_leaves_what_is_stored() -> None:
    stored = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    projected = on_the_sphere(torch.tensor([[0.0, 0.0], [0.0, 3.0]]), stored)
    assert projected.tolist() == [pytest.approx([0.6, 0.8]), [0.0, 1.0]]


def test_the_corrector_is_its_plain_torch_twin() -> None:
    model = CorrectorDrift(hidden=16)
    old, new = (torch.from_numpy(array).float() for array in smooth_drift(40, seed=0))
    model.observe(old, old)  # predicts no motion and sees none: the weights are the first ones
    first = model.state_dict()
    network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8))
    with torch.no_grad():
        for parameter, key in zip(
            network.parameters(), ("weight_in", "bias_in", "weight_out", "bias_out"), strict=True
        ):
            parameter.copy_(first[key])
    optimizer = torch.optim.AdamW(network.parameters(), lr=model.learning_rate, weight_decay=model.weight_decay)
    scale = float(old.square().mean().sqrt())
    model = CorrectorDrift(hidden=16)
    model.load_state_dict({**first, "steps": torch.zeros(())})  # as if it had not stepped yet
    for _ in range(5):
        model.observe(old, new)
        loss = (network(old / scale) - (new - old) / scale).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        expected = unit((old + scale * network(old / scale)).numpy())
    np.testing.assert_allclose(model.predict(old).numpy(), expected, atol=1e-6)
    assert np.abs(expected - old.numpy()).max() > 1e-3


def test_chosen_settings_follow_the_data() -> None:
    old, new = smooth_drift(200, seed=0)
    noisy = unit(new + 0.5 * np.random.default_rng(1).normal(size=new.shape))
    clean_settings, noisy_settings = (NystromDrift().fit(old, moved).chosen for moved in (new, noisy))
    assert noisy_settings["penalty"] > 100 * clean_settings["penalty"]
    fixed = NystromDrift(width=0.3).fit(old, new).chosen
    assert fixed["width"] == 0.3
    others, true = smooth_drift(300, seed=5)
    best = NystromDrift().fit(old, new).error(others, true).cosine
    grid = [
        NystromDrift(width=width, penalty=penalty).fit(old, new).error(others, true).cosine
        for width in kernel_module.WIDTHS
        for penalty in (1e-4, 1e-2, 1.0)
    ]
    assert best <= 1.2 * min(grid)
    assert max(grid) > 2 * best


def test_settings_are_chosen_on_a_part_of_many_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = []
    left_out = kernel_module._left_out
    monkeypatch.setattr(kernel_module, "CHOOSE_ON", 50)
    monkeypatch.setattr(kernel_module, "_left_out", lambda *a: largest.append(len(a[0])) or left_out(*a))
    model = NystromDrift().fit(*smooth_drift(300, seed=0))
    assert set(largest) == {50}
    assert len(model.state_dict()["landmarks"]) == 300


def test_large_coefficients_keep_float64() -> None:
    old, new = smooth_drift(100, seed=0)
    assert NystromDrift(width=2.0, penalty=1.0).fit(old, new).state_dict()["coefficients"].dtype == torch.float32
    model = NystromDrift(width=0.01, penalty=1e-9).fit(old, new)
    assert model.state_dict()["coefficients"].dtype == torch.float64
    others = smooth_drift(50, seed=1)[0]
    np.testing.assert_allclose(model.predict(others), unit(naive_nystrom(old, new, others, 0.01, 1e-9)), atol=1e-5)


def test_the_corrector_learns_online_and_resumes() -> None:
    model, resumed = CorrectorDrift(), CorrectorDrift()
    old, new = smooth_drift(500, seed=1)
    errors = []
    for step in range(300):
        if step == 150:
            resumed.load_state_dict(model.state_dict())
        model.observe(*smooth_drift(64, seed=100 + step))
        if step >= 150:
            resumed.observe(*smooth_drift(64, seed=100 + step))
        if step in (0, 299):
            errors.append(model.error(old, new).cosine)
    assert errors[1] < 0.3 * cosine_error(old, new)
    assert errors[1] < errors[0]
    assert np.array_equal(model.predict(old), resumed.predict(old))
    model.observe(old[:0], new[:0])
    assert np.array_equal(model.predict(old), resumed.predict(old))


def test_the_corrector_does_nothing_rather_than_harm() -> None:
    generator = np.random.default_rng(0)
    old = unit(generator.normal(size=(60, 32)))
    new = unit(old + generator.normal(size=(60, 32)) / 32**0.5)  # nothing to learn
    others = unit(generator.normal(size=(20, 32))).astype(np.float32)
    np.testing.assert_allclose(CorrectorDrift().fit(old, new).predict(others), others, atol=1e-6)
    few = CorrectorDrift().fit(*(array[:9] for array in smooth_drift(60, seed=0)))
    others = smooth_drift(20, seed=1)[0].astype(np.float32)
    np.testing.assert_allclose(few.predict(others), others, atol=1e-6)


def test_a_seed_decides_what_the_corrector_learns() -> None:
    others = smooth_drift(20, seed=1)[0]
    first, again, other = (
        make_drift("corrector", seed=seed).fit(*smooth_drift(60, seed=0)).predict(others) for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_corrector_that_diverges_says_so_and_stays_as_it_was() -> None:
    old, new = smooth_drift(60, seed=0)
    model = CorrectorDrift(learning_rate=1e30)
    model.observe(old, new)  # weights of 1e30 are finite; what they predict is not
    with pytest.raises(ValueError, match=r"diverged with learning_rate 1e\+30: give a smaller one"):
        model.observe(old, new)
    assert np.isfinite(model.state_dict()["weight_in"].numpy()).all()
    model = CorrectorDrift().fit(old, new)
    before = model.predict(old)
    with pytest.raises(ValueError, match="has learnt in 8 dimensions and goes on from there"):
        model.fit(old[:, :3], new[:, :3])
    assert np.array_equal(model.predict(old), before)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear", {"penalty": -1.0}, "penalty must be 0 or more and finite, or None to choose it, got -1.0"),
        ("nystrom", {"penalty": float("nan")}, "penalty must be 0 or more and finite, or None to choose it, got nan"),
        ("nystrom", {"width": 0.0}, "width must be positive and finite, or None to choose it, got 0.0"),
        ("corrector", {"hidden": 0}, "hidden must be at least 1, got 0"),
        ("corrector", {"epochs": 0}, "epochs must be at least 1, got 0"),
        ("corrector", {"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0"),
        ("corrector", {"weight_decay": -0.1}, "weight_decay must be 0 or more and finite, got -0.1"),
    ],
)
def test_options_out_of_range_are_errors(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_drift(name, **options)


def test_nystrom_predicts_doubles_in_doubles() -> None:
    """Else products that the device rounds (TensorFloat32) could not be got round by asking in float64."""
    generator = torch.Generator().manual_seed(0)
    old = torch.nn.functional.normalize(torch.randn(300, 64, generator=generator, dtype=torch.float64), dim=1)
    new = torch.nn.functional.normalize(old + 0.3 * old.roll(1, dims=1), dim=1)
    model = NystromDrift(normalize=False).fit(old[:200], new[:200])
    state = {key: value.double() for key, value in model.state_dict().items()}
    assert model.state_dict()["coefficients"].dtype == torch.float32
    width, _, square = state["chosen"].tolist()
    points = (old[200:] - state["mean"]) / square**0.5
    kernel = torch.exp(-width / 2 * torch.cdist(points, state["landmarks"]) ** 2)
    expected = old[200:] + state["shift"] + kernel @ state["coefficients"]
    rounding = expected.abs().max() * 2**-24  # predictions are given in float32
    assert (model.predict(old[200:]).double() - expected).abs().max() <= rounding
    assert (model.predict(old[200:].float()).double() - expected).abs().max() > rounding
