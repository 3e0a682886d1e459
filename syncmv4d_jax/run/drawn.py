"""Points of a scene over time, and what cameras see of them: what a view synthesis completes.

The points are those of a sample's flow (every pixel of frame 0), of a sample's tracks (the pixels
that they move, in front of a table plane that stands still), of one image with its depth, or, to
judge a synthesis alone, of a record's true flow in one of its views (`across`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.data import depth as depth_files
from syncmv4d_jax.data import pixel_flow
from syncmv4d_jax.geometry import cameras, flow_map, matching, painting, splat

HOLE = 128  # grey of uint8, next to 0 of [-1, 1]
MOVED = 0.02  # metres: points that move farther are what a path turns about


class Views(NamedTuple):
    """What cameras see of a scene's points: render [v n h w 3] uint8, grey in holes; covered, sure
    [v n h w] bool (splat.Picture)."""

    render: Any
    covered: Any
    sure: Any


class Scene(NamedTuple):
    """Points of a sample's views, and what a path needs to know of it.

    clouds: one a view. intrinsics [v 3 3], extrinsics [v 3 4]: of the sources. images [v h w 3]
    uint8: their frame 0. pivot: [3] metres. frames: of the points.
    """

    clouds: list[splat.Cloud]
    intrinsics: np.ndarray
    extrinsics: np.ndarray
    images: np.ndarray
    pivot: np.ndarray
    frames: int


def of_sample(sample: Mapping[str, Any], where: str) -> Scene:
    """The scene of a finished sample (results/samples.py).

    Raises:
      ValueError: a sample without points or cameras, or of a path.
    """
    if "intrinsics" not in sample or not {"flow", "tracks"} & set(sample):
        raise ValueError(
            f"{where}: wanted tracks or flow, and cameras, to draw it from elsewhere; it has "
            f"{sorted(sample)}"
        )
    lenses, poses = sample["intrinsics"], sample["extrinsics"]
    if "flow" in sample:
        clouds, images = _of_flow(sample, lenses, poses), sample["images"]
        frames = sample["flow"].shape[1]
    else:
        clouds, images = _of_tracks(sample, lenses, poses), sample["video"][:, 0]
        frames = len(sample["tracks"])
    return Scene(clouds, lenses, poses, images, pivot(sample, clouds), frames)


def pivot(sample: Mapping[str, Any], clouds: Sequence[splat.Cloud]) -> np.ndarray:
    """[3] metres: the median of the points that move, of all tracks where none does."""
    tracks = np.asarray(sample["tracks"]) if "tracks" in sample else np.asarray(clouds[0].points)
    start = tracks[0]
    moves = np.linalg.norm(tracks - start, axis=-1).max(0) > MOVED
    sure = np.isfinite(tracks).all((0, 2))
    if "anchor_valid" in sample:
        sure &= np.asarray(sample["anchor_valid"]).any(0)
    elif "tracks" not in sample:
        sure &= np.asarray(clouds[0].valid)
    chosen = start[sure & moves] if (sure & moves).any() else start[sure]
    return np.median(chosen, axis=0)


def _of_flow(sample, lenses, poses) -> list[splat.Cloud]:
    found = []
    for view, flow in enumerate(sample["flow"]):
        depth = sample["depth0"][view]
        camera = flow_map.Camera(*(jnp.asarray(x) for x in (depth, lenses[view], poses[view])))
        tracks = flow_map.inverse(jnp.asarray(flow, jnp.float32), camera)
        valid = jnp.asarray(depth > 0)
        found.append(splat.cloud(tracks, jnp.asarray(sample["images"][view]), camera, valid))
    return found


def _of_tracks(sample, lenses, poses) -> list[splat.Cloud]:
    """Pixels of each view's pseudo video move with the refined tracks; the rest is a table."""
    if "motion" not in sample or "scale" not in sample:
        raise ValueError("wanted the sample's pseudo videos and scale: they say what moves")
    height, width = sample["video"].shape[2:4]
    settings = matching.settings_for(height, width)
    tracks, found = jnp.asarray(sample["tracks"]), []
    warps = []
    for view in range(len(lenses)):
        first = jnp.asarray(sample["motion"][view, 0], jnp.float32) / 255
        scale, lens, pose = (
            jnp.asarray(x) for x in (sample["scale"][view], lenses[view], poses[view])
        )
        anchors, valid = (jnp.asarray(sample[k][view]) for k in ("anchors", "anchor_valid"))
        warp = painting.warp_weights(first, anchors, valid, scale, lens, pose, settings=settings)
        moved = jnp.repeat(warp.rest[None], len(tracks), 0)
        for i in range(warp.anchor.shape[1]):
            moved = moved + warp.weight[None, :, i : i + 1] * tracks[:, warp.anchor[:, i]]
        warps.append((moved, warp.source, matching.frame_depth(first, scale, settings=settings)[0]))
    low = [np.asarray(moved[0])[np.asarray(there)][:, 2] for moved, there, _ in warps]
    level = float(np.quantile(np.concatenate(low), 0.02)) if sum(map(len, low)) else 0.0
    plane = np.array([0.0, 0.0, 1.0, -level])
    for view, (moved, there, depth) in enumerate(warps):
        lens, pose = lenses[view], poses[view]
        beyond = pixel_flow.plane_depth(plane, lens, pose, (height, width))
        mask = np.asarray(there).reshape(height, width)
        whole = np.where(mask, np.asarray(depth), beyond).astype(np.float32)
        camera = flow_map.Camera(*(jnp.asarray(x) for x in (whole, lens, pose)))
        still = cameras.to_world(flow_map.start(camera), camera.extrinsics)
        moved = moved.reshape(len(moved), height, width, 3)
        points = jnp.where(jnp.asarray(mask)[None, ..., None], moved, still[None])
        colours = jnp.asarray(sample["video"][view, 0])
        found.append(splat.cloud(points, colours, camera, jnp.asarray(whole > 0)))
    return found


def of_image(posed: depth_files.Posed) -> Scene:
    """The scene of one image with its depth; it stands still, of one frame."""
    own = posed.source
    lens, pose = posed.intrinsics[own], posed.extrinsics[own]
    camera = flow_map.Camera(*(jnp.asarray(x) for x in (posed.depth, lens, pose)))
    tracks = cameras.to_world(flow_map.start(camera), camera.extrinsics)[None]
    cloud = splat.cloud(tracks, jnp.asarray(posed.image), camera, jnp.asarray(posed.depth > 0))
    return Scene([cloud], lens[None], pose[None], posed.image[None], pivot({}, [cloud]), 1)


def posed(images: np.ndarray, arrays: Mapping[str, Any], where: str) -> depth_files.Posed:
    """One of a record's first frames, with its depth, among the cameras of all.

    Args:
      images: [v h w 3] uint8. arrays: depth0 [v h w], intrinsics [v 3 3], extrinsics [v n? 3 4].

    Raises:
      ValueError: a record without depth.
    """
    if "depth0" not in arrays:
        raise ValueError(
            f"{where}: wanted the depth of its first frames: prepare the records with --with flow"
        )
    poses = np.asarray(arrays["extrinsics"])
    source = middle_view(poses)
    depth, lenses = np.asarray(arrays["depth0"])[source], np.asarray(arrays["intrinsics"])
    return depth_files.Posed(images[source], depth, lenses, poses[:, 0], source)


def plain_references(one: depth_files.Posed) -> np.ndarray:
    """The first frames [v h w 3] uint8 of a rig: one of them, its points alone in the others."""
    lenses, poses = one.intrinsics[:, None], one.extrinsics[:, None]
    images = np.array(draw(of_image(one), lenses, poses, one.depth.shape).render[:, 0])
    images[one.source] = one.image
    return images


def of_record(example: Mapping[str, Any], view: int, where: str) -> Scene:
    """The scene of a record's true flow in one view, unbatched.

    Raises:
      ValueError: an example without flow.
    """
    if "flow" not in example:
        raise ValueError(
            f"{where}: wanted the flow of the record's pixels: prepare it with --with flow and "
            "read it by --config.data.fields=\"('flow',)\""
        )
    depth, lens = example["depth0"][view], example["intrinsics"][view]
    pose = example["extrinsics"][view][0]
    camera = flow_map.Camera(*(jnp.asarray(x) for x in (depth, lens, pose)))
    tracks = flow_map.inverse(jnp.asarray(example["flow"][view], jnp.float32), camera)
    image = example["video"][view, 0]
    known = jnp.asarray(example["flow_valid"][view] & (depth > 0))
    cloud = splat.cloud(tracks, jnp.asarray(image), camera, known)
    middle = pivot({}, [cloud])
    return Scene([cloud], lens[None], pose[None], image[None], middle, len(tracks))


def middle_view(extrinsics: np.ndarray) -> int:
    """Which of a rig's cameras [v n 3 4] is nearest to the others; one that stands, if any does."""
    centres = cameras.camera_centre(np.asarray(extrinsics[:, 0], np.float64))
    far = np.linalg.norm(centres[:, None] - centres[None], axis=-1).sum(1)
    moves = np.ptp(extrinsics, axis=1).max((1, 2)) > 0
    return int(np.argmin(np.where(moves & ~moves.all(), np.inf, far)))


def across(example: Mapping[str, Any], task: Any, where: str) -> dict[str, Any]:
    """What a synthesis task is given of a record, to complete what all but one of its cameras see.

    Args:
      example: unbatched, with video and flow. task: `base.Synthesis`.

    Returns:
      `Views` by name, hole_mask, and the cameras intrinsics [t 3 3], extrinsics [t n 3 4] of the
      other views; source_view: of which the points are, by their true flow.

    Raises:
      ValueError: as `of_record`; a record of one view.
    """
    poses = np.asarray(example["extrinsics"], np.float32)
    source = middle_view(poses)
    others = [v for v in range(len(poses)) if v != source]
    if not others:
        raise ValueError(f"{where}: wanted several views, to draw one for another's camera")
    scene = of_record(example, source, where)
    poses = np.broadcast_to(poses, (len(poses), scene.frames, 3, 4))[others]
    lenses = np.asarray(example["intrinsics"], np.float32)[others]
    wide = np.repeat(lenses[:, None], scene.frames, 1)
    views = draw(scene, wide, poses, task.clip.size)
    trust = splat.trust(views.covered, views.sure)
    return {key: np.asarray(x) for key, x in views._asdict().items()} | {
        "hole_mask": np.asarray(task.fold(trust[None])[0]),
        "intrinsics": lenses,
        "extrinsics": poses,
        "source_view": source,
    }


def draw(scene: Scene, lenses: np.ndarray, poses: np.ndarray, size: tuple[int, int]) -> Views:
    """Draws a scene's points for cameras, lenses [v n 3 3] px, poses [v n 3 4]."""
    whole = splat.merge(scene.clouds)
    drawn = [
        _render(whole, jnp.asarray(k), jnp.asarray(e), size=size)
        for k, e in zip(lenses, poses, strict=True)
    ]
    image, covered, sure = (jnp.stack(x) for x in zip(*drawn, strict=True))
    return Views(jnp.where(covered[..., None], image, HOLE).astype(jnp.uint8), covered, sure)


_render = jax.jit(splat.render, static_argnames="size")


def told(views: Views) -> dict[str, np.ndarray]:
    """What a sample keeps of drawn points (results/samples.py)."""
    render, covered, sure = (np.asarray(x) for x in views)
    holes = np.where(covered, -1.0, 1.0)[..., None]
    shown = render.astype(np.float32) / 127.5 - 1
    found = {"render": shown, "holes": np.repeat(holes, 3, axis=-1)}
    return found | {"drawn": render, "covered": covered, "sure": sure}
