"""The table of mutants is true of the code, and its runner tells killed, surviving and broken."""

import re

import mutants
import mutation

PAPER = (mutation.ROOT / "docs/paper.md").read_text()


def test_every_text_stands_once_and_every_test_is_there():
    assert not mutation.faults(mutants.TABLE)


def rows():
    """{"12", "line-8" or "A6": text} of the tables in docs/paper.md."""
    found, (checklist, rest) = {}, PAPER.split("## Algorithm 1")
    for part, prefix in ((checklist, ""), (rest, "line-")):
        for label, text in re.findall(r"^\| (A?\d[^|]*) \|(.*)$", part, re.MULTILINE):
            numbers = re.findall(r"A?\d+", label)
            if " to " in label:
                numbers = [str(i) for i in range(int(numbers[0]), int(numbers[1]) + 1)]
            found |= {n if n[0] == "A" else prefix + n: text for n in numbers}
    return found


def test_every_row_of_the_paper_names_a_test_that_an_error_makes_fail():
    table = rows()
    assert len(table) == 29 + 12 + 24 and "line-2" in table and "A24" in table
    missing = []
    for label, text in table.items():
        tests = {m.test.split("[")[0] for m in mutants.TABLE if label in m.rows.split()}
        if not any(f"`{test}`" in text for test in tests):
            missing.append(f"{label}: names none of {sorted(tests) or 'any mutant'}")
    assert not missing, missing


def test_the_runner_tells_killed_surviving_and_broken(tmp_path):
    right = "def double(x):\n    return 2 * x\n"
    (tmp_path / "doubling.py").write_text(right)
    test = "import doubling\n\ndef test_it():\n    assert doubling.double(2) == 4\n"
    (tmp_path / "test_it.py").write_text(test)
    for new, wanted, limit in (
        ("3 * x", "killed", 120.0),
        ("x ** 2", "SURVIVED", 120.0),
        ("x +", "pytest ended in", 120.0),
        ("__import__('os')._exit(1)", "pytest ended in -1", 120.0),
        ("__import__('time').sleep(600)", "no verdict in 1 s", 1.0),
    ):
        mutant = mutation.Mutant("", new, "doubling.py", "2 * x", new, "test_it.py::test_it")
        verdict, done = mutation.judge(mutant, tmp_path, limit)
        assert verdict.startswith(wanted), done.output
        assert (tmp_path / "doubling.py").read_text() == right


def test_a_test_that_fails_by_itself_kills_nothing(tmp_path):
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "test_wrong.py").write_text("def test_it():\n    assert 0\n")
    mutant = mutation.Mutant("", "it", "code.py", "1", "2", "test_wrong.py::test_it")
    verdicts, _ = mutation.run([mutant], 1, 120.0, tmp_path)
    assert verdicts["it"].startswith("not tried")


def test_faults_of_a_table_are_named(tmp_path):
    (tmp_path / "code.py").write_text("x = 1\ny = 1\n")
    (tmp_path / "test_code.py").write_text(
        "import pytest\n\n@pytest.mark.slow\ndef test_slow():\n    assert 1\n"
    )
    table = mutation.of(
        "code.py",
        "test_code.py",
        ("", "said", "= 1", "= 2", "test_slow"),
        ("", "said", "x = 1", "x = (", "test_none"),
    )
    found = "\n".join(mutation.faults(table, tmp_path))
    for part in ("found 2", "unmarked", "said twice", "no Python", "no test test_code.py::test_n"):
        assert part in found


def test_a_choice_by_hash_is_the_same_for_the_same_hash():
    def choice(mark):
        return mutation.chosen(mutants.TABLE, mutation.arguments(["--chosen-by", mark]))

    assert choice("a") == choice("a") != choice("b")
    assert len(choice("a")) == 5
