"""metrics.jsonl on a disk that is full for a while, or to the end."""

from syncmv4d_jax.results import curves


class Full:
    """A file that takes nothing until it is freed."""

    def __init__(self, inner):
        self.inner, self.full = inner, True

    def write(self, data):
        if self.full:
            raise OSError(28, "No space left on device")
        return self.inner.write(data)

    def close(self):
        self.inner.close()


def jsonl(path):
    made = curves.Jsonl(path, last_step=0)
    made._file = Full(made._file)
    return made


def test_what_a_full_disk_refused_is_written_at_the_end(tmp_path, caplog):
    made = jsonl(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        made.write({"step": step})
    assert "No space left on device; training goes on" in caplog.text
    assert not curves.read(tmp_path / "metrics.jsonl")
    made._file.full = False
    made.close()
    assert [row["step"] for row in curves.read(tmp_path / "metrics.jsonl")] == [1, 2]


def test_rows_that_are_lost_are_told(tmp_path, caplog):
    made = jsonl(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        made.write({"step": step})
    made.close()
    assert "its last 2 rows are lost" in caplog.text
