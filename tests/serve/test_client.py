"""The client of docs/server.md, as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import fake_maker
import serving
import two_views

ROOT = Path(__file__).parents[2]


def test_the_client_of_the_docs_makes_a_job_and_says_what_is_wrong(tmp_path):
    text = (ROOT / "docs/server.md").read_text()
    client = re.search(r"^## A client\n\n```\n(.*?)^```", text, re.M | re.S)[1]
    assert sum(bool(line.strip()) for line in client.splitlines()) <= 40
    for name, data in two_views.PAIR:
        (tmp_path / name).write_bytes(data)
    (tmp_path / "cameras.json").write_text(two_views.FIELDS["cameras"])
    with serving.studio(tmp_path / "jobs", fake_maker.load) as (port, _):
        (tmp_path / "client.py").write_text(client.replace(":8000", f":{port}"))

        def ask(*words):
            command = [sys.executable, "client.py", *words]
            return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

        done = ask("a cup", "cameras.json", "left.png", "right.png")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "view_0.mp4").read_bytes() == bytes(range(256))
        wrong = ask(" ", "cameras.json", "left.png", "right.png")
    assert wrong.returncode == 1
    assert wrong.stderr == "prompt: wanted a prompt, got an empty one (' ')\n"
