"""The versions that setup.py admits were installed and tried: requirements/ says with what end."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LOGS = sorted((ROOT / "requirements").glob("*-3.*.txt"))


def admitted():
    """{name: specifier} of what setup.py installs."""
    code = (
        "import setuptools; setuptools.setup = lambda **k: print('\\n'.join(k['install_requires']))"
    )
    code += "; import runpy; runpy.run_path('setup.py')"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    found = [Requirement(line) for line in said.splitlines()]
    return {r.name.lower().replace("_", "-"): r.specifier for r in found}


def pinned(path):
    lines = [line for line in path.read_text().splitlines() if "==" in line and line[0] != "#"]
    pairs = (line.split("==") for line in lines)
    return {name.strip().replace("_", "-"): Version(version.strip()) for name, version in pairs}


def test_the_oldest_and_the_newest_have_been_tried():
    names = {path.stem for path in LOGS}
    assert {"oldest-3.11", "newest-3.13"} <= names


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_what_was_tried_is_what_is_admitted(path):
    head, versions = path.read_text().splitlines()[0], pinned(path)
    assert " passed" in head and "failed" not in head and "error" not in head, head
    for name, specifier in admitted().items():
        assert versions[name] in specifier, f"{name}: {versions[name]} is not {specifier}"
        lowest = [Version(part.version) for part in specifier if part.operator == ">="]
        if path.stem.startswith("oldest"):
            assert [versions[name]] == lowest, f"{name}: {versions[name]} is not the oldest"


def test_a_python_that_is_not_there_is_named():
    interpreter = runpy.run_path(str(ROOT / "tests/versions.py"))["interpreter"]
    with pytest.raises(FileNotFoundError, match="python3.99: not found"):
        interpreter("3.99")
    assert Path(interpreter(f"3.{sys.version_info.minor}")).is_file()
