"""A whole job of tasks that follow meshes or read depth, from a form to the files of its result."""

import functools
import io
import json
import zipfile

import drawn_weights
import mesh_files
import numpy as np
import pytest
import serving
import tiny
import views
from PIL import Image

from configs import hvg3d, strag, vism
from syncmv4d_jax.serve import maker

pytestmark = pytest.mark.slow


def form(fields, files):
    """A form with (field, name of a file, content)."""
    body, headers = serving.form(fields)
    mark = body[2:34].decode()
    end, parts = f"--{mark}--\r\n".encode(), []
    for field, name, data in files:
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"'
        parts.append(f"{head}\r\n\r\n".encode() + data + b"\r\n")
    return body[: -len(end)] + b"".join(parts) + end, headers


def made(config, root, fields, files):
    """The job of a form once it is done, and a function that gives a file of it."""
    load = functools.partial(maker.load, config, root)
    wants = maker.wants(config)
    with serving.studio(root / "jobs", load, wants=wants, seconds=3000.0) as (port, _):
        status, text, _ = serving.ask(port, "/v1/videos", "POST", *form(fields, files))
        assert status == 202, text
        name = json.loads(text)["id"]
        job = serving.until(port, name, "done", "failed", seconds=3000, pause=2.0)
        assert job["state"] == "done", job["error"]
        return job, {name: root / "jobs" / job["id"] / "result" / name for name in job["files"]}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_meshes_become_the_video_that_follows_them(tmp_path):
    config = drawn_weights.plain(hvg3d.get_config("debug"))
    drawn_weights.with_text(config, tmp_path / "text")
    drawn_weights.drawn(config, tmp_path / "weights.safetensors", 0)
    motion, first, file = tiny.poses(18), [], io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, (vertices, faces) in tiny.solids().items():
            turn, shift = motion[name][:, :3, :3], motion[name][:, None, :3, 3]
            moved = np.einsum("nij,pj->npi", turn, vertices) + shift
            mesh_files.write_sequence(tmp_path / "objs", name, moved, faces)
            first.append((moved[0], faces))
        for path in sorted((tmp_path / "objs").iterdir()):
            archive.write(path, path.name)
    _, (lens, pose) = next(iter(tiny.rig(2).items()))
    camera = {"K": lens.ravel().tolist(), "R": pose[:, :3].ravel().tolist(),
              "T": pose[:, 3].tolist(), "imgSize": [160, 120]}  # fmt: skip
    fields = {"prompt": "Stir.", "cameras": json.dumps({"front": camera}), "seed": "3"}
    files = [("images", "a.png", png(tiny.draw(first, lens, pose))),
             ("meshes", "scan.zip", file.getvalue())]  # fmt: skip
    job, found = made(config, tmp_path, fields, files)
    assert {"view_0.mp4", "motion_0.mp4", "report.html", "sample.zip"} <= set(found)
    assert job["cameras"] == ["front"]
    assert json.loads(found["meta.json"].read_text())["prompt"] == "Stir."


def test_an_image_with_depth_becomes_motion_and_its_camera_path(tmp_path):
    config = drawn_weights.plain(strag.get_config("debug"))
    drawn_weights.with_text(config, tmp_path / "text")
    drawn_weights.drawn(config, tmp_path / "points.safetensors", 1)
    other = drawn_weights.plain(vism.get_config("debug"))
    drawn_weights.drawn(other, tmp_path / "views.safetensors", 2)
    config.sample.synthesis = str(tmp_path / "views.safetensors")
    camera, _, colours = views.scene(1, tuple(config.task.size))
    file = io.BytesIO()
    np.savez(file, depth=camera.depth, intrinsics=camera.intrinsics)
    files = [("images", "a.png", png(colours)), ("depth", "a.npz", file.getvalue())]
    fields = {"prompt": "It slides.", "camera_path": "orbit:5"}
    _, found = made(config, tmp_path, fields, files)
    wanted = {"view_0.mp4", "tracks.npz", "tracks.glb", "path_view_0.mp4", "path_meta.json"}
    assert wanted <= set(found)
    told = json.loads(found["path_meta.json"].read_text())
    assert told["camera_path"] == "orbit:5" and told["source"] == maker.NAME
