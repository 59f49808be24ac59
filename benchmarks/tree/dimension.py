"""How well draws from fewer dimensions stand for the softmax over all of them, by map and by number.

    python -m benchmarks.tree.dimension --data hpo --encoder minilm

Encodes a corpus and some training queries once, without training. For each map and each number of dimensions it prints,
as means over the queries, the total variation between the softmax of reduced scores and that of whole ones, and the
effective sample size (Kish, 1965) of eight draws from the first that are weighed for the second, as a share of eight.
No tree is involved: both softmaxes are exact. The maps are

- *principal*: the leading directions of the targets (`hardwood.tree.Projection`);
- *weighted by queries*: the bilinear form of each rank that is nearest to the inner product for these queries and
  targets, the best that any linear map can do for them;
- *Nyström*: the span of as many targets chosen at random (Monath et al., AISTATS 2023, with the linear kernel);
- *first*: the model's first dimensions, which mean something for a Matryoshka model.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from benchmarks._models import folder_of
from benchmarks._study import data_folder
from numpy.typing import NDArray

from hardwood.data import RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.encoding import query_vectors, target_vectors
from hardwood.tree.arrays.projection import Projection

DRAWS, EFFECTIVE_RUNS, BLOCK = 8, 32, 50
FITTED = 2000
"""Queries that maps are fitted on, others than those that they are measured on."""
Floats = NDArray[Any]


def maps(
    targets: Floats, queries: Floats, dimension: int, rng: np.random.Generator
) -> dict[str, tuple[Floats, Floats]]:
    """For queries and for targets, matrices ``(d, m)``, by name."""
    d = targets.shape[1]
    principal = Projection.fit(targets, dimension).matrix.T.astype(np.float64)
    moments = [vectors.T.astype(np.float64) @ vectors / len(vectors) for vectors in (queries, targets)]
    weighted = bilinear(moments[0], moments[1], dimension)
    mixed = bilinear(moments[0] / 2 + moments[1] / 2, moments[1], dimension)
    span = np.linalg.qr(targets[rng.choice(len(targets), dimension, replace=False)].T.astype(np.float64))[0]
    first = np.eye(d)[:, :dimension]
    return {
        "principal": (principal, principal),
        "weighted by queries": weighted,
        "weighted by both": mixed,
        "Nyström": (span, span),
        "first": (first, first),
    }


def bilinear(of_queries: Floats, of_targets: Floats, dimension: int) -> tuple[Floats, Floats]:
    """The maps for which ``E (x A B^T y - x y)^2`` is least, for second moments ``(d, d)`` of x and of y."""
    roots = []
    for moments in (of_queries, of_targets):
        values, directions = np.linalg.eigh(moments)
        values = np.sqrt(np.maximum(values, values[-1] * 1e-6))
        roots.append(((directions * values) @ directions.T, (directions / values) @ directions.T))
    left, singular, right = np.linalg.svd(roots[0][0] @ roots[1][0])
    half = np.sqrt(singular[:dimension])
    return roots[0][1] @ left[:, :dimension] * half, roots[1][1] @ right[:dimension].T * half


def measured(
    targets: Floats, queries: Floats, of_queries: Floats, of_targets: Floats, scale: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Total variation, and effective share."""
    variations, shares = [], []
    reduced = targets @ of_targets.astype(np.float32)
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        whole = softmax(scale * (block @ targets.T))
        drawn_from = softmax(scale * ((block @ of_queries.astype(np.float32)) @ reduced.T))
        variations += (np.abs(whole - drawn_from).sum(axis=1) / 2).tolist()
        steps = np.cumsum(drawn_from, axis=1)
        for row in range(len(block)):
            at = np.searchsorted(steps[row], rng.random((EFFECTIVE_RUNS, DRAWS)) * steps[row, -1])
            at = np.minimum(at, len(targets) - 1)
            weights = whole[row, at] / np.maximum(drawn_from[row, at], 1e-300)
            shares.append(float((weights.sum(1) ** 2 / (weights**2).sum(1)).mean()) / DRAWS)
    return float(np.mean(variations)), float(np.mean(shares))


def softmax(scores: Floats) -> Floats:
    mass = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return mass / mass.sum(axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hpo", help="hpo, taxa or a BEIR folder")
    parser.add_argument("--encoder", default="wordllama", help="wordllama, minilm or a folder")
    parser.add_argument("--dimensions", nargs="+", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--targets", type=int, default=20_000, help="at most, a seeded choice")
    parser.add_argument("--scale", type=float, default=20.0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    dataset = RetrievalDataset.load(data_folder(arguments.data))
    model = load_encoder(folder_of(arguments.encoder))

    def some(count: int, among: Any) -> Any:
        return np.sort(rng.choice(among, min(count, len(among)), replace=False))

    targets = target_vectors(model, dataset.corpus, some(arguments.targets, np.arange(len(dataset.corpus))))
    both = query_vectors(
        model, dataset.queries, rng.permutation(dataset.split("train").queries)[: arguments.queries + FITTED]
    )
    queries, others = both[: arguments.queries], both[arguments.queries :]
    print(f"{len(targets):,} targets in {targets.shape[1]} dimensions, {len(queries)} queries, scale {arguments.scale}")
    print("| map | dimensions | length kept | total variation | effective draws |\n|---|---|---|---|---|")
    for dimension in arguments.dimensions:
        for name, (of_queries, of_targets) in maps(targets, others, dimension, rng).items():
            found = measured(targets, queries, of_queries, of_targets, arguments.scale, rng)
            kept = (
                f"{np.square(targets @ of_targets).sum() / np.square(targets).sum():.3f}" if "by" not in name else "–"
            )
            print(f"| {name} | {dimension} | {kept} | {found[0]:.3f} | {found[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
