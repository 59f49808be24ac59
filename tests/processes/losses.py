"""What processes do in the tests of the loss: ``python -m tests.processes.losses OUTPUT CASE ...``.

Each case is a batch of eight pairs, divided among the processes, and two optimiser steps.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tests.conftest import make_dataset
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from hardwood import CachedCorpusSoftmaxLoss, CorpusSoftmaxLoss
from hardwood.data import RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.negatives import MarginFilter, make_source
from hardwood.training import Guide, Teacher

BATCH, STEPS, NUM_SHARDS = 12, 2, 3

CASES: dict[str, dict[str, Any]] = {
    "exact": {"negatives": "exact"},
    "dynamic": {"negatives": "dynamic", "source": {"refresh_every": 1, "landmarks": 9}},
    "replicated": {"negatives": "dynamic", "source": {"refresh_every": 1, "landmarks": 9}, "shards": "replicated"},
    "cache": {"negatives": "cache", "source": {"cache_size": 30, "start_step": 0}},
    "pool": {"negatives": "pool", "source": {"share": 0.5, "start_step": 0}},
    "uniform": {"negatives": "uniform"},
    "in-batch": {"negatives": "in-batch"},
    "not yet": {"negatives": "exact", "source": {"start_step": 100}},
    "few draws": {"negatives": "exact", "num_negatives": 1},
    "all": {"negatives": "exact", "num_negatives": 60},
    "own": {"negatives": "exact", "weighting": "own"},
    "own mixture": {"negatives": "exact", "weighting": "own", "uniform_negatives": 3},
    "uncorrected": {"negatives": "exact", "weighting": "uncorrected"},
    "mixture": {"negatives": "dynamic", "uniform_negatives": 3},
    "cache mixture": {
        "negatives": "cache",
        "source": {"cache_size": 31, "start_step": 0},
        "uniform_negatives": 3,
        "weighting": "tempered",
    },
    "plain softmax": {"negatives": "exact", "unasked_prior": 1.0, "unasked_push": 1.0},
    "half a push": {"negatives": "exact", "unasked_push": 0.5},
    "hardest": {"negatives": "exact", "hardest": 2},
    "margin": {"negatives": "exact", "margin": MarginFilter(margin=0.05)},
    "symmetric": {"negatives": "exact", "symmetric": True},
    "matryoshka": {"negatives": "exact", "matryoshka_dims": [16, 8]},
    "cached": {"negatives": "exact", "mini_batch_size": 5},
    "guide": {"negatives": "exact", "guide": True},
    "teacher": {"negatives": "exact", "guide": True, "teacher": Teacher("kl")},
    "given": {"negatives": "exact", "given": 2},
    "separate towers": {"negatives": "exact", "towers": "separate"},
    "bert": {"negatives": "exact", "bert": True},
    "cached bert": {"negatives": "exact", "bert": True, "mini_batch_size": 5},
    "lora": {"negatives": "dynamic", "bert": True, "lora": True},
    "cached lora": {"negatives": "exact", "bert": True, "lora": True, "mini_batch_size": 5},
    "checkpointed bert": {"negatives": "exact", "bert": True, "checkpointed": True},
    "checkpointed lora": {"negatives": "exact", "bert": True, "lora": True, "checkpointed": True},
}
"""Beside these: `hardwood.training.CorpusSoftmaxLoss`'s own options."""

REFUSED: dict[str, dict[str, Any]] = {"bert without search": {"negatives": "exact", "bert": True, "search": False}}
"""``DistributedDataParallel`` is not to look for unused weights, and BERT's pooler is unused."""


def half_asked() -> RetrievalDataset:
    """The small dataset, with every second training query: so half of the targets are asked for by none."""
    data = make_dataset()
    train = data.splits["train"]
    data.splits["train"] = train.take(np.arange(0, len(train), 2))
    return data


def make_loss(case: dict[str, Any], data: RetrievalDataset, folder: Path) -> CorpusSoftmaxLoss:
    options = {"num_negatives": 4, "num_shards": NUM_SHARDS, **case}
    if options.get("shards") == "replicated" or options["negatives"] in ("uniform", "in-batch"):
        del options["num_shards"]
    source = make_source(options.pop("negatives"), **options.pop("source", {}))
    if hasattr(source, "start_step") and "source" not in case and source.name in ("exact",):
        source = make_source(source.name, start_step=0)
    options.pop("given", None)
    options.pop("search", None)
    towers = options.pop("towers", "shared")
    lora, checkpointed = (options.pop(name, False) for name in ("lora", "checkpointed"))
    if options.pop("bert", False):
        options["target_prompt"] = ""  # as the texts of these batches come
        model = load_encoder(str(folder / "bert"), data, device="cpu")
        if lora:
            add_lora(model)
        if checkpointed:
            model[0].auto_model.gradient_checkpointing_enable()
    else:
        model = load_encoder("static", data, dimension=16, vocabulary_size=300, towers=towers, device="cpu")
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # noise is each process's own
    if options.pop("guide", False):
        options["guide"] = Guide(
            load_encoder("static", data, dimension=8, vocabulary_size=300, seed=5, device="cpu"), within=2.0
        )
    kind = CachedCorpusSoftmaxLoss if "mini_batch_size" in options else CorpusSoftmaxLoss
    return kind(model, data, source, **options)


def add_lora(model: SentenceTransformer) -> None:
    """All but the adapter is frozen; the adapter does something from the first step on."""
    import peft

    torch.manual_seed(1)
    model.add_adapter(peft.LoraConfig(r=4, lora_alpha=16, target_modules=["query", "value"], init_lora_weights=False))


def train(case: dict[str, Any], rank: int, size: int, folder: Path) -> dict[str, np.ndarray]:
    """Two steps of gradient descent on this process's part of each batch."""
    data = half_asked()
    loss = make_loss(case, data, folder)
    model = loss.targets.model
    if size > 1:
        loss.model = DistributedDataParallel(model, find_unused_parameters=case.get("search", True))
    pairs = data.training_pairs("train")
    rows = torch.tensor(pairs["label"])
    if given := case.get("given"):
        rows = torch.cat(
            [rows, torch.stack([(rows[:, 1] + 7 * (i + 1)) % len(data.corpus) for i in range(given)], 1)], 1
        )
    found: dict[str, Any] = {"losses": []}
    for step in range(STEPS):
        batch = rows[step * BATCH : (step + 1) * BATCH]
        own = batch[rank * BATCH // size : (rank + 1) * BATCH // size]
        texts = [data.queries.texts(own[:, 0].numpy())]
        texts += [data.corpus.texts(column) for column in own[:, 1:].T.numpy()]
        tasks = ["query"] + ["document"] * (len(texts) - 1)
        routed = {"task"} if case.get("towers") == "separate" else set()
        features = [
            model.preprocess(column, **({"task": task} if routed else {}))
            for column, task in zip(texts, tasks, strict=True)
        ]
        terms = loss(features, own)
        total = torch.stack(list(terms.values())).sum()
        model.zero_grad()
        total.backward()
        found["losses"].append(float(total.detach()))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.5 * parameter.grad)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    found["gradient"] = torch.cat([gradient.flatten() for gradient in gradients]).numpy()
    found["weights"] = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
    found["texts"] = np.array(loss.cost.texts_encoded)
    return {name: np.asarray(value) for name, value in found.items()}


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for name in names:
        np.savez(folder / f"{name}-{size}-{rank}.npz", **train((CASES | REFUSED)[name], rank, size, folder))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
