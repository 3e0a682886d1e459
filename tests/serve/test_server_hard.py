"""The server killed in the middle of fifty jobs, and two hundred requests that are none."""

import collections
import io
import json
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import fake_maker
import pytest
import serving
import two_views as given
from PIL import Image

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


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height):
    """A PNG that says it is so large, with the zeros to be it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(min(height, 2000) * (width * 3 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def texts_bomb():
    """A small PNG whose text unpacks to 300 MB."""
    head = struct.pack(">IIBBBBB", 48, 32, 8, 2, 0, 0, 0)
    text = b"a\0\0" + zlib.compress(bytes(300_000_000), 9)
    rows = zlib.compress(bytes(32 * (48 * 3 + 1)))
    body = chunk(b"IHDR", head) + chunk(b"zTXt", text) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff_bomb():
    file = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(file, "TIFF", compression="group4")
    return file.getvalue()


def malformed(rng, k):
    """The k-th request: (body, headers)."""
    fields, images = dict(given.FIELDS), list(given.PAIR)
    rig = json.loads(fields["cameras"])
    kind = k % 10
    if kind == 0:  # cut somewhere
        body, headers = serving.form(fields, images)
        return body[: rng.randrange(1, len(body) - 8)], headers
    if kind == 1:  # a number that is none
        key = rng.choice(["K", "R", "T", "imgSize"])
        value = rng.choice([float("nan"), float("inf"), "x", None, {}, [], 1e400])
        rig["left"][key] = [value] * rng.choice([1, 2, 3, 9])
        fields["cameras"] = json.dumps(rig)
    elif kind == 2:  # JSON of other types
        texts = ["null", "[]", "1", '"x"', "{}", '{"a": 1, "b": 2}', "[" * 50_000, "\0", "{",
                 '{"a": [], "b": []}']  # fmt: skip
        fields["cameras"] = rng.choice(texts)
    elif kind == 3:  # pictures that are none
        others = [b"", b"\x89PNG\r\n\x1a\n", bytes(rng.randrange(256) for _ in range(400)),
                  given.png(0)[:-40], b"<svg/>", b"GIF89a" + bytes(40)]  # fmt: skip
        images[0] = ("right.png", rng.choice(others))
    elif kind == 4:  # pictures that are too much
        images[0] = ("right.png", rng.choice([bomb(60_000, 60_000), bomb(7000, 7000), tiff_bomb()]))
    elif kind == 5:  # names
        name = rng.choice(["../../x.png", "/etc/passwd", "..\\x.png", "\u202egnp.x", "a" * 5000])
        rig[name] = rig.pop("left")
        rig[name]["T"] = [float("nan")] * 3
        fields["cameras"], images[1] = json.dumps(rig), (name.replace('"', ""), given.png(0))
    elif kind == 6:  # parameters
        key = rng.choice(["seed", "num_inference_steps", "guidance_scale", "preview", "switches"])
        fields[key] = rng.choice(["-1", "1e99", "nan", "\u0663x", "[[", "{'a'}", "0x10", "--"])
    elif kind == 7:  # fields that there are not, or too many of
        fields |= {f"{rng.random()}": "x" for _ in range(rng.choice([1, 40]))}
    elif kind == 8:  # texts
        fields["prompt"] = rng.choice(["", "\u200b\u200d", "x" * 200_000, "\n\t "])
    else:  # no form, or a boundary that is not its own
        body, headers = serving.form(fields, images)
        kinds = ["text/plain", "multipart/form-data", "multipart/form-data; boundary=",
                 "multipart/form-data; boundary=other", "application/json"]  # fmt: skip
        return body, {"Content-Type": rng.choice(kinds)}
    return serving.form({k: x.encode() for k, x in fields.items()}, images)


def test_two_hundred_malformed_requests(tmp_path):
    rng = random.Random(0)
    load = fake_maker.load
    with serving.studio(tmp_path / "jobs", load) as (port, _):
        serving.ask(port, "/healthz")
        before = sorted(path.name for path in (tmp_path / "jobs").iterdir())
        for k in range(200):
            body, headers = malformed(rng, k)
            status, text, _ = serving.ask(port, "/v1/videos", "POST", body, headers, timeout=120)
            error = json.loads(text)["error"]
            assert 400 <= status < 500, (k, status, error)
            assert len(error["message"]) > 10 and str(tmp_path) not in error["message"], (k, error)
        assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == before
        body, headers = serving.form(given.FIELDS, [("right.png", texts_bomb()), given.PAIR[1]])
        assert serving.ask(port, "/v1/videos", "POST", body, headers)[0] in (202, 400)
        assert serving.ask(port, "/healthz")[0] == 200
        _, job = serving.submit(port, given.FIELDS, given.PAIR)
        assert serving.until(port, job["id"], "done")["error"] is None
