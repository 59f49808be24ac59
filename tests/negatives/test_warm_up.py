"""What is compiled before the first step is all that a dynamic run needs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hardwood import _waiting, warmup
from hardwood.negatives import make_source
from hardwood.tree import _warmup

# In a process of its own, since others have used the kernels in every way.
SCRIPT = """
import importlib, pkgutil
import numpy as np
import torch
import hardwood.tree
from hardwood._ragged import RaggedRows
from hardwood.negatives import Cost, Request, make_source
from tests.negatives.conftest import ArrayTargets

source = make_source("dynamic", index_dtype=DTYPE, landmarks=60, leaf_size=16, refresh_every=3, refresh_reencode=20)
source.warm_up()
names = [module.name for module in pkgutil.walk_packages(hardwood.tree.__path__, "hardwood.tree.")]
modules = [importlib.import_module(name) for name in names]
kernels = {id(k): k for m in modules for k in vars(m).values() if hasattr(k, "signatures")}
before = {key: len(kernel.signatures) for key, kernel in kernels.items()}
assert sum(before.values()) > 5
torch.manual_seed(0)
vectors = torch.nn.functional.normalize(torch.randn(600, 16), dim=1)
cost = Cost()
targets = ArrayTargets(vectors, cost, log_prior=np.log([1.0, 0.1])[np.arange(600) % 2].astype(np.float32))
source.attach(targets, cost)
for step in range(10):
    source.begin_step(step)
    for ceiling in (None, torch.full((8,), 0.5)):
        known = RaggedRows.from_pairs(np.arange(8), np.arange(8), 8)
        request = Request(vectors[:8], torch.arange(8), 4, 20.0, known, ceiling, seed=step)
        draw = source.sample(request)
        source.log_proposal(request, draw, torch.arange(300))
    rows = torch.arange(step, 600, 2 if step % 2 else 40)
    source.observe(request, draw, rows, torch.nn.functional.normalize(vectors[rows] + 0.3, dim=1))
source.finish()
grown = [kernel.__name__ for key, kernel in kernels.items() if len(kernel.signatures) != before[key]]
assert not grown, grown
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dynamic_run_compiles_nothing_more(dtype: str) -> None:
    code = SCRIPT.replace("DTYPE", repr(dtype))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_second_call_has_nothing_to_do() -> None:
    make_source("dynamic").warm_up()
    assert warmup(training=True, dtype="float32") == 0.0
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, got 'float16'"):
        warmup(dtype="float16")


def test_a_log_says_what_takes_so_long(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_waiting, "SECONDS", 0.0)
    for progress, said in ((False, 0), (None, 1)):
        monkeypatch.setattr(_warmup, "_done", set())
        warmup(training=True, dtype="float32", progress=progress)
        assert capsys.readouterr().err.count("Compiling the tree's kernels, once per machine") == said
