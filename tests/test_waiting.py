"""A sign of life for what takes long, and none for what doesn't."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from hardwood import _waiting
from hardwood._waiting import waiting
from hardwood.encoding import progress_bar


class Heard(io.StringIO):
    """Stderr that can be waited for."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal
        self.written = threading.Event()

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        count = super().write(text)
        if text.strip():
            self.written.set()
        return count


def hear(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool, seconds: float = 0.0) -> Heard:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    heard = Heard(is_terminal)
    monkeypatch.setattr(sys, "stderr", heard)
    monkeypatch.setattr(_waiting, "SECONDS", seconds)
    return heard


def test_a_log_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = hear(monkeypatch, is_terminal=False)
    with waiting("Saving [checkpoint-8]"):
        assert heard.written.wait(60)
    assert heard.getvalue() == "Saving [checkpoint-8] ...\n"


def test_a_terminal_shows_it_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = hear(monkeypatch, is_terminal=True)
    with waiting("Saving [checkpoint-8]"):
        assert heard.written.wait(60)
    assert "Saving [checkpoint-8]" in heard.getvalue()
    assert heard.getvalue().endswith("\x1b[2K")  # the line is cleared


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_is_quick_or_quiet_is_not_announced(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = hear(monkeypatch, is_terminal=is_terminal, seconds=3600.0)
    with waiting("Saving"):
        pass
    monkeypatch.setattr(_waiting, "SECONDS", 0.0)
    with waiting("Saving", show=False):
        assert not heard.written.wait(0.2)
    with pytest.raises(KeyError), waiting("Saving", show=False):
        raise KeyError
    assert heard.getvalue() == ""
    assert not _waiting._under_way


def test_a_bar_takes_the_place_of_the_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = hear(monkeypatch, is_terminal=True)
    with waiting("Renewing"):
        assert heard.written.wait(60)
        with progress_bar("Encoding targets", 10) as advance:
            heard.truncate(0)
            advance(10)
    assert "Encoding targets" in heard.getvalue()
    assert "Renewing" not in heard.getvalue()
