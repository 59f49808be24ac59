"""What is written back of encodings that dropout has made noisy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardwood.negatives.dynamic.noise import settled

DIMENSION = 96


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def _noisy(truth: np.ndarray, noise: float, generator: np.random.Generator) -> np.ndarray:
    """Unit vectors with a mean cosine of about ``1 - noise`` to the unit vectors ``truth``."""
    spread = np.sqrt((1 / (1 - noise) ** 2 - 1) / DIMENSION)
    return _unit(truth + spread * generator.standard_normal(truth.shape))


def _error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(1 - np.einsum("md,md->m", _unit(found), truth).mean())


def test_what_does_not_move_is_not_made_noisy() -> None:
    """40 write-backs with a noise of 0.05 leave a tenth of it; each by itself would leave all."""
    generator = np.random.default_rng(0)
    truth = _unit(generator.standard_normal((200, DIMENSION)))
    stored = truth.copy()
    for _ in range(40):
        stored = settled(stored, _noisy(truth, 0.05, generator), 0.05)
    assert _error(_noisy(truth, 0.05, generator), truth) == pytest.approx(0.05, rel=0.1)
    assert _error(stored, truth) < 0.006


def test_what_moves_is_followed() -> None:
    """Targets that turn by 0.02 between two encodings: nearer than by keeping, and than by replacing."""
    generator = np.random.default_rng(1)
    truth = _unit(generator.standard_normal((200, DIMENSION)))
    kept, replaced, found = truth.copy(), truth.copy(), truth.copy()
    direction = _unit(generator.standard_normal(truth.shape))
    for _ in range(20):
        truth = _unit(truth + 0.2 * direction)
        replaced = _noisy(truth, 0.05, generator)
        found = settled(found, replaced, 0.05)
    assert _error(found, truth) < 0.75 * _error(replaced, truth) < _error(kept, truth)


def test_what_is_far_off_is_replaced() -> None:
    generator = np.random.default_rng(2)
    stored, fresh = (_unit(generator.standard_normal((50, DIMENSION))) for _ in range(2))
    assert _error(settled(stored, fresh, 0.05), fresh) < 0.005
    assert settled(stored, fresh, 0.0) is fresh


@given(
    lengths=st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)),
    angle=st.floats(0, np.pi),
    noise=st.floats(1e-4, 1.5),
)
def test_between_the_two(lengths: tuple[float, float], angle: float, noise: float) -> None:
    stored = np.array([[lengths[0], 0.0]], dtype=np.float32)
    fresh = (lengths[1] * np.array([[np.cos(angle), np.sin(angle)]])).astype(np.float32)
    found = settled(stored, fresh, noise)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert min(lengths) * (1 - 1e-4) - 1e-6 <= np.linalg.norm(found) <= max(lengths) * (1 + 1e-4) + 1e-6
    if min(lengths) > 1e-3 and 1 - np.cos(angle) < 0.99 * noise:
        np.testing.assert_allclose(found, stored, rtol=1e-4, atol=1e-6)
