"""A launch by torchrun: the processes of a run, and those that take their place after a failure (``--max-restarts``).

torchrun's own process keeps the store by which the others find each other, and this store outlives them. PyTorch reads
there what the processes before a restart have written, and may wait for them for ever; so those that are there now
agree on a name, under which everything of theirs is kept apart. Knows the store alone.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from functools import partial
from typing import Any

_HERE, _PROPOSED, _SEEN, _AGREED, _LAUNCH = (
    f"hardwood/{name}" for name in ("here", "proposed", "seen", "agreed", "launch")
)
_PERIOD_SECONDS = 0.02
_LIMIT_SECONDS = 1800.0  # as long as PyTorch itself waits for processes to come


def restarts() -> int:
    """How often torchrun has started the processes anew; where one machine of several fails, the others count less."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def restarts_left() -> int:
    """How often torchrun would do it again."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) - restarts()


def torchrun_keeps_the_store() -> bool:
    """Whether torchrun's own process keeps the store, and not the first of those that it started."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def launchers_store() -> Any | None:
    """A connection to the store that torchrun's own process keeps; ``None``: nothing here outlives a process."""
    if not torchrun_keeps_the_store():
        return None
    from torch.distributed import TCPStore

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


def launch_name(store: Any | None) -> str | None:
    """What all processes of one launch have in common, before and after a restart, and no other launch has.

    Args:
        store: as `launchers_store` gives it.
    """
    return None if store is None else str(store.compare_set(_LAUNCH, "", uuid.uuid4().hex).decode())


def agreed_name(store: Any, number: int, size: int) -> str:
    """A new name that the processes which are there now agree on, whatever earlier ones have left in the store.

    Args:
        store: the same for all, and for those before a restart.
        number: of this process, from 0.
        size: how many there are.

    Raises:
        RuntimeError: another process has not come in half an hour.
    """
    me = uuid.uuid4().hex
    store.set(f"{_HERE}/{number}", me)
    try_to_agree = _Proposer(store, size).try_to_agree if number == 0 else partial(_follow, store, number, me)
    until = time.monotonic() + _LIMIT_SECONDS
    while (name := try_to_agree()) is None:
        if time.monotonic() > until:
            missing = [str(other) for other in range(size) if not store.check([f"{_HERE}/{other}"])]
            raise RuntimeError(
                f"rank {number} of {size} has waited {_LIMIT_SECONDS / 60:g} minutes for the others"
                + (f"; these have never come: {', '.join(missing)}" if missing else "")
            )
        time.sleep(_PERIOD_SECONDS)
    return name


class _Proposer:
    """The first process proposes a name for those that it sees, and a new one whenever one of them turns out to be
    another than the store had said."""

    def __init__(self, store: Any, size: int) -> None:
        self._store, self._size = store, size
        self._name = ""
        self._there: list[str] = []

    def try_to_agree(self) -> str | None:
        """The name, once all others have seen themselves among those that it is for."""
        keys = [f"{_HERE}/{number}" for number in range(self._size)]
        if not self._store.check(keys):
            return None
        there = [self._store.get(key).decode() for key in keys]
        if there != self._there:
            self._name, self._there = uuid.uuid4().hex, there
            self._store.set(_PROPOSED, json.dumps([self._name, there]))
        if not all(self._store.check([f"{_SEEN}/{self._name}/{number}"]) for number in range(1, self._size)):
            return None
        self._store.set(f"{_AGREED}/{self._name}", "yes")
        return self._name


def _follow(store: Any, number: int, me: str) -> str | None:
    """The name that the first process has proposed, if it is for this process and all others have seen it."""
    name, there = json.loads(store.get(_PROPOSED)) if store.check([_PROPOSED]) else ("", [])
    if number >= len(there) or there[number] != me:
        return None
    store.set(f"{_SEEN}/{name}/{number}", "yes")
    return str(name) if store.check([f"{_AGREED}/{name}"]) else None


def store_of_the_living(store: Any | None, number: int, size: int) -> dict[str, Any]:
    """What ``init_process_group`` takes so that nothing of earlier processes is met; empty where there were none.

    Args:
        store: as `launchers_store` gives it.
        number: of this process, from 0.
        size: how many there are.
    """
    if store is None:
        return {}
    from torch.distributed import PrefixStore

    return {"store": PrefixStore(agreed_name(store, number, size), store), "rank": number, "world_size": size}
