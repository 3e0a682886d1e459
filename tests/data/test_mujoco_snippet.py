"""docs/hvg3d.md's road from MuJoCo, run as it is written, with a stand-in for the library.

The stand-in has what the text asks for and MuJoCo's own conventions: cameras that look along -z,
poses that mj_step leaves from before its step. With MuJoCo itself it was run by hand.
"""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from syncmv4d_jax.data.sources import recordings
from syncmv4d_jax.geometry import cameras

ROOT = Path(__file__).parents[2]
BOX = np.array([[x, y, z] for x in (-0.1, 0.1) for y in (-0.1, 0.1) for z in (-0.1, 0.1)])
FACES = np.array([[0, 1, 2], [3, 2, 1], [4, 5, 6], [7, 6, 5]])
EYE = np.array([0.3, -2.0, 0.5])  # the camera's place; it looks along +y
NAMES = ["hammer_head", "table", ""]


class Data:
    """A box that slides along x by a metre a second; a plane; a box that stands at x = 0.5."""

    def __init__(self, model):
        self.time = 0.0
        self.geom_xmat = np.tile(np.eye(3).ravel(), (3, 1))
        self.geom_xpos = np.full((3, 3), np.nan)  # until kinematics ran

    def cam(self, name):
        assert name == "front"
        axes = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0.0]])  # columns: right, up, back
        return SimpleNamespace(xmat=axes.ravel(), xpos=EYE)


def kinematics(model, data):
    data.geom_xpos = np.array([[data.time, 0, 0.5], [0, 0, 0], [0.5, 0, 0.5]])


def step(model, data):
    data.time += model.opt.timestep


class Renderer:
    def __init__(self, model, height, width):
        self.size = height, width

    def update_scene(self, data, camera):
        assert data.time == 0 and np.isfinite(data.geom_xpos).all()

    def render(self):
        return np.full((*self.size, 3), 90, np.uint8)

    def close(self):
        pass


def stand_in():
    model = SimpleNamespace(
        geom_type=np.array([7, 0, 7]), geom_dataid=np.array([1, -1, 0]),
        mesh_vertadr=np.array([0, 8]), mesh_vertnum=np.array([8, 8]),
        mesh_faceadr=np.array([0, 4]), mesh_facenum=np.array([4, 4]),
        mesh_vert=np.concatenate([BOX, 2 * BOX]), mesh_face=np.concatenate([FACES, FACES]),
        opt=SimpleNamespace(timestep=0.002), cam=lambda name: SimpleNamespace(fovy=[45.0]),
    )  # fmt: skip
    return SimpleNamespace(
        MjModel=SimpleNamespace(from_xml_path=lambda path: model), MjData=Data,
        mjtGeom=SimpleNamespace(mjGEOM_MESH=7), mjtObj=SimpleNamespace(mjOBJ_GEOM=5),
        mj_id2name=lambda model, kind, g: NAMES[g], mj_kinematics=kinematics,
        mj_forward=kinematics, mj_step=step, Renderer=Renderer,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the document's text wrote, opened as `prepare_taco.py --folder` does."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/hvg3d.md").read_text(), re.M | re.S)
    (text,) = [block for block in blocks if "import mujoco" in block]
    folder = tmp_path_factory.mktemp("mujoco")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(sys.modules, "mujoco", stand_in())
        exec(compile(text, "docs/hvg3d.md", "exec"), {})
    (source,) = recordings.folder_sources(folder / "RECORDINGS")
    return source.open()


def test_meshes_move_as_the_simulation_does(made):
    """At the time of each frame; the second mesh of the model is the first geom's."""
    found = {surface.name: surface for surface in made.surfaces}
    assert set(found) == {"hammer_head", "geom_2"} and made.frames == 184
    assert found["hammer_head"].label == "object" and not made.filmed
    for n in (0, 1, 30, 183):
        at = found["hammer_head"].at(n)
        np.testing.assert_allclose(at[0], 2 * BOX[0] + [n / 30, 0, 0.5], atol=0.0021)
        np.testing.assert_allclose(found["geom_2"].at(n), BOX + [0.5, 0, 0.5], atol=1e-6)


def test_the_camera_sees_them_where_mujoco_draws_them(made):
    """What is right of and above the lens is right and up in the picture; y of fovy is an edge."""
    camera = made.cameras["front"]
    half = np.tan(np.radians(22.5))
    points = EYE + np.array([[0, 2.0, 0], [1.0, 2.0, 0], [0, 2.0, 2 * half], [0, 2.0, -2 * half]])
    pixels, depth = cameras.project(points, camera.intrinsics, camera.extrinsics)
    np.testing.assert_allclose(depth, 2.0, atol=1e-9)
    lens = 240 / half
    wanted = [[351.5, 239.5], [351.5 + lens / 2, 239.5], [351.5, -0.5], [351.5, 479.5]]
    np.testing.assert_allclose(pixels, wanted, atol=1e-6)
