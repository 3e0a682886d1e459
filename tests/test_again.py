"""The second run of every command, done: docs/again.md says what happens."""

import again
import again_commands
import pytest

SLOW = {
    "main, mode=evaluate", "main, mode=train", "main, mode=plan", "prepare_taco.py",
    "import_monocular.py", "import_trajscene.py",
    "make_scenes.py",
}  # fmt: skip
ROWS = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in again.COMMANDS
]


def test_the_table_has_every_command_and_condition():
    found = again.table()
    assert list(found) == list(again.COMMANDS)
    for cells in found.values():
        assert tuple(cells) == again.CONDITIONS and set(cells.values()) <= set(again.WORDS)


@pytest.mark.parametrize("name", ROWS)
def test_what_happens_is_what_the_table_says(name, tmp_path):
    found = again.row(again.COMMANDS[name], tmp_path)
    assert again.line(name, found) == again.line(name, again.table()[name])


def test_a_changed_result_is_seen(tmp_path):
    """The judge itself: a command that forgets what it was told is not \"new, former kept\"."""

    class Forgets(again_commands.Command):
        def run(self, out, *, prompt="a"):
            self.made += not (out / "a").is_file()
            out.mkdir(exist_ok=True)
            (out / "a").write_text("a")

    command = Forgets(tmp_path, None)
    command.run(tmp_path / "out")
    assert again.second(command, tmp_path / "out", prompt="b") == again.NOTHING
    (tmp_path / "out/a").unlink()
    assert again.second(command, tmp_path / "out") == again.BESIDE
