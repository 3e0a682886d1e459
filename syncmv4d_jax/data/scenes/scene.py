"""Embedded scenes: procedural two-hand scenes, drawn by ray casting, written as TACO writes.

Twelve cameras stand where those of a real TACO rig stand (calibration of 2023-09-27, TACO data set,
CC BY 4.0); their focal lengths are ours, so that each sees the work area, and the world's origin is
moved away from the scene (relative errors explode near it). Every number of a scene follows from
(seed, index): triplet, meshes, layout, motion.
"""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Protocol

import einops
import numpy as np
import trimesh

from syncmv4d_jax.data import raycast, rigs, surfaces, transforms
from syncmv4d_jax.data.scenes import motion, objects
from syncmv4d_jax.data.sources import mano, taco, taco_writer
from syncmv4d_jax.geometry import cameras, paths

VERSION = 4  # of what a scene looks like and how it moves: data of two versions never mix
# Every action with two tools and five targets: 40 triplets, 3 of each action held out.
PAIRS = {
    "brush": ("brush", "roller"), "stir": ("spoon", "spatula"),
    "pour in some": ("kettle", "cup"), "cut": ("knife", "spatula"),
}  # fmt: skip
HELD_OUT = (
    ("brush", "roller", "plate"), ("stir", "spatula", "bowl"), ("pour in some", "kettle", "cup"),
    ("cut", "knife", "box"), ("brush", "brush", "box"), ("stir", "spoon", "pan"),
    ("pour in some", "cup", "bowl"), ("cut", "spatula", "plate"), ("brush", "roller", "cup"),
    ("stir", "spoon", "plate"), ("pour in some", "kettle", "pan"), ("cut", "knife", "bowl"),
)  # fmt: skip
TRAIN = tuple(  # the actions in turn
    (action, tool, target)
    for target, place in itertools.product(objects.TARGETS, range(2))
    for action, tool in ((action, tools[place]) for action, tools in PAIRS.items())
    if (action, tool, target) not in HELD_OUT
)
# Optical axis (world to camera rotation) and centre of each camera, metres: name -> (R rows, C).
RIG = {
    "22139905": ((-0.5681, 0.8169, -0.0998, 0.4142, 0.179, -0.8924), (1.53, 1.14, 1.55)),
    "22139910": ((-0.7689, 0.6343, -0.0803, 0.2101, 0.1321, -0.9687), (1.20, 1.29, 1.11)),
    "22139946": ((-0.9364, 0.3458, -0.06, 0.1307, 0.1849, -0.974), (0.63, 1.50, 1.07)),
    "22139914": ((0.2722, 0.9451, 0.1808, 0.8033, -0.1197, -0.5834), (1.08, -0.14, 1.97)),
    "22070938": ((-0.9864, -0.163, 0.0199, -0.0651, 0.277, -0.9587), (-0.23, 1.47, 1.09)),
    "22139916": ((-0.9938, 0.005, 0.1111, -0.0977, 0.437, -0.8941), (0.20, 1.57, 1.46)),
    "22139906": ((-0.9984, -0.0036, 0.0572, -0.0413, 0.7369, -0.6748), (0.10, 1.27, 1.83)),
    "22139908": ((-0.4442, 0.8777, -0.1801, 0.8954, 0.4417, -0.056), (0.15, -0.01, 2.03)),
    "22139913": ((-0.8589, -0.5104, -0.042, -0.086, 0.2245, -0.9707), (-0.78, 1.28, 1.12)),
    "22139909": ((-0.9652, -0.2589, -0.0366, -0.0818, 0.4318, -0.8982), (-0.50, 1.51, 1.53)),
    "22139911": ((-0.5494, -0.8347, -0.0391, -0.1969, 0.1747, -0.9647), (-1.18, 0.83, 1.09)),
    "21218078": ((-0.1893, -0.9816, -0.024, -0.8041, 0.1689, -0.57), (-1.12, 0.07, 1.99)),
}
ORIGIN = np.array([0.45, 0.55, 0.35])  # where the rig's table centre is in our world, metres
WORK = ORIGIN + np.array([0.02, 0.02, 0.0])
FIELD = 0.84  # metres of the work area that an image's height shows
LIGHT = np.array([0.35, 0.45, 0.82]) / np.linalg.norm([0.35, 0.45, 0.82])
SKIN, SLEEVE = np.array([0.86, 0.62, 0.50]), np.array([0.20, 0.24, 0.34])
TABLE, FLOOR = np.array([0.60, 0.54, 0.47]), np.array([0.30, 0.31, 0.33])
# One narrow camera to the viewer's left, centre and right, for small runs.
THREE = ("22139946", "22070938", "22139909")


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a scene is made of; `held_out` scenes have triplets and meshes never trained on.

    course: what happens after the first frame. text: the prompt.
    """

    sequence_id: str
    triplet: tuple[str, str, str]
    tool_variant: int
    target_variant: int
    layout: motion.Layout
    held_out: bool
    course: motion.Course
    text: str


def prompt(triplet: tuple[str, str, str], manner: str = "") -> str:
    """The sentence of a scene; `manner`: of motion.SPEEDS, or "" to say nothing of it."""
    action, tool, target = triplet
    return f"A person {f'{manner} ' if manner else ''}uses a {tool} to {action} a {target}."


def specify(index: int, *, seed: int, held_out: bool, course: int | None = None) -> Spec:
    """Draws scene `index`.

    Args:
      course: None: the text tells how fast it is; a number: that one of the courses of this first
        frame, of which the text says nothing.
    """
    rng = np.random.default_rng([seed, index, held_out])
    triplets = HELD_OUT if held_out else TRAIN
    low, high = objects.HELD_OUT, objects.VARIANTS
    variants = rng.integers(*((low, high) if held_out else (0, low)), 2)
    name, triplet = f"{20990101 + held_out}_{index:04d}", triplets[index % len(triplets)]
    layout = motion.draw_layout(rng)
    manner = str(rng.choice(list(motion.SPEEDS)))
    if course is None:
        moved = motion.Course(speed=motion.SPEEDS[manner])
    else:
        name, manner = f"{name}_{course}", ""
        drawn = np.random.default_rng([seed, index, held_out, course])
        towards = np.array(RIG[THREE[1]][1][:2]) - (WORK - ORIGIN)[:2]
        moved = motion.draw_course(drawn, triplet[0], layout, towards / np.linalg.norm(towards))
    return Spec(
        name, triplet, int(variants[0]), int(variants[1]), layout, held_out, moved,
        prompt(triplet, manner),
    )  # fmt: skip


def draw_cameras(spec: Spec, count: int, *, seed: int) -> tuple[str, ...]:
    """Draws `count` cameras of the rig for a scene, as many on its left, in its middle, on its
    right, or one of all; the courses of one first frame have the same.

    Raises:
      ValueError: neither one nor a multiple of three up to twelve.
    """
    if count not in (1, *range(3, len(RIG) + 1, 3)):
        raise ValueError(f"cameras: wanted 1, 3, 6, 9 or 12, got {count}")
    rng = np.random.default_rng([seed, spec.held_out, int(spec.sequence_id.split("_")[1]), 12])
    poses = np.stack([camera.extrinsics for camera in rig((48, 64)).values()])
    clusters, names = transforms.view_clusters(poses, 3), np.array(list(RIG))
    if count == 1:
        return (str(rng.choice(names)),)
    drawn = [rng.choice(names[clusters == c], count // 3, replace=False) for c in range(3)]
    return tuple(str(name) for name in np.concatenate(drawn))


def rig(size: tuple[int, int], names: tuple[str, ...] = tuple(RIG)) -> dict[str, rigs.Camera]:
    """The named cameras for images of `size` (height, width), all looking at the work area."""
    result = {}
    for name in names:
        rows, centre = RIG[name]
        x, y = np.array(rows[:3]), np.array(rows[3:])
        rotation = np.linalg.svd(np.stack([x, y, np.cross(x, y)]))
        rotation = rotation[0] @ rotation[2]
        eye = np.array(centre) + ORIGIN
        extrinsics = np.concatenate([rotation, -(rotation @ eye)[:, None]], 1)
        middle = extrinsics[:, :3] @ (WORK + [0, 0, 0.06]) + extrinsics[:, 3]
        focal = size[0] / FIELD * middle[2]
        at = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2]) - focal * middle[:2] / middle[2]
        intrinsics = np.array([[focal, 0, at[0]], [0, focal, at[1]], [0, 0, 1]])
        result[name] = rigs.Camera(name, intrinsics, extrinsics, size)
    return result


class World:
    """A scene over time: hands, objects and what only the pictures show (sleeves, table)."""

    def __init__(self, spec: Spec, frames: int, hands: mano.Hands):
        action, tool, target = spec.triplet
        self.spec, self.frames = spec, frames
        self.objects = {
            "tool": objects.make("tool", tool, spec.tool_variant),
            "target": objects.make("target", target, spec.target_variant),
        }
        self.motion = motion.move(
            action,
            spec.layout,
            spec.course,
            np.arange(frames) / taco.FPS,
            centre=WORK,
            reach=self.objects["tool"].reach,
            height=float(self.objects["target"].vertices[:, 2].max()),
        )
        self.faces = {"left": hands.left.faces, "right": hands.right.faces}
        self.hands, self.joints = {}, {}
        for side, betas in zip(("left", "right"), spec.layout.betas, strict=True):
            pose, at = getattr(self.motion, side)
            posed = mano.skin(getattr(hands, side), pose, np.array(betas), at)
            self.hands[side], self.joints[side] = posed

    def surfaces(self, frame: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(vertices, faces, colours) of everything that moves, the four tracked surfaces first."""
        result = []
        for side in ("left", "right"):
            vertices = self.hands[side][frame]
            result.append((vertices, self.faces[side], np.tile(SKIN, (len(vertices), 1))))
        for role in ("tool", "target"):
            thing, pose = self.objects[role], getattr(self.motion, role)[frame]
            vertices = thing.vertices @ pose[:3, :3].T + pose[:3, 3]
            result.append((vertices, thing.faces, thing.colours))
        return result + [self.arm(side, frame) for side in ("left", "right")]

    def arm(self, side: str, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(vertices, faces, colours) of a forearm."""
        joints = self.joints[side][frame]
        wrist, knuckle = joints[0], joints[4]
        back = (wrist - knuckle) / np.linalg.norm(wrist - knuckle)
        back = back + np.array([0.0, -0.9, 0.12])
        back = back / np.linalg.norm(back)
        vertices, faces = _sleeve()
        side_way = np.cross(back, [0.0, 0.0, 1.0])
        side_way = side_way / np.linalg.norm(side_way)
        turn = np.stack([side_way, np.cross(back, side_way), back], axis=1)
        colours = np.where((vertices[:, 2] > 0.07)[:, None], SLEEVE, SKIN)
        return wrist - 0.012 * back + vertices @ turn.T, faces, colours


def occluders(world: World) -> list[surfaces.Surface]:
    """What hides the tracked surfaces, over time: forearms and the table."""
    result = []
    for side in ("left", "right"):
        arms = [world.arm(side, n) for n in range(world.frames)]
        vertices = np.stack([v for v, _, _ in arms])
        name = f"{side}_forearm"
        result.append(surfaces.Surface(name, arms[0][1], vertices, kind=surfaces.OCCLUDER))
    return [*result, table(world.frames)]


@functools.cache
def _sleeve() -> tuple[np.ndarray, np.ndarray]:
    """A forearm along z from 0, 36 cm long, thicker away from the wrist."""
    mesh = trimesh.creation.cylinder(radius=0.031, height=0.36, sections=24)
    mesh.apply_translation([0, 0, 0.18])
    mesh = mesh.subdivide()
    vertices = np.array(mesh.vertices)
    vertices[:, :2] *= 0.72 + 0.5 * np.clip(vertices[:, 2:] / 0.2, 0, 1)
    return vertices, np.array(mesh.faces)


def table(frames: int) -> surfaces.Surface:
    """The table as a surface that stands still."""
    vertices, faces, _ = _table()
    poses = np.tile(np.eye(4), (frames, 1, 1))
    return surfaces.Surface("table", faces, vertices, poses, surfaces.OCCLUDER)


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mesh = trimesh.creation.box(extents=[1.3, 1.0, 0.02])
    mesh.apply_translation(WORK + np.array([0.0, 0.0, -0.01]))
    vertices = np.array(mesh.vertices)
    return vertices, np.array(mesh.faces), np.tile(TABLE, (len(vertices), 1))


def _ground(points: np.ndarray) -> np.ndarray:
    """A faint wood grain on the table, [... 1]."""
    x, y = points[..., 0:1], points[..., 1:2]
    return 1 + 0.02 * np.sin(150 * y + 4 * np.sin(9 * x)) + 0.015 * np.sin(45 * y + np.sin(5 * x))


def shade(
    scene: raycast.Scene, hits: raycast.Hits, surface: list[np.ndarray], *, table: int
) -> np.ndarray:
    """Colours [... 3] in 0..1 of hits: ambient, one light with cast shadows, the floor beyond.

    Args:
      surface: per mesh [p 9]: position, normal, colour of each vertex.
      table: index of the mesh that gets the wood grain.
    """
    mask = hits.mask
    flat = raycast.Hits(*(x[mask] for x in hits))
    points, normal, albedo = np.split(scene.interpolate(flat, surface), 3, axis=-1)
    ground = flat.mesh == table
    albedo[ground] *= _ground(points[ground])
    normal /= np.maximum(np.sqrt(np.einsum("sc,sc->s", normal, normal)), 1e-6)[:, None]
    lit = np.clip(normal @ LIGHT, 0, 1).astype(np.float32)
    ask = lit > 0
    start = points[ask] + 2e-3 * normal[ask]
    lit[ask] *= ~scene.occluded(start, np.broadcast_to(LIGHT, start.shape))
    fill = 0.5 + 0.5 * normal[:, 2]
    image = np.empty((*mask.shape, 3), np.float32)
    image[:] = FLOOR
    image[mask] = np.clip(albedo * (0.34 + 0.14 * fill + 0.58 * lit)[:, None], 0, 1)
    return image


def _scene(surfaces: list[tuple[np.ndarray, np.ndarray, np.ndarray]]):
    """The ray casting scene of (vertices, faces, colours) and its `surface` for `shade`."""
    tables = []
    for vertices, faces, colours in surfaces:
        normals = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
        tables.append(np.concatenate([vertices, normals, colours], 1).astype(np.float32))
    return raycast.Scene([(v, f) for v, f, _ in surfaces]), tables


def _draw(scene, surface, camera: rigs.Camera, box, table: int, samples: int) -> np.ndarray:
    """The pixels of `box` (x0, y0, x1, y1), [y x 3] uint8, samples x samples rays each."""
    x0, y0, x1, y1 = box
    steps = (np.arange(samples) + 0.5) / samples - 0.5
    x = (np.arange(x0, x1)[:, None] + steps).ravel()
    y = (np.arange(y0, y1)[:, None] + steps).ravel()
    hits = scene.cast_pixels(np.stack(np.meshgrid(x, y), -1), camera.intrinsics, camera.extrinsics)
    image = shade(scene, hits, surface, table=table)
    image = einops.reduce(image, "(y a) (x b) c -> y x c", "mean", a=samples, b=samples)
    return np.round(255 * image ** (1 / 1.4)).astype(np.uint8)


@functools.cache
def _background(name: str, size: tuple[int, int], samples: int) -> np.ndarray:
    """The empty table, as camera `name` of the rig sees it: the same in every scene."""
    scene, surface = _scene([_table()])
    return _draw(scene, surface, rig(size, (name,))[name], (0, 0, *size[::-1]), 0, samples)


class Drawable(Protocol):
    """What a renderer draws: (vertices [p 3], faces [q 3], colours [p 3]) at a 30 fps frame."""

    def surfaces(self, frame: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]: ...


class Renderer:
    """Draws a world for cameras of the rig; what stands still is drawn once."""

    def __init__(
        self, world: Drawable, size: tuple[int, int], names: tuple[str, ...], samples: int = 2
    ):
        self.world, self.cameras, self.samples = world, rig(size, names), samples
        self.background = {name: _background(name, size, samples) for name in names}

    def frame(
        self, index: int, moving: dict[str, rigs.Camera] | None = None
    ) -> dict[str, np.ndarray]:
        """The images [h w 3] uint8 of all cameras, and of the `moving` ones, at a 30 fps frame."""
        surfaces = self.world.surfaces(index)
        scene, surface = _scene([*surfaces, _table()])
        points = np.concatenate([v for v, _, _ in surfaces])
        drop = np.maximum(points[:, 2:] - WORK[2], 0) / LIGHT[2]
        points = np.concatenate([points, points - drop * LIGHT])  # their shadows on the table
        images = {}
        for name, camera in self.cameras.items():
            pixels, _ = cameras.project(points, camera.intrinsics, camera.extrinsics)
            low = np.clip(np.floor(pixels.min(0)) - 2, 0, None).astype(int)
            high = np.minimum(np.ceil(pixels.max(0)) + 3, camera.size[::-1]).astype(int)
            image = self.background[name].copy()
            if (high > low).all():
                drawn = _draw(scene, surface, camera, (*low, *high), len(surfaces), self.samples)
                image[low[1] : high[1], low[0] : high[0]] = drawn
            images[name] = image
        for name, camera in (moving or {}).items():
            box = (0, 0, *camera.size[::-1])
            images[name] = _draw(scene, surface, camera, box, len(surfaces), self.samples)
        return images


def head_camera(size: tuple[int, int], frames: int) -> list[rigs.Camera]:
    """The actor's own view at every 30 fps frame: it sways by 2 cm and looks at the work area."""
    focal = 0.9 * size[1]
    intrinsics = np.array([[focal, 0, (size[1] - 1) / 2], [0, focal, (size[0] - 1) / 2], [0, 0, 1]])
    result = []
    for seconds in np.arange(frames) / taco.FPS:
        sway = 0.02 * np.array([np.sin(2 * seconds), np.cos(1.3 * seconds), np.sin(1.7 * seconds)])
        eye = WORK + np.array([-0.03, -0.34, 0.52]) + sway
        pose = cameras.look_at(eye, WORK + np.array([-0.03, 0.02, 0.0]), np.array([0.0, 0, 1]))
        result.append(rigs.Camera("egocentric", intrinsics, pose, size))
    return result


def orbit_camera(size: tuple[int, int], frames: int) -> list[rigs.Camera]:
    """The middle camera of THREE, moving by 30 degrees round the work area."""
    start = rig(size, THREE[1:2])[THREE[1]]
    lens, pose = start.intrinsics[None], start.extrinsics[None]
    path = paths.named("orbit", frames, lens, pose, WORK + [0, 0, 0.06])
    poses = path.extrinsics.astype(np.float64)
    return [rigs.Camera("orbit", start.intrinsics, pose, size) for pose in poses]


PATHS = {"orbit": orbit_camera, "head": head_camera}  # cameras that move


def write_scene(
    root: Path,
    spec: Spec,
    hands: mano.Hands,
    *,
    frames: int,
    size: tuple[int, int],
    names: tuple[str, ...] = tuple(RIG),
    drawn: float = taco.FPS,
    moving: tuple[str, ...] = (),
) -> None:
    """Writes one sequence in TACO's layout; the egocentric view where all twelve cameras are asked.

    Args:
      frames: at 30 fps.
      size: (height, width) of the videos.
      names: cameras, of RIG.
      drawn: pictures a second: those of a clip at this rate (transforms.frame_index) are drawn, the
        others repeat the one before.
      moving: cameras of PATHS.
    """
    world = World(spec, frames, hands)
    renderer = Renderer(world, size, names)
    head = head_camera(size, frames) if len(names) == len(RIG) else None
    along = {name: PATHS[name](size, frames) for name in moving}
    clips: dict[str, list[np.ndarray]] = {name: [] for name in (*names, "egocentric", *moving)}
    wanted, _ = transforms.frame_index(frames, source_fps=taco.FPS, fps=drawn, frames=frames)
    for index in range(frames):
        if index in wanted:
            more = {name: rail[index] for name, rail in along.items()}
            images = renderer.frame(index, more | ({"egocentric": head[index]} if head else {}))
        for name, image in images.items():
            clips[name].append(image)
    entry = taco.Entry(root, spec.triplet, spec.sequence_id)
    for name in names:
        path = entry.folder(taco.VIDEOS[0]) / f"{name}.mp4"
        taco_writer.write_video(path, np.stack(clips[name]))
    path = entry.folder(taco.CAMERAS) / "calibration.json"
    taco_writer.write_calibration(path, renderer.cameras)
    if head:
        poses = np.stack([camera.extrinsics for camera in head])
        views = np.stack(clips["egocentric"])
        taco_writer.write_egocentric(entry, views, head[0].intrinsics, poses)
    for name, rail in along.items():
        poses = np.stack([camera.extrinsics for camera in rail])
        taco_writer.write_path(entry, name, np.stack(clips[name]), rail[0].intrinsics, poses)
    for surface in occluders(world):
        surfaces.write(entry.folder(taco.OCCLUDERS), surface)
    taco_writer.write(entry.folder(taco.TEXTS) / "prompt.txt", f"{spec.text}\n".encode())
    variants = {"tool": spec.tool_variant, "target": spec.target_variant}
    for role, name in zip(("tool", "target"), spec.triplet[1:], strict=True):
        thing = world.objects[role]
        taco_writer.write_object(
            entry,
            role,
            objects.identifier(role, name, variants[role]),
            poses=getattr(world.motion, role),
            vertices=thing.vertices,
            faces=thing.faces,
        )
    moved = {
        side: (*getattr(world.motion, side), np.array(betas))
        for side, betas in zip(("left", "right"), spec.layout.betas, strict=True)
    }
    taco_writer.write_hands(entry, moved)
