"""Really captured motion: a HOT3D recording, drawn by our renderer, in the plain layout.

Real: both hands (the data set's UmeTrack fits, skinned: sources/hot3d.py reads the recording's own
files, of Aria or Quest3), the poses of all objects at every time, and the scans of those objects
whose mesh there is. Ours: cameras, light, table, forearms, and a stand-in for an object without a
scan, a body of revolution about the object's own y axis that fits into the hand that holds it. The
world is moved rigidly so that the table lies where the embedded scenes' table lies and the actor
looks towards +y.

Where these files are not there but `derived_tracks.npz` is, of hands that somebody has skinned, it
is read: timestamps_ns [n], {left,right}_hand_verts [n p 3] metres in the world (z up, the actor
looks along -x), {left,right}_hand_faces [q 3], {left,right}_landmarks [n 20 3] (the fifth is the
wrist) and obj_<name>_T_world_object [n 4 4].
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from tqdm import tqdm

from syncmv4d_jax import disk
from syncmv4d_jax.data import reading, rigs, surfaces
from syncmv4d_jax.data.scenes import objects, scene
from syncmv4d_jax.data.sources import hot3d, taco, taco_writer

HEADSETS = ("Aria", "Quest3")
WRIST = 5  # of the landmarks
PALM = (0.01, 0.5)  # metres
SAME_INSTANT = 5e6  # ns: rows closer than this are one frame written twice
PERIOD = 1e9 / taco.FPS
# Profiles (radius, y) in metres of the objects that have no scan in the sample.
STAND_INS = {
    "coffee_pot": ((0, -0.06), (0.024, -0.06), (0.026, -0.02), (0.022, 0.06), (0.028, 0.11),
                   (0.025, 0.11), (0.019, 0.06), (0.021, -0.05), (0, -0.05)),
    "mug_white": ((0, 0.0), (0.040, 0.0), (0.045, 0.02), (0.046, 0.095), (0.042, 0.095),
                  (0.041, 0.02), (0.036, 0.006), (0, 0.006)),
}  # fmt: skip
STAND_IN_COLOURS = {"coffee_pot": (0.16, 0.42, 0.72), "mug_white": (0.93, 0.91, 0.86)}


@dataclasses.dataclass(frozen=True)
class Capture:
    """A recording in our world frame, at 30 fps; what `scene.Renderer` draws.

    Attributes:
      tracked: names of the surfaces to track, of `meshes`.
      meshes: {name: (vertices [n p 3] metres, faces [q 3], colours [p 3])}; all that is drawn.
    """

    id: str
    frames: int
    tracked: tuple[str, ...]
    meshes: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]

    def surfaces(self, frame: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return [(v[frame], f, colours) for v, f, colours in self.meshes.values()]


def distinct_frames(timestamps: np.ndarray, *, where: str) -> np.ndarray:
    """Indices of the rows that are not a repetition of the row before.

    Raises:
      ValueError: what is left is not one row every 1/30 s (10%).
    """
    keep = np.flatnonzero(np.diff(timestamps, prepend=-1e18) > SAME_INSTANT)
    gaps = np.diff(timestamps[keep])
    if len(keep) < 2 or np.abs(gaps / PERIOD - 1).max() > 0.1:
        raise ValueError(
            f"{where}: wanted rows {PERIOD / 1e6:.1f} ms apart, got {len(keep)} rows, "
            f"{np.min(gaps, initial=np.inf) / 1e6:.1f} to {np.max(gaps, initial=0) / 1e6:.1f} ms"
        )
    return keep


def load(root: str | Path, recording: str, *, tool: str, target: str) -> Capture:
    """Reads <root>/<headset>/<recording> and <root>/object_library.

    Args:
      tool, target: names of the two tracked objects.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: not such a recording, or an object that it has not.
    """
    root = Path(root)
    path, library = _find(root, recording), root / "object_library" / "instance.json"
    if not library.is_file():
        raise FileNotFoundError(f"{library}: not found; wanted the root of a HOT3D sample")
    ids = _names(library)
    if path.is_dir():
        faces, hands, wrists, poses, head = _own(path, ids)
    else:
        faces, hands, wrists, poses = _tracks(path)
        head = None
    if unknown := {tool, target} - poses.keys():
        raise ValueError(f"{path}: no objects {sorted(unknown)}; there are {sorted(poses)}")
    meshes = {}
    for side in faces:
        colours = np.tile(scene.SKIN, (hands[side].shape[1], 1))
        meshes[side] = (hands[side], faces[side], colours)
    for name in sorted(poses, key=lambda n: {tool: 0, target: 1}.get(n, 2)):
        scan = _object(name, library.parent / f"{ids.get(name)}.glb")
        if scan is not None:
            vertices = np.einsum("nab,pb->npa", poses[name][:, :3, :3], scan[0])
            meshes[name] = (vertices + poses[name][:, None, :3, 3], *scan[1:])
    if missing := {tool, target} - meshes.keys():
        raise ValueError(f"{library.parent}: no mesh of {sorted(missing)}, and no stand-in")
    for side in faces:
        meshes[f"{side} forearm"] = _forearm(wrists[side])
    return _in_our_world(recording, ("left", "right", tool, target), meshes, head)


def _find(root: Path, recording: str) -> Path:
    """The folder of a recording with its own files, or else its derived_tracks.npz."""
    folders = [root / headset / recording for headset in HEADSETS]
    found = [x for x in folders if hot3d.there(x)]
    found += [x / "derived_tracks.npz" for x in folders if (x / "derived_tracks.npz").is_file()]
    if not found:
        raise FileNotFoundError(
            f"{root}: no {' or '.join(HEADSETS)}/{recording} with {hot3d.HANDS} in it; wanted the "
            "root of a HOT3D sample"
        )
    return found[0]


def _own(folder: Path, ids: dict[str, str]):
    """As `_tracks`, of the recording's own files, and where the head is, [n 3]."""
    made = hot3d.read(folder)
    keep = distinct_frames(made.times.astype(np.float64), where=str(folder))
    names = {uid: name for name, uid in ids.items()}
    hands = {side: x[keep] for side, x in made.hands.items()}
    wrists = {side: x[keep] for side, x in made.landmarks.items()}
    _check_hands(made.faces, hands, wrists, str(folder))
    poses = {names.get(uid, uid): x[keep] for uid, x in made.objects.items()}
    return made.faces, hands, wrists, poses, made.head[keep]


def _names(path: Path) -> dict[str, str]:
    """{name: the name of its file} of the objects of a library."""
    try:
        return {str(v["instance_name"]): k for k, v in reading.values(path).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: wanted {{id: {{instance_name}}}}, got {error!r}") from error


def _tracks(path: Path):
    """Faces, vertices and landmarks of the hands, and poses of the objects, by name; checked."""
    try:
        data = reading.arrays(path)
        keep = distinct_frames(data["timestamps_ns"].astype(np.float64), where=str(path))
        faces = {side: data[f"{side}_hand_faces"] for side in ("left", "right")}
        hands = {side: data[f"{side}_hand_verts"][keep].astype(np.float64) for side in faces}
        wrists = {side: data[f"{side}_landmarks"][keep].astype(np.float64) for side in faces}
    except KeyError as error:
        raise ValueError(f"{path}: no {error} in it") from error
    _check_hands(faces, hands, wrists, str(path))
    poses = {}
    for key, value in data.items():
        if key.startswith("obj_"):
            name = key.removeprefix("obj_").removesuffix("_T_world_object")
            # All rows, repeated ones too: a frame is a row of the file.
            poses[name] = rigs.rigid(value, where=f"{path}, object {name}")[keep]
    return faces, hands, wrists, poses


def _check_hands(faces, hands, wrists, where: str) -> None:
    for side in faces:
        hand = surfaces.Surface(f"{side} hand", faces[side], hands[side])
        surfaces.check(hand, where=f"{where}, {side} hand")
        if not np.isfinite(wrists[side]).all():
            raise ValueError(f"{where}: {side}_landmarks has values that are not finite")
        with np.errstate(over="ignore", invalid="ignore"):
            length = np.linalg.norm(wrists[side][:, WRIST] - wrists[side].mean(1), axis=-1)
        if (wrong := np.flatnonzero(~((length > PALM[0]) & (length < PALM[1])))).size:
            raise ValueError(
                f"{where}: {side}_landmarks: wanted a wrist {PALM} m from the middle of the hand, "
                f"got {length[wrong[0]]:.4f} in frame {wrong[0]}"
            )


def _object(name: str, path: Path):
    """(vertices, faces, colours) of a scan or a stand-in, None where there is neither."""
    if path.is_file():
        return _scan(name, path)
    if name not in STAND_INS:
        return None
    mesh = trimesh.creation.revolve(np.array(STAND_INS[name]), sections=28)
    turn = trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0])  # z to y
    mesh.apply_transform(turn)
    colours = objects.texture(mesh.vertices, STAND_IN_COLOURS[name])
    return np.asarray(mesh.vertices), np.asarray(mesh.faces), colours


def _scan(name: str, path: Path):
    """A mesh of other people's; its reader trusts what a file says of itself.

    Raises:
      ValueError: damaged, without a triangle, or no surface.
    """
    try:
        if path.read_bytes()[:4] != b"glTF":
            raise ValueError("not a binary glTF")
        scan: Any = trimesh.load_mesh(path)
        painted = scan.visual.to_color() if scan.visual.kind == "texture" else scan.visual
        colours = np.asarray(painted.vertex_colors)[:, :3] / 255
        vertices, faces = np.asarray(scan.vertices, np.float64), np.asarray(scan.faces)
        if colours.shape != vertices.shape:
            raise ValueError(f"{len(colours)} colours of {len(vertices)} vertices")
    except Exception as error:  # a damaged header raises whatever its parser runs into
        raise ValueError(f"{path}: unreadable ({type(error).__name__}: {error})") from error
    still = np.eye(4)[None]
    surfaces.check(surfaces.Surface(name, faces, vertices, still), where=f"{path}, object {name}")
    return vertices, faces, np.clip(1.25 * colours, 0.06, 1)


def _forearm(landmarks: np.ndarray):
    """A sleeve from the wrist away from the fingers, [n p 3]: it is drawn, not tracked."""
    wrist = landmarks[:, WRIST]
    back = wrist - landmarks.mean(1)
    back = back / np.linalg.norm(back, axis=1, keepdims=True)
    mesh = trimesh.creation.cylinder(radius=0.030, height=0.30, sections=24).subdivide()
    upright = np.abs(back[:, 2:]) > 0.999
    side = np.cross(back, np.where(upright, [1.0, 0, 0], [0.0, 0, 1]))
    side = side / np.linalg.norm(side, axis=1, keepdims=True)
    frame = np.stack([side, np.cross(back, side), back], axis=-1)
    vertices = np.einsum("nab,pb->npa", frame, mesh.vertices + np.array([0, 0, 0.142]))
    along = mesh.vertices[:, 2:] + 0.15
    colours = np.where(along > 0.05, scene.SLEEVE, scene.SKIN)
    return vertices + wrist[:, None], np.asarray(mesh.faces), colours


def _in_our_world(recording, tracked, meshes, head) -> Capture:
    """Turns what the actor looks along to +y, and puts the middle over our table's middle.

    It is the axis nearest to the way from the head to the middle; -x where no head is known.
    """
    low = np.concatenate([meshes[tracked[3]][0][0], meshes[tracked[2]][0][0]])
    centre = np.mean([meshes[name][0][0].mean(0) for name in tracked], axis=0)
    centre[2] = low[:, 2].min() - 0.001
    way = np.array([-1.0, 0]) if head is None else (centre - head[0])[:2]
    x, y = np.sign(way) * (np.abs(way) == np.abs(way).max())
    turn = np.array([[y, -x, 0], [x, y, 0], [0, 0, 1]])
    moved = {
        name: ((vertices - centre) @ turn.T + scene.WORK, faces, colours)
        for name, (vertices, faces, colours) in meshes.items()
    }
    frames = len(moved[tracked[0]][0])
    return Capture(recording, frames, tracked, moved)


def write(
    capture: Capture,
    out: Path,
    *,
    action: str,
    size: tuple[int, int],
    names: tuple[str, ...] = tuple(scene.RIG),
) -> Path:
    """Draws a capture and writes <out>/<id> in the plain layout, whole or not at all.

    Args:
      size: (height, width) of the videos.
      names: cameras, of `scene.RIG`.

    Returns:
      The folder.
    """
    folder = out / capture.id
    renderer = scene.Renderer(capture, size, names)
    clips: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for index in tqdm(range(capture.frames), unit="frame"):
        for name, image in renderer.frame(index).items():
            clips[name].append(image)
    with disk.whole(folder) as partial:  # nothing of a former import stays in it
        partial.mkdir()
        for name, clip in clips.items():
            taco_writer.write_video(partial / f"{name}.mp4", np.stack(clip))
        taco_writer.write_calibration(partial / "cameras.json", renderer.cameras)
        for role, name in zip(taco.NAMES, capture.tracked, strict=True):
            vertices, faces, _ = capture.meshes[name]
            surfaces.write(partial / "surfaces", surfaces.Surface(role, faces, vertices))
        occluders = [name for name in capture.meshes if name not in capture.tracked]
        for name in occluders:
            vertices, faces, _ = capture.meshes[name]
            hidden = surfaces.Surface(name.replace(" ", "_"), faces, vertices)
            surfaces.write(partial / "surfaces", hidden)
        surfaces.write(partial / "surfaces", scene.table(capture.frames))
        tool, target = (name.replace("_", " ") for name in capture.tracked[2:])
        text = {"fps": taco.FPS, "action": action, "tool": tool, "target": target}
        text["occluders"] = [*(name.replace(" ", "_") for name in occluders), "table"]
        (partial / "recording.json").write_text(json.dumps(text))
    return folder
