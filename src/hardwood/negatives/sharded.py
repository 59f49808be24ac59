"""Any source, divided among processes: each of them encodes, keeps and maintains its shards of the corpus.

With ``Z_v`` the mass of shard v for a query and ``q_v`` the proposal of the source that serves it, a draw of the whole
is one of shard v with probability ``Z_v / Z``, ``Z = sum_v Z_v``:

    log q = log q_v + log Z_v - log Z

which is the proposal of one source over the whole corpus. Every shard draws for every query and every place; at each
place one of these draws is kept, so draws stay independent, and their probabilities known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardwood.errors import DataError
from hardwood.negatives._shard_targets import ShardTargets
from hardwood.negatives.agreement import Agreement, gathered, together
from hardwood.negatives.base import NegativeSource
from hardwood.negatives.cost import Cost
from hardwood.negatives.partition import Partition
from hardwood.negatives.records import NO_TARGET, Draw, Request, Targets
from hardwood.negatives.softmax_matrix import invert
from hardwood.ranks import Ranks


@dataclass(frozen=True)
class ShardedDraw(Draw):
    """A draw of all shards, with what this process needs to be asked of it.

    Attributes:
        asked: the request that each shard of this process got, in the shard's own ids.
        drawn: what each of them answered.
        kept: what each of them drew at the places whose draw is its; ``NO_TARGET`` at all others.
        log_shares: ``(B,)`` for each of them, ``log Z_v - log Z``.
    """

    asked: tuple[Request, ...] = field(default=(), repr=False)
    drawn: tuple[Draw, ...] = field(default=(), repr=False)
    kept: tuple[Draw, ...] = field(default=(), repr=False)
    log_shares: tuple[Tensor, ...] = field(default=(), repr=False)


class ShardedNegatives(NegativeSource):
    """Serves a corpus through several sources of the same kind, one a shard.

    All processes call every method in the same order and with the same requests: those of the whole batch.

    Args:
        source: of the kind and settings that the shards' sources have; it serves nothing itself.
        ranks: the processes.
        num_shards: V; draws are a function of it, and not of the number of processes. ``None``: one a process.

    Raises:
        ValueError: the source has an option that is of use for a whole corpus alone.
    """

    def __init__(self, source: NegativeSource, ranks: Ranks, num_shards: int | None = None) -> None:
        super().__init__(start_step=source.start_step)
        self.whole = source
        self.name = source.name  # type: ignore[misc]
        self.weighting = source.weighting  # type: ignore[misc]
        self.knows_scores = source.knows_scores  # type: ignore[misc]
        self.ranks = ranks
        self.num_shards = ranks.size if num_shards is None else num_shards
        self.numbers = list(range(ranks.number, self.num_shards, ranks.size))
        self._shards = [source.for_shard(number, self.num_shards) for number in self.numbers]
        self.partition: Partition | None = None

    @property
    def shards(self) -> list[tuple[int, NegativeSource]]:
        """The shards of this process by number, and the source that serves each, whose ids are places in the shard."""
        return list(zip(self.numbers, self._shards, strict=True))

    def attach(self, targets: Targets, cost: Cost) -> None:
        """See `NegativeSource.attach`.

        Raises:
            ValueError: the corpus can't be divided so (see `Partition`).
        """
        super().attach(targets, cost)
        self.partition = Partition(targets.num_targets, self.num_shards, self.ranks.size)
        for number, shard in zip(self.numbers, self._shards, strict=True):
            shard.attach(ShardTargets(targets, self.partition, number), cost)

    def warm_up(self, progress: bool | None = None) -> None:
        for shard in self._shards:
            shard.warm_up(progress)

    def beginning(self, step: int) -> Agreement:
        self.begin_step(step)
        yield from ()

    def begin_step(self, step: int) -> None:
        together([shard.beginning(step) for shard in self._shards], self.numbers, self.ranks, self.num_shards)

    def is_ready(self, step: int) -> bool:
        return all(shard.is_ready(step) for shard in self._shards)

    def sample(self, request: Request) -> ShardedDraw:
        partition = self._divided()
        asked = [self._request_to(number, request) for number in self.numbers]
        drawn = [shard.sample(one) for shard, one in zip(self._shards, asked, strict=True)]
        found = [self._sent(*each, request) for each in zip(self.numbers, drawn, strict=True)]
        with self.cost.timed("sample"):
            everyone = gathered(found, self.numbers, self.ranks, self.num_shards)
            log_masses = torch.stack([log_z for *_, log_z in everyone], dim=1).double()  # (B, V)
            log_z = torch.logsumexp(log_masses, dim=1)
            log_shares = log_masses - log_z.nan_to_num(neginf=0.0)[:, None]
            device = request.queries.device
            mine = tuple(log_shares[:, number].float().to(device) for number in self.numbers)
            own: dict[str, Any] = {"asked": tuple(asked), "drawn": tuple(drawn), "log_shares": mine}
            if request.num_negatives >= partition.num_targets and all(int(kind[0]) for _, _, _, kind, _ in everyone):
                return self._everything(everyone, log_shares, log_z, device, own)
            return self._one_of_each(everyone, log_shares, log_z, request, own)

    def log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        partition, rows = self._divided(), ids.cpu().numpy()
        own = torch.from_numpy(np.flatnonzero(partition.rank_of(rows) == self.ranks.number))
        found = self.own_log_proposal(request, draw, ids[own.to(ids.device)])
        merged = torch.empty(len(request.queries), len(ids), dtype=torch.float32)
        for places, columns in self.ranks.gather([own, found]):
            merged[:, places] = columns
        return merged.to(ids.device)

    def holds(self, ids: Tensor) -> Tensor:
        """Which of ``ids`` ``(m,)`` are in shards of this process: ``(m,)`` bool, on the CPU."""
        return torch.from_numpy(self._divided().rank_of(ids.cpu().numpy()) == self.ranks.number)

    def own_log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        """As `log_proposal`, of targets that this process `holds`, without asking the others."""
        partition, rows = self._divided(), ids.cpu().numpy()
        found = torch.full((len(request.queries), len(ids)), -torch.inf, device=ids.device)
        if not isinstance(draw, ShardedDraw):
            return found
        own = zip(self.numbers, self._shards, draw.asked, draw.drawn, draw.log_shares, strict=True)
        for number, shard, asked, drawn, log_share in own:
            slots = partition.slots_of(number, rows)
            here = torch.from_numpy(np.flatnonzero(slots >= 0)).to(ids.device)
            if len(here):
                places = torch.from_numpy(slots[slots >= 0]).to(ids.device)
                log_q = shard.log_proposal(asked, drawn, places)
                found[:, here] = log_q + log_share[:, None]
        return found

    def observing(self, request: Request, draw: Draw, rows: Tensor, vectors: Tensor) -> Agreement:
        self.observe(request, draw, rows, vectors)
        yield from ()

    def observe(self, request: Request, draw: Draw, rows: Tensor, vectors: Tensor) -> None:
        partition, ids = self._divided(), rows.cpu().numpy()
        agreements = []
        for place, (number, shard) in enumerate(zip(self.numbers, self._shards, strict=True)):
            if isinstance(draw, ShardedDraw):
                asked, drawn = draw.asked[place], draw.kept[place]
            else:  # nothing has been drawn yet
                asked, drawn = self._request_to(number, request), draw
            slots = partition.slots_of(number, ids)
            here = torch.from_numpy(np.flatnonzero(slots >= 0)).to(rows.device)
            places = torch.from_numpy(slots[slots >= 0]).to(rows.device)
            agreements.append(shard.observing(asked, drawn, places, vectors[here]))
        together(agreements, self.numbers, self.ranks, self.num_shards)

    def finish(self) -> None:
        for shard in self._shards:
            shard.finish()

    def diagnostics(self) -> dict[str, float]:
        return self._shards[0].diagnostics()

    def settings(self) -> dict[str, Any]:
        return self.whole.settings()

    def state_dict(self) -> dict[str, Tensor]:
        """What the shards of this process keep, each name after its shard's number."""
        states = [shard.state_dict() for shard in self._shards]
        return {
            f"{number}.{name}": tensor
            for number, state in zip(self.numbers, states, strict=True)
            for name, tensor in state.items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for number, shard in zip(self.numbers, self._shards, strict=True):
            prefix = f"{number}."
            shard.load_state_dict(
                {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            )

    def save_state(self, folder: Path) -> None:
        """Write the shards of this process, each into a folder of its own."""
        for number, shard in zip(self.numbers, self._shards, strict=True):
            inside = folder / shard_folder(number)
            inside.mkdir()
            shard.save_state(inside)

    def load_state(self, folder: Path) -> None:
        for number, shard in zip(self.numbers, self._shards, strict=True):
            inside = folder / shard_folder(number)
            if not inside.is_dir():
                raise DataError("is missing: the checkpoint is not whole, or of undivided negatives.", inside)
            shard.load_state(inside)

    def _divided(self) -> Partition:
        if self.partition is None:
            self._attached()  # says so
            raise RuntimeError("the corpus is not divided yet")
        return self.partition

    def _request_to(self, number: int, request: Request) -> Request:
        """The same request in the ids of one shard."""
        partition = self._divided()
        positives = partition.slots_of(number, request.positives.cpu().numpy())
        return Request(
            queries=request.queries,
            positives=torch.from_numpy(positives).to(request.positives.device),
            num_negatives=request.num_negatives,
            scale=request.scale,
            exclude=partition.of_shard(number, request.exclude),
            ceiling=request.ceiling,
            seed=_seed(request.seed, number),
        )

    def _sent(self, number: int, draw: Draw, request: Request) -> tuple[Tensor, ...]:
        """What a shard sends to the others: rows, log-probabilities and log-weights ``(B, k)``; whether these are all
        its targets, and the share of them that its source holds (its log); log-mass ``(B,)``."""
        partition = self._divided()
        ids, log_q, log_weights = draw.ids.cpu(), draw.log_q.cpu(), draw.log_weights.cpu()
        if draw.exhaustive and request.num_negatives < partition.num_targets:
            # A small shard gives all it has where so many draws were asked for: of these, so many draws.
            generator = torch.Generator().manual_seed(_seed(request.seed, number))
            chosen = invert(log_q.double().exp().cumsum(dim=1), request.num_negatives, generator)
            ids, log_q = ids.gather(1, chosen), log_q.gather(1, chosen)
            log_weights = (-log_q - float(np.log(request.num_negatives))).masked_fill(ids == NO_TARGET, -torch.inf)
        rows = torch.from_numpy(partition.rows_of(number, ids.numpy()))
        kind = torch.tensor([float(draw.exhaustive), draw.log_share], dtype=torch.float64)
        return rows, log_q.float(), log_weights.float(), kind, draw.log_z.cpu().float()

    def _one_of_each(
        self,
        everyone: Sequence[tuple[Tensor, ...]],
        log_shares: Tensor,
        log_z: Tensor,
        request: Request,
        own: dict[str, Any],
    ) -> ShardedDraw:
        """At each place the draw of one shard, chosen by the shards' masses."""
        generator = torch.Generator().manual_seed(_seed(request.seed, -1))
        shard = invert(log_shares.exp().cumsum(dim=1), request.num_negatives, generator)[:, None]  # (B, 1, k)
        ids, log_q, log_weights = (
            torch.stack([found[part] for found in everyone], dim=1).gather(1, shard)[:, 0] for part in range(3)
        )
        log_share = log_shares.gather(1, shard[:, 0])
        held = torch.stack([kind[1] for *_, kind, _ in everyone])
        nothing = torch.isinf(log_z)[:, None] | (ids == NO_TARGET)
        device = request.queries.device
        kept = [
            self._kept(number, drawn, everyone[number], shard[:, 0])
            for number, drawn in zip(self.numbers, own["drawn"], strict=True)
        ]
        return ShardedDraw(
            ids.masked_fill(nothing, NO_TARGET).to(device),
            (log_q + log_share).float().masked_fill(nothing, -torch.inf).to(device),
            log_z.float().to(device),
            (log_weights - log_share).float().masked_fill(nothing, -torch.inf).to(device),
            # A source of a part of the corpus holds the same share of each shard, but for a target more or less.
            log_share=float(held[0]) if (held == held[0]).all() else held.float()[shard[:, 0]].to(device),
            kept=tuple(kept),
            **own,
        )

    def _kept(self, number: int, drawn: Draw, found: tuple[Tensor, ...], shard: Tensor) -> Draw:
        """A shard's own draws at the places ``(B, k)`` where the draw of ``shard`` is its."""
        rows, log_q, log_weights, *_ = found
        slots = torch.from_numpy(self._divided().slots_of(number, rows.numpy()))
        device = drawn.ids.device
        ids = slots.masked_fill(shard != number, NO_TARGET).to(device)
        return Draw(ids, log_q.to(device), drawn.log_z, log_weights.to(device), exclude=drawn.exclude)

    def _everything(
        self,
        everyone: Sequence[tuple[Tensor, ...]],
        log_shares: Tensor,
        log_z: Tensor,
        device: torch.device,
        own: dict[str, Any],
    ) -> ShardedDraw:
        log_q = torch.full((len(log_z), self._divided().num_targets), -torch.inf)
        for shard, (_, of_shard, *_) in enumerate(everyone):
            log_q[:, shard :: self.num_shards] = (of_shard + log_shares[:, shard, None]).float()
        whole = Draw.everything(log_q.to(device), log_z.float().to(device))
        return ShardedDraw(
            whole.ids, whole.log_q, whole.log_z, whole.log_weights, exhaustive=True, kept=own["drawn"], **own
        )


def divided(source: NegativeSource, ranks: Ranks, shards: str, num_shards: int | None) -> NegativeSource:
    """The source as the processes use it: itself, where nothing is to be divided.

    Args:
        source: serves, or would serve, the whole corpus.
        ranks: the processes.
        shards: ``"divided"`` or ``"replicated"``.
        num_shards: V; ``None``: one a process.
    """
    if not source.is_divided or shards == "replicated" or (ranks.is_alone and num_shards in (None, 1)):
        return source
    return ShardedNegatives(source, ranks, num_shards)


def shard_folder(number: int) -> str:
    """The folder of a shard within that of its source's state."""
    return f"shard-{number:04d}"


def _seed(seed: int, shard: int) -> int:
    """The seed of a shard's draws, and with -1 that of the choice among shards."""
    return int(np.random.SeedSequence([seed, shard + 1]).generate_state(1, np.uint64)[0]) >> 1
