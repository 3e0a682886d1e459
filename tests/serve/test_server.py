"""Jobs over HTTP: queued, made by another process, told, cancelled, expired; what is refused."""

import dataclasses
import functools
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_maker
import numpy as np
import pytest
import serving
from PIL import Image
from two_views import FIELDS, PAIR, RIG, png

from syncmv4d_jax.serve import app, errors, gate, jobs, limits, openapi, requests, session


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("serve")
    load = functools.partial(fake_maker.load, str(root))
    with serving.studio(root / "jobs", load, grace=0.5) as (port, dispatcher):
        yield port, dispatcher, root


def test_a_job_is_on_disk_then_made_and_told(server):
    port, dispatcher, root = server
    fields = FIELDS | {"seed": "7", "switches": '{"every": 2}', "num_inference_steps": "2"}
    status, job = serving.submit(port, fields, PAIR)
    assert status == 202 and job["cameras"] == ["left", "right"]
    folder = root / "jobs" / job["id"]
    names = ["000.png", "001.png", "cameras.json"]
    assert sorted(path.name for path in (folder / "inputs").iterdir()) == names
    for name, seed in (("000.png", 0), ("001.png", 1)):  # by the cameras' names, decoded anew
        with Image.open(folder / "inputs" / name) as image:
            wanted = np.asarray(Image.open(io.BytesIO(png(seed))))
            np.testing.assert_array_equal(np.asarray(image), wanted)
    assert list(json.loads((folder / "inputs/cameras.json").read_text())) == ["000", "001"]
    done = serving.until(port, job["id"], "done")
    request = {"prompt": "a cup", "negative_prompt": "", "num_inference_steps": 2, "seed": 7,
               "guidance_scale": 1.0, "best_of": 1, "switches": {"every": 2},
               "preview": True}  # fmt: skip
    assert done["request"] == request and done["error"] is None and done["ended"] > 0
    assert {"view_0.mp4", "input_000.png", "cameras.json", "report.html"} <= set(done["files"])
    found = serving.ask(port, done["files"]["view_0.mp4"]["url"], headers={"Range": "bytes=3-5"})
    assert found[:2] == (206, b"\3\4\5") and found[2]["Content-Type"] == "video/mp4"
    listed = json.loads(serving.ask(port, "/v1/videos")[1])["data"]
    assert listed[0]["id"] == job["id"]


def test_several_videos_are_a_job_for_each_seed(server):
    port, _, root = server
    fields = FIELDS | {"seed": "5", "num_videos": "3", "best_of": "2"}
    status, first = serving.submit(port, fields, PAIR)
    assert status == 202 and len(first["others"]) == 2
    names = [first["id"], *first["others"]]
    for name, seed in zip(names, (5, 6, 7), strict=True):
        done = serving.until(port, name, "done")
        assert (done["request"]["seed"], done["request"]["best_of"]) == (seed, 2)
    serving.ask(port, f"/v1/videos/{names[0]}", "DELETE")  # the others have theirs
    assert len(list((root / "jobs" / names[2] / "inputs").iterdir())) == 3


def test_more_videos_than_may_wait_are_no_job(tmp_path):
    own = app.Limits(waiting=2, per_minute=1e4)
    with serving.studio(tmp_path, fake_maker.load_nothing, own=own) as (port, dispatcher):
        dispatcher.broken = ""
        before = sorted(path.name for path in tmp_path.iterdir())
        status, answer = serving.submit(port, FIELDS | {"num_videos": "3"}, PAIR)
        assert status == 503 and "2 jobs may wait, 0 do" in answer["error"]["message"]
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    few = app.Limits(per_minute=0.1)
    with serving.studio(tmp_path, fake_maker.load, own=few) as (port, _):
        status, answer = serving.submit(port, FIELDS | {"num_videos": "3"}, PAIR)
        assert status == 429 and answer["error"]["where"] == "num_videos"
        assert json.loads(serving.ask(port, "/v1/videos")[1])["data"] == []


def test_how_long_compiling_took_the_last_time_is_told(tmp_path):
    load = functools.partial(fake_maker.load, None, 1.0)
    with serving.studio(tmp_path, load) as (port, _):
        for words, seconds in (("known", 41.2), ("new", None)):
            _, job = serving.submit(port, FIELDS | {"prompt": words}, PAIR)
            end = time.monotonic() + 60
            found = {}
            while found.get("phase") != "compiling" and time.monotonic() < end:
                time.sleep(0.03)  # asked without a pause, a server soon answers 429
                found = serving.job(port, job["id"])["progress"]
            assert found["phase"] == "compiling" and found["compile_seconds"] == seconds
            serving.ask(port, f"/v1/videos/{job['id']}", "DELETE")


def test_events_tell_every_step_and_end(server):
    port, *_ = server
    _, job = serving.submit(port, FIELDS | {"num_inference_steps": "3"}, PAIR)
    status, body, headers = serving.ask(port, f"/v1/videos/{job['id']}/events")
    rows = [json.loads(line[6:]) for line in body.decode().splitlines() if line[:6] == "data: "]
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream")
    states = [row["state"] for row in rows]
    assert states[-1] == "done" and set(states) <= {"queued", "running", "done"}
    assert "view_0.mp4" in rows[-1]["files"]


def test_what_a_job_runs_into_is_told_and_the_next_one_is_made(server):
    port, *_ = server
    for words, code, message in (
        ("refuse", "bad_input", "wanted query pixels"),
        ("break", "internal", "ZeroDivisionError: by zero"),
        ("die", "internal", "ended with status 9"),
        ("fine", None, ""),
    ):
        _, job = serving.submit(port, FIELDS | {"prompt": words}, PAIR)
        found = serving.until(port, job["id"], *jobs.ENDED)
        assert found["state"] == ("failed" if code else "done")
        assert (found["error"] or {}).get("code") == code
        assert message in (found["error"] or {"message": ""})["message"]


def test_a_job_is_cancelled_between_steps_or_killed_and_removed(server):
    port, dispatcher, root = server
    _, long = serving.submit(port, FIELDS | {"prompt": "sleep"}, PAIR)
    _, waits = serving.submit(port, FIELDS, PAIR)
    assert serving.job(port, waits["id"])["position"] in (1, 2)
    serving.until(port, long["id"], "running")
    assert serving.job(port, waits["id"])["position"] == 1
    assert serving.ask(port, f"/v1/videos/{waits['id']}/cancel", "POST")[0] == 200
    assert serving.job(port, waits["id"])["state"] == "cancelled"
    serving.ask(port, f"/v1/videos/{long['id']}/cancel", "POST")
    begin = time.monotonic()
    assert serving.until(port, long["id"], "cancelled")["state"] == "cancelled"
    assert time.monotonic() - begin < 30  # it sleeps for 60
    assert serving.ask(port, f"/v1/videos/{long['id']}/cancel", "POST")[0] == 409
    assert serving.ask(port, f"/v1/videos/{long['id']}", "DELETE")[0] == 204
    assert not (root / "jobs" / long["id"]).exists()
    assert serving.ask(port, f"/v1/videos/{long['id']}")[0] == 404
    _, runs = serving.submit(port, FIELDS | {"prompt": "sleep"}, PAIR)
    serving.until(port, runs["id"], "running")
    assert serving.ask(port, f"/v1/videos/{runs['id']}", "DELETE")[0] == 204
    assert [path.name for path in (root / "jobs").iterdir() if runs["id"] in path.name] == []
    assert dispatcher.running() == 0


def test_the_inputs_of_another_job_are_taken(server):
    port, _, root = server
    _, first = serving.submit(port, FIELDS, PAIR)
    status, again = serving.submit(port, {"prompt": "b", "seed": "2", "inputs_of": first["id"]})
    assert status == 202 and again["cameras"] == ["left", "right"]
    one, two = (root / "jobs" / job["id"] / "inputs/001.png" for job in (first, again))
    assert one.read_bytes() == two.read_bytes()
    assert serving.submit(port, {"prompt": "b", "inputs_of": "x" * 32})[0] == 400
    assert serving.submit(port, FIELDS | {"inputs_of": first["id"]}, PAIR)[0] == 400


def test_a_terminals_interrupt_is_for_the_server_alone(tmp_path):
    """A worker that is still importing would show a traceback at it."""
    with serving.studio(tmp_path, fake_maker.load) as (_, dispatcher):
        end = time.monotonic() + 60
        while not dispatcher.ready and time.monotonic() < end:
            time.sleep(0.05)
        told = Path(f"/proc/{dispatcher._process.pid}/status").read_text()
        assert int(re.search(r"^SigBlk:\s*(\w+)", told, re.M)[1], 16) >> (signal.SIGINT - 1) & 1


def test_a_killed_worker_leaves_nothing_that_is_told_as_a_leak(tmp_path):
    code = f"""if __name__ == "__main__":
    import fake_maker, serving, two_views
    with serving.studio({str(tmp_path / "jobs")!r}, fake_maker.load_with_bar) as (port, _):
        job = serving.submit(port, two_views.FIELDS, two_views.PAIR)[1]
        serving.until(port, job["id"], "done")
"""
    (tmp_path / "studio.py").write_text(code)
    paths = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-W", "default", tmp_path / "studio.py"]
    told = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE)
    assert told.returncode == 0 and b"leaked" not in told.stderr, told.stderr


def test_time_is_up(tmp_path):
    with serving.studio(tmp_path, fake_maker.load, seconds=0.5) as (port, _):
        _, job = serving.submit(port, FIELDS | {"prompt": "sleep"}, PAIR)
        found = serving.until(port, job["id"], "failed")
        assert found["error"]["code"] == "timeout" and "longer than 0.5 s" in str(found["error"])


def test_a_worker_that_cannot_load_says_so(tmp_path):
    for load, words in (
        (fake_maker.load_nothing, "FileNotFoundError: no weights for 'dit'"),
        (fake_maker.load_and_die, "ended 3 times before it was ready"),
    ):
        with serving.studio(tmp_path, load) as (port, dispatcher):
            end = time.monotonic() + 60
            while not dispatcher.broken and time.monotonic() < end:
                time.sleep(0.05)
            assert words in dispatcher.broken
            assert serving.ask(port, "/healthz")[0] == 503
            status, answer = serving.submit(port, FIELDS, PAIR)
            assert status == 503 and words in answer["error"]["message"]


def store_with(root, **state):
    store = jobs.Store(root)
    inputs = root / ".new"
    inputs.mkdir()
    (job,) = store.add([{"prompt": "a"}], ("left",), inputs, most=9)
    return store.change(job, **state)


def test_a_restart_loses_nothing_and_makes_nothing_twice(tmp_path):
    half = store_with(tmp_path, state="running", attempts=1)
    made = store_with(tmp_path, state="running", attempts=1)
    (tmp_path / made.id / "result").mkdir()
    often = store_with(tmp_path, state="running", attempts=jobs.MOST)
    ended = store_with(tmp_path, state="cancelled", ended=time.time())
    (tmp_path / ".incoming-x").mkdir()
    (tmp_path / "notes").mkdir()
    store = jobs.Store(tmp_path)
    store.recover()
    states = {job.id: job.state for job in store.all()}
    assert states == {half.id: "queued", made.id: "done", often.id: "failed", ended.id: "cancelled"}
    assert [job.id for job in store.waiting()] == [half.id]
    assert sorted(p.name for p in tmp_path.iterdir() if len(p.name) != 32) == ["notes"]
    inputs = tmp_path / ".new"
    inputs.mkdir()
    (later,) = store.add([{}], (), inputs, most=2)
    assert later.number == ended.number + 1 and store.position(later) == 2
    inputs.mkdir()
    assert store.add([{}], (), inputs, most=2) == []  # so many wait


def test_results_expire(tmp_path):
    old = store_with(tmp_path, state="done", ended=time.time() - 100)
    waits = store_with(tmp_path)
    store = jobs.Store(tmp_path)
    store.expire(200)
    assert len(store.all()) == 2
    store.expire(50)
    assert [job.id for job in store.all()] == [waits.id] and not (tmp_path / old.id).exists()


def bad(**changes):
    return {k: x for k, x in (FIELDS | changes).items() if x is not None}


def rig(**changes):
    return json.dumps(RIG | {"left": RIG["left"] | changes})


REFUSED = {  # name: (fields, images, words, where)
    "no prompt": (bad(prompt=" "), PAIR, "prompt: wanted a prompt", "prompt"),
    "long prompt": (bad(prompt="x" * 2001), PAIR, "at most 2000 characters, got 2001", "prompt"),
    "seed": (bad(seed="-1"), PAIR, "seed: wanted a whole number 0..2147483647, got '-1'", "seed"),
    "steps": (bad(num_inference_steps="1e9"), PAIR, "wanted a whole number 1..200",
              "num_inference_steps"),
    "guidance": (bad(guidance_scale="nan"), PAIR, "wanted a number 0..30, got 'nan'",
                 "guidance_scale"),
    "videos": (bad(num_videos="17"), PAIR, "num_videos: wanted a number 1..16, got '17'",
               "num_videos"),
    "last seed": (bad(num_videos="2", seed=str(2**31 - 1)), PAIR, "wanted them up to 2147483647",
                  "num_videos"),
    "draws": (bad(best_of="0"), PAIR, "best_of: wanted a number 1..16, got '0'", "best_of"),
    "truth": (bad(preview="maybe"), PAIR, "wanted true or false", "preview"),
    "no switch": (bad(switches='{"x": 1}'), PAIR, "no 'x', this task has ['cycle', 'every']",
                  "switches"),
    "switch": (bad(switches='{"every": true}'), PAIR, "wanted a whole number 1..9, got 'True'",
               "switches"),
    "field": (bad(name="../x"), PAIR, "no field 'name'", ""),
    "JSON": (bad(cameras="[" * 100_000), PAIR, "cameras: not JSON", "cameras"),
    "list": (bad(cameras="[1]"), PAIR, "cameras.json: wanted {camera: {K, R, T, imgSize}}",
             "cameras"),
    "none": (bad(cameras=None), PAIR, "cameras: wanted cameras.json, got none", "cameras"),
    "NaN": (bad(cameras=rig(T=[float("nan"), 0, 0])), PAIR,
            "cameras.json, camera 'left': numbers that are not finite", "cameras"),
    "mirror": (bad(cameras=rig(R=[-1, 0, 0, 0, 1, 0, 0, 0, 1])), PAIR, "it mirrors", "cameras"),
    "one camera": (bad(cameras=json.dumps({"a": RIG["left"]})), PAIR, "wanted 2 cameras, got 1",
                   "cameras"),
    "frames": (bad(cameras=rig(R=[RIG["left"]["R"]] * 3, T=[[0, 0, 1]] * 3)), PAIR,
               "cameras move for 3 frames, a sample has 5", "cameras"),
    "size": (bad(), [PAIR[0], ("left.png", png(0, (50, 32)))],
             "camera 'left': imgSize is 48 x 32, but its image is 50 x 32 as it is shown",
             "cameras"),
    "count": (bad(), PAIR[:1], "images: wanted 2, one a camera", "images"),
    "many": (bad(), PAIR * 9, "Too many files", ""),
    "no picture": (bad(), [("a\t.png", b"GIF89a"), PAIR[0]], "cannot be read as an image",
                   "images"),
}  # fmt: skip


def test_what_cannot_be_is_a_sentence_and_leaves_nothing(server):
    port, _, root = server
    before = sorted((root / "jobs").iterdir())
    for name, (fields, images, words, where) in REFUSED.items():
        status, answer = serving.submit(port, fields, images)
        error = answer["error"]
        assert status == 400 and error["code"] == "bad_input", (name, answer)
        assert words in error["message"] and error["where"] == where, (name, error)
        assert str(root) not in error["message"]
    assert sorted((root / "jobs").iterdir()) == before


def test_draws_are_compared_only_where_they_can_be():
    plain = dataclasses.replace(serving.WANTS, compares=False)
    assert requests.parameters(FIELDS | {"best_of": "2"}, serving.WANTS)["best_of"] == 2
    with pytest.raises(errors.Refused, match="no tracks of several views"):
        requests.parameters(FIELDS | {"best_of": "2"}, plain)


def test_bodies_that_lie_are_refused(server):
    port, *_ = server
    body, headers = serving.form(FIELDS, PAIR)
    short = {**headers, "Content-Length": str(len(body) - 40)}
    status, text, _ = serving.ask(port, "/v1/videos", "POST", body[:-40], short)
    assert status == 400 and b"error" in text
    early = body[: body.index(b"--" + body[2:34] + b"\r\n", 40)]  # the first field alone
    status, text, _ = serving.ask(port, "/v1/videos", "POST", early, headers)
    assert status == 400 and b"ends before its form does" in text
    status, text, _ = serving.ask(port, "/v1/videos", "POST", b"{}", {"Content-Type": "text/json"})
    assert status == 400 and b"wanted a form" in text
    claim = {**headers, "Content-Length": str(2**30)}
    status, text, _ = serving.ask(port, "/v1/videos", "POST", b"", claim)
    assert status == 413 and b"at most 64 MiB" in text


def test_more_than_the_limit_is_not_read(tmp_path):
    own = app.Limits(bytes=20_000, pixels=1000, per_minute=1e4)
    with serving.studio(tmp_path, fake_maker.load, own=own) as (port, _):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.putrequest("POST", "/v1/videos")
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
        for chunk in (head, b"0" * 15_000, b"0" * 15_000):
            connection.send(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        assert connection.getresponse().status == 413
        status, answer = serving.submit(port, FIELDS, PAIR)
        assert status == 400 and "48 x 32 pixels, wanted at most 1000" in str(answer)


def test_a_slow_client_stops_nobody_and_is_let_go(server, monkeypatch):
    port, *_ = server
    slow = []
    monkeypatch.setattr(limits, "HEAD", 0.5)
    for _ in range(60):
        one = socket.create_connection(("127.0.0.1", port), timeout=20)
        one.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-")
        slow.append(one)
    begin = time.monotonic()
    assert serving.ask(port, "/healthz")[0] == 200 and time.monotonic() - begin < 5
    assert slow[0].recv(1) == b""  # closed
    for one in slow:
        one.close()


def test_a_body_that_stops_coming_is_given_up(tmp_path):
    body, headers = serving.form(FIELDS, PAIR)

    async def application(scope, receive, send):
        try:
            while (await receive()).get("more_body"):
                pass
        except limits.Refused as refused:
            await gate.answer(refused)(scope, receive, send)

    with serving.running(limits.Body(application, 10**6, silence=0.3)) as port:
        claim = {**headers, "Content-Length": str(len(body))}
        status, text, _ = serving.ask(port, "/", "POST", body[:100], claim)
        assert status == 408 and b"within 0.3 s" in text


def test_names_and_pages_of_others_are_refused(server):
    port, *_ = server
    for path, status in (
        ("/v1/videos/../../etc", 404),
        ("/v1/videos/%2e%2e", 404),
        ("/static/studio.html", 404),
        ("/static/..%2fapp.py", 404),
        ("/static/report.css", 200),
        ("/nothing", 404),
    ):
        assert serving.ask(port, path)[0] == status, path
    assert serving.ask(port, "/", headers={"Host": "evil.example"})[0] == 403
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        status, answer = serving.submit(port, FIELDS, PAIR, **headers)
        assert status == 403 and "another server" in answer["error"]["message"]
    own = {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
    assert serving.submit(port, FIELDS, PAIR, **own)[0] == 202
    for path, allowed in (("/v1/videos", "GET, HEAD, POST"), ("/v1/session", "POST")):
        status, text, headers = serving.ask(port, path, "PUT")
        assert status == 405 and json.loads(text)["error"]["code"] == "method_not_allowed"
        assert headers["Allow"] == allowed


def test_files_of_a_job_by_their_names_alone(server):
    port, _, root = server
    _, job = serving.submit(port, FIELDS, PAIR)
    serving.until(port, job["id"], "done")
    where = f"/v1/videos/{job['id']}/content"
    for name in ("job.json", "..%2fjob.json", "%2fetc%2fpasswd", "result%2fview_0.mp4", "x"):
        status, text, _ = serving.ask(port, f"{where}/{name}")
        assert status == 404, name
    assert serving.ask(port, f"{where}/cameras.json")[0] == 200
    _, _, headers = serving.ask(port, f"{where}/report.html")
    policy = headers["Content-Security-Policy"]
    assert "sandbox allow-scripts " in policy and "script-src 'sha256-a4ayc/" in policy


def test_no_page_runs_a_script_of_its_own(server):
    port, *_ = server
    status, body, headers = serving.ask(port, "/")
    assert status == 200 and "script-src 'self'" in headers["Content-Security-Policy"]
    text = body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|https?:", text)
    for name in re.findall(r'(?:href|src)="/(static/[\w.-]+)"', text):
        assert serving.ask(port, f"/{name}")[0] == 200, name
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_another_host_wants_a_token(tmp_path):
    with pytest.raises(ValueError, match=r"host '0.0.0.0' shows this to a network: wanted a file"):
        gate.token("0.0.0.0", "")
    assert gate.token("127.0.0.1", "") == ""
    (tmp_path / "token").write_text("short")
    with pytest.raises(ValueError, match="at least 16 ASCII characters, got 5"):
        gate.token("0.0.0.0", str(tmp_path / "token"))
    with pytest.raises(FileNotFoundError, match="no such file; wanted one with a token"):
        gate.token("0.0.0.0", str(tmp_path / "none"))
    (tmp_path / "token").write_text("a-word-that-nobody-guesses\n")
    assert gate.token("0.0.0.0", str(tmp_path / "token")) == "a-word-that-nobody-guesses"


def test_a_token_opens_everything(tmp_path, monkeypatch):
    secret = "a-word-that-nobody-guesses"
    monkeypatch.setattr(session, "PAUSE", 0.0)
    with serving.studio(tmp_path, fake_maker.load, host="0.0.0.0", secret=secret) as (port, _):
        for path in ("/v1", "/v1/videos", "/metrics", "/openapi.json"):
            assert serving.ask(port, path)[0] == 401, path
            bearer = {"Authorization": f"Bearer {secret}", "Host": "any.example"}
            assert serving.ask(port, path, headers=bearer)[0] == 200, path
            wrong = {"Authorization": f"Bearer {secret}x"}
            assert serving.ask(port, path, headers=wrong)[0] == 401, path
        assert serving.ask(port, "/healthz")[0] == 200
        assert b'id="token"' in serving.ask(port, "/")[1]
        assert serving.submit(port, FIELDS, PAIR)[0] == 401
        for body in (b"{}", b"[", b'{"token": "x"}', b"[1]"):
            assert serving.ask(port, "/v1/session", "POST", body)[0] in (400, 401)
        body = json.dumps({"token": secret})
        status, _, headers = serving.ask(port, "/v1/session", "POST", body)
        cookie = headers["Set-Cookie"]
        assert status == 200 and "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert secret not in cookie
        entered = {"Cookie": cookie.split(";")[0]}
        assert serving.ask(port, "/v1/videos", headers=entered)[0] == 200
        assert b'id="token"' not in serving.ask(port, "/", headers=entered)[1]
        assert serving.ask(port, "/v1", headers={"Cookie": "studio=x"})[0] == 401


def test_clients_have_rates(tmp_path):
    own = app.Limits(per_minute=0.1)  # one in ten minutes, however slow the machine
    with serving.studio(tmp_path, fake_maker.load, own=own) as (port, _):
        found = [serving.submit(port, FIELDS, PAIR)[0] for _ in range(2)]
        assert found == [202, 429]
    rate = limits.Rate(60.0, 3)
    assert [rate.take("a") > 0 for _ in range(4)] == [False, False, False, True]
    assert rate.take("b") == 0
    assert rate.take("c", 2) == 0 and rate.take("c", 2) > 0 and rate.take("c") == 0


def test_the_document_says_what_is_there(server):
    port, *_ = server
    found = json.loads(serving.ask(port, "/openapi.json")[1])
    assert found == openapi.document(serving.WANTS, app.Limits(per_minute=1e4))
    names = set()
    for path, operations in found["paths"].items():
        shared = operations.get("parameters", [])
        assert {x["name"] for x in shared} == set(re.findall(r"\{(\w+)\}", path))
        for method, operation in operations.items():
            if method != "parameters":
                names.add(operation["operationId"])
                assert all(row["description"] for row in operation["responses"].values())
    assert len(names) == sum(len(x) - ("parameters" in x) for x in found["paths"].values())
    for reference in re.findall(r'"#/([^"]+)"', json.dumps(found)):
        place = found
        for key in reference.split("/"):
            place = place[key]
    form = found["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert set(form["schema"]["properties"]) == {*requests.FIELDS, "images"}
    assert not {"/v1/looks", "/v1/path"} & set(found["paths"])  # of tasks with meshes and depth
    status, text, _ = serving.ask(port, "/v1/looks", "POST", *serving.form({}))
    assert status == 400 and b"reads no meshes and no depth" in text
    wanted = found["components"]["schemas"]["Job"]
    _, job = serving.submit(port, FIELDS, PAIR)
    told = serving.job(port, job["id"])
    assert set(wanted["required"]) <= set(job) and set(told) <= set(wanted["properties"])


@pytest.mark.slow  # a package that nothing else wants
@pytest.mark.parametrize("cameras", [True, False])
def test_the_document_is_openapi(cameras):
    reason = "pip install openapi-spec-validator, which reads the document as others do"
    validator = pytest.importorskip("openapi_spec_validator", reason=reason)
    wants = dataclasses.replace(serving.WANTS, cameras=cameras)
    document = json.loads(json.dumps(openapi.document(wants, app.Limits())))
    validator.validate(document)
    del document["info"]["version"]
    with pytest.raises(Exception, match="'version' is a required property"):
        validator.validate(document)


def test_metrics_are_counted(server):
    port, *_ = server
    text = serving.ask(port, "/metrics")[1].decode()
    rows = dict(re.findall(r"^(studio_[a-z_]+(?:\{[^}]*\})?) ([\d.]+)$", text, re.M))
    assert float(rows["studio_worker_ready"]) in (0, 1)
    assert float(rows['studio_jobs_ended_total{state="done"}']) >= 1
    assert float(rows['studio_answers_total{method="POST",status="202"}']) >= 1
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) studio_\w+ .+|studio_\w+(\{.*\})? [\d.]+", line), line


def test_two_ask_at_once(server):
    port, *_ = server
    found = []

    def one(seed):
        found.append(serving.submit(port, FIELDS | {"seed": str(seed)}, PAIR))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in found) == [202] * 4
    assert len({job["id"] for _, job in found}) == 4
    for _, job in found:
        assert serving.until(port, job["id"], "done")["request"]["seed"] in range(4)
