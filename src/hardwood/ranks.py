"""The processes that work on one run together: what each knows, made known to all.

`Ranks.of_environment()` are those that torchrun or ``accelerate launch`` started, and `Ranks.alone()` is a process by
itself, for which all of this does nothing: so there is one code path for both. Knows ``torch.distributed``, arrays and
tensors; must not know models, sources or the trainer.

What the index exchanges lies on the host and goes over a gloo group of its own. Numbers and shapes alone are sent, and
nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, distributed

from hardwood._launch import agreed_name, launchers_store, store_of_the_living
from hardwood._rank_watch import RankWatch

_NEVER = timedelta(days=7)
"""Of the gloo group: how long a process may wait for another is for `RankWatch` to say, which knows who is alive."""

_LIMIT_SECONDS, _PERIOD_SECONDS = 10.0, 0.0001

_DTYPES = (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.bfloat16, torch.int32)


class Ranks:
    """Processes that call the same methods in the same order.

    Attributes:
        number: of this process, from 0.
        size: how many there are, 1 for a process by itself.
        sent: bytes that this process has sent so far, by the host's network.
        exchanges: how many times it has waited for all others.
    """

    _of_environment: ClassVar[Ranks | None] = None

    def __init__(self, number: int = 0, size: int = 1, group: Any = None, watch: RankWatch | None = None) -> None:
        self.number, self.size = number, size
        self._group, self._watch, self._world = group, watch, None
        self.sent = self.exchanges = 0

    @classmethod
    def alone(cls) -> Ranks:
        """A process by itself."""
        return cls()

    @classmethod
    def of_environment(cls) -> Ranks:
        """The processes of ``torch.distributed``, if its default group is there and has several; else `alone`.

        All of them must call this at the same point. The group is made once.
        """
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return cls.alone()
        world: Any = distributed.group.WORLD
        if cls._of_environment is None or cls._of_environment._world is not world:
            number, size = distributed.get_rank(), distributed.get_world_size()
            store = world.get_group_store().clone()
            # A store may outlive its processes: keys that earlier processes wrote must not count.
            watch = RankWatch(distributed.PrefixStore(agreed_name(store, number, size), store), number, size)
            group = distributed.new_group(backend="gloo", timeout=_NEVER)
            cls._of_environment = cls(number, size, group, watch)
            cls._of_environment._world = world
        return cls._of_environment

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    @property
    def is_first(self) -> bool:
        """Whether this process does what is to be done once."""
        return self.number == 0

    def gather(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """What each process gives, known to all.

        Args:
            tensors: any number of any shapes, which may differ from process to process.

        Returns:
            The tensors of each process, in the order of their numbers, on the CPU.
        """
        if self.is_alone:
            return [[tensor.detach().cpu() for tensor in tensors]]
        own = _packed(tensors)
        with self._guarded():
            length = torch.tensor([len(own)])
            lengths = [torch.zeros_like(length) for _ in range(self.size)]
            _all_gather(lengths, length, self._group)
            longest = max(int(each) for each in lengths)
            padded = torch.nn.functional.pad(own, (0, longest - len(own)))
            found = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
            _all_gather(found, padded, self._group)
        self.sent += (longest + 8) * (self.size - 1)
        self.exchanges += 1
        return [_unpacked(buffer[: int(size)]) for buffer, size in zip(found, lengths, strict=True)]

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, int]:
        """The rows of all processes, one process's after the other's, and where this one's begin.

        Without gradient, on the device of ``rows``: on an accelerator by its own group.

        Args:
            rows: ``(m, ...)``; m may differ from process to process, all else must not.
        """
        if self.is_alone:
            return rows.detach(), 0
        if rows.device.type == "cpu":
            parts = [each[0] for each in self.gather([rows.detach()])]
        else:
            counts = [int(each[0]) for each in self.gather([torch.tensor(len(rows))])]
            padded = rows.detach().new_zeros((max(counts), *rows.shape[1:]))
            padded[: len(rows)] = rows.detach()
            found = [torch.empty_like(padded) for _ in counts]
            with self._guarded():
                distributed.all_gather(found, padded)
            parts = [part[:count] for part, count in zip(found, counts, strict=True)]
        return torch.cat(parts), sum(len(part) for part in parts[: self.number])

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over all processes, added in the order of their numbers, float64 on the CPU."""
        parts = [each[0].double() for each in self.gather([numbers])]
        return torch.stack(parts).cumsum(0)[-1]  # one after the other: the same for all

    def mean(self, numbers: Tensor) -> Tensor:
        """The mean over all processes, float64 on the CPU."""
        return self.total(numbers) / self.size

    def first(self, work: Callable[[], Any]) -> Any:
        """Have the first process do something, while the others wait; all get what it returns.

        Args:
            work: returns what JSON can hold; an error of it ends all processes.
        """
        if self.is_alone:
            return work()
        said = torch.zeros(0, dtype=torch.uint8)
        result = work() if self.is_first else None
        if self.is_first:
            said = torch.frombuffer(bytearray(json.dumps(result).encode()), dtype=torch.uint8)
        answer = json.loads(bytes(self.gather([said])[0][0].tolist()))
        return result if self.is_first else answer

    def tell(self, value: Any) -> list[Any]:
        """What JSON can hold of each process, known to all, in the order of their numbers."""
        if self.is_alone:
            return [value]
        said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        return [json.loads(bytes(each[0].numpy())) for each in self.gather([said])]

    def together(self) -> None:
        """Wait until all have come so far."""
        self.gather([])

    def advise(self, advice: Callable[[], str]) -> None:
        """What is said with the message that another process has failed: how to go on."""
        if self._watch is not None:
            self._watch.advice = advice

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """What raises in here ends all processes, with one message, which names this process and the phase."""
        if self._watch is None:
            yield
            return
        with self._guarded(), self._watch.during(phase):
            yield

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if self._watch is None or isinstance(error, GeneratorExit):
                raise
            found = self._watch.failed(error)
            if found is error:
                raise
            raise found from None


def _all_gather(found: list[Tensor], own: Tensor, group: Any) -> None:
    """`torch.distributed.all_gather` on the host, after which nothing of the call is left.

    A thread of gloo's lets go of the tensors only after the call has returned, 75 ms later on a machine with much to
    do. If they are Python's no longer by then, it asks the interpreter to free them, and if that has begun to end, the
    process is aborted ("terminate called without an active exception"): a run that was done would count as failed.
    """
    tensors = [own, *found]
    before = [_holders(tensor) for tensor in tensors]
    distributed.all_gather(found, own, group=group)
    until = time.monotonic() + _LIMIT_SECONDS
    while [_holders(tensor) for tensor in tensors] != before and time.monotonic() < until:
        time.sleep(_PERIOD_SECONDS)


def _holders(tensor: Tensor) -> tuple[int, int]:
    """How many hold a tensor in C++, and its object in Python; gloo lets go of the second last."""
    return int(tensor._use_count()), sys.getrefcount(tensor)  # type: ignore[attr-defined]


def join(device: str | None) -> Ranks:
    """The processes that a launcher has started, brought together; this process alone where none has.

    Args:
        device: ``"cpu"``, or where else models are; then this process gets its own accelerator. ``None``: that, where
            there is one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        from accelerate import PartialState

        number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        # The trainer's own way, with the backend that it would choose.
        PartialState(cpu=device == "cpu", **store_of_the_living(launchers_store(), number, size))
    return Ranks.of_environment()


def refuse_several_processes(command: str) -> None:
    """``ValueError`` where a launcher has started several processes for a command that is for one."""
    if (size := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ValueError(
            f"hardwood {command} is for one process, and {size} were started: start it without torchrun, or train each "
            "source with hardwood train on all of them"
        )


def _packed(tensors: Sequence[Tensor]) -> Tensor:
    """Any tensors as one of bytes: a header of int64 (how many; of each its type, dimensions and shape), then data."""
    header, parts = [len(tensors)], []
    for tensor in tensors:
        header += [_DTYPES.index(tensor.dtype), tensor.ndim, *tensor.shape]
        if tensor.numel():  # an empty one may have strides that no other type can be seen through
            parts.append(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8))
    head = torch.tensor([len(header), *header]).view(torch.uint8)
    return torch.cat([head, *parts])


def _unpacked(buffer: Tensor) -> list[Tensor]:
    data = buffer.numpy()
    length = int(data[:8].view(np.int64)[0])
    header = data[8 : 8 * (length + 1)].view(np.int64).tolist()
    place, begin, tensors = 1, 8 * (length + 1), []
    for _ in range(header[0]):
        dtype, ndim = _DTYPES[header[place]], header[place + 1]
        shape = header[place + 2 : place + 2 + ndim]
        place += 2 + ndim
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        made = torch.empty(shape, dtype=dtype)
        if size:
            made.view(-1).view(torch.uint8).copy_(buffer[begin : begin + size])
        tensors.append(made)
        begin += size
    return tensors
