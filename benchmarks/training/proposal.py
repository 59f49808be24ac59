"""How good a run's draws are in mid-run, and what is to blame: the tree, its wear, or the age of its vectors.

    hardwood train data/taxa --negatives dynamic --batch-size 160 --num-negatives 2 --steps 1000
        --save-every 300 --output R               (one line; it may be stopped once the checkpoint is there)
    python -m benchmarks.training.proposal R/checkpoints/checkpoint-300 --data data/taxa

Batches of training queries, encoded by the checkpoint's model, draw from the checkpoint's tree, from a new tree of the
same vectors, and from a tree of the model's own encodings of all targets; the draws are weighed as in training. Against
the truth by brute force: log Z as the tree estimates it over its vectors; log Z and E_P[y] as the loss estimates them
over the model's encodings; and the draws' effective number.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from hardwood import TargetIndex, losses
from hardwood.data import RetrievalDataset
from hardwood.encoding import target_vectors

SCALE = 20.0


@dataclass
class Truth:
    """Queries of one batch ``x`` and the softmax over all targets as the model encodes them."""

    x: Tensor
    fresh: Tensor

    def __post_init__(self) -> None:
        self.scores = SCALE * self.x @ self.fresh.T
        self.log_z = torch.logsumexp(self.scores, dim=1)
        self.mean = (self.scores - self.log_z[:, None]).exp() @ self.fresh


def measure(index: Any, stored: Tensor, batches: list[Truth], k: int, probes: int) -> list[float]:
    """Mean and deviation of the tree's error of log Z over ``stored``, the same of the loss's estimate, the median
    effective number of draws, and the mean error of E_P[y]."""
    of_tree, of_loss, effective, errors = [], [], [], []
    for seed, truth in enumerate(batches):
        scores = SCALE * truth.x @ stored.T
        draw = index.sample(truth.x, k, scale=SCALE, probes=probes, seed=seed)
        drawn = torch.unique(draw.ids)
        columns = torch.searchsorted(drawn, draw.ids)
        log_weights = losses.shared_log_weights(columns, draw.log_weights, scores[:, drawn] - draw.log_z[:, None])
        weighted = truth.scores[:, drawn] + log_weights
        log_z = torch.logsumexp(weighted, dim=1)
        p = (weighted - log_z[:, None]).exp()
        of_tree.append(draw.log_z - torch.logsumexp(scores, dim=1))
        of_loss.append(log_z - truth.log_z)
        effective.append(1 / p.square().sum(dim=1))
        errors.append((p @ truth.fresh[drawn] - truth.mean).norm(dim=1))
    tree, loss = torch.cat(of_tree), torch.cat(of_loss)
    numbers = [
        tree.mean(),
        tree.std(),
        loss.mean(),
        loss.std(),
        torch.cat(effective).median(),
        torch.cat(errors).mean(),
    ]
    return [float(number) for number in numbers]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=160)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--num-negatives", type=int, default=2)
    parser.add_argument("--probes", type=int, nargs="+", default=[32, 128, 512])
    arguments = parser.parse_args()
    data = RetrievalDataset.load(arguments.data)
    model = SentenceTransformer(str(arguments.checkpoint), device="cpu")
    index = TargetIndex.load(next(arguments.checkpoint.rglob("index")), mmap=False)
    stored = torch.from_numpy(index.vectors(np.arange(len(index))))
    fresh = torch.from_numpy(target_vectors(model, data.corpus, similarity="cosine", progress=False))
    cosine = torch.cosine_similarity(stored, fresh)
    print(f"cosine error of the tree's vectors: {1 - float(cosine.mean()):.3f}")
    state = load_file(next(arguments.checkpoint.rglob("source.safetensors")))
    first = state["period"] == 0
    known = torch.cosine_similarity(state["encodings"][first].float(), fresh[first])
    print(
        f"targets never encoded again: {float(first.float().mean()):.2f} of all, cosine of the fresh encoding with the"
    )
    print(f"last true one {float(known.mean()):.3f}, with the tree's {float(cosine[first].mean()):.3f}\n")
    count = arguments.batch_size * arguments.batches
    rows = np.random.default_rng(0).choice(data.training_pairs()["label"], count, replace=False)[:, 0]
    queries = model.encode(data.queries.texts(rows), normalize_embeddings=True, convert_to_tensor=True)
    batches = [Truth(x, fresh) for x in queries.float().split(arguments.batch_size)]
    build = {"leaf_size": 64, "progress": False}
    trees = {
        "the run's": (index, stored),
        "new, of the same vectors": (TargetIndex.build(stored.numpy(), **build), stored),
        "new, of the model's encodings": (TargetIndex.build(fresh.numpy(), **build), fresh),
    }
    print("| tree | probes | log Z of the tree | of the loss | effective draws | error of E_P[y] |")
    print("|---|---|---|---|---|---|")
    for name, (tree, vectors) in trees.items():
        for probes in arguments.probes:
            m = measure(tree, vectors, batches, arguments.num_negatives, probes)
            print(
                f"| {name} | {probes} | {m[0]:+.3f} ± {m[1]:.3f} | {m[2]:+.3f} ± {m[3]:.3f} | {m[4]:.1f} | {m[5]:.3f} |"
            )


if __name__ == "__main__":
    main()
