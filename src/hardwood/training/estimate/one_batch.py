"""One batch of all processes: what each encodes, every process has, with gradient to where it was encoded.

Each process computes the loss of the whole batch from the same numbers, so it has the gradient by every encoding, and
the part that is its own needs no exchange in the backward pass. ``DistributedDataParallel`` takes the mean of the
processes' gradients, where the gradient of the whole batch is their sum: so each part is multiplied by their number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hardwood.negatives.sharded import ShardedNegatives
from hardwood.ranks import Ranks
from hardwood.training.estimate.weights import DrawnWeights, Strategy, weigh_draws


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        rows, begin = ranks.gather_rows(own)
        ctx.own, ctx.times = slice(begin, begin + len(own)), ranks.size
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.own] * ctx.times, None


def gathered(own: Tensor, ranks: Ranks) -> Tensor:
    """The rows of all processes, one process's after the other's, with gradient to this process's own.

    Args:
        own: ``(m, ...)``; m may differ from process to process.
        ranks: the processes; alone, ``own`` is what comes back.
    """
    if ranks.is_alone:
        return own
    found: Tensor = _Gathered.apply(own, ranks)
    return found


def batch_of_all(
    ranks: Ranks,
    queries: Tensor,
    given: Tensor,
    query_rows: NDArray[np.int64],
    target_rows: NDArray[np.int64],
    kind: tuple[int, ...],
) -> tuple[Tensor, Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """This process's batch and those of the others, in the processes' order.

    Args:
        ranks: the processes.
        queries: ``(B, d)``, encoded here.
        given: ``((1 + m) B, d)``: all positives, all first given negatives, ...
        query_rows: ``(B,)``.
        target_rows: ``(B, 1 + m)``.
        kind: what must be the same on all of them.

    Returns:
        The four of all, with gradient to what was encoded here.

    Raises:
        ValueError: processes train with batches of different datasets.
    """
    if ranks.is_alone:
        return queries, given, query_rows, target_rows
    batch_size, columns = target_rows.shape
    rows = torch.from_numpy(np.concatenate([query_rows[:, None], target_rows], axis=1))
    everyone = ranks.gather([torch.tensor([columns, *kind]), rows])
    kinds = [found.tolist() for found, _ in everyone]
    if any(found != kinds[0] for found in kinds):
        raise ValueError(
            f"the processes train with different losses at the same time, by columns, queries and targets: {kinds}. "
            "Where a trainer has several datasets, each process is given one of another: train on one at a time, or on "
            "one dataset made of all (several processes share the candidates of one corpus)"
        )
    by_pair = torch.cat([queries[None], given.view(columns, batch_size, -1)]).transpose(0, 1)  # (B, 2 + m, d)
    whole = gathered(by_pair.contiguous(), ranks).transpose(0, 1)
    of_all = torch.cat([found for _, found in everyone]).numpy()
    return whole[0], whole[1:].flatten(0, 1), np.ascontiguousarray(of_all[:, 0]), of_all[:, 1:]


def encoded_together(rows: Tensor, encode: Callable[[Tensor], Tensor], ranks: Ranks) -> Tensor:
    """Encodings of ``rows``, which all processes want, each encoded by one of them: ``(m, d)`` in their order.

    Args:
        rows: ``(m,)``, the same on all processes.
        encode: encodes some of them.
        ranks: the processes.
    """
    if ranks.is_alone:
        return encode(rows)
    places = [torch.arange(len(rows))[number :: ranks.size] for number in range(ranks.size)]
    order = torch.cat(places).to(rows.device)
    return gathered(encode(rows[places[ranks.number].to(rows.device)]), ranks)[torch.argsort(order)]


def weighed_together(
    strategies: list[Strategy], ids: Tensor, weighting: str, source: ShardedNegatives, batch_size: int
) -> DrawnWeights:
    """As `weigh_draws`, each candidate by the process that holds it: that one knows its proposals, and sends a number.

    Args:
        strategies: the first one draws from ``source``, and its proposal is asked for what this process holds alone.
        ids: ``(m,)`` ascending candidates, the same on all processes.
        weighting: see `weigh_draws`.
        source: whose shards the candidates are in.
        batch_size: queries of all processes.
    """
    places = source.holds(ids).nonzero().flatten()
    if len(places):
        own = weigh_draws(strategies, ids[places.to(ids.device)], weighting)
    else:
        own = _nothing(strategies, weighting, batch_size)
    parts = [own.log_weights, *(part for part in (own.log_parts, own.log_expected) if part is not None)]
    everyone = source.ranks.gather([places, *parts])
    order = torch.argsort(torch.cat([found for found, *_ in everyone]))
    whole = [torch.cat(columns, dim=-1)[..., order].to(ids.device) for columns in list(zip(*everyone, strict=True))[1:]]
    return DrawnWeights(*whole)


def _nothing(strategies: list[Strategy], weighting: str, batch_size: int) -> DrawnWeights:
    """What `weigh_draws` gives, for no candidates."""
    if weighting == "own":
        return DrawnWeights(torch.zeros(batch_size, 0))
    if len(strategies) == 1:
        return DrawnWeights(torch.zeros(0))
    of_each = torch.zeros(len(strategies), 0)
    return DrawnWeights(torch.zeros(0), of_each, of_each)


def encoder_of(model: nn.Module) -> nn.Module:
    """The model itself, where ``DistributedDataParallel`` has been put around it."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def as_one_pass(model: nn.Module, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Do ``work``, in which the model encodes several times, as one forward pass of ``DistributedDataParallel``.

    It takes each call for a step, and looks after each for weights without a part in it: towers that are called in turn
    would be ready twice, and weights that no call uses would be waited for. So the wrapper is called once, and what it
    calls is ``work``, from which it sees which weights the loss depends on. (PyTorch Lightning does so, too.)

    Args:
        model: wrapped, or not; then ``work`` is just done.
        work: returns the terms of the loss.
    """
    if not isinstance(model, DistributedDataParallel):
        return work()
    inner = model.module
    before = vars(inner).get("forward")

    def restore() -> None:
        if before is None:
            vars(inner).pop("forward", None)
        else:
            inner.forward = before

    def forward(_: Tensor) -> dict[str, Tensor]:
        restore()
        return work()

    inner.forward = forward
    try:
        found: dict[str, Tensor] = model(torch.zeros(1))
        return found
    finally:
        restore()


_SHARDED = ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine")


def refuse_sharded_weights(model: nn.Module) -> None:
    """``ValueError`` for a model whose weights are divided among the processes: FSDP, FSDP2 and DeepSpeed."""
    kinds = {kind.__name__ for kind in type(model).__mro__}
    inside = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    found = [name for name in _SHARDED if name in kinds | inside]
    if found:
        raise ValueError(
            f"the model's weights are divided among the processes ({found[0]}), with which CorpusSoftmaxLoss can't "
            "encode what one process alone has drawn: train with DistributedDataParallel (torchrun or accelerate "
            "launch without FSDP and DeepSpeed), with mini_batch_size for big batches and LoRA for big models"
        )
