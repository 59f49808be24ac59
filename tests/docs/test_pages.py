"""Pages that speak of the code say what it does: the log's keys, error messages, the reference, and the links."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from doc_blocks import ROOT, pages
from hardwood import RunConfig, train

GUIDES = ROOT / "docs" / "guides"


def test_links_navigation_and_generated_pages() -> None:
    done = subprocess.run(
        [sys.executable, "tools/check_docs.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        {"negatives": "dynamic", "symmetric": True, "margin": 0.5, "evaluate_every": 4, "curve_split": "test"},
        {
            "guide": "sentence-transformers/all-MiniLM-L6-v2",
            "teacher": "kl",
            "guide_within": 1.0,
            "leave_out": "own-text",
        },
    ],
    ids=lambda settings: settings.get("negatives", "guide"),
)
def test_every_logged_key_is_on_the_page(settings: dict, page_folder: Path) -> None:
    train(
        RunConfig(
            data="pairs.csv", query="question", positive="answer", output="run", steps=12, batch_size=32, **settings
        )
    )
    page = (GUIDES / "log.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([\w@]+)`", page))
    logged = {key for record in json.loads(Path("run/log.json").read_text()) for key in record}
    assert len(logged) > 10
    missing = {key for key in logged if re.sub(r"^eval_test_", "eval_SPLIT_", key) not in documented | {"step"}}
    assert not missing


def test_headings_of_the_errors_page_are_pieces_of_messages() -> None:
    headings = re.findall(r"^## (.*)$", (GUIDES / "errors.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    messages = list(_messages())
    assert len(headings) > 8
    unknown = [heading for heading in headings[:-1] if not any(heading in message for message in messages)]
    assert not unknown


def _messages() -> Iterator[str]:
    """Every piece of text in the package, as it is written there."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_no_figure_of_a_script_that_is_gone() -> None:
    gone = re.compile(r"scripts? that (is|are) not kept|no script kept|not kept\)")
    assert not [page.name for page in pages() if gone.search(page.read_text(encoding="utf-8"))]


def test_scripts_that_pages_name_exist() -> None:
    named = set()
    for page in pages():
        text = page.read_text(encoding="utf-8")
        modules = (name.replace(".", "/") + ".py" for name in re.findall(r"python -m (benchmarks\.[\w.]*\w)", text))
        files = re.findall(r"(?:python|`)\s*((?:benchmarks|tools)/[\w/]+\.py)", text)
        named |= {(str(page.relative_to(ROOT)), script) for script in (*modules, *files)}
    assert len(named) > 15
    assert not [(page, script) for page, script in named if not (ROOT / script).is_file()]
