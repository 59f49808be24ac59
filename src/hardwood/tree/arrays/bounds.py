"""What a node's statistics prove about its targets' mass, rounded outward so that it stays true in floating
point.

For a node with ``m`` targets, mean ``μ``, covering radius ``r`` and largest norm ``ρ``, and a query of norm
``‖x‖`` with ``β`` the scale,

    log m + β x·μ  <=  log Σ_y exp(β x·y)  <=  log m + β min(x·μ + ‖x‖ r, ‖x‖ ρ)

(left: Jensen's inequality; right: Cauchy and Schwarz). Kernels score with the unit query ``x̂`` and ``beta_norm =
β‖x‖``, so a float32 dot product of ``d`` terms, summed in any order, errs by at most ``γ ρ`` with ``γ`` from
`rounding` (Higham 2002, §3.1).
"""

from __future__ import annotations

from hardwood.tree.compiled.numeric import inlined

# Columns of a node's statistics. The logarithm of the count is kept to spare every query its own.
RADIUS, REACH, SPREAD, LOG_COUNT = 0, 1, 2, 3

# Every sum of exponentials adds float32 terms of about 6e-6 relative error (argument and value) in float64.
SUM_ERROR = 1e-5
# Radii and norms are computed in float64 from float32 numbers; this covers d <= 4096 terms with room to
# spare.
OUTWARD = 1.0 + 1e-11


def rounding(dimension: int) -> float:
    """``γ``: a bound of the relative error of a float32 score ``x̂·y``, over ``‖y‖``, with the roundings of
    ``x̂`` and ``μ`` in it."""
    return (dimension + 8) * 2.0**-24 * 1.01


# What underflow can cost a dot product of at most 4096 terms.
TINY = 4096 * 1.2e-38


@inlined
def score_error(beta_norm, reach, gamma):  # type: ignore[no-untyped-def]
    """How far a computed score ``beta_norm x̂·y`` of any target within ``reach`` of zero may be from the true
    one."""
    return beta_norm * (gamma * reach + TINY)


@inlined
def mass_lower(log_count, score, error):  # type: ignore[no-untyped-def]
    """The certified lower bound of a node's log mass, from its mean's score."""
    return log_count + score - error - 1e-14 * abs(score)


@inlined
def mass_upper(log_count, score, error, beta_norm, radius, reach):  # type: ignore[no-untyped-def]
    """The certified upper bound of a node's log mass, from its mean's score, its radius and its largest
    norm."""
    best = min(score + beta_norm * radius, beta_norm * reach)
    return log_count + best + error + 1e-14 * (abs(score) + beta_norm * reach)


@inlined
def mass_estimate(log_count, score, beta_norm, radius, reach, spread, shape):  # type: ignore[no-untyped-def]
    """``log m + βx·μ + ½ β² x'Σx`` kept within what the bounds allow.

    ``x'Σx`` is the node's mean squared distance from its mean (``spread``) times ``shape``: the share of it
    that lies along the query, from one covariance shape pooled over all nodes of a level.
    """
    ball, longest = score + beta_norm * radius, beta_norm * reach
    second = score + 0.5 * beta_norm * beta_norm * spread * shape
    best = ball if ball < longest else longest
    second = second if second < best else best
    return log_count + (second if second > score else score)
