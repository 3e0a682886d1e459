"""Round trips at the size of TACO's videos: scenes' geometry, motion, rig and files, dots drawn.

Only the dots are drawn, not the surfaces: casting 12 million rays a frame would take an hour. The
last rig writes and reads 12 x 24 frames of 12 megapixels: some minutes, 2 GB.
"""

import shutil
import time

import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial

from syncmv4d_jax.data import clips, prepare, raycast, records
from syncmv4d_jax.data.scenes import hand, scene
from syncmv4d_jax.data.sources import mano, recordings, taco, taco_writer
from syncmv4d_jax.geometry import cameras, matching, pseudo_video

SIZE, FRAMES = (480, 704), 5


class Dots:
    """In place of the scenes' renderer: white dots, on grey, at vertices that a camera sees."""

    def __init__(self, world, size, names):
        self.world, self.cameras, self.size = world, scene.rig(size, names), size

    def frame(self, index, moving=None):
        surfaces = self.world.surfaces(index)
        scene = raycast.Scene([(v, f) for v, f, _ in surfaces])
        points = np.concatenate([v[::40] for v, _, _ in surfaces])
        views = {name: self._draw(scene, points, camera) for name, camera in self.cameras.items()}
        return views | {name: np.zeros((*self.size, 3), np.uint8) for name in moving or {}}

    def _draw(self, scene, points, camera):
        image = np.full((*self.size, 3), 60, np.uint8)
        pixels, depth = cameras.project(points, camera.intrinsics, camera.extrinsics)
        hits = scene.cast_pixels(pixels, camera.intrinsics, camera.extrinsics)
        sigma = 0.004 * self.size[0]
        reach = int(3 * sigma)
        for u, v in pixels[np.abs(depth - hits.depth) < 0.002]:
            x0, y0 = int(u) - reach, int(v) - reach
            if min(x0, y0) < 0 or x0 + 2 * reach > self.size[1] or y0 + 2 * reach > self.size[0]:
                continue
            y, x = np.mgrid[y0 : y0 + 2 * reach, x0 : x0 + 2 * reach]
            near = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2))[..., None]
            part = image[y0 : y0 + 2 * reach, x0 : x0 + 2 * reach]
            part[:] = np.maximum(part, np.round(60 + 195 * near))
        return image


RIGS = {  # (cameras, height and width of the videos, clusters)
    "2 cameras, 4096x3000": (("22139946", "22139909"), (3000, 4096), 2),
    "12 cameras, 1024x750": (tuple(scene.RIG), (750, 1024), 3),
    "12 cameras, 4096x3000": (tuple(scene.RIG), (3000, 4096), 3),
}


@pytest.fixture(scope="module", params=RIGS)
def made(request, tmp_path_factory):
    """(the recording, its painted dots' world, the window's tracks, its views)."""
    folder = tmp_path_factory.mktemp("true")
    hand.write(folder / "mano")
    hands = mano.load_hands(folder / "mano")
    spec = scene.specify(0, seed=0, held_out=False)
    names, size, clusters = RIGS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene, "Renderer", Dots)
        for name in names:  # one at a time, for memory
            scene.write_scene(folder / "taco", spec, hands, frames=24, size=size, names=(name,))
    sources = recordings.taco_sources(folder / "taco", folder / "mano")
    file = taco.index(folder / "taco")[0].folder(taco.CAMERAS) / "calibration.json"
    taco_writer.write_calibration(file, scene.rig(size, names))
    settings = clips.Settings(size=SIZE, frames=FRAMES, val=0.0, clusters=clusters)
    begun = time.process_time()
    summary = prepare.run(sources, folder / "records", settings)
    print(f"{request.param}: prepared in {time.process_time() - begun:.1f} s of processor time")
    assert not summary["skipped"] and not summary["skipped_views"]
    reader = records.Reader(folder / "records", size=SIZE)
    (window,) = reader.windows
    assert len(window.views) == len(names)
    views = [reader.view(window, view) for view in window.views]
    for view in views:
        view |= {key: records.decode(view[key]) for key in ("video", "motion")}
    world = scene.World(spec, 24, hands)
    yield sources[0].open(), world, reader.tracks(window), views
    shutil.rmtree(folder)


def centres(image):
    """Centres (x, y) [s 2] of the bright dots that lie wholly inside an image [h w 3]."""
    bright = image.min(-1).astype(float)
    labels, count = scipy.ndimage.label(bright > 140)
    weight, numbers = np.maximum(bright - 100, 0), np.arange(1, count + 1)
    found = np.array(scipy.ndimage.center_of_mass(weight, labels, numbers))[:, ::-1]
    # A dot that the crop cuts has its centre of mass elsewhere: sleeves leave the crop.
    rim = np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])
    return found[~np.isin(numbers, rim)]


def gaps(tracks, recording, view):
    """How far [n k], metres, each point lies behind what is seen on its ray."""
    result = []
    for positions, source in zip(tracks["tracks"], tracks["source_frames"], strict=True):
        scene = raycast.Scene([(s.at(int(source)), s.faces) for s in recording.surfaces])
        camera = view["intrinsics"].astype(float), view["extrinsics"].astype(float)
        pixels, depth = cameras.project(positions.astype(float), *camera)
        result.append(depth - scene.cast_pixels(pixels, *camera).depth)
    return np.stack(result)


@pytest.mark.slow
def test_dots_lie_where_their_points_project(made):
    recording, world, tracks, views = made
    errors = []
    for n, source in enumerate(tracks["source_frames"]):
        cloud = np.concatenate([s.at(int(source)) for s in recording.surfaces[:4]])
        ours = scipy.spatial.cKDTree(cloud).query(tracks["tracks"][n])[0]
        assert ours.max() < 1e-5  # tracks are vertices of the recording
        dots = np.concatenate([v[::40] for v, _, _ in world.surfaces(int(source))])
        for view in views:
            pixels, _ = cameras.project(dots, view["intrinsics"], view["extrinsics"])
            tree = scipy.spatial.cKDTree(pixels)
            distance, nearest = tree.query(centres(view["video"][n]))
            alone = tree.query(pixels, 2)[0][nearest, 1] > 25  # others may flow together
            errors += distance[alone].tolist()
    print(f"{len(errors)} dots, median {np.median(errors):.2f}, max {max(errors):.2f} px")
    assert len(errors) > 25 and max(errors) < 1


@pytest.mark.slow
def test_visibility_agrees_with_the_depth_of_the_scene(made):
    recording, _, tracks, views = made
    shares = []
    for n, source in enumerate(tracks["source_frames"]):
        scene = raycast.Scene([(s.at(int(source)), s.faces) for s in recording.surfaces])
        for view in views:
            camera = view["intrinsics"], view["extrinsics"]
            pixels, depth = cameras.project(tracks["tracks"][n], *camera)
            image = scene.cast(*camera, SIZE).depth
            x, y = np.round(pixels).astype(int).clip(0, [SIZE[1] - 1, SIZE[0] - 1]).T
            shares.append(np.mean((depth - image[y, x] < 0.01) == view["visibility"][n]))
    print(f"agreement: least {min(shares):.3f}, mean {np.mean(shares):.3f}")
    assert min(shares) > 0.9 and np.mean(shares) > 0.95  # a pixel's centre is not the point


@pytest.mark.slow
def test_pseudo_videos_are_decoded_to_their_tracks(made):
    recording, _, tracks, views = made
    settings = matching.settings_for(*SIZE)
    for view in views:
        decoded = pseudo_video.decode(
            view["motion"] / np.float32(255), view["anchors"], view["anchor_valid"],
            view["scale"], view["intrinsics"], view["extrinsics"], settings=settings,
        )  # fmt: skip
        behind = gaps(tracks, recording, view)
        good = view["visibility"] & view["anchor_valid"] & np.asarray(decoded.confidence > 0)
        # `visibility` lets 1 cm pass: the far side of a blade counts. What is painted is the near
        # side, and a decoder cannot know of another: its bound is for points that are seen.
        seen = good & (behind < 0.0005) & (behind[:1] < 0.0005)
        error = np.linalg.norm(np.asarray(decoded.tracks) - tracks["tracks"], axis=-1)
        print(
            f"{view['serial']}: median {1e3 * np.median(error[seen]):.2f} mm of {seen.sum()} seen, "
            f"{1e3 * np.median(error[good & ~seen]):.2f} mm of {(good & ~seen).sum()} behind"
        )
        assert np.median(error[seen]) <= 0.003 and seen.sum() > 1000
        assert np.median(error[good & ~seen]) <= 0.01 + 0.003 and seen.sum() > 0.8 * good.sum()
