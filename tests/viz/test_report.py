"""The report page: what is in the file, and that it works in a real browser."""

import base64
import html
import http.server
import io
import json
import queue
import re
import shutil
import subprocess
import threading

import av
import fake_samples
import numpy as np
import pytest
from PIL import Image

from syncmv4d_jax import cameras, evaluate
from syncmv4d_jax.metrics import scene
from syncmv4d_jax.viz import report, sheet, tracks

CURVES = [
    {"step": s, "stage": "a" if s < 50 else "b", "loss": 1.0 / s, "loss_video": 0.5 / s, "mfu": 0.4}
    for s in range(1, 100)
]


def page(path, count, *, size=(48, 64)):
    """Writes a page of `count` samples with an evaluation; returns its data blocks."""
    truths = {f"scene-{i}": fake_samples.truth(i, size=size) for i in range(count)}
    scores, blurred, shown = {}, {}, []
    for i, (name, truth) in enumerate(truths.items()):
        noise = np.random.default_rng(i).normal(0, 0.003 * (1 + (7 * i) % count), (3, 1, 90, 3))
        made = truth | {"meta": {"fps": 8.0, "prompt": "stir <in> the bowl", "anchors": "record"}}
        made["tracks_per_view"] = (truth["tracks"] + noise).astype(np.float32)
        scores[name], blurred[name] = scene.score(made, truth, name)
        shown.append({"id": name, "meta": made["meta"], "video": truth["video"],
                      "motion": truth["motion"], "tracks": made["tracks_per_view"].mean(0),
                      "true_video": truth["video"], "true_tracks": truth["tracks"],
                      "true_motion": truth["motion"], "true_intrinsics": truth["intrinsics"],
                      "true_extrinsics": truth["extrinsics"]})  # fmt: skip
    scene.best_blur(scores, blurred)
    facts = {"fps": 8.0, "resolution": list(size), "frames": 9, "views": 3, "points": 90}
    evaluation = evaluate.assemble(scores) | facts
    report.write(path, shown, evaluation, CURVES, '{"a": "<b>"}', "python -m x --config=<y>")
    return blocks(path.read_text())


def blocks(text):
    found = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', text)
    return {name: json.loads(body) for name, body in found}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    return path, page(path, 4)


def test_the_page_holds_everything_and_loads_nothing(made):
    path, data = made
    text = path.read_text()
    assert not re.search(r'(src|href)="(?!data:)', text) and "http" not in text.replace(
        "http://www.w3.org/2000/svg", ""
    )
    assert html.escape("--config=<y>") in text and "<b>" not in text and "<in>" not in text
    assert "%%" not in text
    assert set(data) == {"summary", *(f"sample-{i}" for i in range(4))}
    assert data["summary"]["curves"][0] == {"step": 1, "stage": "a", "loss": 1.0, "loss_video": 0.5}
    assert path.stat().st_size < 2_000_000


def test_videos_are_whole_and_right(made):
    _, data = made
    clip = data["sample-0"]["clips"]["true_video"][1]
    with av.open(io.BytesIO(base64.b64decode(clip))) as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    wanted = fake_samples.truth(0)["video"][1]
    assert frames.shape == wanted.shape
    assert np.abs(frames.astype(int) - wanted).mean() < 12


def test_tracks_are_right_to_a_thousandth_of_the_scene(made):
    _, data = made
    scene = data["sample-2"]["scene"]
    steps = np.frombuffer(base64.b64decode(scene["true"]), "<i2").reshape(9, 90, 3)
    found = steps * scene["unit"] + scene["centre"]
    np.testing.assert_allclose(found, fake_samples.truth(2)["tracks"], atol=scene["radius"] / 1e3)
    eyes = cameras.camera_centre(fake_samples.truth(2)["extrinsics"])
    np.testing.assert_allclose(
        np.array([c[0] for c in scene["cameras"]]) + scene["centre"], eyes, atol=1e-3
    )


def test_a_page_without_evaluation_tracks_or_truth(tmp_path):
    video = np.zeros((2, 3, 15, 21, 3), np.uint8)  # odd sizes
    shown = [{"id": "a", "video": video}]
    report.write(tmp_path / "r.html", shown, None, [{"step": 1, "loss": "nan"}], "{}", "x")
    data = blocks((tmp_path / "r.html").read_text())
    assert data["sample-0"]["scene"] is None and list(data["sample-0"]["clips"]) == ["video"]
    assert data["summary"]["curves"][0]["loss"] is None


def test_samples_over_the_budget_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "BUDGET", 1000)
    shown = ({"id": str(i), "video": np.zeros((1, 3, 16, 16, 3), np.uint8)} for i in range(4))
    report.write(tmp_path / "r.html", shown, None, [], "{}", "x")
    summary = blocks((tmp_path / "r.html").read_text())["summary"]
    assert summary["samples"] + len(summary["left_out"]) == 4 and summary["left_out"][-1] == "3"


def test_points_that_are_not_finite_are_marked():
    points = np.zeros((2, 3, 3))
    points[1, 2] = np.nan
    steps = np.frombuffer(base64.b64decode(tracks.pack(points, np.zeros(3), 0.01)), "<i2")
    assert steps[:15].any() == 0 and (steps[15:] == -32768).all()
    assert tracks.scene(None, None, np.eye(3), np.eye(3, 4), (4, 4)) is None


def test_sheets(tmp_path):
    video = fake_samples.truth(0)["video"]
    sheet.gif(tmp_path / "a.gif", [video, video], fps=8)
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 9 and picture.info["duration"] == 120 and picture.width > 480
    sheet.png(tmp_path / "a.png", [video], frames=3)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.height == 3 * 96 + 2 * sheet.GAP
    with pytest.raises(ValueError, match="one shape"):
        sheet.gif(tmp_path / "b.gif", [video, video[:, :2]], fps=8)


# Clicks what a reader clicks and sends the findings to the test's server.
PROBE = r"""<script>
const errors = [];
addEventListener("error", e => errors.push(e.message));
const wait = s => new Promise(done => setTimeout(done, 1000 * s));
const steady = async () => { for (let i = 0; i < 100; i++) { await wait(0.1);
  if (state.videos.every(v => v.readyState > 1 && !v.busy && !v.seeking)) return; } };
async function probe() {
  const found = {ready: document.body.dataset.ready};
  await steady();
  found.videos = state.videos.length;
  $("play").click(); await wait(0.7); found.moved = state.frame; $("play").click();
  await steady();
  found.apart = Math.max(...state.videos.map(v =>
    Math.abs(v.currentTime - (state.frame + 0.5) / state.sample.fps)));
  $("seek").value = 5; $("seek").dispatchEvent(new Event("input")); await steady();
  found.seeked = [state.frame, state.videos[0].currentTime];
  const canvas = $("tracks"), first = canvas.toDataURL();
  canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
  const second = canvas.toDataURL();
  const pointer = (kind, x) => canvas["onpointer" + kind]({clientX: x, clientY: 0, pointerId: 1});
  canvas.setPointerCapture = () => {};
  pointer("down", 10); pointer("move", 60); pointer("up", 60);
  found.turned = first !== second && second !== canvas.toDataURL();
  $("scenes").querySelector("[data-metric=mv_rpe]").click();
  const order = () => [...$("scenes").querySelectorAll("tbody tr")].map(r =>
    +r.children[1].textContent);
  found.order = order();
  found.sort = $("scenes").querySelector("[aria-sort=descending] button").dataset.metric;
  $("scenes").querySelector("tbody tr").click(); await steady();
  found.shown = [names[state.at], $("prompt").textContent];
  $("after").click(); await steady();
  found.after = state.order.indexOf(state.at);
  document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  found.key = state.frame;
  found.wide = document.documentElement.scrollWidth - innerWidth;
  found.curves = $("curves").querySelectorAll("polyline").length;
  found.outside = performance.getEntriesByType("resource").map(e => e.name)
    .filter(n => !/^(blob|data):/.test(n));
  found.unnamed = [...document.querySelectorAll("button, input, select")].filter(e =>
    !(e.textContent.trim() || e.ariaLabel || (e.labels && e.labels.length))).length;
  found.errors = errors;
  return found;
}
probe().catch(e => ({errors: [String(e), ...errors]}))
  .then(found => fetch("/found", {method: "POST", body: JSON.stringify(found)}));
</script>"""


class Server(http.server.ThreadingHTTPServer):
    """Serves one page and takes what its probe found."""

    def __init__(self, text):
        super().__init__(("127.0.0.1", 0), Handler)
        self.text, self.found = text.encode(), queue.Queue()


class Handler(http.server.BaseHTTPRequestHandler):
    """GET the page, POST the findings."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.server.text)

    def do_POST(self):
        self.server.found.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def browse(text, profile, *, width):
    """Opens a page in headless Chromium, in real time; returns what its probe found."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium")
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}", f"--window-size={width},900", "--remote-debugging-port=0",
    ]  # fmt: skip
    with Server(text) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([program, *flags, url], **quiet)
        try:
            return json.loads(server.found.get(timeout=100))
        finally:
            process.terminate()
            process.wait(20)
            server.shutdown()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_plays_turns_sorts_and_shows(made, tmp_path, width):
    path, _ = made
    found = browse(
        path.read_text().replace("</body>", PROBE + "</body>"), tmp_path / "profile", width=width
    )
    assert found["errors"] == [] and found["ready"] == "1" and found["outside"] == []
    assert found["videos"] == 12 and found["moved"] > 0 and found["apart"] < 1e-2
    assert found["seeked"] == [5, pytest.approx(5.5 / 8)]
    assert found["turned"]
    assert found["order"] == sorted(found["order"], reverse=True) and found["sort"] == "mv_rpe"
    assert found["shown"][1] == "“stir <in> the bowl”" and found["after"] == 1
    assert found["key"] == 6 and found["curves"] == 2
    assert found["wide"] <= 0 and found["unnamed"] == 0
