"""Small synthetic scenes and samples of them, written as samples.write does."""

import json

import ml_collections
import numpy as np

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.results import samples

SIZE, FRAMES, VIEWS, POINTS = (48, 64), 9, 3, 90


def cameras_of_rig(size):
    """Intrinsics [v 3 3] and extrinsics [v 3 4] of three cameras around (0, 0, 1)."""
    angles = np.array([-0.7, 0.1, 1.0])[:VIEWS]
    eye = np.stack([0.9 * np.sin(angles), -0.9 * np.cos(angles), 1.5 + 0 * angles], -1)
    pose = cameras.look_at(eye, np.tile([0.0, 0, 1], (VIEWS, 1)), np.tile([0.0, 0, 1], (VIEWS, 1)))
    h, w = size
    k = np.array([[1.1 * w, 0, w / 2 - 0.5], [0, 1.1 * w, h / 2 - 0.5], [0, 0, 1]])
    return np.tile(k, (VIEWS, 1, 1)).astype(np.float32), pose.astype(np.float32)


def tracks_of_scene(rng, frames=FRAMES, points=POINTS):
    """A box that moves and turns, and a bar that follows; [n k 3] metres."""
    box = rng.uniform(-0.06, 0.06, (points // 2, 3))
    box[np.arange(len(box)), rng.integers(0, 3, len(box))] = 0.06
    bar = rng.uniform([-0.02, -0.02, 0.06], [0.02, 0.02, 0.3], (points - len(box), 3))
    shape, way, spin = np.concatenate([box, bar]), rng.normal(size=2), rng.uniform(0.5, 1.2)
    way = 0.2 * way / np.linalg.norm(way)
    found = []
    for s in np.linspace(-0.5, 0.5, frames):
        c, z = np.cos(spin * s), np.sin(spin * s)
        turn = np.array([[c, -z, 0], [z, c, 0], [0, 0, 1]])
        found.append(shape @ turn.T + [*(way * s), 1 + 0.05 * np.cos(3 * s)])
    return np.array(found, np.float32)


def render(tracks, k, pose, size, *, noise=0.0, rng=None):
    """Discs at the projected points over a striped wall: (video, motion) [v n h w 3] uint8."""
    h, w = size
    y, x = np.mgrid[:h, :w]
    wall = np.stack([70 + 20 * np.sin(x / 5), 80 + 15 * np.cos(y / 7), 95 + 0 * x], -1)
    rank = np.linspace(0, 1, tracks.shape[1])[:, None]
    dye = 255 * np.concatenate([0.9 - 0.5 * rank, 0.55 + 0.2 * rank, 0.3 + 0.6 * rank], 1)
    video = np.broadcast_to(wall, (len(k), len(tracks), h, w, 3)).copy()
    motion = np.zeros_like(video)
    for v in range(len(k)):
        pixels, depth = cameras.project(tracks, np.tile(k[v], (len(tracks), 1, 1)), pose[v])
        colours = np.concatenate([pixels[0] / [w, h], depth[0][:, None] / 2], -1) * 255
        for n in range(len(tracks)):
            for i in np.argsort(-depth[n]):
                disc = (x - pixels[n, i, 0]) ** 2 + (y - pixels[n, i, 1]) ** 2 < (0.04 * w) ** 2
                video[v, n][disc] = dye[i]
                motion[v, n][disc] = colours[i]
    if noise:
        video = video + rng.normal(0, noise, video.shape)
    return np.clip(video, 0, 255).astype(np.uint8), np.clip(motion, 0, 255).astype(np.uint8)


def truth(seed, *, size=SIZE, frames=FRAMES, points=POINTS):
    """An unbatched example of schema.BATCH, with video."""
    tracks = tracks_of_scene(np.random.default_rng(seed), frames, points)
    k, pose = cameras_of_rig(size)
    video, motion = render(tracks, k, pose, size)
    everywhere = np.broadcast_to(tracks, (VIEWS, *tracks.shape))
    pixels, depth = cameras.project(everywhere, k, pose)
    return {
        "video": video,
        "motion": motion,
        "tracks": tracks,
        "visibility": np.random.default_rng(seed).random((VIEWS, frames, points)) < 0.8,
        "anchors": pixels[:, 0].astype(np.float32),
        "anchor_valid": np.ones((VIEWS, points), bool),
        "intrinsics": k,
        "extrinsics": pose[:, None],
        "scale": np.stack([depth.min((1, 2)), depth.max((1, 2))], -1).astype(np.float32),
        "frame_valid": np.ones(frames, bool),
        "prompt": "A person uses a box to pour a bar.",
        "triplet": ("pour", f"box {seed}", "bar"),
    }


def write(folder, name, example, *, seed=0, error=0.01, meta=None, leave_out=()):
    """Writes a sample: the truth's tracks and videos with errors of `error` metres.

    leave_out: keys of the sample that it doesn't have: motion, intrinsics, tracks_per_view, ...
    """
    rng = np.random.default_rng(seed)
    tracks = example["tracks"] + rng.normal(0, error, (VIEWS, 1, *example["tracks"].shape[1:]))
    size = example["video"].shape[2:4]
    mean = tracks.mean(0)
    video, motion = render(
        mean, example["intrinsics"], example["extrinsics"][:, 0], size, noise=12, rng=rng
    )
    result = {
        "video": video / 127.5 - 1,
        "motion": motion / 127.5 - 1,
        "tracks_per_view": tracks.astype(np.float32),
        "confidence": np.ones(tracks.shape[:3], np.float32),
        "anchors": example["anchors"],
        "anchor_valid": example["anchor_valid"],
        "anchor_confidence": example["anchor_valid"].astype(np.float32),
        "coarse": tracks.astype(np.float32),
        "coarse_confidence": np.ones(tracks.shape[:3], np.float32),
        "closed_form": mean.astype(np.float32),
        "scale": example["scale"],
    }
    base = {"id": name, "prompt": example["prompt"], "anchors": "given", "fps": 8.0, "seed": 0}
    kept = [{k: x for k, x in all_.items() if k not in leave_out} for all_ in (result, example)]
    samples.write(folder / name, *kept, base | (meta or {}))


VIDEO_ONLY = ("motion", "tracks_per_view", "scale", "intrinsics", "extrinsics")


def config(samples="", split="test"):
    """What evaluate reads."""
    return ml_collections.ConfigDict({"evaluate": {"samples": samples, "split": split}})


def same_files(ours, theirs, differ=("command",)):
    """Whether two samples are equal to the byte, but for `differ` of their meta.json."""
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    for name in names:
        a, b = ((folder / name).read_bytes() for folder in (ours, theirs))
        if name == "meta.json":
            a, b = (json.loads(x) | dict.fromkeys(differ, "") for x in (a, b))
        assert a == b, name
