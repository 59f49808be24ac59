"""How far is what V trees draw from off the softmax, by the number of shards and the leaves opened in each?

    python -m benchmarks.processes.shards --data hpo --encoder wordllama     # two minutes on one core
    python -m benchmarks.processes.shards --data hpo --encoder RUN/model     # the encodings of a trained model

The dynamic source divided into V shards, all of them in one process, with the encodings of every target as they are:
nothing is stale. Total variation between the proposal, with every target's probability exact, and the softmax over what
each training query may be given, in the loss's own prior; mean over the queries. *By default* marks what
`DynamicNegatives.for_shard` opens where 128 leaves are asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from benchmarks._models import folder_of
from benchmarks._report import finish, parser, set_threads, timed
from benchmarks._study import data_folder

from hardwood import CorpusSoftmaxLoss
from hardwood.data import RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.encoding import query_vectors
from hardwood.negatives import Cost, Draw, DynamicNegatives, Request
from hardwood.negatives.sharded import ShardedNegatives
from hardwood.ranks import Ranks

SCALE, DRAWS = 20.0, 8


class ExactlyKnown(DynamicNegatives):
    """The dynamic source, whose `log_proposal` has every target's true probability, at the cost of brute force."""

    def for_shard(self, number: int, num_shards: int) -> ExactlyKnown:
        shard = super().for_shard(number, num_shards)
        return ExactlyKnown(probes=shard.probes, leaf_size=shard.leaf_size)

    def log_proposal(self, request: Request, draw: Draw, ids: torch.Tensor) -> torch.Tensor:
        found = self._built().log_proposal(
            request.queries, ids.numpy(), scale=request.scale, exclude=draw.exclude, probes=self.probes
        )
        return found.float()


class Encoded:
    """Targets that are encoded once and for all. (`hardwood.negatives.Targets`)"""

    has_dropout = False

    def __init__(self, vectors: torch.Tensor, log_prior: Any) -> None:
        self.vectors, self.log_prior = vectors, log_prior
        self.num_targets, self.dimension = vectors.shape
        self.device = torch.device("cpu")

    def encode(self, rows: torch.Tensor | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for block in (torch.arange(self.num_targets) if rows is None else rows).split(4096):
            yield block, self.vectors[block]


def main() -> None:
    arguments = options()
    set_threads(arguments.threads)
    targets, request = question(arguments)
    truth = softmax(targets, request)
    rows = []
    for num_shards in arguments.shards:
        source = ShardedNegatives(ExactlyKnown(leaf_size=arguments.leaf_size), Ranks.alone(), num_shards)
        source.attach(targets, Cost())
        source.begin_step(0)
        by_default = source._shards[0].probes
        leaves = [len(shard.tree().leaves()) for shard in source._shards]  # type: ignore[union-attr]
        for probes in sorted({*arguments.probes, by_default}):
            for shard in source._shards:
                shard.probes = probes
            source.sample(request)  # warm
            seconds, draw = timed(lambda source=source: source.sample(request))
            proposal = source.log_proposal(request, draw, torch.arange(targets.num_targets)).double().exp()
            off = (proposal - truth).abs().sum(dim=1) / 2
            rows.append(
                {
                    "shards": num_shards,
                    "probes a shard": probes,
                    "by default": "yes" if probes == by_default else "",
                    "leaves opened": sum(min(probes, count) for count in leaves),
                    "of all": sum(min(probes, count) for count in leaves) / sum(leaves),
                    "total variation": float(off.mean()),
                    "its 95th percentile": float(off.quantile(0.95)),
                    "sum of probabilities": float(proposal.sum(dim=1).mean()),
                    "ms a query, all shards": 1e3 * seconds / len(off),
                }
            )
            print(rows[-1], flush=True)
    finish(arguments, "shards", rows, targets=targets.num_targets, queries=len(request.queries))


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--data", default="hpo")
    made.add_argument("--encoder", default="wordllama", help="wordllama, minilm, or a folder")
    made.add_argument("--queries", type=int, default=200, help="of the training split")
    made.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4, 8])
    made.add_argument("--probes", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    made.add_argument("--leaf-size", type=int, default=DynamicNegatives().leaf_size)
    return made.parse_args()


def question(arguments: argparse.Namespace) -> tuple[Encoded, Request]:
    """The corpus, encoded, and some training queries with what they must not be given."""
    data = RetrievalDataset.load(data_folder(arguments.data))
    model = load_encoder(folder_of(arguments.encoder), data, device="cpu")
    loss = CorpusSoftmaxLoss(model, data, scale=SCALE)
    vectors = torch.empty(loss.targets.num_targets, loss.targets.dimension)
    for block, encoded in loss.targets.encode():
        vectors[block] = encoded
    pairs = np.asarray(data.training_pairs()["label"])
    pairs = pairs[np.random.default_rng(arguments.seed).permutation(len(pairs))[: arguments.queries]]
    known = data.never_negatives("train").take(pairs[:, 0])
    queries = torch.from_numpy(np.asarray(query_vectors(model, data.queries, pairs[:, 0], block=256))).float()
    queries, positives = torch.nn.functional.normalize(queries, dim=1), torch.from_numpy(pairs[:, 1])
    return Encoded(vectors, loss.targets.log_prior), Request(
        queries, positives, DRAWS, SCALE, known, seed=arguments.seed
    )


def softmax(targets: Encoded, request: Request) -> torch.Tensor:
    """``(B, n)`` float64: what an exact source would draw from."""
    scores = request.scale * request.queries.double() @ targets.vectors.double().T
    if targets.log_prior is not None:
        scores += torch.from_numpy(targets.log_prior).double()
    scores[request.exclude.row_ids(), request.exclude.values] = -torch.inf
    return torch.softmax(scores, dim=1)


if __name__ == "__main__":
    main()
