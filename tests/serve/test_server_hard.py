"""The server killed in the middle of fifty jobs."""

import collections
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import serving
import two_views as given

pytestmark = pytest.mark.slow
SUPPORT = Path(__file__).parents[1] / "support"


def start(root, seconds):
    command = [sys.executable, SUPPORT / "studio_process.py", root, str(seconds)]
    paths = ":".join(filter(None, sys.path))
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": paths, "PATH": "/usr/bin"}
    )
    return process, int(process.stdout.readline())


def tokens(root):
    return {p.parent.parent.name: p.read_text() for p in root.glob("jobs/*/result/token.json")}


def test_fifty_jobs_outlive_a_killed_server(tmp_path):
    """None is lost, and none that was made is made again."""
    process, port = start(tmp_path, 0.02)
    body, headers = serving.form(given.FIELDS | {"num_inference_steps": "3"}, given.PAIR)
    names = []
    for _ in range(50):
        status, text, _ = serving.ask(port, "/v1/videos", "POST", body, headers)
        assert status == 202
        names.append(json.loads(text)["id"])
    end = time.monotonic() + 120
    for kill in range(3):
        while len(tokens(tmp_path)) < 4 + 12 * kill and time.monotonic() < end:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process, port = start(tmp_path, 0.02)
        before = tokens(tmp_path)
        assert 0 < len(before) < 50
        assert len(json.loads(serving.ask(port, "/v1/videos")[1])["data"]) == 50
        assert {k: x for k, x in tokens(tmp_path).items() if k in before} == before
    try:
        for name in names:
            serving.until(port, name, "done", seconds=240)
        assert {k: x for k, x in tokens(tmp_path).items() if k in before} == before
        assert set(tokens(tmp_path)) == set(names)
        made = collections.Counter((tmp_path / "made.log").read_text().split())
        # A job may have been at its last line when the kill came: it was not whole on disk then.
        assert set(made) == set(names) and sum(made.values()) <= 53
        order = [json.loads((tmp_path / f"jobs/{x}/job.json").read_text())["number"] for x in names]
        assert order == list(range(1, 51))
    finally:
        process.kill()
        process.wait()
