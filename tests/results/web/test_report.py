"""The report page: what is in the file, and that it works in a real browser."""

import base64
import html
import io
import re

import av
import browser
import fake_samples
import numpy as np
import pytest
import report_page

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.results.web import report, tracks


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    return path, report_page.page(path, 4)


def test_the_page_holds_everything_and_loads_nothing(made):
    path, data = made
    text = path.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "http" not in text.replace(
        "http://www.w3.org/2000/svg", ""
    )
    assert html.escape("--config=<y>") in text and "<b>" not in text and "<in>" not in text
    assert "%%" not in text
    assert set(data) == {"summary", *(f"sample-{i}" for i in range(4))}
    assert data["summary"]["curves"][0] == {"step": 1, "stage": "a", "loss": 1.0, "loss_video": 0.5}
    assert path.stat().st_size < 2_000_000


def test_videos_are_whole_and_right(made):
    """Every frame of every view is nearest to its own."""
    _, data = made
    wanted = fake_samples.truth(0)["video"]
    own = wanted.reshape(-1, *wanted.shape[2:]).astype(int)
    frames = []
    for clip in data["sample-0"]["clips"]["true_video"]:
        with av.open(io.BytesIO(base64.b64decode(clip))) as container:
            frames += [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    gaps = np.array([np.abs(own - frame).mean((1, 2, 3)) for frame in frames])
    np.testing.assert_array_equal(gaps.argmin(1), np.arange(len(own)))
    assert gaps.min(1).max() < 4


def test_tracks_are_right_to_a_thousandth_of_the_scene(made):
    _, data = made
    scene = data["sample-2"]["scene"]
    steps = np.frombuffer(base64.b64decode(scene["true"]), "<i2").reshape(9, 90, 3)
    found = steps * scene["unit"] + scene["centre"]
    np.testing.assert_allclose(found, fake_samples.truth(2)["tracks"], atol=scene["radius"] / 1e3)
    eyes = cameras.camera_centre(fake_samples.truth(2)["extrinsics"][:, 0])
    np.testing.assert_allclose(
        np.array([c[0] for c in scene["cameras"]]) + scene["centre"], eyes, atol=1e-3
    )


def test_each_view_s_own_points_depths_and_scales(made):
    _, data = made
    truth, sample = fake_samples.truth(2), data["sample-2"]
    packed = sample["scene"]["views"]
    steps = np.frombuffer(base64.b64decode(packed), "<i2").reshape(3, 9, 30, 3)
    found = steps * sample["scene"]["unit"] + sample["scene"]["centre"]
    gap = found - truth["tracks"][:, ::3]
    assert 1e-3 < np.abs(gap).mean() < 0.02 and np.ptp(gap, axis=1).max() < 1e-3
    depth = cameras.to_camera(np.tile(truth["tracks"], (3, 1, 1, 1)), truth["extrinsics"][:, 0])[
        ..., 2
    ]
    wanted = np.moveaxis(np.quantile(depth, [0.05, 0.5, 0.95], axis=-1), 0, -1)
    np.testing.assert_allclose(sample["depth"]["true"], wanted, atol=1e-4)
    np.testing.assert_allclose(sample["scale"]["generated"], 1.1 * truth["scale"], rtol=1e-5)
    broken = np.full((2, 4, 3), np.nan)
    assert tracks.depths(broken, truth["extrinsics"][:1, 0]) == [[None, None]]


def test_long_clips_get_fewer_points():
    points = np.random.default_rng(0).normal(size=(200, 500, 3))
    scene = tracks.scene(points, None, np.eye(3)[None], np.eye(3, 4)[None], (8, 8), points[None])
    kept = len(base64.b64decode(scene["generated"])) / (200 * 3 * 2)
    assert kept == tracks.PLACES // 200 and scene["each"] == tracks.EACH


def test_videos_shrink_to_their_share_of_the_budget(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (1, 4, 256, 256, 3)).astype(np.uint8)
    shown = [{"id": str(i), "video": noise} for i in range(2)]
    sizes = []
    for budget in (24_000_000, 100_000):
        monkeypatch.setattr(report, "BUDGET", budget)
        report.write(tmp_path / "r.html", shown, None, [], "{}", "x", count=2)
        data = report_page.blocks((tmp_path / "r.html").read_text())
        with av.open(io.BytesIO(base64.b64decode(data["sample-1"]["clips"]["video"][0]))) as clip:
            sizes.append(clip.streams.video[0].height)
    assert sizes[0] == 256 and sizes[1] < 256


def test_a_page_without_evaluation_tracks_or_truth(tmp_path):
    video = np.zeros((2, 3, 15, 21, 3), np.uint8)  # odd sizes
    shown = [{"id": "a", "video": video}]
    report.write(tmp_path / "r.html", shown, None, [{"step": 1, "loss": "nan"}], "{}", "x")
    data = report_page.blocks((tmp_path / "r.html").read_text())
    assert data["sample-0"]["scene"] is None and list(data["sample-0"]["clips"]) == ["video"]
    assert data["summary"]["curves"][0]["loss"] is None


def test_samples_over_the_budget_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "BUDGET", 1000)
    shown = ({"id": str(i), "video": np.zeros((1, 3, 16, 16, 3), np.uint8)} for i in range(4))
    report.write(tmp_path / "r.html", shown, None, [], "{}", "x")
    summary = report_page.blocks((tmp_path / "r.html").read_text())["summary"]
    assert (
        len(summary["samples"]) + len(summary["left_out"]) == 4 and summary["left_out"][-1] == "3"
    )


def test_points_that_are_not_finite_are_marked():
    points = np.zeros((2, 3, 3))
    points[1, 2] = np.nan
    steps = np.frombuffer(base64.b64decode(tracks.pack(points, np.zeros(3), 0.01)), "<i2")
    assert steps[:15].any() == 0 and (steps[15:] == -32768).all()
    assert tracks.scene(None, None, np.eye(3), np.eye(3, 4), (4, 4)) is None


# Clicks what a reader clicks and sends the findings to the test's server.
PROBE = r"""
const errors = [];
addEventListener("error", e => errors.push(e.message));
const wait = s => new Promise(done => setTimeout(done, 1000 * s));
const steady = async () => { for (let i = 0; i < 100; i++) { await wait(0.1);
  if (state.videos.every(v => v.readyState > 1 && !v.busy && !v.seeking)) return; } };
const change = (id, value) => { $(id).value = value;
  for (const kind of ["input", "change"]) $(id).dispatchEvent(new Event(kind)); };
function lookAtOverlays(found) {
  const ink = () => state.overlays.map(o => o.canvas.toDataURL());
  const looks = [ink()];
  for (const mode of ["tracks", "errors", "lines"]) { change("overlay", mode); looks.push(ink()); }
  found.looks = new Set(looks.map(String)).size;
  found.blank = looks[3].filter(url => url === looks[0][0]).length;
  const own = state.overlays.find(o => o.kind === "true" && o.view === 1);
  const at = pixelOf("true", 1, state.frame, 4), s = state.sample.scene;
  const put = (x, i, size) => (x + 0.5) / s.size[i] * size;
  pick(own, put(at[0], 1, own.canvas.clientWidth), put(at[1], 0, own.canvas.clientHeight));
  found.picked = [choice.point, choice.reference, $("point").value, $("point-text").textContent];
  change("point", "8");
  found.point = choice.point;
  found.pixels = [0, 1, 2].map(v => pixelOf("true", v, 3, 7));
  found.off = [0, 2].map(v => lineDistance(epipolarLine("true", 1, v, 3, 7),
    pixelOf("true", v, 3, 7)));
  found.plots = ["depth", "error"].map(id => $(id).querySelectorAll("polyline").length);
  found.legend = $("legend").hidden;
}
function filter(found) {
  const lines = () => $("scenes").querySelectorAll("tbody tr").length;
  const id = names[2];
  change("find", id.toUpperCase()); found.find = [lines(), $("count").textContent];
  change("find", ""); change("only", "first"); found.first = lines(); change("only", "");
  const values = names.map(n => scoreOf("mv_rpe", n)).sort((a, b) => a - b);
  change("from", String(values[1])); change("to", String(values[2])); found.range = lines();
  change("find", "no such sample"); found.nothing = [lines(), $("nothing").hidden];
  for (const id of ["find", "from", "to"]) change(id, "");
  found.all = lines();
}
async function probe() {
  const found = {ready: document.body.dataset.ready};
  await steady();
  found.loaded = performance.now();
  found.first_sort = state.sort;
  found.videos = state.videos.length;
  $("play").click(); found.moved = 0;
  for (let i = 0; i < 60 && !found.moved; i++) { await wait(0.05); found.moved = state.frame; }
  $("play").click();
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
    +r.children[2].textContent);
  found.order = order();
  found.sort = $("scenes").querySelector("[aria-sort=ascending] button").dataset.metric;
  $("scenes").querySelector("[data-metric=mv_rpe]").click();
  found.worst = order();
  filter(found);
  $("scenes").querySelector("tbody tr").click(); await steady();
  found.shown = [names[state.at], $("prompt").textContent];
  $("after").click(); await steady();
  found.after = state.order.indexOf(state.at);
  lookAtOverlays(found);
  document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  found.key = state.frame;
  found.width = innerWidth;
  found.wide = document.documentElement.scrollWidth - innerWidth;
  found.curves = $("curves").querySelectorAll("polyline").length;
  found.outside = performance.getEntriesByType("resource").map(e => e.name)
    .filter(n => !/^(blob|data):/.test(n));
  found.unnamed = [...document.querySelectorAll("button, input, select")].filter(e =>
    !(e.textContent.trim() || e.ariaLabel || (e.labels && e.labels.length))).length;
  found.fid = [$("metrics").textContent.includes("58.3"), [...$("sort").options].map(o => o.value)
    .includes("fid")];
  found.here = names[state.at];
  found.unreachable = document.querySelectorAll(".tall:not([tabindex])").length
    + document.querySelectorAll("th:empty, [role=img]:not([aria-label])").length;
  found.errors = errors;
  return found;
}
probe().catch(e => ({errors: [String(e), ...errors]}))"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_plays_turns_sorts_and_shows(made, tmp_path, width):
    path, _ = made
    found = browser.browse(path.read_text(), PROBE, tmp_path / "profile", width=width)
    assert found["errors"] == [] and found["ready"] == "1" and found["outside"] == []
    assert found["videos"] == 12 and found["moved"] > 0 and found["apart"] < 1e-2
    assert found["seeked"] == [5, pytest.approx(5.5 / 8)]
    assert found["turned"]
    assert found["order"] == sorted(found["order"]) and found["sort"] == "mv_rpe"
    assert found["worst"] == found["order"][::-1] and found["first_sort"] == "mv_rpe"
    assert found["find"] == [1, "1 of 4"] and found["first"] == 4 and found["range"] == 2
    assert found["nothing"] == [0, False] and found["all"] == 4
    assert found["shown"][1] == "“stir <in> the bowl”" and found["after"] == 1
    assert found["key"] == 6 and found["curves"] == 2
    assert found["looks"] == 4 and found["blank"] == 0 and found["plots"] == [6, 2]
    assert found["picked"][:3] == [4, 1, "5"] and "off the line of view 2" in found["picked"][3]
    assert found["fid"] == [True, False]
    assert found["point"] == 7 and max(found["off"]) < 0.05 and found["legend"]
    truth = fake_samples.truth(int(found["here"].split("-")[1]))
    point = np.tile(truth["tracks"][3, 21], (3, 1))
    pixels, _ = cameras.project(point, truth["intrinsics"], truth["extrinsics"][:, 0])
    np.testing.assert_allclose(found["pixels"], pixels, atol=0.05)
    assert found["width"] == width
    assert found["wide"] <= 0 and found["unnamed"] == found["unreachable"] == 0


ALONE = """(async () => {
for (let i = 0; i < 100 && !document.body.dataset.ready; i++)
  await new Promise(done => setTimeout(done, 50));
return {boxes: ["true-part", "errors-part", "colours-part"].map(id => $(id).hidden),
  notes: $("notes").children.length, recipe: $("recipe").textContent,
  unsaid: $("recipe-part").hidden};
})()"""


@pytest.mark.browser
@pytest.mark.parametrize("truth", [True, False])
def test_a_page_without_a_truth_has_no_box_for_it(tmp_path, truth):
    sample = fake_samples.truth(0)
    sample |= {"id": "cat", "meta": {"weights": {"dit": "step 3"}}}
    sample["tracks_per_view"] = np.tile(sample["tracks"], (3, 1, 1, 1))
    sample["extrinsics"] = sample["extrinsics"][:, 0]
    if truth:
        keys = ("video", "tracks", "intrinsics", "extrinsics")
        sample |= {f"true_{key}": sample[key] for key in keys}
    path = tmp_path / "report.html"
    report.write(path, [sample], None, [], "", "main")
    found = browser.browse(path.read_text(), ALONE, tmp_path / "profile")
    assert found["boxes"] == [not truth] * 3 and found["notes"] == (0 if truth else 2)
    assert "step 3" in found["recipe"] and not found["unsaid"]


@pytest.mark.browser
def test_sixty_samples_load(tmp_path, record_property):
    path = tmp_path / "report.html"
    report_page.page(path, 60)
    found = browser.browse(path.read_text(), PROBE, tmp_path / "profile")
    assert found["errors"] == [] and found["all"] == 60 and found["first"] == 10
    record_property("milliseconds to the first frame of every video", found["loaded"])
