"""What the failure of another process looks like from here."""

from __future__ import annotations

from pathlib import Path


class OtherRankFailed(SystemExit):
    """Another process has failed and said so: this one ends without a word."""

    def __init__(self) -> None:
        super().__init__(1)


def is_of_a_connection(error: BaseException) -> bool:
    """Whether an error is what `torch.distributed` or a launcher gives where another process is gone."""
    if type(error).__name__ in ("_Terminated", "DistBackendError", "DistNetworkError", "DistStoreError"):
        return True
    words = ("gloo", "connection", "nccl", "peer", "pipe", "socket", "store")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs, by its number."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()  # where there is no such folder, nothing is known
    except OSError:
        return True
    return state not in ("Z", "X")
