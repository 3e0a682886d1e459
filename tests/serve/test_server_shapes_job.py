"""A whole job of tasks that follow meshes or read depth, from a form to the files of its result."""

import functools
import json

import drawn_weights
import moving_solids
import pytest
import serving

from syncmv4d_jax.serve import maker

pytestmark = pytest.mark.slow


def made(config, root, fields, files):
    """The job of a form once it is done, and a function that gives a file of it."""
    load = functools.partial(maker.load, config, root)
    wants = maker.wants(config)
    with serving.studio(root / "jobs", load, wants=wants, seconds=3000.0) as (port, _):
        status, sent = serving.send(port, "/v1/videos", fields, **files)
        assert status == 202, sent
        job = serving.until(port, sent["id"], "done", "failed", seconds=3000, pause=2.0)
        assert job["state"] == "done", job["error"]
        return job, {name: root / "jobs" / job["id"] / "result" / name for name in job["files"]}


def test_meshes_become_the_video_that_follows_them(tmp_path):
    config = drawn_weights.followed(tmp_path)
    moving_solids.write(tmp_path, 18)
    fields = {"prompt": "Stir.", "cameras": (tmp_path / "cameras.json").read_text(), "seed": "3"}
    files = {"images": [("a.png", (tmp_path / "front.png").read_bytes())],
             "meshes": [("scan.zip", moving_solids.archive(tmp_path / "objs"))]}  # fmt: skip
    job, found = made(config, tmp_path, fields, files)
    assert {"view_0.mp4", "motion_0.mp4", "report.html", "sample.zip"} <= set(found)
    assert job["cameras"] == ["front"]
    assert json.loads(found["meta.json"].read_text())["prompt"] == "Stir."


def test_an_image_with_depth_becomes_motion_and_its_camera_path(tmp_path):
    config, synthesis = drawn_weights.seen(tmp_path)
    config.sample.synthesis = str(synthesis)
    moving_solids.write_deep(tmp_path, tuple(config.task.size))
    files = {"images": [("a.png", (tmp_path / "one.png").read_bytes())],
             "depth": [("a.npz", (tmp_path / "one.npz").read_bytes())]}  # fmt: skip
    fields = {"prompt": "It slides.", "camera_path": "orbit:5"}
    _, found = made(config, tmp_path, fields, files)
    wanted = {"view_0.mp4", "tracks.npz", "tracks.glb", "path_view_0.mp4", "path_meta.json"}
    assert wanted <= set(found)
    told = json.loads(found["path_meta.json"].read_text())
    assert told["camera_path"] == "orbit:5" and told["source"] == maker.NAME
