"""The table of times at the end of .ci/run."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = runpy.run_path(str(ROOT / ".ci/times.py"))["table"]


def test_times_are_summed_and_what_is_over_is_said():
    lines = TABLE(["tests\t12\t600", "lint and types\t2\t150"]).splitlines()
    assert lines[1].split() == ["tests", "10.0", "12"]
    assert lines[2].split() == ["lint", "and", "types", "2.5", "2", "over"]
    assert lines[3].split() == ["together", "12.5", "14"]


def test_every_change_is_fuzzed_for_a_minute_with_a_seed_of_its_own():
    steps = (ROOT / ".ci/run").read_text().splitlines()
    (line,) = [step for step in steps if step.startswith('step "fuzzing"')]
    assert line.split()[2] == "1" and 'fuzz FUZZ_ARGS="--seconds 60 --seed $commit"' in line


def test_every_test_file_has_a_name_of_its_own():
    """pytest imports test files by their names alone: of two only one is collected."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}
