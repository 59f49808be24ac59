"""A transformer's training step with each batch padded to its longest text, against pieces of like length.

    python -m benchmarks.training.padding                          # MiniLM, 32 pairs of HPO, two draws a query
    python -m benchmarks.training.padding --batch-size 64 --num-negatives 8 --device cuda

Both encode the same texts, in turn: the peer is our loss with one piece a column, as any loss has it that hands its
batch to the model. Beside the seconds of forward and backward pass stand the tokens that the model was given, and what
autograd kept for the backward pass, each tensor once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from benchmarks._models import folder_of
from benchmarks._study import data_folder

from hardwood import CorpusSoftmaxLoss, RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.negatives import make_source
from hardwood.training.batch import features as cutting

MODES = {"padded to the longest": 1, "pieces of like length": cutting._MOST_PIECES}


@contextmanager
def what_is_kept() -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd saves inside, by its address."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def measured(loss: CorpusSoftmaxLoss, features: list[dict[str, Any]], labels: torch.Tensor) -> tuple[float, int, float]:
    """Seconds, tokens and MiB of one step."""
    tokens: list[int] = []
    hook = loss.model.register_forward_pre_hook(lambda _, given: tokens.append(given[0]["input_ids"].numel()))
    weights = {p.untyped_storage().data_ptr() for p in loss.model.parameters()}
    began = time.perf_counter()
    with what_is_kept() as kept:
        total = torch.stack(list(loss(features, labels).values())).sum()
    total.backward()
    if loss.targets.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    hook.remove()
    loss.model.zero_grad()
    return seconds, sum(tokens), sum(size for address, size in kept.items() if address not in weights) / 2**20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hpo")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-negatives", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = RetrievalDataset.load(data_folder(arguments.data))
    model = load_encoder(folder_of(arguments.encoder), device=arguments.device).train()
    source = make_source("uniform", start_step=0)
    loss = CorpusSoftmaxLoss(model, data, source, num_negatives=arguments.num_negatives)
    pairs = data.training_pairs().shuffle(seed=0)
    found: dict[str, list[tuple[float, int, float]]] = {mode: [] for mode in MODES}
    for step in range(arguments.steps + 1):  # the first is not counted
        batch = pairs[step * arguments.batch_size : (step + 1) * arguments.batch_size]
        features = [model.preprocess(batch[column]) for column in ("anchor", "positive")]
        features = [{k: v.to(model.device) for k, v in f.items() if isinstance(v, torch.Tensor)} for f in features]
        for mode, most in MODES.items():
            with patch.object(cutting, "_MOST_PIECES", most):
                loss._step = step  # the same draws for both
                found[mode].append(measured(loss, features, torch.tensor(batch["label"])))
    print("| | s a step | tokens a step | kept for the backward pass (MiB) |\n|---|---|---|---|")
    for mode, steps in found.items():
        seconds, tokens, mebibytes = (statistics.mean(column) for column in zip(*steps[1:], strict=True))
        print(f"| {mode} | {seconds:.2f} | {tokens:,.0f} | {mebibytes:,.0f} |")


if __name__ == "__main__":
    main()
