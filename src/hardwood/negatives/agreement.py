"""How the shards of a source decide together, without knowing of processes.

A source whose shards must agree on something (whether to refresh, say) has it in a generator: it yields what its shard
has found, a tuple of tensors, and receives what all shards have found, in the order of the shards. A source that serves
the whole corpus is the only shard there is.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from hardwood.ranks import Ranks

Found = tuple[Tensor, ...]
Agreement = Generator[Found, list[Found], None]


def alone(agreement: Agreement) -> None:
    """Go through an agreement of a single shard."""
    answer: list[Found] | None = None
    while (found := _next(agreement, answer)) is not None:
        answer = [found]


def together(agreements: Sequence[Agreement], numbers: Sequence[int], ranks: Ranks, num_shards: int) -> None:
    """Go through the agreements of this process's shards, in step with those of all others.

    Args:
        agreements: one a shard.
        numbers: of these shards.
        ranks: the processes, each of which does the same with its own shards.
        num_shards: of all of them.

    Raises:
        RuntimeError: some shards have something to agree on and others have not.
    """
    answer: list[Found] | None = None
    while True:
        found = [_next(agreement, answer) for agreement in agreements]
        asked = [one is not None for one in found]
        if not any(asked):
            return
        if not all(asked):
            raise RuntimeError(f"shards {numbers} do not agree in what they have to agree on: {asked}")
        answer = gathered([one for one in found if one is not None], numbers, ranks, num_shards)


def gathered(own: Sequence[Found], numbers: Sequence[int], ranks: Ranks, num_shards: int) -> list[Found]:
    """What all shards have found, in their order, from what those of each process have.

    Args:
        own: a tuple for each shard of this process, as many tensors in each.
        numbers: of these shards.
        ranks: the processes.
        num_shards: of all of them.
    """
    packed = [torch.tensor(list(numbers), dtype=torch.int64)] + [tensor for found in own for tensor in found]
    by_shard: dict[int, Found] = {}
    for first, *rest in ranks.gather(packed):
        shards = first.tolist()
        width = len(rest) // max(len(shards), 1)
        for place, shard in enumerate(shards):
            by_shard[shard] = tuple(rest[place * width : (place + 1) * width])
    return [by_shard[shard] for shard in range(num_shards)]


def _next(agreement: Agreement, answer: list[Found] | None) -> Found | None:
    try:
        return next(agreement) if answer is None else agreement.send(answer)
    except StopIteration:
        return None
