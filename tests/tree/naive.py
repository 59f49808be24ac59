"""The slow, obviously right twins: plain NumPy in float64 over all targets."""

from __future__ import annotations

import numpy as np

from hardwood._ragged import RaggedRows


def scores(index, queries, scale):
    """``(B, n)`` scores over ``index.ids``, from the stored vectors and the queries as float32."""
    y = index.vectors(index.ids).astype(np.float64)
    x = np.asarray(queries, dtype=np.float32).astype(np.float64)
    if index.metric == "cosine":
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        x = (x / np.where(norms > 0, norms, 1)).astype(np.float32).astype(np.float64)
    return scale * (x @ y.T)


def hide(index, s, exclude):
    """Scores with each query's excluded ids at -inf."""
    s = s.copy()
    if exclude is not None:
        for b, ids in enumerate(exclude):
            s[b, np.isin(index.ids, ids)] = -np.inf
    return s


def log_sum_exp(s):
    """Over the last axis."""
    top = s.max(axis=-1, keepdims=True)
    return (np.log(np.exp(s - top).sum(axis=-1, keepdims=True)) + top)[..., 0]


def softmax(s):
    return np.exp(s - log_sum_exp(s)[..., None])


def expectation(index, queries, scale, exclude=None):
    p = softmax(hide(index, scores(index, queries, scale), exclude))
    return p @ index.vectors(index.ids).astype(np.float64)


def clusters(n, d, seed=0, spread=0.5):
    """Unit vectors in a hierarchy of clusters, float32."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 40), d))
    y = centres[rng.integers(0, len(centres), n)] + spread * rng.normal(size=(n, d))
    return (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)


def ragged(lists):
    """One list of ids a query, as the index takes them inside."""
    sizes = [len(part) for part in lists]
    return RaggedRows(np.concatenate([[0], np.cumsum(sizes)]), np.concatenate([*lists, []]).astype(np.int64))
