"""What ``hardwood doctor`` says of this machine, and of one where something is wrong."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hardwood import doctor
from hardwood.cli.app import app


def found(name: str) -> doctor.Finding:
    return next(finding for finding in doctor.examine() if finding.name == name)


def test_all_is_well_here() -> None:
    findings = {finding.name: finding for finding in doctor.examine()}
    assert not [finding for finding in findings.values() if finding.is_error]
    assert findings["torch"].value == metadata.version("torch")
    assert "for the tree" in findings["threads"].value
    assert findings["free memory"].value.endswith("GiB")
    assert "kept" in findings["compiled kernels"].value


@pytest.mark.parametrize(
    ("version", "said"), [(None, "pip install 'torch>=2.11'"), ("2.0.0", "this version of hardwood needs torch>=2.11")]
)
def test_a_requirement_that_is_not_met_is_an_error(
    monkeypatch: pytest.MonkeyPatch, version: str | None, said: str
) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: version if name == "torch" else real(name))
    finding = found("torch")
    assert finding.is_error
    assert said in finding.advice
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert said in result.output


def test_more_threads_than_processors_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_allowed_processors", lambda: 0)
    assert "set OMP_NUM_THREADS" in found("threads").advice


def test_offline_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline by HF_HUB_OFFLINE" in found("hub").value


def test_a_full_temporary_folder_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", _full)
    assert found("temporary files").is_error


def _full() -> None:
    raise OSError(28, "No space left on device")
