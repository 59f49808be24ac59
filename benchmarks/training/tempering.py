"""What `hardwood.losses.tempering` does to the error of a batch's ``E_P[y]``, by the age of the encodings drawn with.

    python -m benchmarks.training.tempering        # seconds

The batches are those of its test, whose truth is known: 16 queries, two draws each, of 300 targets.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from hardwood import losses

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from test_losses import stale_batch

POWERS = (1.0, 0.75, 0.5, 0.25, 0.0)


def errors(seed: int, staleness: float) -> list[float]:
    """The mean squared error of ``E_P[y]`` over one batch, for each power of the importance ratio."""
    targets, scores, drawn, times, weights, truth = stale_batch(seed, staleness)
    some, found = scores[:, drawn], []
    for power in POWERS:
        tempered = weights + losses.tempering(some, weights, times, 2, power)
        estimate = (some + tempered).softmax(dim=1) @ targets[drawn]
        found.append(((estimate - truth) ** 2).sum(dim=1).mean().item())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=1000)
    batches = parser.parse_args().batches
    print("| how far targets moved | " + " | ".join(f"power {power:g}" for power in POWERS) + " |")
    print("|---" * (1 + len(POWERS)) + "|")
    for staleness in (0.0, 0.3, 0.6, 1.0, 2.0):
        mean = torch.tensor([errors(seed, staleness) for seed in range(batches)]).mean(dim=0).sqrt()
        print(f"| {staleness:g} | " + " | ".join(f"{value:.4f}" for value in mean.tolist()) + " |")


if __name__ == "__main__":
    main()
