"""Starting is cheap: importing the package and asking main for help load next to nothing.

No task, no reader of data, no array library: a wrong flag is told in a moment, and so it stays.
Their seconds are rows of `make bench` (benchmarks/start.py).
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = {"configuration", "disk", "machines", "machines.processes", "main", "recipe"}
OTHERS = {"absl", "ml_collections", "yaml", "six"}  # flags and configurations
PRINTED = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "


def loaded(code: str) -> tuple[set[str], set[str], str]:
    """Runs code in a fresh interpreter: (our modules, other packages, what it printed)."""
    before = subprocess.run(
        [sys.executable, "-c", PRINTED], capture_output=True, text=True, check=True
    )
    found = subprocess.run(
        [sys.executable, "-c", PRINTED + code], capture_output=True, text=True, cwd=ROOT
    )
    names = set(found.stderr.split()) - set(before.stderr.split())
    prefix = "syncmv4d_jax."
    ours = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    tops = {name.split(".")[0].lstrip("_") for name in names}
    known = {name.lstrip("_") for name in sys.stdlib_module_names} | {"", "main", "syncmv4d_jax"}
    return ours, {top for top in tops - known if not top.startswith("cython_")}, found.stdout


def test_importing_the_package_loads_nothing_else():
    ours, others, _ = loaded("import syncmv4d_jax")
    assert not ours and not others


def test_help_loads_flags_and_the_configuration_alone():
    code = "import runpy; sys.argv[1:] = ['--help']; "
    code += "runpy.run_module('syncmv4d_jax.main', run_name='__main__')"
    ours, others, text = loaded(code)
    assert "--workdir" in text and "--config" in text
    assert ours <= OURS, f"main --help loads {sorted(ours - OURS)}"
    assert others <= OTHERS, f"main --help loads {sorted(others - OTHERS)}"


def test_what_is_loaded_is_seen():
    ours, others, _ = loaded("import syncmv4d_jax.flow")
    assert "flow" in ours and {"jax", "numpy"} <= others
