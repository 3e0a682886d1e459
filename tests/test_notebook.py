"""The notebook of docs/pipeline.md runs from top to bottom, and shows what it says."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def run(cell, names):
    """Executes a cell; returns the value of its last line, as a notebook shows it."""
    code = ast.parse("".join(cell["source"]))
    last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
    exec(compile(code, "notebook", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "notebook", "eval"), names)


@pytest.mark.slow  # half a minute of its own in .ci/run
def test_the_notebook_runs(tmp_path, monkeypatch):
    notebook = json.loads((ROOT / "docs/pipeline.ipynb").read_text())
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    names = {}
    shown = [run(cell, names) for cell in cells]
    videos = names["result"].videos
    assert shown[1] == (videos.shape, np.dtype("uint8")) and videos.ndim == 5
    assert shown[2] == (True, False)
    assert "meta.json" in shown[3] and "view_0.mp4" in shown[3]
    assert shown[4]._repr_html_().startswith("<iframe")
