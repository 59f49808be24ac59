"""Whether the other processes of a run are alive, and one message where one of them is not.

A process that waits for another in `torch.distributed` waits in C++, for as long as the group's timeout says, and can't
learn why. So each process has a thread that counts in the store by which the processes found each other, and looks
whether its neighbour still counts. Whoever finds that a process has died, stands still or has raised an error says so
there, once, for all; then every process ends.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ._launch import torchrun_keeps_the_store
from ._rank_failures import OtherRankFailed, is_alive, is_of_a_connection

TIMEOUT = "HARDWOOD_RANK_TIMEOUT"
"""Environment variable: seconds without a sign of life after which a process counts as stopped."""

_DEFAULT_SECONDS = 120.0
_PERIOD_SECONDS = 0.5
_GOODBYE_SECONDS = 10.0
_END, _SHOWN, _BEAT, _WHO, _BYE = "hardwood/end", "hardwood/shown", "hardwood/beat", "hardwood/who", "bye"


def timeout_seconds() -> float:
    """After how many seconds without a sign of life a process counts as stopped.

    Raises:
        ValueError: the environment variable is no positive number.
    """
    given = os.environ.get(TIMEOUT)
    try:
        seconds = _DEFAULT_SECONDS if given is None else float(given)
    except ValueError:
        seconds = 0.0
    if not 2 * _PERIOD_SECONDS < seconds < float("inf"):
        raise ValueError(f"{TIMEOUT} must be seconds, more than {2 * _PERIOD_SECONDS:g}, got {given!r}")
    return seconds


class RankWatch:
    """Watches over the processes of one run.

    Args:
        store: a connection of its own to the store of the processes (``torch.distributed``).
        number: of this process.
        size: how many there are.

    Attributes:
        advice: gives a line on how to go on, which is said with the message that a process has failed.

    Raises:
        ValueError: the environment variable `TIMEOUT` is no number of seconds.
    """

    def __init__(self, store: Any, number: int, size: int) -> None:
        self._store, self.number, self.size = store, number, size
        self.advice: Callable[[], str] | None = None
        self._seconds = timeout_seconds()
        self._lock, self._speaking = threading.Lock(), threading.Lock()
        self._is_over = self._keeper_is_done = self._has_said_of_the_store = False
        self._has_claimed = False
        self._judge: threading.Thread | None = None
        self._verdict: BaseException | None = None
        self._has_judged = threading.Event()
        self._known: dict[int, dict[str, Any]] = {}
        who = {"host": platform.node(), "process": os.getpid()}
        self._set(f"{_WHO}/{number}", json.dumps(who))
        self._set(f"{_BEAT}/{number}", "0")
        self._where = "in the main script"
        self._store_answered = time.monotonic()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=work, name="hardwood-ranks", daemon=True)
            for work in (self._watch, self._watch_the_store)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.say_goodbye)
        self._hook = sys.excepthook
        sys.excepthook = self._uncaught

    def say_goodbye(self) -> None:
        """This process has done its work; that it is gone is no failure.

        The threads end first: one that is in the C++ of the store while the interpreter goes would abort the process.
        """
        was_over, self._is_over = self._is_over, True
        self._ended.set()
        for thread in self._threads:
            thread.join(_GOODBYE_SECONDS)  # one whose store is gone may not come back
        if was_over:
            with suppress(Exception):
                self._wait_until_it_is_shown()
            self._linger()
            return
        with suppress(Exception):
            self._set(f"{_BEAT}/{self.number}", _BYE)
            if self._keeps_the_store:
                self._keep_the_store()

    @property
    def _keeps_the_store(self) -> bool:
        """Whether the store ends with this process: the first one keeps it, unless torchrun does."""
        return self.number == 0 and not torchrun_keeps_the_store()

    def _wait_until_it_is_shown(self) -> None:
        """After a failure the others wait until whoever speaks has spoken: a launcher kills all when one has ended."""
        if (said := self._said()) is None:
            return
        speaker = int(said.partition("\n")[0])
        if speaker == self.number:
            self._set(_SHOWN, "")
            return
        until = time.monotonic() + _GOODBYE_SECONDS
        while time.monotonic() < until and self._get(_SHOWN) is None:
            who = self._who(speaker)
            if who.get("host") == platform.node() and not is_alive(who["process"]):
                return
            time.sleep(_PERIOD_SECONDS / 5)

    def _linger(self) -> None:
        """After a failure the keeper of the store waits until the others have read there who has spoken, and ended."""
        if not self._keeps_the_store:
            return
        others = [who for number, who in self._known.items() if number != self.number]
        here = [who["process"] for who in others if who["host"] == platform.node()]
        # Of processes on other machines nothing is seen: they look into the store once a period.
        least = 0 if len(here) == self.size - 1 else 4 * _PERIOD_SECONDS
        begin = time.monotonic()
        while (waited := time.monotonic() - begin) < _GOODBYE_SECONDS:
            if waited >= least and not any(map(is_alive, here)):
                return
            time.sleep(_PERIOD_SECONDS / 5)

    def _keep_the_store(self) -> None:
        """At the end of a run the keeper of the store waits a while for the others to be done."""
        until = time.monotonic() + 20 * _PERIOD_SECONDS
        while time.monotonic() < until:
            if self._said() is not None:
                self._linger()
                return
            if all(self._get(f"{_BEAT}/{number}") == _BYE for number in range(1, self.size)):
                return
            time.sleep(_PERIOD_SECONDS / 5)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Name what this process is at, for the message if it fails there."""
        before, self._where = self._where, phase
        yield  # not put back after an error: the message must say where it was
        self._where = before

    def failed(self, error: BaseException) -> BaseException:
        """What to raise in the place of an error, so that one process of all speaks.

        Args:
            error: raised on this process; an error of a connection is another process's fault.

        Returns:
            ``error`` with a note that names this process, or `OtherRankFailed` where another has spoken.
        """
        if isinstance(error, OtherRankFailed):
            return error
        # Signals are raised in the main thread, and launchers send one as soon as a process is gone: whoever has
        # claimed to speak must not be kept from it. What comes later changes nothing about who has failed.
        if self._judge is None:
            with suppress(BaseException):
                self._judge = threading.Thread(target=self._judge_it, args=(error,), name="hardwood-judge", daemon=True)
                try:
                    self._judge.start()
                except RuntimeError:  # no thread is to be had
                    self._judge_it(error)
        until = time.monotonic() + self._seconds + 2 * _GOODBYE_SECONDS
        while not self._has_judged.is_set() and time.monotonic() < until:
            with suppress(BaseException):
                self._has_judged.wait(_PERIOD_SECONDS)
        return self._verdict if self._verdict is not None else error

    def _judge_it(self, error: BaseException) -> None:
        """`failed`, once for a process."""
        try:
            self._verdict = self._told_apart(error)
        except RuntimeError:  # of the store
            if is_of_a_connection(error):
                self._say_that_the_store_is_gone()
                self._verdict = OtherRankFailed()
            else:
                self._verdict = error
        finally:
            self._has_judged.set()

    def _told_apart(self, error: BaseException) -> BaseException:
        """`failed`, where the store answers."""
        if self._is_over or self._said() is not None:
            self._is_over = True
            return OtherRankFailed()
        culprit = self._dead()
        if culprit is None and is_of_a_connection(error):
            culprit = self._await_culprit()
        if culprit is None and is_of_a_connection(error) and self._said() is not None:
            self._is_over = True
            return OtherRankFailed()
        self._is_over = True
        if culprit is not None:
            self._speak(culprit)
            return OtherRankFailed()
        me = f"rank {self.number} of {self.size} ({self._name(self.number)})"
        if not self._claim(f"rank {self.number}: {error}"):
            return OtherRankFailed()
        # As `add_note` of Python 3.11 keeps them.
        error.__notes__ = [*getattr(error, "__notes__", []), f"this was on {me}, {self._where}; all of them end"]
        return error

    def _watch(self) -> None:
        beat, neighbour = 0, (self.number + 1) % self.size
        heard: str | None = None
        last = answered = time.monotonic()
        while not self._is_over:
            knows_all = len({*self._known, self.number}) == self.size  # a store that is lost can't be asked who kept it
            self._ended.wait(_PERIOD_SECONDS if knows_all else _PERIOD_SECONDS / 20)
            try:
                beat += 1
                if self._is_over:
                    return
                self._set(f"{_BEAT}/{self.number}", str(beat))
                self._store_answered = answered = time.monotonic()
                if self._said() is not None:
                    self._end_quietly()
                self._keeper_is_done = self._get(f"{_BEAT}/0") == _BYE and not torchrun_keeps_the_store()
                found = self._get(f"{_BEAT}/{neighbour}")
                if found == _BYE:
                    neighbour = (neighbour + 1) % self.size
                    if neighbour == self.number:
                        neighbour = (neighbour + 1) % self.size
                    heard, last = None, time.monotonic()
                elif found != heard:
                    heard, last = found, time.monotonic()
                dead = self._dead()
                if dead is None and time.monotonic() - last > self._seconds:
                    dead = (
                        f"rank {neighbour} of {self.size} ({self._name(neighbour)}) has given no sign of life for "
                        f"{self._seconds:g} seconds: it is stopped, or its machine is gone. All processes of the run "
                        "end"
                    )
                if dead is not None:
                    self._speak_and_end(dead)
            except Exception:
                if self._is_over or self._keeper_is_done:  # the end of the run: nothing is left to watch
                    return
                if time.monotonic() - answered > 4 * _PERIOD_SECONDS:
                    self._say_that_the_store_is_gone()
                    os._exit(1)

    def _say_that_the_store_is_gone(self) -> None:
        """One process says so, by its number: without the store, none can learn whether another has spoken."""
        with self._speaking:
            spoken, self._has_said_of_the_store, self._is_over = self._has_said_of_the_store, True, True
            if spoken or self.number != min(1, self.size - 1):
                return
            if torchrun_keeps_the_store():
                self._say("the processes of the run have lost each other: torchrun's own process is gone")
                return
            until = time.monotonic() + 2 * _PERIOD_SECONDS
            keeper = self._known.get(0, {})
            is_here = keeper.get("host") == platform.node()
            while is_here and is_alive(keeper["process"]) and time.monotonic() < until:  # its sockets close first
                time.sleep(_PERIOD_SECONDS / 10)
            if is_here and not is_alive(keeper["process"]):
                self._say(self._was_killed(0))
            else:
                self._say(f"{self._keeper()} can't be reached: it has ended, or its machine is gone. All processes end")

    def _watch_the_store(self) -> None:
        """Watches the store: one of the processes may keep it, and then it stands still with that process."""
        while not self._is_over:
            self._ended.wait(_PERIOD_SECONDS)
            if self._is_over or self._keeper_is_done:
                return
            if time.monotonic() - self._store_answered < self._seconds + 4 * _PERIOD_SECONDS:
                continue
            if self.number == min(1, self.size - 1):
                self._say(
                    f"{self._keeper()} has given no sign of life for {self._seconds:g} seconds: it is stopped, or its "
                    "machine is gone. All processes of the run end"
                )
            os._exit(1)

    def _speak_and_end(self, message: str) -> None:
        time.sleep(_PERIOD_SECONDS)  # an error that was about to be said says more
        if not self._is_over and self._speak(message):
            self._linger()
            os._exit(1)
        if not self._is_over:
            self._end_quietly()

    def _end_quietly(self) -> None:
        if not self._is_over:
            with suppress(Exception):  # the store may go with its keeper
                self._wait_until_it_is_shown()
            if not self._is_over:  # meanwhile the main thread may have come to an error, and ends in order
                self._linger()
                os._exit(1)

    def _await_culprit(self) -> str | None:
        """Who has broken a connection: a process that dies is seen at once, one that raises says so soon."""
        until = time.monotonic() + 10 * _PERIOD_SECONDS
        while time.monotonic() < until and self._said() is None:
            if (dead := self._dead()) is not None:
                return dead
            time.sleep(_PERIOD_SECONDS / 5)
        return None

    def _dead(self) -> str | None:
        """A message that names a process of this machine that has died before its work was done."""
        for number in range(self.size):
            if number == self.number:
                continue
            who = self._who(number)
            if who.get("host") != platform.node() or is_alive(who.get("process", 0)):
                continue
            if self._get(f"{_BEAT}/{number}") != _BYE and self._said() is None:
                return self._was_killed(number)
        return None

    def _was_killed(self, number: int) -> str:
        who = self._known[number]
        return (
            f"rank {number} of {self.size} (process {who['process']} on {who['host']}) was killed or has crashed. All "
            "processes of the run end"
        )

    def _keeper(self) -> str:
        """What keeps the store, for a message; the store is not asked."""
        if torchrun_keeps_the_store():
            return f"torchrun's own process on {os.environ.get('MASTER_ADDR', 'the first machine')}"
        who = self._known.get(0, {})
        return f"rank 0 of {self.size} (process {who.get('process', '?')} on {who.get('host', '?')})"

    def _who(self, number: int) -> dict[str, Any]:
        if number not in self._known and (found := self._get(f"{_WHO}/{number}")) is not None:
            self._known[number] = json.loads(found)
        return self._known.get(number, {})

    def _name(self, number: int) -> str:
        who = self._who(number)
        return f"process {who.get('process', '?')} on {who.get('host', 'an unknown machine')}"

    def _claim(self, message: str) -> bool:
        """Whether this process is the one to speak, and this its first call."""
        with self._lock:
            if self._has_claimed:
                return False
            mine = f"{self.number}\n{message}"
            self._has_claimed = bool(self._store.compare_set(_END, "", mine).decode() == mine)
            return self._has_claimed

    def _said(self) -> str | None:
        return self._get(_END)

    def _get(self, key: str) -> str | None:
        with self._lock:
            return self._store.get(key).decode() if self._store.check([key]) else None

    def _set(self, key: str, value: str) -> None:
        with self._lock:
            self._store.set(key, value)

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        found = self.failed(error)
        if found is error:
            self._hook(kind, error, trace)

    def _speak(self, message: str) -> bool:
        """Say so if no other process has spoken; whether this one has."""
        text = self._text(message)  # before the claim: whoever has claimed to speak and is killed leaves all silent
        if not self._claim(message):
            return False
        _write(text)
        with suppress(Exception):  # it is said, whether the store is there or not
            self._set(_SHOWN, "")
        return True

    def _say(self, message: str) -> None:
        _write(self._text(message))

    def _text(self, message: str) -> str:
        """The message and the advice."""
        lines = [f"error: {message}"]
        if self.advice is not None:
            with suppress(Exception):  # a process is gone, and that must be said
                lines.append(self.advice())
        return "\n".join(lines) + "\n"


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
