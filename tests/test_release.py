"""What `make release` asks before it builds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "check_release.py"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_release", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


@pytest.mark.parametrize(
    ("cited", "heading", "problems"),
    [
        ("{}", "## {} (2026-12-01)", []),
        ("0.0.9", "## {} (2026-12-01)", ["CITATION.cff has version 0.0.9"]),
        ("{}", "## {} (unreleased)", ["unreleased: give its heading the date"]),
        ("{}", "## 0.0.9", ["the newest heading of CHANGELOG.md is '## 0.0.9'"]),
    ],
)
def test_versions_must_agree(tool: ModuleType, tmp_path: Path, cited: str, heading: str, problems: list[str]) -> None:
    version = tool.__version__
    (tmp_path / "CITATION.cff").write_text(f"version: {cited.format(version)}\n")
    (tmp_path / "CHANGELOG.md").write_text(f"# Changes\n\n{heading.format(version)}\n")
    found = list(tool.version_problems())
    assert len(found) == len(problems)
    for said, wanted in zip(found, problems, strict=True):
        assert wanted in said


def test_the_requirements_have_licences_that_allow_it(tool: ModuleType) -> None:
    assert list(tool.licence_problems()) == []


def test_the_citation_is_of_this_version(tool: ModuleType) -> None:
    assert f"version: {tool.__version__}" in (TOOL.parent.parent / "CITATION.cff").read_text()
