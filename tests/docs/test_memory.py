"""The memory that the documentation calculates is the memory that was measured."""

from __future__ import annotations

import importlib.util
import json
import re
import sys

import pytest

from doc_blocks import ROOT

RESULTS = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def memory():  # type: ignore[no-untyped-def]
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location(
            "memory_benchmark", ROOT / "benchmarks" / "training" / "memory.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_the_formula_is_within_15_percent_of_every_measured_peak(memory) -> None:  # type: ignore[no-untyped-def]
    assert {row["source"] for row in RESULTS["rows"]} == set(memory.MODEL)
    for row in RESULTS["rows"]:
        peak = memory.peak_bytes(row["source"], row["targets"], row["dimensions"])
        assert peak == pytest.approx(row["peak_bytes"], rel=0.15), row


def test_the_page_calculates_with_the_same_numbers(memory) -> None:  # type: ignore[no-untyped-def]
    script = (ROOT / "docs" / "assets" / "memory.js").read_text(encoding="utf-8")
    model = re.search(r"MEMORY_MODEL = (\{.*?\n\});", script, flags=re.DOTALL)
    assert model is not None
    assert json.loads(model[1]) == memory.MODEL
    page = (ROOT / "docs" / "guides" / "memory.md").read_text(encoding="utf-8")
    for source, row in zip(memory.MODEL, re.findall(r"^\| `.* GiB \|$", page, flags=re.MULTILINE), strict=True):
        shown = [float(cell) for cell in re.findall(r"([\d.]+) GiB", row)]
        sizes = ((100_000, 384), (1_000_000, 384), (1_000_000, 768))
        assert shown == [round(memory.peak_bytes(source, *size) / 2**30, 1) for size in sizes], source
        number = memory.MODEL[source]["number"]
        assert f"{number:g} n d" in row
