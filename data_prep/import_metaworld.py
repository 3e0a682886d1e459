"""Scripted Meta-World episodes as recordings in the plain layout, with a hand camera that moves.

    .cache/metaworld/bin/python data_prep/import_metaworld.py --out DIR --episodes 60

Needs the environment of requirements/metaworld.txt and nothing of this package (make robots makes
it). Three cameras stand around the table, one is fixed to the hand. Places of cameras, light and
colours are drawn anew for every episode by its seed. DIR/<task>_<seed>/ has what
prepare_taco.py --folder reads (docs/data.md), and the exact

    tracks.npz    tracks [n k 3] metres, world, of points on the tracked parts; owner [k], the index
                  in parts of the part that each lies on; parts, cameras: names. With --check what
                  the simulator shows there in the frames `checked` [c], every CHECK-th, at
                  FINER times the size: depth [v c k 4] metres and part [v c k 4] (-1: none) of the
                  four pixels around each point, 0 and -2 outside of the image.
                  benchmarks/visibility.py reads it, nothing else does

    actions.npz   actions [n 4]: mean of what is commanded from a frame to the next, of the hand's
                  way in x, y and z and of the gripper, each -1 to 1

With --mirrored every episode has a second one, <task>_<seed>x: the same reset, and so the same
first pictures, whose commands in x are turned round. Both are compared as they lie on disk
(metaworld_pairs.py): a pair that does not begin alike, or does not part, ends the run. World:
metres, z up. Control runs at 80 Hz and a frame is --stride steps, shown at 8 a second: slow motion.
An episode in which the expert fails is left out and named.
"""

import argparse
import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")
warnings.filterwarnings("ignore")

import av
import metaworld
import mujoco
import numpy as np
import trimesh
from metaworld.policies import ENV_POLICY_MAP
from metaworld_pairs import unlike
from metaworld_points import FINER, Check, Part, Points, pinhole

SENTENCES = {  # action, tool, target of the recording, and its prompt
    "hammer": ("hammer", "hammer", "nail", "A robot hammers a nail into a block."),
    "sweep": ("sweep", "gripper", "cube", "A robot sweeps a cube over the edge of a table."),
    "basketball": ("dunk", "gripper", "ball", "A robot puts a ball into a basket."),
    "assembly": ("assemble", "ring", "peg", "A robot puts a ring on a peg."),
    "stick-push": ("push", "stick", "box", "A robot pushes a box with a stick."),
    "peg-insert-side": ("insert", "peg", "hole", "A robot puts a peg into a hole in a block."),
    "pick-place": ("place", "gripper", "puck", "A robot picks up a puck and holds it in place."),
}
FPS = 8
# They are within -1 and 1 already; half of that is the spread that is said of them.
ACTIONS = {"names": ["x", "y", "z", "gripper"], "mean": [0.0] * 4, "std": [0.5] * 4}
EYES = {"left": (0.85, 0.15, 0.75), "middle": (0.0, 1.55, 0.85), "right": (-0.85, 0.15, 0.75)}
TARGET = np.array([0.05, 0.62, 0.1])
HAND_EYE, HAND_TARGET = (0.0, -0.17, 0.13), (0.0, 0.07, -0.12)  # beside the hand's centre
# Cameras of the model that are moved to our places.
SLOTS = {"left": "corner", "middle": "corner2", "right": "corner3", "hand": "gripperPOV"}
HAND = (
    "hand",
    "rightclaw",
    "leftclaw",
    "rightpad",
    "leftpad",
    "right_l5",
    "right_l6",
    "right_hand",
)
ROOM = ("world", "base", "tablelink", "RetainingWall", "mocap", "controller_box", "pedestal_feet")


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Axes of a MuJoCo camera as columns [3 3]: right, up, back."""
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], 1)


def place_cameras(model: Any, data: Any, rng: np.random.Generator) -> dict[str, int]:
    """Moves four cameras of the model, jittered by up to 8 cm; returns {name: id}."""
    found = {}
    for name, slot in SLOTS.items():
        index, turn, origin = model.camera(slot).id, np.eye(3), np.zeros(3)
        jitter = rng.uniform(-0.08, 0.08, 3)
        if name == "hand":
            body = model.cam_bodyid[index]
            turn, origin = data.xmat[body].reshape(3, 3), data.xpos[body]
            eye, target = origin + HAND_EYE + 0.2 * jitter, origin + HAND_TARGET
        else:
            eye, target = EYES[name] + jitter, TARGET
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, (turn.T @ look_at(eye, target)).ravel())
        model.cam_pos[index], model.cam_quat[index] = turn.T @ (eye - origin), quat
        model.cam_fovy[index] = 70 if name == "hand" else 45
        # Fixed to its body: the model's own mode follows its place and not its turn.
        model.cam_mode[index] = mujoco.mjtCamLight.mjCAMLIGHT_FIXED
        found[name] = index
    return found


def randomise(model: Any, parts: list[Part], rng: np.random.Generator) -> None:
    """Draws light and colours: of every light, of every part that is not the arm's."""
    for light in range(model.nlight):
        model.light_pos[light] += rng.uniform(-0.3, 0.3, 3)
        model.light_diffuse[light] *= rng.uniform(0.6, 1.2)
    model.vis.headlight.ambient[:] = rng.uniform(0.15, 0.4)
    colours: dict[str, np.ndarray] = {}
    for part in parts:
        if part.name != "hand" and not part.name.startswith("right_"):
            colour = colours.setdefault(part.name, rng.uniform(0.5, 1.5, 3))
            model.geom_rgba[part.geom, :3] = np.clip(
                model.geom_rgba[part.geom, :3] * colour, 0.05, 1
            )


def geom_mesh(model: Any, geom: int) -> trimesh.Trimesh | None:
    """The surface of a geom in its own frame; None for planes and what has no surface."""
    kind, size, kinds = int(model.geom_type[geom]), model.geom_size[geom], mujoco.mjtGeom
    if kind == kinds.mjGEOM_MESH:  # the compiler has moved the vertices into the geom's frame
        mesh = model.geom_dataid[geom]
        v, f = model.mesh_vertadr[mesh], model.mesh_faceadr[mesh]
        vertices = model.mesh_vert[v : v + model.mesh_vertnum[mesh]]
        faces = model.mesh_face[f : f + model.mesh_facenum[mesh]]
        return trimesh.Trimesh(vertices, faces, process=False)
    creation = trimesh.creation
    if kind == kinds.mjGEOM_BOX:
        return creation.box(2 * size)
    if kind == kinds.mjGEOM_CYLINDER:
        return creation.cylinder(size[0], 2 * size[1], sections=64)
    if kind == kinds.mjGEOM_CAPSULE:
        return creation.capsule(2 * size[1], size[0])
    if kind == kinds.mjGEOM_SPHERE:
        return creation.icosphere(4, size[0])
    if kind == kinds.mjGEOM_ELLIPSOID:
        return creation.icosphere(4).apply_scale(size)
    return None


def drawn(model: Any) -> list[Part]:
    """What is drawn (groups 0 to 2, not transparent): tracked are hand, tool and target; the arm,
    the table and the rest of the room hide them."""
    found = []
    for geom in range(model.ngeom):
        if model.geom_group[geom] > 2 or model.geom_rgba[geom, 3] <= 0:
            continue
        mesh = geom_mesh(model, geom)
        if mesh is None:
            continue
        body = model.geom_bodyid[geom]
        name, root = (
            model.body(body).name or f"body{body}",
            model.body(model.body_rootid[body]).name,
        )
        tracked = name in HAND or root not in ROOM
        found.append(Part(geom, "hand" if name in HAND else name, mesh, tracked))
    return found


def poses_of(data: Any, parts: list[Part]) -> np.ndarray:
    """[p 4 4], each part to world."""
    found = np.tile(np.eye(4), (len(parts), 1, 1))
    for i, part in enumerate(parts):
        found[i, :3, :3] = data.geom_xmat[part.geom].reshape(3, 3)
        found[i, :3, 3] = data.geom_xpos[part.geom]
    return found


class Film:
    """Pictures and poses of all cameras, and of all parts and points, frame by frame."""

    def __init__(self, model: Any, cameras: dict[str, int], parts: list[Part], size, seed, check):
        self.model, self.cameras, self.parts, self.size = model, cameras, parts, size
        scale = FINER if check else 1
        model.vis.global_.offheight, model.vis.global_.offwidth = (scale * x for x in size)
        self.colour = mujoco.Renderer(model, *size)
        self.check = Check(model, parts, tuple(FINER * x for x in size)) if check else None
        self.every, self.checked = check, list[int]()
        self.option = mujoco.MjvOption()
        self.option.sitegroup[:] = 0  # no markers of goals
        self.points = Points.on(parts, seed)
        self.videos: dict[str, list] = {name: [] for name in cameras}
        self.shown: dict[str, list] = {name: [] for name in cameras}
        self.rigs: dict[str, list] = {name: [] for name in cameras}
        self.poses: list[np.ndarray] = []
        self.commands: list[np.ndarray] = []
        self.tracks: list[np.ndarray] = []

    def take(self, data: Any) -> None:
        look = self.check if self.every and len(self.poses) % self.every == 0 else None
        self.checked += [len(self.poses)] if look else []
        self.poses.append(poses_of(data, self.parts))
        self.tracks.append(self.points.at(self.poses[-1]))
        for name, camera in self.cameras.items():
            self.rigs[name].append(pinhole(self.model, data, camera, self.size))
            self.colour.update_scene(data, camera, self.option)
            self.videos[name].append(self.colour.render().copy())
            if look:
                found = look.look(data, camera, self.option, self.tracks[-1])
                self.shown[name].append(found)

    def close(self) -> None:
        self.colour.close()
        if self.check:
            self.check.close()


def play(task: str, seed: int, *, frames: int, stride: int, size: tuple[int, int], check: int,
         mirrored: bool = False):  # fmt: skip
    """Plays an expert's episode; returns its film and whether it succeeded."""
    name = f"{task}-v3"
    suite = metaworld.MT1(name, seed=seed)
    env, policy = suite.train_classes[name](), ENV_POLICY_MAP[name]()
    env.set_task(suite.train_tasks[seed % len(suite.train_tasks)])
    seen, _ = env.reset(seed=seed)
    model, rng = env.model, np.random.default_rng([seed, len(task)])
    now, done = mujoco.MjData(model), False
    parts = drawn(model)
    cameras = place_cameras(model, env.data, rng)
    randomise(model, parts, rng)
    film = Film(model, cameras, parts, size, seed, check)
    for step in range((frames - 1) * stride + 1):
        if step % stride == 0:
            # After a step the simulator's own poses are those before it.
            now.qpos[:], now.mocap_pos[:] = env.data.qpos, env.data.mocap_pos
            now.mocap_quat[:] = env.data.mocap_quat
            mujoco.mj_fwdPosition(model, now)
            film.take(now)
        command = np.clip(policy.get_action(seen), -1, 1) * ([-1, 1, 1, 1] if mirrored else 1)
        film.commands.append(command)
        seen, _, _, _, info = env.step(command)
        done = done or bool(info["success"])
    film.close()
    return film, done


def tracks_of(film: Film) -> dict[str, np.ndarray]:
    """What tracks.npz holds; see the docstring above."""
    found = {
        "tracks": np.stack(film.tracks).astype(np.float32),
        "owner": film.points.owner.astype(np.int16),
        "parts": np.array([f"{part.name}_{part.geom}" for part in film.parts]),
        "cameras": np.array(list(film.cameras)),
    }
    if film.check:
        depth, part = zip(*(zip(*film.shown[name], strict=True) for name in film.cameras),
                          strict=True)  # fmt: skip
        found |= {"depth": np.array(depth), "part": np.array(part), "checked": film.checked}
    return found


def write(folder: Path, film: Film, task: str, stride: int) -> None:
    """Writes the recording; see the docstring above and docs/data.md."""
    (folder / "surfaces").mkdir(parents=True)
    height, width = film.size
    calibration = {}
    for name, pictures in film.videos.items():
        write_video(folder / f"{name}.mp4", pictures)
        k, turns, shifts = (np.array(x) for x in zip(*film.rigs[name], strict=True))
        every = slice(None) if name == "hand" else 0
        calibration[name] = {
            "K": k[0].ravel().tolist(),
            "R": turns.reshape(len(turns), 9)[every].tolist(),
            "T": shifts[every].tolist(),
            "imgSize": [width, height],
        }
    poses, occluders = np.stack(film.poses), []
    for i, part in enumerate(film.parts):
        name = f"{part.name}_{part.geom}"
        occluders += [] if part.tracked else [name]
        np.savez_compressed(
            folder / f"surfaces/{name}.npz", faces=part.mesh.faces.astype(np.int32),
            vertices=part.mesh.vertices.astype(np.float32), poses=poses[:, i],
        )  # fmt: skip
    action, tool, target, text = SENTENCES[task]
    described = {"fps": FPS, "action": action, "tool": tool, "target": target, "text": text}
    described["actions"] = ACTIONS
    commands = [film.commands[n * stride : (n + 1) * stride] for n in range(len(poses))]
    actions = np.array([np.mean(some, 0) for some in commands], np.float32)
    np.savez_compressed(folder / "actions.npz", actions=actions)
    for name, content in (
        ("cameras", calibration), ("recording", described | {"occluders": occluders}),
    ):  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(content))
    np.savez_compressed(folder / "tracks.npz", **tracks_of(film))


def write_video(path: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        # A constant quantiser: the first picture does not depend on those that follow. Nor on the
        # processor, as syncmv4d_jax/data/mp4.py has it.
        options = {"qp": "12", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def folder(text: str) -> Path:
    """Reads a folder of this machine; the package, which has such a check, is not at hand here."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"wanted a folder of this machine, got {text!r}")
    return Path(text)


def main(argv: list[str]) -> int:
    """Parses the flags and writes the episodes that are not there yet; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=folder, required=True, help="root of the recordings")
    add("--tasks", default=",".join(SENTENCES), help="comma separated")
    add("--episodes", type=int, default=60, help="of all tasks together, in turn")
    add("--seed", type=int, default=0, help="of the first episode of each task")
    add("--frames", type=int, default=49)
    add("--stride", type=int, default=2, help="control steps a frame")
    add("--size", default="240x320", help="height x width of the videos")
    add("--shard", default="0/1", help="i/n: every n-th episode, on any machine")
    add("--mirrored", action="store_true", help="a second episode of each reset")
    add("--check", type=int, default=0, help="keep what the simulator shows at the tracks' points "
        "in every CHECK-th frame, 0: in none")  # fmt: skip
    args = parser.parse_args(argv)
    tasks = args.tasks.split(",")
    if unknown := sorted(set(tasks) - set(SENTENCES)):
        sys.exit(f"unknown tasks {unknown}; there are {sorted(SENTENCES)}")
    height, width = (int(x) for x in args.size.split("x"))
    index, count = (int(x) for x in args.shard.split("/"))
    if not 0 <= index < count:
        sys.exit(f"--shard: wanted i/n with 0 <= i < n, got {args.shard!r}")
    made, failed, wanted = 0, [], range(index, args.episodes, count)
    for i in wanted:
        task, seed = tasks[i % len(tasks)], args.seed + i // len(tasks)
        for mirrored in (False, True)[: 1 + args.mirrored]:
            place = args.out / f"{task}_{seed:04d}{'x' * mirrored}"
            if not place.is_dir():
                film, done = play(
                    task, seed, frames=args.frames, stride=args.stride, size=(height, width),
                    check=args.check, mirrored=mirrored,
                )  # fmt: skip
                if not done and not mirrored:
                    failed.append(place.name)
                    break
                partial = args.out / f".{place.name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                write(partial, film, task, args.stride)
                partial.rename(place)
            made += 1
            if mirrored and (wrong := unlike(place.with_name(place.name[:-1]), place)):
                sys.exit(f"{place}: no pair with the one without x: {wrong}; remove both")
    print(f"{made} episodes in {args.out}; the expert failed in {len(failed)}: {failed}")
    return 0 if made or not wanted else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
