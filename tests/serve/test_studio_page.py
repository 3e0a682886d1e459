"""The studio in Chromium: a whole job by keyboard and mouse, at every width, light and dark."""

import functools
import importlib.resources
import json

import chromium
import fake_maker
import numpy as np
import pytest
import serving
import two_views
from PIL import Image

pytestmark = pytest.mark.browser
AXE = """axe.run(document, {resultTypes: ["violations"], iframes: false}).then(found => ({
  rules: found.passes.length,
  wrong: found.violations.map(v => [v.id, ...v.nodes.map(n => n.html.slice(0, 160))]),
}))"""


def accessible(page):
    package = pytest.importorskip("axe_core_python", reason="no axe: pip install axe-core-python")
    page.evaluate(importlib.resources.files(package).joinpath("axe.min.js").read_text("utf-8"))
    found = page.evaluate(AXE)
    assert found["wrong"] == [] and found["rules"] > 20
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than its window"


def click(page, text):
    code = f"[...document.querySelectorAll('button')].find(b => b.textContent === {text!r}).click()"
    page.evaluate(code)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    root = tmp_path_factory.mktemp("studio")
    load = functools.partial(fake_maker.load, str(root), 0.2)
    with serving.studio(root / "jobs", load, grace=0.5) as (port, _):
        yield f"http://127.0.0.1:{port}", port


@pytest.fixture(scope="module")
def page(tmp_path_factory, studio):
    with chromium.page(tmp_path_factory.mktemp("profile")) as found:
        found.size(1280, 900)
        yield found


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, data in two_views.PAIR:
        (folder / name).write_bytes(data)
    (folder / "cameras.json").write_text(two_views.FIELDS["cameras"])
    return folder


def fill(page, images):
    page.choose("#images", images / "left.png", images / "right.png")
    page.until("document.querySelectorAll('#thumbs img').length === 2")


def test_a_job_is_sent_followed_compared_and_removed(page, studio, images):
    url, port = studio
    page.open(url)
    fill(page, images)
    page.evaluate("document.getElementById('prompt').value = 'known, a cup'")
    page.evaluate("document.getElementById('num_inference_steps').value = 30")  # to be seen
    click(page, "Make it")
    page.until("document.getElementById('job-text').textContent === 'compiling (about 42 s)'")
    assert not page.evaluate("document.getElementById('job-steps').hasAttribute('value')")
    page.until("document.querySelector('#job:not([hidden]) progress')?.value > 0")
    page.until("document.getElementById('job-text').textContent.includes('left')")  # the ETA
    page.until("document.querySelectorAll('#looks video').length > 0")  # a preview
    page.until("document.getElementById('job-text').textContent.startsWith('done')")
    files = page.evaluate("[...document.querySelectorAll('#files a')].map(a => a.download)")
    assert "view_0.mp4" in files and "cameras.json" in files
    job = json.loads(serving.ask(port, "/v1/videos")[1])["data"][0]
    assert page.evaluate("location.hash") == f"#{job['id']}"
    assert job["request"]["switches"] == {"cycle": True, "every": 4}
    assert job["request"]["best_of"] == 1
    given = json.loads(serving.ask(port, f"/v1/videos/{job['id']}/content/cameras.json")[1])
    assert given["000"]["imgSize"] == [48, 32] and len(given) == 2
    click(page, "Again with another seed")
    page.until("document.querySelectorAll('#jobs li').length === 2")
    page.until("document.getElementById('job-text').textContent.startsWith('done')")
    page.until("document.querySelectorAll('#compare option').length === 2")
    page.evaluate(
        "(s => { s.selectedIndex = 1; s.onchange(); })(document.getElementById('compare'))"
    )
    page.until("document.getElementById('compare-text').textContent.startsWith('They differ in')")
    assert page.evaluate("document.querySelectorAll('#looks > div').length") == 2
    accessible(page)
    click(page, "Delete")
    page.until("document.querySelectorAll('#jobs li').length === 1")
    page.open(f"{url}/?again#{job['id']}")  # a link to a job
    page.until("document.getElementById('job-title').textContent === 'known, a cup'")
    assert page.errors == []


def test_several_videos_and_draws_are_asked_for(page, studio, images):
    url, port = studio
    page.open(f"{url}/?several")
    fill(page, images)
    before = len(json.loads(serving.ask(port, "/v1/videos")[1])["data"])
    for name, value in (("prompt", "a bowl"), ("num_videos", 2), ("best_of", 3), ("seed", 40)):
        page.evaluate(f"document.getElementById('{name}').value = {value!r}")
    click(page, "Make it")
    page.until("document.getElementById('sent').textContent.includes('1 more of the next seeds')")
    found = json.loads(serving.ask(port, "/v1/videos")[1])["data"]
    assert len(found) == before + 2
    told = [(job["request"]["seed"], job["request"]["best_of"]) for job in found[:2]]
    assert told == [(41, 3), (40, 3)]


def test_what_is_wrong_stands_beside_its_field(page, studio, images):
    url, _ = studio
    page.open(f"{url}/?wrong")
    click(page, "Make it")
    page.until("document.getElementById('wrong-prompt').textContent.includes('wanted a prompt')")
    page.evaluate("document.getElementById('prompt').value = 'a cup'")
    click(page, "Make it")
    page.until("document.getElementById('wrong-images').textContent.includes('one a camera')")
    assert page.evaluate("document.getElementById('wrong-prompt').textContent") == ""
    (images / "bad.json").write_text('{"left": {"K": [1]}}')
    page.choose("#load", images / "bad.json")
    page.until("document.getElementById('wrong-cameras').textContent.includes('cameras.json')")
    accessible(page)


def test_cameras_are_placed_loaded_and_saved(page, studio, images):
    url, _ = studio
    page.open(f"{url}/?cameras")
    page.choose("#load", images / "cameras.json")
    page.until("document.querySelector('#thumbs button').textContent.startsWith('left')")
    code = """import('/static/rig.js').then(rig => {
      const text = %s;
      const back = JSON.parse(rig.text(rig.read(text, 2)));
      const sizes = Array(3).fill([96, 64]);
      const ring = JSON.parse(rig.text(rig.preset('ring', ['a', 'b', 'c'], sizes)));
      const moved = rig.read(JSON.stringify(ring), 3).map(c => ({...c, given: undefined}));
      return {back, ring, again: JSON.parse(rig.text(moved))};
    })"""
    found = page.evaluate(code % json.dumps(two_views.FIELDS["cameras"]))
    assert found["back"] == two_views.RIG  # a camera that is not moved keeps its numbers
    for name, camera in found["ring"].items():
        turn = np.reshape(camera["R"], (3, 3))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) > 0 and turn[1, 2] < 0  # y looks down
        eye = -turn.T @ camera["T"]
        seen = np.reshape(camera["K"], (3, 3)) @ (turn @ [0, 0, 0.1] + camera["T"])
        np.testing.assert_allclose(seen[:2] / seen[2], [47.5, 31.5], atol=1e-9)
        assert abs(np.linalg.norm(eye - [0, 0, 0.1]) - 1.2) < 1e-9
        for key in ("K", "R", "T"):
            np.testing.assert_allclose(found["again"][name][key], camera[key], atol=1e-6)
    before = page.evaluate("document.getElementById('rig').toDataURL()")
    page.evaluate("document.getElementById('rig').focus()")
    page.press("ArrowLeft")
    assert page.evaluate("document.getElementById('rig').toDataURL()") != before
    page.press("0")
    assert page.evaluate("document.getElementById('rig').toDataURL()") == before


def test_a_keyboard_is_enough(page, studio, images):
    url, port = studio
    page.open(f"{url}/?keys")
    fill(page, images)
    seen = []
    page.evaluate("document.querySelector('.skip').focus()")
    for _ in range(60):
        seen.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
        if seen[-1] == "prompt":
            page.call("Input.insertText", text="sleep a while")
        if seen[-1] == "send":
            page.press("Enter")
            break
        page.press("Tab")
    wanted = ["images", "video", "preset", "load", "save", "rig", "azimuth", "prompt", "seed"]
    assert [x for x in seen if x in wanted] == wanted and seen[-1] == "send"
    page.until("document.querySelector('#job-does button')?.textContent === 'Cancel'")
    page.evaluate("document.querySelector('#job-does button').focus()")
    page.press("Enter")
    page.until("document.getElementById('job-text').textContent === 'cancelled'", 30)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_it_is_accessible_at_every_width(page, studio, images, width, scheme):
    url, _ = studio
    page.size(width, 900, scheme)
    page.open(f"{url}/?{width}{scheme}")
    fill(page, images)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.evaluate("document.querySelector('#jobs button')?.click()")
    page.until("!document.getElementById('job').hidden")
    accessible(page)
    page.size(1280, 900)


def test_two_browsers_see_the_same_jobs(page, studio, tmp_path):
    url, _ = studio
    page.open(f"{url}/?two")
    with chromium.page(tmp_path / "other") as other:
        other.open(url)
        count = "document.querySelectorAll('#jobs li').length"
        page.until(f"{count} > 0")
        other.until(f"{count} === {page.evaluate(count)}")


def test_the_page_for_the_token(page, tmp_path):
    secret = "a-word-that-nobody-guesses"
    host = "0.0.0.0"
    with serving.studio(tmp_path, fake_maker.load, host=host, secret=secret) as (port, _):
        page.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
        page.until("document.getElementById('token') !== null")
        accessible(page)
        for word, code in (
            ("wrong", "document.getElementById('wrong')?.textContent.includes('not the server')"),
            (secret, "document.body?.dataset.ready === '1'"),
        ):
            page.evaluate(f"document.getElementById('token').value = {word!r}")
            click(page, "Enter")
            page.until(code)


def test_a_picture_of_a_wrong_kind_is_told(page, studio, tmp_path):
    url, _ = studio
    page.open(f"{url}/?kind")
    (tmp_path / "a.png").write_bytes(b"no picture")
    Image.new("RGB", (48, 32)).save(tmp_path / "b.png")
    page.choose("#images", tmp_path / "a.png", tmp_path / "b.png")
    page.until("document.getElementById('wrong-images').textContent.startsWith('a.png')")
    page.evaluate("document.getElementById('prompt').value = 'a cup'")
    click(page, "Make it")
    page.until("document.getElementById('wrong-images').textContent.includes('cannot be read')")
