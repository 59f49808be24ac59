"""The full softmax over a small corpus, computed naively: what losses are held against."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from hardwood.data import RetrievalDataset
from hardwood.encoders import document_prompt, query_prompt
from hardwood.training._limits import DEFAULT_UNASKED_PRIOR, DEFAULT_UNASKED_PUSH

NUM_TARGETS = 60
"""Of the corpus that the fixture `dataset` has."""


def batch_of(
    model: SentenceTransformer, dataset: RetrievalDataset, rows: range, split: str = "train"
) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """Features and labels of training pairs, as the trainer's collator makes them."""
    pairs = dataset.training_pairs(split)[list(rows)]
    prompts = {"anchor": query_prompt(model), "positive": document_prompt(model)}
    features = [model.preprocess(pairs[column], prompt=prompt) for column, prompt in prompts.items()]
    return features, torch.tensor(pairs["label"])


def exact_loss(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    labels: torch.Tensor,
    scale: float,
    unasked_prior: float = DEFAULT_UNASKED_PRIOR,
    split: str = "train",
    unasked_push: float = DEFAULT_UNASKED_PUSH,
) -> torch.Tensor:
    """The naive twin: encode everything, mask the other known positives, weigh by the prior, cross entropy."""

    def embed(texts: list[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(model(model.preprocess(texts))["sentence_embedding"], dim=1)

    known = dataset.known_positives(split)
    asked = {target for positives in known for target in positives}
    pushed = torch.tensor([[1.0 if i in asked else unasked_push] for i in range(len(dataset.corpus))])
    targets = embed(dataset.corpus.texts())
    targets = pushed * targets + (1 - pushed) * targets.detach()
    scores = scale * embed(dataset.queries.texts(labels[:, 0])) @ targets.T
    prior = torch.tensor([1.0 if target in asked else unasked_prior for target in range(len(dataset.corpus))])
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for row, (query, positive) in enumerate(labels.tolist()):
        mask[row, known[query]] = True
        mask[row, positive] = False
    # The positive of a query counts 1, asked for by the split or not.
    weighted = scores + prior.log().where(torch.arange(len(prior)) != labels[:, 1:], 0.0)
    return torch.nn.functional.cross_entropy(weighted.masked_fill(mask, -torch.inf), labels[:, 1])


def gradient_of(model: SentenceTransformer, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
