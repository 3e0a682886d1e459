"""One clip of a recording as records: tracks, views, pseudo videos, visibility (paper 3.3, 4.2).

V_n = vertices of the tracked surfaces (both hands, tool, target) at frame n, world
tracks    = K points of V, chosen once in frame 0, shared by all views
anchors   = their pixels in frame 0 of each view;   scale = (min, max) depth over all n, k
motion    = every pixel's surface point coloured (u0 / W, v0 / H, depth now), by ray casting
visible   = nothing, occluders included, lies more than 1 cm in front of the point on its ray

The crop is made from frame 0 (`first`), as a user's is who has nothing else. What is drawn at
random for a clip follows from its first frame's surfaces: clips that begin alike are cut alike.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from syncmv4d_jax.data import (
    controls,
    frames,
    pixel_flow,
    raycast,
    reading,
    records,
    rigs,
    surfaces,
    transforms,
    user,
)
from syncmv4d_jax.data.sources import recordings, taco
from syncmv4d_jax.geometry import cameras, pseudo_video

CROPS = {"first": 1.8, "clip": 1.2}  # what the box is fitted to, and its margin
SURFACES = ("none", "test", "all")  # splits whose surfaces are stored
FIELDS = ("flow",)  # what views may have besides
INSIDE = 0.5  # share of the points that must lie inside the whole image in frame 0
NEAR = 0.01  # metres in front of a camera that moves, from where on it sees anything
INSIDE_MOVING = 0.1  # the same of a camera that moves
LEAST = 0.25  # share of a clip's frames that a recording must have; the rest repeat its last one


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes the records; two runs into one folder must agree in all of it.

    Attributes:
      size: (height, width) of the records' videos.
      frames, fps: of a clip.
      points: K.
      clusters: groups of views, left to right.
      cameras: "all", or "first": one camera a cluster, for small data sets.
      crop: a key of CROPS: the surfaces of the first frame or of the whole clip are in it.
      visible: metres that a point may lie behind the surface seen on its ray.
      variants: clips of a training sequence; beyond the first they start at random where the
        recording is long enough. Crops of training clips jitter.
      shift, zoom: largest jitter of a crop: part of its size, and factor around 1.
      surfaces: of SURFACES: whose surfaces are stored with the records.
      fields: of FIELDS, stored with every view besides: "flow", where frame 0's pixels go.
      depth: folder of depth files for the flow's background, "" for a table plane.
      paths: cameras that move, of those that the recording has; each is a cluster of its own.
      held_out_tools, held_out_actions, held_out_triplets: sequences that are tested on.
      val: share of the other sequences that are validated on.
      representation: of the pseudo video, one of pseudo_video.REPRESENTATIONS.
      text: of the prompt; {action}, {tool} and {target} are filled in. A recording's own wins.
      seed: of the split, the points and the jitter.
      controls: of controls.WITH: what is stored for videos that are controlled.
      cloud: points of a cloud.
      action_names, action_mean, action_std: of a recording's actions, () to leave them out.
      provenance: "real" or "sim"; a recording's own wins.
    """

    size: tuple[int, int] = (480, 704)
    frames: int = 49
    fps: float = 8.0
    points: int = 1600
    clusters: int = 3
    cameras: str = "all"
    crop: str = "first"
    visible: float = 0.01
    variants: int = 1
    shift: float = 0.05
    zoom: float = 0.08
    surfaces: str = "test"
    fields: tuple[str, ...] = ()
    depth: str = ""
    paths: tuple[str, ...] = ()
    held_out_tools: tuple[str, ...] = ("hammer",)
    held_out_actions: tuple[str, ...] = ("measure",)
    held_out_triplets: tuple[tuple[str, str, str], ...] = ()
    val: float = 0.1
    representation: str = "point_tracks"
    text: str = "A person uses a {tool} to {action} a {target}."
    seed: int = 0
    controls: tuple[str, ...] = ()
    cloud: int = 2048
    provenance: str = "real"
    action_names: tuple[str, ...] = ()
    action_mean: tuple[float, ...] = ()
    action_std: tuple[float, ...] = ()

    def __post_init__(self):
        if unknown := sorted(set(self.controls) - set(controls.WITH)):
            raise ValueError(f"wanted controls of {controls.WITH}, got {unknown}")
        if self.frames % transforms.TEMPORAL_STRIDE != 1 or self.variants < 1 or self.points < 8:
            raise ValueError(
                "wanted frames = 4 m + 1, at least 1 variant and 8 points, got "
                f"{self.frames}, {self.variants}, {self.points}"
            )

        if self.representation not in pseudo_video.REPRESENTATIONS:
            raise ValueError(
                f"wanted representation {pseudo_video.REPRESENTATIONS}, got {self.representation!r}"
            )
        allowed = {"cameras": ("all", "first"), "crop": CROPS, "surfaces": SURFACES}
        for key, wanted in (allowed | {"provenance": ("real", "sim")}).items():
            if getattr(self, key) not in wanted:
                raise ValueError(f"wanted {key} of {tuple(wanted)}, got {getattr(self, key)!r}")
        if strange := set(self.fields) - set(FIELDS):
            raise ValueError(f"wanted fields of {FIELDS}, got {sorted(strange)}")

    def split(self, sequence: str, triplet: tuple[str, str, str], *, filmed: bool = True) -> str:
        """Returns "train", "val" or "test"; all clips and views of a sequence share it.

        Args:
          filmed: there are videos; without them nothing can be learned.
        """
        action, tool, _ = triplet
        if (
            not filmed
            or tool in self.held_out_tools
            or action in self.held_out_actions
            or tuple(triplet) in self.held_out_triplets
        ):
            return "test"
        return (
            "val"
            if transforms.seeded(self.seed, "split", sequence).random() < self.val
            else "train"
        )

    def prompt(self, triplet: tuple[str, str, str]) -> str:
        """Returns the text of a triplet (action, tool, target).

        Raises:
          ValueError: there is nothing in it.
        """
        words = self.text.format(action=triplet[0], tool=triplet[1], target=triplet[2])
        return reading.prompt(words, where=f"text {self.text!r}")


class View(NamedTuple):
    """One camera of a window: its record and, for the report, its cluster and size of the crop.

    extrinsics: [3 4] or, of a camera that moves, [n 3 4].
    """

    serial: str
    cluster: int
    intrinsics: np.ndarray
    extrinsics: np.ndarray
    box: tuple[int, int, int, int]
    values: dict[str, Any]

    @property
    def moves(self) -> bool:
        """Whether its camera does."""
        return self.extrinsics.ndim == 3

    def pose(self, n: int) -> np.ndarray:
        """World to camera [3 4] at frame n."""
        return self.extrinsics if self.extrinsics.ndim == 2 else self.extrinsics[n]


class Window(NamedTuple):
    """`tracks`: the record of the window; surfaces: the one of its surfaces, empty where they are
    not stored; views: the cameras' ; skipped: {camera: reason}; preview: {camera: frames [3 h w 3],
    motion [3 h w 3]}; shown: the frames of the preview."""

    tracks: dict[str, Any]
    surfaces: dict[str, Any]
    views: list[View]
    skipped: dict[str, str]
    preview: dict[str, tuple[np.ndarray, np.ndarray]]
    shown: list[int]


def make(
    recording: recordings.Recording, fps: float, settings: Settings, variant: int = 0
) -> Window:
    """Makes the records of one clip of a recording.

    Args:
      fps: of the recording.
      variant: 0 starts at the first frame and does not jitter.

    Raises:
      taco.BadSequence: no camera is left in a cluster; says why each one was dropped.
      ValueError: surfaces that cannot be tracked.
    """
    split = settings.split(recording.id, recording.triplet, filmed=recording.filmed)
    index, valid = transforms.frame_index(
        recording.frames,
        source_fps=fps,
        fps=settings.fps,
        frames=settings.frames,
        start=_start(recording, fps, settings, variant),
    )
    if valid.sum() < LEAST * settings.frames:
        raise taco.BadSequence(
            f"{recording.id}: {recording.frames} frames of {fps:g} a second are {valid.sum()} of a "
            f"clip's {settings.frames}, wanted {LEAST:.0%} of them at least"
        )
    clip = Clip.of(recording, index, fps)
    rigs.check(recording.cameras, clip.tracked(0), where=f"{recording.id}, cameras")
    rng = transforms.seeded(settings.seed, clip.mark(), variant)
    chosen = transforms.select_points(clip.tracked(0), clip.faces, settings.points, rng)
    tracks = np.stack([chosen.positions(clip.tracked(n)) for n in range(len(index))])
    tracks = tracks.astype(np.float32)
    shown = [0, int(valid.sum()) // 2, int(valid.sum()) - 1]
    jitter = rng if split == "train" else None
    views, skipped, shots = _views(recording, clip, tracks, settings, jitter, shown)
    _check_clusters(recording, views, skipped, settings)
    shown_first = {"points", "image"} & set(settings.controls)
    first = _first_shots(clip, views, shots, settings) if shown_first else {}
    motion_frames, tracking, warped = _paint(recording, clip, views, tracks, settings, first)
    preview = {}
    for view in views:
        preview[view.serial] = shots[view.serial], motion_frames[view.serial][shown]
        painted = motion_frames.pop(view.serial)
        view.values["motion"] = records.encode(painted)
        if "das" in settings.controls:
            view.values["tracking"] = records.encode(tracking.pop(view.serial))
            view.values["mask"] = controls.pack(np.asarray(painted.any(-1)))
        if "image" in settings.controls:
            view.values["warped"] = records.encode(warped.pop(view.serial))
    values = {
        "tracks": tracks,
        "surface": chosen.mesh.astype(np.int32),
        "frame_valid": valid,
        "source_frames": index.astype(np.int32),
        "text": recording.text or settings.prompt(recording.triplet),
        "names": "\n".join(s.name for s in recording.surfaces[: len(clip.faces)]),
    }
    if settings.action_names:
        values["actions"] = _actions(recording, index, settings)
    if "points" in settings.controls:
        own_rng = transforms.seeded(settings.seed, clip.mark(), variant, "cloud")
        meshes = [clip.tracked(n) for n in range(len(index))]
        names = controls.labels(recording.surfaces[: len(clip.faces)])
        cloud = controls.cloud(meshes, clip.faces, names, settings.cloud, own_rng)
        values |= cloud | controls.colours(cloud["points"][0], list(first.values()))
    stored = settings.surfaces == "all" or settings.surfaces == split
    own = surfaces.pack(recording.surfaces, index) if stored else {}
    return Window(values, own, views, skipped, preview, shown)


def _first_shots(clip, views, shots, settings) -> dict[str, controls.Shot]:
    """Frame 0 of each view, with the depth of all surfaces."""
    scene, found = raycast.Scene(clip.meshes[int(clip.index[0])]), {}
    for view in views:
        hits = scene.cast(view.intrinsics, view.pose(0), settings.size)
        image = shots[view.serial][0]
        found[view.serial] = controls.Shot(image, hits.depth, view.intrinsics, view.pose(0))
    return found


@dataclasses.dataclass(frozen=True)
class Clip:
    """The frames of a recording that make a clip.

    index: [n] of the recording's frames. meshes: {frame: (vertices, faces) of all surfaces}.
    faces: of those that are tracked, which come first. fps: of the recording.
    """

    index: np.ndarray
    meshes: dict[int, list[tuple[np.ndarray, np.ndarray]]]
    faces: list[np.ndarray]
    fps: float

    @classmethod
    def of(cls, recording: recordings.Recording, index: np.ndarray, fps: float) -> "Clip":
        every = recording.surfaces
        meshes = {int(i): [(s.at(int(i)), s.faces) for s in every] for i in np.unique(index)}
        return cls(index, meshes, [s.faces for s in every if s.kind == surfaces.TRACKED], fps)

    def tracked(self, n: int) -> list[np.ndarray]:
        """Vertices [p 3], metres, of the tracked surfaces at frame n of the clip."""
        return [vertices for vertices, _ in self.meshes[int(self.index[n])][: len(self.faces)]]

    def mark(self) -> str:
        """A name for what the first frame shows."""
        first = hashlib.sha256()
        for vertices in self.tracked(0):
            first.update(np.ascontiguousarray(vertices, np.float32).tobytes())
        return first.hexdigest()


def _actions(recording, index, settings) -> np.ndarray:
    """[n a] float32: what is commanded at each frame of the clip."""
    wanted, have = len(settings.action_names), recording.actions
    if have is None or have.shape[1] != wanted:
        got = "none" if have is None else have.shape[1]
        raise taco.BadSequence(f"{recording.id}: wanted {wanted} actions a frame, got {got}")
    return have[index].astype(np.float32)


def _start(recording, fps, settings, variant) -> int:
    spare = recording.frames - 1 - int((settings.frames - 1) * fps / settings.fps + 0.5)
    if not variant or spare <= 0:
        return 0
    rng = transforms.seeded(settings.seed, recording.id, variant)
    return int(rng.integers(0, spare + 1))


def _in_order(recording, count: int) -> list[tuple[int, str]]:
    """(cluster, camera), left to right, those that move behind those that stand; in a cluster long
    lenses first, since a crop of a wide one is enlarged, then by name. The first of a cluster is
    the one used outside of training."""
    rig, names = recording.cameras, sorted(recording.cameras)
    moving = np.array([rig[n].path is not None for n in names])
    poses = np.stack([rig[n].extrinsics for n in names])
    clusters = transforms.view_clusters(poses, count, moving=moving)
    lens = {n: -round(rig[n].intrinsics[0, 0] / rig[n].size[1]) for n in names}
    pairs = zip(clusters.tolist(), names, strict=True)
    return sorted(pairs, key=lambda pair: (pair[0], lens[pair[1]], pair[1]))


def _views(recording, clip, tracks, settings, rng, shown):
    """Cameras that see the scene, with their crops and videos; the others with their reasons."""
    views: list[View] = []
    skipped, shots = {}, {}
    for cluster, name in _in_order(recording, settings.clusters):
        # Drawn for every camera, also for one that is dropped.
        jitter = rng.uniform(-1, 1, 3) if rng is not None else np.zeros(3)
        if settings.cameras == "first" and any(view.cluster == cluster for view in views):
            continue
        try:
            view, video = _view(recording, name, cluster, clip, tracks, settings, jitter)
            shots[name] = video[shown]
            views.append(view)
        except (taco.BadSequence, ValueError) as error:
            skipped[name] = str(error)
    for i, name in enumerate(settings.paths):
        if name not in recording.paths:
            raise taco.BadSequence(f"{recording.id}: no moving camera {name!r}; they are in Paths/")
        cluster = settings.clusters + i
        view, video = _view(recording, name, cluster, clip, tracks, settings, np.zeros(3))
        shots[name] = video[shown]
        views.append(view)
    return views, skipped, shots


def _view(recording, name, cluster, clip, tracks, settings, jitter):
    path = recording.video_path(name)
    camera = recording.paths.get(name) or recording.cameras[name]
    video = frames.opened(path)
    numbers = video.numbers(clip.index, fps=clip.fps, frames=recording.frames)
    moves = None
    if name in recording.paths:
        moves = camera.extrinsics[clip.index]
        camera = dataclasses.replace(camera, extrinsics=moves[0])
    view, pictures = _crop(camera, cluster, video, numbers, clip, tracks, settings, jitter)
    if moves is not None:
        view.values["extrinsics"] = moves.astype(np.float32)
        view = view._replace(extrinsics=moves)
    if "flow" in settings.fields:
        depth = None
        if settings.depth:
            file = Path(settings.depth) / recording.id / f"{name}.npz"
            depth = pixel_flow.read_depth(file, view.box, settings.size)
        fields = pixel_flow.of_view(
            recording.surfaces, list(map(int, clip.index)), pictures, view.intrinsics, view.pose(0),
            depth=depth,
        )  # fmt: skip
        view.values.update(pixel_flow.pack(fields))
    return view, pictures


def box_of(
    camera: rigs.Camera,
    whole: tuple[int, int],
    clouds: list[np.ndarray],
    settings: Settings,
    jitter: np.ndarray,
) -> transforms.Box:
    """The crop of a view.

    Args:
      camera: with intrinsics of an image of size `whole` (height, width).
      clouds: the tracked surfaces [p 3] of the frames that it is fitted to.
      jitter: [3] in -1..1: moves it by parts of `shift` in x and y, and changes its size.
    """
    bounds = transforms.projected_bounds(clouds, camera.intrinsics, camera.extrinsics)
    return transforms.crop_box(
        bounds,
        whole,
        settings.size,
        margin=CROPS[settings.crop],
        least=CROPS["clip"],
        zoom=1 + settings.zoom * jitter[2],
        shift=(settings.shift * jitter[0], settings.shift * jitter[1]),
    )


def _crop(camera, cluster, video, numbers, clip, tracks, settings, jitter):
    name, whole = camera.name, video.size
    intrinsics = video.intrinsics(camera)
    first = cameras.at_first(camera.at(clip.index), 0)
    pixels, _ = cameras.project(tracks[0].astype(np.float64), intrinsics, first)
    inside = ((pixels >= -0.5) & (pixels < np.array(whole[::-1]) - 0.5)).all(-1).mean()
    # A hand's camera comes to what it sees; what it sees then is not in its first frame.
    if inside < (INSIDE if camera.path is None else INSIDE_MOVING):
        raise taco.BadSequence(
            f"calibration: only {inside:.0%} of the points project into the image of {name}"
        )
    fitted = range(1 if settings.crop == "first" else len(clip.index))
    own = dataclasses.replace(camera, intrinsics=intrinsics, extrinsics=first)
    if camera.path is None:
        clouds = [v for n in fitted for v in clip.tracked(n)]
        box = box_of(own, whole, clouds, settings, jitter)
    else:  # what it sees leaves any box that is fitted to one frame
        box = centre_of(whole, settings.size)
    intrinsics = cameras.crop_resize_intrinsics(intrinsics, box, settings.size)
    pictures = video.read(numbers, box, settings.size)
    values = {
        "video": records.encode(pictures),
        "intrinsics": intrinsics.astype(np.float32),
        "extrinsics": camera.at(clip.index).astype(np.float32),
        "box": np.array(box, np.int32),
        "serial": name,
    }
    return View(name, cluster, intrinsics, camera.at(clip.index), box, values), pictures


def centre_of(whole: tuple[int, int], size: tuple[int, int]) -> transforms.Box:
    """The largest centred part of an image (h, w) of the aspect of `size`, whole pixels."""
    x0, y0, x1, y1 = user.centre_box(whole, size)
    left, top = round(x0), round(y0)
    return left, top, left + round(x1 - x0), top + round(y1 - y0)


def _check_clusters(recording, views, skipped, settings) -> None:
    have = {view.cluster for view in views}
    if len(have) < settings.clusters:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        empty = sorted(set(range(settings.clusters)) - have)
        raise taco.BadSequence(
            f"{recording.id}: no camera left in cluster {empty} of {settings.clusters}: {reasons}"
        )


def _paint(recording, clip, views, tracks, settings, shots) -> list[dict[str, np.ndarray]]:
    """Fills in anchors, visibility and scale of the views; returns their pseudo videos, their
    tracking videos and their warped pictures of frame 0; of what is not wanted {}."""
    index, count = clip.index, len(clip.faces)
    first = np.concatenate([vertices for vertices, _ in clip.meshes[int(index[0])]])
    origins = {v.serial: _origins(first, v.intrinsics, v.pose(0)) for v in views}
    wanted = {"das_tracking": "das", pseudo_video.WARPED: "image"}
    more = [kind for kind, control in wanted.items() if control in settings.controls]
    kinds = [settings.representation, *more]
    size = (len(kinds), len(index), *settings.size, 3)
    painted = {v.serial: np.zeros(size, np.uint8) for v in views}
    visible = {v.serial: np.zeros(tracks.shape[:2], bool) for v in views}
    projected = {
        v.serial: cameras.project(tracks.astype(np.float64), v.intrinsics, v.extrinsics)
        for v in views
    }
    moving = {v.serial for v in views if v.moves}
    scales = {
        name: pseudo_video.depth_scale(d, (d > NEAR) | (name not in moving))
        for name, (_, d) in projected.items()
    }
    done: dict[int, int] = {}
    for n, i in enumerate(map(int, index)):
        scene = None if i in done else raycast.Scene(clip.meshes[i])
        for view in views:
            name = view.serial
            if scene is None:  # a padded frame repeats the last one
                painted[name][:, n] = painted[name][:, done[i]]
                visible[name][n] = visible[name][done[i]]
                continue
            now = view._replace(extrinsics=view.pose(n))
            painted[name][:, n] = _paint_frame(
                scene, count, origins[name], now, scales[name], settings.size, kinds,
                shots.get(name),
            )  # fmt: skip
            pixels, depth = (x[n] for x in projected[name])
            visible[name][n] = seen(
                scene, pixels, depth, now.intrinsics, now.extrinsics,
                size=settings.size, behind=settings.visible,
            )  # fmt: skip
        done.setdefault(i, n)
    for view in views:
        anchors = projected[view.serial][0][0]
        pseudo_video.check_scale(scales[view.serial], where=f"{recording.id}, camera {view.serial}")
        view.values.update(
            anchors=anchors.astype(np.float32),
            anchor_valid=visible[view.serial][0].copy(),
            visibility=visible[view.serial],
            scale=np.asarray(scales[view.serial], np.float32),
        )
    clips = {kind: {s: made[i] for s, made in painted.items()} for i, kind in enumerate(more, 1)}
    return [{s: made[0] for s, made in painted.items()}, *(clips.get(kind, {}) for kind in wanted)]


def seen(
    scene: raycast.Scene,
    pixels: np.ndarray,
    depth: np.ndarray,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
    *,
    size: tuple[int, int],
    behind: float,
) -> np.ndarray:
    """Which points a camera sees: inside its image, and nothing in front of them.

    Args:
      scene: everything that hides, at that instant.
      pixels: [k 2] and depth [k], metres, of the points in the camera.
      intrinsics: [3 3], pixels. extrinsics: [3 4], world to camera, metres.
      size: (height, width) of the image.
      behind: metres that a point may lie behind the surface met on its ray.

    Returns:
      [k] bool.
    """
    height, width = size
    inside = ((pixels >= -0.5) & (pixels < np.array([width, height]) - 0.5)).all(-1) & (depth > 0)
    hits = scene.cast_pixels(pixels, intrinsics, extrinsics)
    return inside & (depth - hits.depth < behind)


def _origins(first, intrinsics, extrinsics) -> np.ndarray:
    """Frame 0 of vertices [p 3] in a view: K (x, y, z), homogeneous pixels, and so linear between
    them; the depth z is last. [p 3] float32."""
    matrix = intrinsics @ extrinsics
    return (first @ matrix[:, :3].T + matrix[:, 3]).astype(np.float32)


def _paint_frame(scene, count, origins, view, scale, size, kinds, shot) -> np.ndarray:
    """A frame [r h w 3] uint8 of the pseudo videos `kinds` [r] of the first `count` meshes, the
    tracked ones; rays are cast only where these may be. shot: the view's frame 0, to be warped."""
    result = np.zeros((len(kinds), *size, 3), np.uint8)
    near = _near_surfaces(scene.meshes[:count], view, size)
    y, x = np.divmod(np.flatnonzero(near), size[1])
    hits = scene.cast_pixels(np.stack([x, y], -1), view.intrinsics, view.extrinsics)
    met = np.flatnonzero(hits.mask & (hits.mesh < count))
    hits = raycast.Hits(*(value.take(met, axis=0) for value in hits))
    start = scene.interpolate(hits, [origins])
    # What lay behind a camera that moves in frame 0 has no pixel there.
    front = np.flatnonzero(start[:, 2] > NEAR)
    met, start = met.take(front), start.take(front, axis=0)
    hits = raycast.Hits(*(value.take(front, axis=0) for value in hits))
    origin = start[:, :2] / np.maximum(start[:, 2:], 1e-6)
    for i, kind in enumerate(kinds):
        if kind == pseudo_video.WARPED:
            shown, _ = controls.shows(shot, origin, start[:, 2])
        else:
            depth = hits.depth if kind == "point_tracks" else start[:, 2]  # now, or in frame 0
            colours = pseudo_video.encode_colours(origin, depth, scale, size=size)
            shown = np.round(colours * 255).astype(np.uint8)
        result[i, y.take(met), x.take(met)] = shown
    return result


def _near_surfaces(meshes, view, size) -> np.ndarray:
    """[h w] bool: the pixels inside the bounds of any mesh, and one more all around."""
    mask, limit = np.zeros(size, bool), size[::-1]
    matrix = (view.intrinsics @ view.extrinsics).astype(np.float32)
    for vertices, _ in meshes:
        x, y, depth = matrix[:, :3] @ vertices.T + matrix[:, 3:]
        if depth.min() < 1e-3:  # around the camera: it has no bounds
            mask[:] = True
            break
        x, y = x / depth, y / depth
        x0, x1 = np.clip([np.floor(x.min()) - 1, np.ceil(x.max()) + 2], 0, limit[0]).astype(int)
        y0, y1 = np.clip([np.floor(y.min()) - 1, np.ceil(y.max()) + 2], 0, limit[1]).astype(int)
        mask[y0:y1, x0:x1] = True
    return mask
