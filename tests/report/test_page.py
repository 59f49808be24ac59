"""The page as a file: what it holds, what it escapes, and what it does without."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from hardwood._palette import colour_of
from hardwood.cli.app import app
from hardwood.errors import DataError
from hardwood.report import charts, write_report
from hardwood.report.page import embedded
from hardwood.report.svg import Drawing, printable, round_above, spread_apart, ticks

SECTIONS = ("measures", "won", "training", "negatives", "suspects", "staleness", "cost", "tree", "settings")


def test_a_run_has_a_page_with_all_sections(run_folder: Path) -> None:
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    for name in SECTIONS:
        assert f'<section id="{name}">' in page
    assert "Not recorded" not in page
    assert f"hardwood train --config {run_folder}/run.yaml --output NEW_FOLDER" in page
    assert len(page.encode()) < 5_000_000
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


def test_the_policy_names_the_hashes_of_script_and_style(run_folder: Path) -> None:
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    words = policy[1].replace("&#39;", "'")
    assert words.startswith("default-src 'none'; ")
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    for kind, text in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in words
    assert not re.search(r"<[^>]+ (style|on\w+)=", page.replace(script, "").replace(style, ""))  # the policy forbids it


def test_a_page_is_made_again_from_the_files_alone(run_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy, ignore=shutil.ignore_patterns("model", "checkpoints", "report.html"))
    done = CliRunner().invoke(app, ["report", str(copy)])
    assert done.exit_code == 0, done.output
    made, first = (
        (folder / "report.html").read_text().replace(str(copy), "").replace(str(run_folder), "")
        for folder in (copy, run_folder)
    )
    assert made == first


def test_what_a_run_lacks_is_said(run_folder: Path, tmp_path: Path) -> None:
    for name in ("trace.json", "log.json", "suspected_false_negatives.jsonl", "metrics.json"):
        shutil.copytree(run_folder, tmp_path / name, ignore=shutil.ignore_patterns("model", "checkpoints", name))
        assert write_report(tmp_path / name).stat().st_size > 20_000
    page = (tmp_path / "trace.json" / "report.html").read_text()
    assert page.count("Not recorded") == 3
    assert '<section id="tree">' in page
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "metrics.json").write_text("{}")
    page = write_report(bare).read_text()
    assert "Nothing was measured" in page
    assert "no run.yaml" in page


def test_what_is_no_run_is_an_error(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match=r"did you mean .*run\?"):
        write_report(run_folder / "model")
    for argument in (tmp_path / "nothing", run_folder / "run.yaml"):
        assert CliRunner().invoke(app, ["report", str(argument)]).exit_code == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trace.json", "{", "not readable JSON"),
        ("trace.json", '{"format": "hardwood-trace", "version": 99}', "of version 99"),
        ("log.json", "{}", "not a list"),
        ("log.json", "[", "not readable JSON"),
        ("suspected_false_negatives.jsonl", '{"query": 3}\n', ":1: .*lacks ids or texts"),
        ("metrics.json", "[]", "not an object"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: str, message: str, run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("model", "checkpoints"))
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        write_report(tmp_path / "run")


def test_data_can_neither_end_their_element_nor_a_line() -> None:
    hostile = {"</script><script>": ["<!--", "]]>", "&lt;", "\u2028\u2029", "\ud800", "\x00"]}
    text = embedded(hostile)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == hostile


def test_drawings_hold_texts_as_texts() -> None:
    hostile = "</svg><script>alert(1)</script>\x00\ud800\ufffe&'\""
    drawing = Drawing(100, hostile)
    drawing.text((0, 0), hostile)
    drawing.circle((1, 1), 1, "dot", hostile)
    root = ElementTree.fromstring(str(drawing))  # noqa: S314
    assert {element.tag for element in root.iter()} == {"svg", "title", "text", "circle"}
    assert printable(hostile) == "</svg><script>alert(1)</script>&'\""


def test_empty_drawings_do_not_break() -> None:
    for drawing in (
        charts.before_and_after([], "MRR@10", ""),
        charts.before_and_after([("test", None, 0.5), ("dev", 0.0, 0.0)], "MRR@10", ""),
        charts.won_and_lost([], ""),
        charts.differences([], "mrr@10", ""),
        charts.costs({}, {}, ""),
        charts.over_steps([], "loss", colour="")[0],
        charts.over_steps([("loss", "own", [(0.0, 3.0)])], "loss", colour="", from_zero=False)[0],
        charts.tree_map({"leaves": [], "explained": [0, 0]}, ""),
        charts.tree_map({"leaves": [[0.0, 0.0, 3, 1.0, []]], "explained": [0, 0]}, ""),
        charts.dots_by_name([], "MRR@10"),
        charts.scatter([], ("seconds", "MRR@10")),
    ):
        ElementTree.fromstring(drawing)  # noqa: S314
        assert "nan" not in drawing.lower().replace("ordnance", "")


def test_axes_have_round_ends_and_names_do_not_overlap() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert round_above(0.753) == 0.8
    assert round_above(0.8) == 0.8
    assert round_above(0) == 1
    for heights in ([10, 11, 12], [95, 96, 99], [5, 50, 51, 99]):
        moved = spread_apart(heights, 14, 0, 100)
        assert all(b - a >= 14 - 1e-9 for a, b in itertools.pairwise(moved))
        assert moved[-1] <= 100


def test_a_page_that_fails_does_not_take_the_run_with_it(run_folder: Path, tmp_path: Path) -> None:
    from hardwood.report.run import try_to_write_report

    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("model", "checkpoints"))
    (tmp_path / "run" / "trace.json").write_text("{")
    with pytest.warns(UserWarning, match="the run is complete, but its report.html could not be made"):
        try_to_write_report(tmp_path / "run")


def test_each_source_has_a_colour_of_its_own_that_words_can_be_set_in() -> None:
    from hardwood.negatives import SOURCES

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for dark, ground in ((False, "#ffffff"), (True, "#1c2024")):
        colours = [colour_of(name, dark=dark) for name in (*SOURCES, "somebody's")]
        assert len(set(colours)) == len(SOURCES) + 1
        for colour in colours:
            one, other = sorted((light(colour), light(ground)))
            assert (other + 0.05) / (one + 0.05) >= 4.5
