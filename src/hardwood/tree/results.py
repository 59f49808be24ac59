"""What the index returns: plain tuples of arrays (torch tensors when the queries were)."""

from __future__ import annotations

from typing import Any, NamedTuple


class Draw(NamedTuple):
    """Targets drawn for each query.

    Attributes:
        ids: ``(B, k)`` int64.
        log_q: ``(B, k)`` float64, the log probability that one draw for this query gives this target.
        scores: ``(B, k)`` float64, ``s = scale · x·y`` with the stored vectors.
        log_weights: ``(B, k)`` float64: ``Σ_j exp(s_j + log_weights_j)`` has mean ``Z``. With replacement
            ``-log k - log_q``; without, the inverse inclusion probabilities of Kool, van Hoof and Welling
            2019.
        log_z: ``(B,)`` float64, the estimate ``log Ẑ`` over all targets that are not excluded.
        log_z_lower, log_z_upper: ``(B,)`` float64, certified bounds of the true ``log Z``.
    """

    ids: Any
    log_q: Any
    scores: Any
    log_weights: Any
    log_z: Any
    log_z_lower: Any
    log_z_upper: Any


class Hits(NamedTuple):
    """The best targets found for each query, best first.

    Attributes:
        ids: ``(B, k)`` int64, -1 where the opened leaves hold fewer than ``k`` targets.
        scores: ``(B, k)`` float64, inner products with the stored vectors, -inf beside id -1.
    """

    ids: Any
    scores: Any


class LogPartition(NamedTuple):
    """``log Z`` of each query.

    Attributes:
        estimate, lower, upper: ``(B,)`` float64; the true value lies within the last two.
        opened: ``(B,)`` int64, leaves scored exactly.
        converged: ``(B,)`` bool, whether ``upper - lower <= tolerance``; where False ``probes`` leaves were
            opened first (or what float32 scores can certify did).
    """

    estimate: Any
    lower: Any
    upper: Any
    opened: Any
    converged: Any
