"""Every Python and bash block of the documentation runs, or says why not and fits the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from doc_blocks import ROOT, blocks_of, commands_of, pages, problems_of, run_command, run_python

BLOCKS = {page: [block for block in blocks_of(page) if block.language in ("python", "bash")] for page in pages()}


SLOW = {  # they train several times, start processes, or compile kernels that nothing else needs
    f"docs/{name}.md"
    for name in (
        "concepts/tree",
        "guides/errors",
        "guides/large-encoders",
        "guides/migrate",
        "guides/no-help",
        "guides/report",
        "guides/resuming",
        "start/ten-minutes",
    )
}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.filterwarnings("ignore")  # what third parties warn of is not what the pages are about
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if name_of(page) in SLOW else (), id=name_of(page))
        for page, blocks in BLOCKS.items()
        if any(block.reason is None for block in blocks)
    ],
)
def test_the_blocks_of_a_page_run(page: Path, page_folder: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCKS[page]:
        if block.reason is not None:
            continue
        if block.language == "python":
            run_python(block, namespace)
        else:
            for words in commands_of(block):
                run_command(block, words)


@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if blocks], ids=name_of)
def test_blocks_that_are_not_run_fit_the_code(page: Path) -> None:
    assert [problem for block in BLOCKS[page] for problem in problems_of(block)] == []
