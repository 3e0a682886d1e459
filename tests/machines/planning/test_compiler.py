"""A compilation that is stopped when its memory is assigned: the process, and what it leaves."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from syncmv4d_jax.machines.planning import compiler

TEXT = """HloModule jit_update, is_scheduled=true

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  ROOT %b = f32[8,4]{1,0} negate(f32[8,4]{1,0} %a), metadata={op_name="jit(update)/neg"}
}
"""


def pretend(name, seconds):
    """What a compiler leaves, then how long it would go on."""
    flags = os.environ["XLA_FLAGS"].split()
    folder = Path(next(x.split("=")[1] for x in flags if x.startswith("--xla_dump_to=")))
    (folder / f"module_0000.jit_{name}.cpu_{compiler.REPORT}").write_text("the host's")
    (folder / f"module_0003.jit_{name}.cl_1.after_optimizations.txt").write_text(TEXT)
    report = "Memory Space: default (color=0)\nTotal bytes: 4096 (4KiB)\n\nMemory Space: vmem\n"
    (folder / f"module_0003.jit_{name}.cl_1.{compiler.REPORT}").write_text(report)
    time.sleep(seconds)
    return "done"


def wait(path):
    partial = path.with_suffix(".partial")
    partial.write_text(str(os.getpid()))
    partial.rename(path)
    time.sleep(300)


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def until(condition, seconds=100):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.1)


def refuse():
    raise ValueError("used 32 of 16")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(compiler, "POLL", 0.1)
    monkeypatch.setattr(compiler, "SETTLE", 0.0)


def test_stopped_when_memory_is_assigned():
    before, start = os.environ.get("XLA_FLAGS"), time.time()
    found = compiler.run(pretend, "update", 300, names=("update", "refine"))
    assert time.time() - start < 100 and os.environ.get("XLA_FLAGS") == before
    assert found.used == 4096 and found.text == TEXT
    assert found.largest == [(128, "f32[8,4]", "negate: jit(update)/neg")]


def test_other_programs_do_not_stop_it():
    assert compiler.run(pretend, "stage", 1, names=("update",)) == "done"


def test_errors_come_back():
    with pytest.raises(RuntimeError, match="ValueError: used 32 of 16"):
        compiler.run(refuse, names=("update",))
    with pytest.raises(RuntimeError, match=r"the compiling process died \(3\)"):
        compiler.run(os._exit, 3, names=("update",))


def test_a_compilation_ends_with_the_process_that_waits_for_it(tmp_path):
    path, here = tmp_path / "pid", Path(__file__).parent
    code = "import pathlib, test_compiler as t; "
    code += f"t.compiler.run(t.wait, pathlib.Path({str(path)!r}), names=())"
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parents[2]}"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    until(path.exists)
    process.kill()
    process.wait()
    until(lambda: not alive(int(path.read_text())))
