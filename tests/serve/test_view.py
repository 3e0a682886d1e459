"""The local server and the export command: what is listed, what is refused."""

import http.client
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import fake_samples
import pytest
import serving

from syncmv4d_jax import view
from syncmv4d_jax.results.web import listing
from syncmv4d_jax.serve import results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    top = tmp_path_factory.mktemp("view")
    run = top / "results/first run"
    fake_samples.write(run / "samples", "a <b>", fake_samples.truth(0))
    (run / "report.html").write_text("<p>report</p>")
    (run / "metrics.jsonl").write_text('{"step": 7, "loss": 0.5}\n')
    cell = {"value": 12.34}
    definitions = {"mv_rpe": {"title": "MV RPE", "unit": "%"}}
    evaluation = {"scenes": 1, "checks": [{"passed": True}], "definitions": definitions,
                  "rows": {"model": {"mv_rpe": cell}}}  # fmt: skip
    (run / "eval.json").write_text(json.dumps(evaluation))
    (run / "checkpoint.bin").write_text("secret")
    (run / ".hidden.json").write_text("secret")
    (top / "outside.json").write_text("secret")
    (run / "link.json").symlink_to(top / "outside.json")
    (top / "results/deep/er").mkdir(parents=True)
    (top / "results/deep/er/eval.json").write_text("not json")
    (top / "results/empty").mkdir()
    left = fake_samples.VIDEO_ONLY
    fake_samples.write(top / "results/plain/samples", "b", fake_samples.truth(1), leave_out=left)
    return top / "results"


@pytest.fixture(scope="module")
def ask(root):
    with serving.running(results.application(root, host="127.0.0.1", secret="")) as port:

        def answer(path, method="GET", host=None):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.putrequest(method, path, skip_host=True)
            connection.putheader("Host", host or f"127.0.0.1:{port}")
            connection.endheaders()
            reply = connection.getresponse()
            return reply.status, reply.read(), reply.headers

        yield answer


def test_the_list_names_runs_and_samples(ask):
    status, body, headers = ask("/")
    text = body.decode()
    assert status == 200 and "default-src 'none'" in headers["Content-Security-Policy"]
    assert text.index("er</h2>") < text.index("first run</h2>") and "empty" not in text
    assert "7 steps, loss 0.5 · 1 scenes · 1 of 1 checks passed · MV RPE 12.3 %" in text
    assert 'href="/first%20run/report.html"' in text and "a &lt;b&gt;" in text
    assert 'href="/first%20run/samples/a%20%3Cb%3E/"' in text
    assert 'href="/first%20run/samples/a%20%3Cb%3E.glb"' in text
    assert 'href="/plain/samples/b/"' in text and "b.glb" not in text


def test_files_samples_and_their_tracks(ask):
    assert ask("/first%20run/report.html")[1] == b"<p>report</p>"
    status, body, headers = ask("/first%20run/samples/a%20%3Cb%3E/")
    assert status == 200 and b'"a \\u003cb>"' in body and int(headers["Content-Length"]) > 10_000
    status, body, headers = ask("/first%20run/samples/a%20%3Cb%3E.glb")
    assert status == 200 and body[:4] == b"glTF" and headers["Content-Type"].startswith("model/")
    assert ask("/first%20run/samples/a%20%3Cb%3E/view_0.mp4")[0] == 200
    status, body, _ = ask("/plain/samples/b/")
    assert status == 200 and b'"scene":null' in body
    assert ask("/plain/samples/b.glb")[0] == 404  # says that there are no tracks
    status, body, headers = ask("/first%20run/report.html", "HEAD")
    assert status == 200 and body == b"" and headers["Content-Length"] == "13"


@pytest.mark.parametrize(
    "path, status",
    [
        ("/../outside.json", 403),
        ("/%2e%2e/outside.json", 403),
        ("/first%20run/..%2f..%2foutside.json", 403),
        ("/..%5c..%5coutside.json", 403),
        ("//etc/passwd", 404),
        ("/first%20run/link.json", 403),
        ("/first%20run/.hidden.json", 403),
        ("/first%20run/checkpoint.bin", 404),
        ("/first%20run/samples", 404),
        ("/first%20run/%00", 403),
        ("/nothing.html", 404),
    ],
)
def test_what_is_refused(ask, path, status):
    found, body, _ = ask(path)
    assert found == status and b"secret" not in body and b"root:" not in body


def test_other_names_and_methods_are_refused(ask):
    assert ask("/", host="evil.example")[0] == 403
    assert ask("/", host="localhost:1")[0] == 200
    assert ask("/", method="POST")[0] == 405
    with pytest.raises(NotADirectoryError, match="wanted a folder"):
        results.application("/nowhere/at/all", host="127.0.0.1", secret="")


def test_pages_run_their_own_scripts_and_have_no_origin(ask):
    _, body, headers = ask("/first%20run/samples/a%20%3Cb%3E/")
    policy = headers["Content-Security-Policy"]
    assert (
        policy.startswith("sandbox allow-scripts allow-downloads;")
        and "unsafe-inline'; img" in policy
    )
    assert len(re.findall("'sha256-", policy)) == body.count(b"<script>") == 1
    policy = ask("/")[2]["Content-Security-Policy"]
    assert "script-src" not in policy and "sandbox" not in policy


def test_a_network_is_shown_nothing_without_a_token(root):
    with pytest.raises(SystemExit, match="shows this to a network: wanted a file with a token"):
        view.main([str(root), "--host", "0.0.0.0", "--no-browser"])
    secret = "a-word-that-nobody-guesses"
    with serving.running(results.application(root, host="0.0.0.0", secret=secret)) as port:
        assert b'id="token"' in serving.ask(port, "/")[1]
        assert serving.ask(port, "/first%20run/report.html")[0] == 401
        bearer = {"Authorization": f"Bearer {secret}"}
        assert b"first run" in serving.ask(port, "/", headers=bearer)[1]
        assert serving.ask(port, "/first%20run/report.html", headers=bearer)[0] == 200


def test_a_path_is_inside_or_is_none(root):
    assert listing.inside(root, "/first run/report.html").name == "report.html"
    assert listing.inside(root, "/a/../..") is None


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_without_a_traceback(root, sent):
    command = [sys.executable, "-m", "syncmv4d_jax.view", str(root), "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        port = int(re.search(r":(\d+)/ \(Ctrl-C stops", process.stdout.readline())[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        process.send_signal(sent)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "Traceback" not in said, said


def test_the_export_command(root, tmp_path, capsys):
    run = root / "first run"
    view.main([str(run), "--export", "glb", "--out", str(tmp_path / "a.glb")])
    assert (tmp_path / "a.glb").read_bytes()[:4] == b"glTF"
    assert capsys.readouterr().out.strip() == str(tmp_path / "a.glb")
    view.main([str(run / "samples/a <b>"), "--export", "ply", "--out", str(tmp_path / "p")])
    assert (tmp_path / "p/frame_0000.ply").is_file()
    with pytest.raises(SystemExit, match=r"wanted --sample=ID with one of \['a <b>'\]"):
        view.main([str(run), "--export", "glb", "--sample", "b"])
    with pytest.raises(SystemExit, match="NotADirectoryError"):
        view.main([str(run / "none"), "--no-browser"])


@pytest.mark.parametrize(
    "given", [["gs://bucket/run"], ["run", "--export=glb", "--out=s3://b/a.glb"]]
)
def test_addresses_are_refused(capsys, given):
    with pytest.raises(SystemExit):
        view.main(given)
    assert "wanted a folder or file of this machine" in capsys.readouterr().err
