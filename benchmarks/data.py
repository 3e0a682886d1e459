"""Data: preparing true-size video, and reading cached records while training.

    python benchmarks/data.py            # two minutes on a core, 0.5 GB below /tmp

Prints `name ours peer ratio`. Preparation: an embedded scene with tool and target of TACO's
fineness (22 and 41 K faces); twelve cameras of 4096 x 3000 see a still, grained background and a
moving middle with a sensor's noise, at two bit rates. The peer is bare decoding of the same videos
by PyAV, in one thread; comments say where the time went. Reading: three-view samples of full-size
cached latents (13 x 30 x 44 x 48, two a view), K = 1600 tracks and 512 x 4096 text features, by
`pipeline.train_iterator`; the peer is 0.2 s, several times faster than a host's devices train.
"""

import argparse
import functools
import json
import resource
import shutil
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import trimesh

from syncmv4d_jax.data import (
    cache,
    clips,
    contact_sheet,
    pipeline,
    prepare,
    raycast,
    records,
)
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data import (
    frames as clip_frames,
)
from syncmv4d_jax.data.scenes import hand, scene
from syncmv4d_jax.data.sources import mano, recordings, taco_writer

SIZE, PREPARED, FACES = (3000, 4096), 5, 20_000
CRF = 20, 14  # of the videos: two bit rates
FRAMES, POINTS, CLIPS, SAMPLES = 49, 1600, 6, 100
LATENT = (13, 30, 44, 48)


def report(name: str, ours: float, peer: float) -> None:
    print(f"{name} {ours:.4g} {peer:.4g} {peer / ours:.2f}", flush=True)


def write_video(path: Path, frames: int, crf: int) -> None:
    """What a fixed camera sees: a still table, a moving middle, noise of two levels everywhere."""
    rng = np.random.default_rng(0)
    base = np.kron(rng.integers(40, 200, (250, 342, 3)), np.ones((12, 12, 1))).astype(np.uint8)
    base = base[: SIZE[0], : SIZE[1]]
    noise = np.round(rng.normal(0, 2, (SIZE[0] + 64, SIZE[1] + 64, 1))).astype(np.int8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width = SIZE
        stream.pix_fmt, stream.options = "yuv420p", {"crf": str(crf), "preset": "veryfast"}
        for n in range(frames):
            image = base.copy()
            image[800:2200, 1000:3000] = np.roll(base, (2 * n, 5 * n), (0, 1))[800:2200, 1000:3000]
            y, x = rng.integers(0, 64, 2)
            image += noise[y : y + SIZE[0], x : x + SIZE[1]].view(np.uint8)  # 40..200: no overflow
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_recording(root: Path, frames: int, crf: int) -> float:
    """One recording in the plain layout; returns the megabits a second of its videos."""
    folder = root / "recording"
    (folder / "surfaces").mkdir(parents=True)
    text = {"fps": 30, "action": "stir", "tool": "spoon", "target": "bowl"}
    (folder / "recording.json").write_text(json.dumps(text))
    hand.write(root / "mano")
    spec = scene.specify(0, seed=0, held_out=False)
    world = scene.World(spec, frames, mano.load_hands(root / "mano"))
    for side, vertices in world.hands.items():
        np.savez(folder / "surfaces" / side, vertices=vertices, faces=world.faces[side])
    for role, thing in world.objects.items():
        vertices, faces = thing.vertices, thing.faces
        while len(faces) < FACES:
            vertices, faces = trimesh.remesh.subdivide(vertices, faces)
        file, poses = folder / "surfaces" / role, getattr(world.motion, role)
        np.savez(file, vertices=vertices, faces=faces, poses=poses)
    rig = scene.rig(SIZE)
    taco_writer.write_calibration(folder / "cameras.json", rig)
    names = sorted(rig)
    first = folder / f"{names[0]}.mp4"
    write_video(first, frames, crf)
    for name in names[1:]:
        shutil.copyfile(first, folder / f"{name}.mp4")
    return first.stat().st_size * 8e-6 * 30 / frames


class Times(dict):
    """Processor seconds by part; `watch` counts a function, or each step of `_frames`."""

    def __init__(self):
        super().__init__()
        self.undo = []

    def watch(self, part: str, owner, name: str) -> None:
        function = getattr(owner, name)
        self.setdefault(part, 0.0)

        @functools.wraps(function)
        def counted(*args, **kwargs):
            start = time.process_time()
            result = function(*args, **kwargs)
            self[part] += time.process_time() - start
            return self._steps(part, result) if name == "_frames" else result

        setattr(owner, name, counted)
        self.undo.append((owner, name, function))

    def _steps(self, part: str, steps):
        while True:
            start = time.process_time()
            step = next(steps, None)
            self[part] += time.process_time() - start
            if step is None:
                return
            yield step


WATCHED = (  # part of the preparation, whose, name
    ("decoding", clip_frames.Video, "_frames"),
    ("decoding", clip_frames.av, "open"),
    ("cutting and resizing", clip_frames, "_shrink"),
    ("building ray casting scenes", raycast.Scene, "__init__"),
    ("painting and visibility", clips, "_paint_frame"),
    ("painting and visibility", clips, "seen"),
    ("coding and writing", records, "encode"),
    ("coding and writing", records, "write_file"),
    ("contact sheet", contact_sheet, "write_sheet"),
)


def preparation(root: Path, crf: int) -> None:
    settings = clips.Settings(frames=PREPARED, val=0.0)
    frames = int((PREPARED - 1) * 3.75 + 0.5) + 1
    rate = write_recording(root / "in", frames, crf)
    source = recordings.folder_sources(root / "in")[0]
    times = Times()
    for part, owner, name in WATCHED:
        times.watch(part, owner, name)
    start = time.process_time()
    result = prepare.prepare_sequence(source, root / "out", settings)
    ours = time.process_time() - start
    for owner, name, function in times.undo:
        setattr(owner, name, function)
    if "error" in result:
        raise RuntimeError(result["error"])
    start = time.process_time()
    for path in sorted((root / "in" / "recording").glob("*.mp4")):
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for _ in container.decode(video=0):
                pass
    bare = time.process_time() - start
    report(f"prepare_12_views_{PREPARED}_frames_crf{crf}_cpu_s", ours, bare)
    print(
        f"# videos of {rate:.0f} Mbit/s; {12 * frames / ours:.1f} frames of 12 MP a second and core"
    )
    for part, seconds in {**times, "the rest": ours - sum(times.values())}.items():
        print(f"# {part}: {seconds:.2f} s, {seconds / ours:.0%}")


def write_records(root: Path) -> Path:
    """Clips of twelve cameras with full-size tracks; the videos themselves stay tiny."""
    folder, rng = root / "16x16", np.random.default_rng(0)
    settings = {"size": [16, 16], "frames": FRAMES, "fps": 8.0, "points": POINTS, "clusters": 3}
    records.write_json(folder / "settings.json", settings)
    for i in range(CLIPS):
        clip = records.encode(np.zeros((FRAMES, 16, 16, 3), np.uint8))
        seen = rng.random((FRAMES, POINTS)) < 0.6
        view = {
            "video": clip,
            "motion": clip,
            "anchors": rng.uniform(0, 400, (POINTS, 2)).astype(np.float32),
            "anchor_valid": seen[0],
            "visibility": seen,
            "intrinsics": np.eye(3, dtype=np.float32),
            "extrinsics": np.eye(3, 4, dtype=np.float32),
            "scale": np.array([1.5, 2.0], np.float32),
        }
        tracks = rng.normal(size=(FRAMES, POINTS, 3)).astype(np.float32)
        own = {"tracks": tracks, "frame_valid": np.ones(FRAMES, bool)}
        file = f"sequences/s{i}.array_record"
        records.write_file(folder / file, [own, *[view] * 12])
        window = {
            "id": f"s{i}-0",
            "sequence": f"s{i}",
            "triplet": ["stir", "spoon", "bowl"],
            "split": "train",
            "text": "a text",
            "file": file,
            "record": 0,
            "views": [{"record": 1 + j, "serial": str(j), "cluster": j // 4} for j in range(12)],
        }
        records.write_json(folder / "sequences" / f"s{i}.json", {"windows": [window]})
    records.gather_index(folder)
    return folder


def reading(root: Path) -> None:
    rng = np.random.default_rng(1)
    cache.run(
        write_records(root / "records"),
        root / "cache",
        encode_video=lambda clip: rng.standard_normal(LATENT, np.float32),
        encode_text=lambda texts: (
            rng.standard_normal((len(texts), 512, 4096), np.float32),
            np.full(len(texts), 512),
        ),
        weights_hash="",
    )
    config = data_config.DataConfig(records=str(root / "records"), cache=str(root / "cache"))
    batches = pipeline.train_iterator(
        config,
        data_config.Wanted(views=3),
        batch_size=1,
        seed=0,
        shard_index=0,
        shard_count=1,
    )
    for _ in range(10):
        batch = next(batches)
    start = time.perf_counter()
    for _ in range(SAMPLES):
        batch = next(batches)
    seconds = (time.perf_counter() - start) / SAMPLES
    report("read_three_view_sample_s", seconds, 0.2)
    print(f"# batch of {sum(x.nbytes for x in batch.values()) / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one bit rate")
    quick = parser.parse_args().quick
    root = Path(tempfile.mkdtemp(prefix="data-bench-"))
    try:
        for crf in CRF[: 1 if quick else None]:
            preparation(root / str(crf), crf)
        reading(root)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"# largest memory {peak:.2f} GB")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
