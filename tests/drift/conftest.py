"""Encodings that move, and slow float64 twins of the models."""

from __future__ import annotations

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def smooth_drift(count: int, seed: int, amount: float = 0.5, dimension: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors before and after a smooth, not linear, motion that is the same for every seed."""
    generator = np.random.default_rng(99)
    turn, bend = generator.normal(size=(2, dimension, dimension)) / dimension**0.5
    old = unit(np.random.default_rng(seed).normal(size=(count, dimension)))
    return old, unit(old + amount * (np.tanh(2 * old @ turn) + np.sin(2 * old @ bend) ** 2))


def loose_drift(count: int, seed: int, scale: float = 1.0, dimension: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of any length before and after a linear motion that is the same for every seed."""
    generator = np.random.default_rng(5)
    turn = np.eye(dimension) + 0.1 * generator.normal(size=(dimension, dimension))
    old = scale * np.random.default_rng(seed).normal(size=(count, dimension))
    return old, old @ turn + 0.2 * scale


def naive_nystrom(
    old: np.ndarray, new: np.ndarray, others: np.ndarray, width: float, penalty: float, square: float = 1.0
) -> np.ndarray:
    """Kernel ridge regression with a free constant, by its normal equations and loops: ``(n, d)``, not normalised."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([[np.exp(-width * ((x - y) ** 2).sum() / (2 * square)) for y in b] for x in a])

    count = len(old)
    # [K + λI, 1; 1', 0] [c; b] = [M; 0]: the constant is not penalised
    system = np.zeros((count + 1, count + 1))
    system[:count, :count] = kernel(old, old) + penalty * np.eye(count)
    system[:count, count] = system[count, :count] = 1
    solution = np.linalg.solve(system, np.vstack([new - old, np.zeros(old.shape[1])]))
    return others + kernel(others, old) @ solution[:count] + solution[count]


def naive_linear(old: np.ndarray, new: np.ndarray, others: np.ndarray, penalty: float) -> np.ndarray:
    """Ridge regression by its normal equations, the penalty in units of the mean squared singular value."""
    centred, motion = old - old.mean(axis=0), new - old
    scale = (np.linalg.svd(centred, compute_uv=False) ** 2).mean()
    ridge = centred.T @ centred + penalty * scale * np.eye(old.shape[1])
    matrix = np.linalg.solve(ridge, centred.T @ (motion - motion.mean(axis=0)))
    return others + (others - old.mean(axis=0)) @ matrix + motion.mean(axis=0)
