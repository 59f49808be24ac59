"""The notebook runs from top to bottom, in a fresh process and folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_the_notebook_runs_top_to_bottom(tmp_path: Path) -> None:
    notebook = json.loads((EXAMPLES / "first_hour.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    shutil.copy(EXAMPLES / "pairs.csv", tmp_path)
    (tmp_path / "cells.py").write_text("\n".join(cells))
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout
    before, after = (float(said.split(f"MRR@10 {when} training: ")[1].split()[0]) for when in ("before", "after"))
    assert after > before  # on train: fifty answers are learnt by heart
    assert said.count("Which wood is good for boats?") == 0
    assert len(said.split("MRR@10 after")[1].splitlines()) >= 3 + 2 * 5  # a measure, two questions' draws, three hits
