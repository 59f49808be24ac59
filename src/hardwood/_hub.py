"""Names on the Hugging Face hub: one question with a time limit, before a loader asks for each of the files.

A loader repeats each request five times, and asks for a dozen files, also for a model that is in the cache: without a
connection it would take minutes. What the name of a model is, a folder or a name on the hub, is said here too.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Literal

__all__ = ["asked_once", "check_model", "is_folder", "why_unreachable"]

Kind = Literal["model", "dataset"]

_SECONDS = 5.0
_FILES = ("modules.json", "config.json")  # of a model in the cache there is one of them at least


def check_model(name: str, what: str) -> None:
    """Refuse a model that can't be had, in seconds: no such folder, or a hub out of reach and nothing in the cache.

    A name that the hub doesn't know is left to the loader, which knows other names.

    Args:
        name: a folder, or a name on the hub.
        what: what the model is for, such as ``"encoder"``; for the message.

    Raises:
        ValueError: with what was tried, and the ways out.
    """
    if is_folder(name):
        if not Path(name).expanduser().is_dir():
            raise ValueError(f"no {what} at {name!r}: there is no such folder")
        return
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    try:
        if _is_in_cache(name):
            return
    except HFValidationError as error:
        raise ValueError(
            f"no {what} at {name!r}: there is no such folder, and it can't be a name on the hub (OWNER/NAME)"
        ) from error
    tried = f"could not load the {what} {name!r}: there is no such folder here, nothing of it is in the cache"
    if constants.HF_HUB_OFFLINE:
        raise ValueError(
            f"{tried} ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to ask the hub: unset it, or give a "
            "folder that holds the model"
        )
    if (reason := why_unreachable(name)) is not None:
        raise ValueError(
            f"{tried} ({constants.HF_HUB_CACHE}), and the hub ({constants.ENDPOINT}) can't be reached: {reason}. Give "
            "a folder that holds the model, or connect: HTTPS_PROXY names a proxy, HF_ENDPOINT a mirror, HF_HOME the "
            "folder of another cache, and HF_HUB_ETAG_TIMEOUT how many seconds to wait"
        )


def is_folder(name: str) -> bool:
    """Whether a model's name is a folder's, else it is a name on the hub."""
    return name.startswith((".", "/", "~")) or Path(name).expanduser().is_dir()


@contextmanager
def asked_once(name: str, what: str) -> Iterator[None]:
    """Load a model within: where the hub can't be reached, a loader is kept from asking it, and has the cache alone.

    Warns in this case: the copy in the cache may be older than the hub's, or incomplete.

    Args:
        name: as ``check_model`` takes it.
        what: as ``check_model`` takes it.

    Raises:
        ValueError: as ``check_model``.
    """
    from huggingface_hub import constants

    check_model(name, what)
    if is_folder(name) or constants.HF_HUB_OFFLINE or (reason := why_unreachable(name)) is None:
        yield
        return
    warnings.warn(
        f"the hub ({constants.ENDPOINT}) can't be reached ({reason}): of the {what} {name!r} there is only what the "
        "cache has, which may be older or incomplete (HF_HUB_OFFLINE=1: use the cache without asking)",
        stacklevel=4,
    )
    constants.HF_HUB_OFFLINE = True  # `local_files_only` does not reach all of a loader's requests
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _is_in_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    places = (os.environ.get("SENTENCE_TRANSFORMERS_HOME"), None)  # sentence-transformers' own, and the hub's client's
    repositories = (name, f"sentence-transformers/{name}") if "/" not in name else (name,)
    asked = product(repositories, _FILES, places)
    return any(isinstance(try_to_load_from_cache(*one), str) for one in asked)


def why_unreachable(name: str, kind: Kind = "model") -> str | None:
    """Ask the hub for something once, for at most as long as ``HF_HUB_ETAG_TIMEOUT`` says, else 5 seconds.

    Args:
        name: on the hub.
        kind: of what has the name.

    Returns:
        Why the hub can't be reached; ``None`` where it answers, also that there is no such thing.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", _SECONDS))
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().repo_info(name, repo_type=kind, timeout=seconds)
            answers.append(None)
        except Exception as error:  # of the hub's client and of what it stands on, which differ by its version
            answers.append(error)

    # In a thread, since a client's limit is for one address of a host with eight, and for looking up none.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        return f"no answer in {seconds:g} seconds"
    error = answers[0]
    if error is None or (isinstance(error, HfHubHTTPError) and error.response.status_code < 500):
        return None
    return " ".join(str(error).split())[:200] or type(error).__name__
