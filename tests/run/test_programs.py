"""The lowered programs of the real steps do not grow unseen: FLOPs, memory, transposes, messages.

What they are held to stands in golden/programs/, with the command that refreshes it. Shrinking
fails too, beyond the same tolerance: then the file is to be refreshed, or growth back would pass.
"""

import functools
import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "golden" / "programs"
TOLERANCE = {"flops": 0.02, "transposes": 0.02, "temporaries": 0.05, "collectives": 0.0}
_spec = importlib.util.spec_from_file_location("programs", FOLDER / "make.py")
programs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(programs)
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def differences(wanted, got):
    """Lines that say what is outside its tolerance."""
    wrong = []
    for name, value in got.items():
        known = wanted[name] if isinstance(value, dict) else {"": wanted[name]}
        for kind, x in (value if isinstance(value, dict) else {"": value}).items():
            before = known.get(kind, 0)
            if abs(x - before) > TOLERANCE[name] * before:
                wrong.append(f"{name} {kind} was {before}, is {x}")
        wrong += [f"{name} {kind} is gone" for kind in known if kind and kind not in value]
    return wrong


def check(name, got):
    file = f"{name.replace('/', '_')}.json"
    wrong = differences(json.loads((FOLDER / file).read_text()), got)
    command = f"python tests/golden/programs/make.py {name}"
    assert not wrong, f"{name}: {'; '.join(wrong)}. If it is meant: {command}"


@pytest.mark.parametrize(
    "name", [n if n == "full/mjd_step" else slow(n) for n in programs.NAMES if "full/" in n]
)
def test_full_size_programs_compute_what_they_did(name):
    check(name, programs.of_lowered(programs.trace(name)))


@pytest.mark.parametrize(
    "name", [n if n == "small/mjd_step" else slow(n) for n in programs.COMPILED]
)
def test_compiled_programs_need_what_they_did(name):
    traced = programs.trace(name)
    check(name, programs.of_lowered(traced) | programs.of_compiled(traced))


def test_a_program_that_grows_is_named():
    before = {"flops": 1000, "temporaries": 1000, "collectives": {"all-gather": 4, "all-to-all": 2}}
    assert not differences(before, {"flops": 1019, "temporaries": 960})
    assert differences(before, {"flops": 1021}) == ["flops  was 1000, is 1021"]
    assert differences(before, {"temporaries": 900}) == ["temporaries  was 1000, is 900"]
    grown = {"collectives": {"all-gather": 5, "all-reduce": 1}}
    assert differences(before, grown) == [
        "collectives all-gather was 4, is 5",
        "collectives all-reduce was 0, is 1",
        "collectives all-to-all is gone",
    ]
