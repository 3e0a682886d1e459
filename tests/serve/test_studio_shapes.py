"""The studio in Chromium for tasks that follow meshes, or read their image's depth."""

import importlib.resources
import json

import chromium
import fake_maker
import moving_solids
import numpy as np
import pytest
import serving
import two_views

from syncmv4d_jax.geometry import cameras

pytestmark = pytest.mark.browser
LENS = np.array([[50, 0, 23.5], [0, 50, 15.5], [0, 0, 1.0]])
AXE = """axe.run(document, {resultTypes: ["violations"], iframes: false}).then(found =>
  found.violations.map(v => [v.id, ...v.nodes.map(n => n.html.slice(0, 160))]))"""
TEXT = "document.getElementById('{}').textContent"


def accessible(page):
    package = pytest.importorskip("axe_core_python", reason="no axe: pip install axe-core-python")
    page.evaluate(importlib.resources.files(package).joinpath("axe.min.js").read_text("utf-8"))
    for width in (390, 1280, 2560):
        for scheme in ("light", "dark"):
            page.size(width, 900, scheme)
            assert page.evaluate(AXE) == [], (width, scheme)
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"the page is {wide} pixels wider than its window of {width}"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium.page(tmp_path_factory.mktemp("profile")) as found:
        found.size(1440, 1000)
        yield found


def settle(page, name, value):
    page.evaluate(f"""(e => {{ e.value = {value!r}; e.dispatchEvent(new Event('input'));
      e.dispatchEvent(new Event('change')); }})(document.getElementById({name!r}))""")


def ink(page, name):
    """Pixels of a canvas that are one of the meshes' first two colours."""
    return page.evaluate(f"""(c => {{
      const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      let count = 0;
      for (let i = 0; i < data.length; i += 4)
        for (const [r, g, b] of [[78, 154, 214], [240, 138, 60]])
          count += data[i] === r && data[i + 1] === g && data[i + 2] === b;
      return count; }})(document.getElementById({name!r}))""")


def test_meshes_are_dropped_scrubbed_over_the_image_and_sent(page, tmp_path):
    moving_solids.write(tmp_path, 12)
    (tmp_path / "scan.zip").write_bytes(moving_solids.archive(tmp_path / "objs"))
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with serving.studio(tmp_path / "jobs", fake_maker.load, wants=serving.MOVING) as (port, _):
        page.open(f"http://127.0.0.1:{port}/")
        assert page.evaluate("document.getElementById('depth-section').hidden")
        page.choose("#images", tmp_path / "front.png")
        page.choose("#load", tmp_path / "cameras.json")
        page.choose("#meshes", tmp_path / "bad.zip")
        page.until(f"{TEXT.format('wrong-meshes')}.startsWith('bad.zip: no .zip')", 300)
        page.choose("#meshes", tmp_path / "scan.zip")
        page.until(f"{TEXT.format('meshes-text')}.startsWith('4 meshes, 12 frames, 0.4 s')", 300)
        assert page.evaluate(TEXT.format("wrong-meshes")) == ""
        page.until(f"{TEXT.format('frame-text')}.includes('100 % of the meshes is in front')")
        assert ink(page, "over") > 50 and ink(page, "rig") > 50
        before = page.evaluate("document.getElementById('over').toDataURL()")
        settle(page, "frame", "11")
        assert page.evaluate("document.getElementById('over').toDataURL()") != before
        assert page.evaluate(TEXT.format("frame-text")).startswith("frame 11 of 12, 0.37 s")
        page.evaluate("document.querySelectorAll('[data-mesh]')[2].value = 'other object'")
        page.evaluate("document.getElementById('prompt').value = 'stir'")
        accessible(page)
        page.evaluate("document.getElementById('send').click()")
        page.until(f"{TEXT.format('job-text')}.startsWith('done')", 300)
        job = json.loads(serving.ask(port, "/v1/videos")[1])["data"][0]
        assert job["cameras"] == ["front"] and job["request"]["fps"] == 30
        assert list(job["request"]["labels"].values())[2] == "other object"
        assert page.errors == []


def test_a_path_is_named_or_drawn_round_an_image_with_its_depth(page, tmp_path):
    size = moving_solids.SIZE
    camera, _ = moving_solids.write_deep(tmp_path)
    np.savez(tmp_path / "bad.npz", depth=camera.depth)
    with serving.studio(tmp_path / "jobs", fake_maker.load, wants=serving.DEEP) as (port, _):
        page.size(1440, 1000)
        page.open(f"http://127.0.0.1:{port}/?depth")
        page.choose("#images", tmp_path / "one.png")
        page.choose("#depth", tmp_path / "bad.npz")
        page.until(f"{TEXT.format('wrong-depth')}.startsWith('bad.npz: has no intrinsics')", 300)
        page.choose("#depth", tmp_path / "one.npz")
        page.until(f"{TEXT.format('depth-text')}.includes('m away')", 300)
        settle(page, "path", "orbit")
        page.until(f"{TEXT.format('path-text')} === 'The line is where the camera goes.'")
        settle(page, "amount", "61")
        page.until(f"{TEXT.format('wrong-path')}.includes('at most 60 degrees')")
        settle(page, "path", "drawn")
        page.until("!document.getElementById('draw-part').hidden")
        page.evaluate("document.getElementById('draw').click()")
        for _ in range(9):
            page.press("ArrowRight")
        page.until(f"{TEXT.format('path-text')}.startsWith('5 frames')")
        page.evaluate("document.getElementById('draw').click()")
        page.evaluate("document.getElementById('prompt').value = 'it slides'")
        accessible(page)
        page.evaluate("document.getElementById('send').click()")
        page.until(f"{TEXT.format('job-text')}.startsWith('done')", 300)
        job = json.loads(serving.ask(port, "/v1/videos")[1])["data"][0]
        path = json.loads(job["request"]["camera_path"])
        assert path["size"] == list(size) and len(path["frames"]) == serving.WANTS.frames
        poses = [np.c_[np.reshape(x["R"], (3, 3)), x["T"]] for x in path["frames"]]
        wanted = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0]])
        np.testing.assert_allclose(poses[0], wanted, atol=1e-9)
        np.testing.assert_allclose(path["frames"][0]["K"], camera.intrinsics.ravel(), rtol=1e-6)
        eyes = np.array([cameras.camera_centre(pose) for pose in poses])
        assert (np.diff(eyes[:, 0]) > 0.01).all()
        axes = np.array([pose[2, :3] for pose in poses])[1:]
        aims = eyes[1:] - axes * (eyes[1:, :1] / axes[:, :1])  # where they cross the image's axis
        np.testing.assert_allclose(aims, np.broadcast_to(aims[0], aims.shape), atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(eyes - aims[0], axis=1), aims[0][1], rtol=1e-9)
        assert page.errors == []


def test_an_image_alone_has_no_depth_to_send(page, tmp_path):
    (tmp_path / "one.png").write_bytes(two_views.png())
    with serving.studio(tmp_path / "jobs", fake_maker.load, wants=serving.DEEP) as (port, _):
        page.open(f"http://127.0.0.1:{port}/?alone")
        page.choose("#images", tmp_path / "one.png")
        page.evaluate("document.getElementById('prompt').value = 'it slides'")
        page.evaluate("document.getElementById('send').click()")
        page.until(f"{TEXT.format('wrong-depth')} === "
                   "\"depth: wanted the image's depth, got no file\"")  # fmt: skip
