"""Whether the dimensions that ``index_dimension`` keeps, found at the start, still fit when training has gone on.

    python -m benchmarks.training.basis                                       # static, HPO: a few minutes
    python -m benchmarks.training.basis --data data/medquad --encoder wordllama --learning-rate 0.05

One run with dynamic negatives at full width, in which the whole corpus is encoded after ``--start`` steps and each
interval later. Prints how much of the squared length of true encodings the kept dimensions lose, and the total
variation between the softmax of reduced scores and that of whole ones (exact, a step's own queries), with the
directions of the start and with those fitted anew; then for both what the map predicts that a refresh fits on the
landmarks, from the reduced encodings of the start: all that a refit in training would have.
"""

from __future__ import annotations

import argparse

import torch
from benchmarks.training.gradient_steps import LANDMARKS, add_options, recorded
from torch import Tensor

from hardwood.drift import NystromDrift
from hardwood.tree import Projection


def variation(queries: Tensor, whole: Tensor, reduced_queries: Tensor, reduced: Tensor, scale: float) -> float:
    """Mean total variation between two softmaxes over all targets."""
    true = torch.softmax(scale * queries @ whole.T, dim=1)
    return float((true - torch.softmax(scale * reduced_queries @ reduced.T, dim=1)).abs().sum(1).mean() / 2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, start=1, intervals=[50, 150, 300])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[32, 64, 128])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = recorded(arguments)
    begun = record.truth[arguments.start]
    random = torch.Generator().manual_seed(1)
    print("| kept | steps | directions | lost length | total variation |\n|---|---|---|---|---|")
    for dimension in arguments.dimensions:
        if dimension >= begun.shape[1]:
            continue
        first = Projection.fit(begun.numpy(), dimension)
        for steps in arguments.intervals:
            truth, last = record.truth[arguments.start + steps], record.steps[steps - 1]
            again = Projection.fit(truth.numpy(), dimension)
            some = torch.randperm(len(truth), generator=random)[:LANDMARKS]
            old = first(begun.numpy())
            for name, directions in {"of the start": first, "refitted": again}.items():
                reduced = torch.from_numpy(directions(truth.numpy()))
                queries = torch.from_numpy(directions(last.queries.numpy()))
                lost = 1 - float((reduced**2).sum() / (truth**2).sum())
                off = variation(last.queries, truth, queries, reduced, last.scale)
                print(f"| {dimension} | {steps} | {name} | {lost:.3f} | {off:.3f} |", flush=True)
            for name, directions in {"of the start": first, "refitted": again}.items():
                # All targets move as the landmarks did, from what is kept of them into either's directions.
                model = NystromDrift().fit(old[some], directions(truth[some].numpy()))
                queries = torch.from_numpy(directions(last.queries.numpy()))
                off = variation(last.queries, truth, queries, torch.from_numpy(model.predict(old)), last.scale)
                print(f"| {dimension} | {steps} | {name}, predicted from what is kept | – | {off:.3f} |", flush=True)


if __name__ == "__main__":
    main()
