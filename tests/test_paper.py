"""docs/paper.md names code and tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/paper.md").read_text()


def names(path):
    """Top-level functions, classes and constants of a file, and methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            for inner in getattr(node, "body", ()):
                if isinstance(node, ast.ClassDef) and isinstance(inner, ast.FunctionDef):
                    found.add(f"{node.name}.{inner.name}")
    return found


def test_everything_named_exists():
    references = re.findall(r"`([\w/]+\.py)(?:::?([\w.]+))?`", TEXT)
    assert len(references) > 100
    wrong = []
    for file, name in references:
        top = file.split("/")[0]
        base = (
            ROOT
            if top in ("tests", "configs", "data_prep", "benchmarks")
            else ROOT / "syncmv4d_jax"
        )
        path = base / file
        if not path.is_file() or (name and name not in names(path)):
            wrong.append(f"{file}:{name}")
    assert not wrong, wrong


def test_every_item_and_reading_is_there():
    rows = re.findall(r"^\| (A?\d+) \|", TEXT, re.MULTILINE)
    assert [r for r in rows if r[0] != "A"][:29] == [str(i) for i in range(1, 30)]
    assert [r for r in rows if r[0] == "A"] == [f"A{i}" for i in range(1, 25)]
