"""Data: preparing true-size video, and reading cached records while training.

    python benchmarks/data.py            # about a minute on two cores, 0.5 GB below /tmp

Prints `name ours peer ratio`. Preparation: one recording, three cameras of 4096 x 3000; the peer
is bare decoding of the same videos by PyAV, so that the ratio is the share of the time that no
preparation can avoid (processor seconds). Reading: three-view samples of full-size cached latents
(13 x 30 x 44 x 48, two a view), K = 1600 tracks and 512 x 4096 text features, by
`pipeline.train_iterator`; the peer is 0.2 s, several times faster than a host's devices train.
"""

import json
import resource
import shutil
import tempfile
import time
from pathlib import Path

import av
import ml_collections
import numpy as np
import trimesh

from syncmv4d_jax import cache, cameras
from syncmv4d_jax.data import layouts, pipeline, prepare, records

SIZE = (3000, 4096)
FRAMES, POINTS, CLIPS, SAMPLES = 49, 1600, 6, 100
LATENT = (13, 30, 44, 48)


def report(name: str, ours: float, peer: float) -> None:
    print(f"{name} {ours:.4g} {peer:.4g} {peer / ours:.2f}", flush=True)


def write_video(path: Path, frames: int) -> None:
    """A panning texture: as costly to decode as a real recording of a busy table."""
    rng = np.random.default_rng(0)
    base = np.kron(rng.integers(40, 200, (250, 342, 3)), np.ones((12, 12, 1))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width = SIZE
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "20", "preset": "veryfast"}
        for n in range(frames):
            image = np.roll(base, 3 * n, axis=1)[: SIZE[0], : SIZE[1]]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_recording(root: Path, frames: int) -> None:
    """One recording in the plain layout: two moving balls of 20 K faces, three cameras."""
    folder = root / "recording"
    (folder / "surfaces").mkdir(parents=True)
    text = {"fps": 30, "action": "stir", "tool": "spoon", "target": "bowl"}
    (folder / "recording.json").write_text(json.dumps(text))
    for i, name in enumerate(("left", "tool")):
        ball = trimesh.creation.icosphere(subdivisions=5, radius=0.08)
        poses = np.tile(np.eye(4), (frames, 1, 1))
        poses[:, :3, 3] = [0.2 * i - 0.1, 0, 0.1]
        poses[:, 0, 3] += 0.05 * np.sin(np.arange(frames) / 20)
        file = folder / "surfaces" / name
        np.savez(file, vertices=ball.vertices, faces=ball.faces, poses=poses)
    calibration = {}
    for i, x in enumerate((1.0, 0.0, -1.0)):
        pose = cameras.look_at(np.array([x, 1.5, 1.2]), np.array([0, 0, 0.1]), np.array([0, 0, 1]))
        calibration[f"camera{i}"] = {
            "K": [9600.0, 0, 2047.5, 0, 9600.0, 1499.5, 0, 0, 1],
            "R": pose[:, :3].ravel().tolist(),
            "T": pose[:, 3].tolist(),
            "imgSize": [SIZE[1], SIZE[0]],
        }
        if i == 0:
            write_video(folder / "camera0.mp4", frames)
        else:
            shutil.copyfile(folder / "camera0.mp4", folder / f"camera{i}.mp4")
    (folder / "cameras.json").write_text(json.dumps(calibration))


def preparation(root: Path) -> None:
    settings = prepare.Settings(frames=25)
    last = int(24 * 3.75 + 0.5)
    write_recording(root / "in", last + 1)
    source = layouts.folder_sources(root / "in")[0]
    start = time.process_time()
    result = prepare.prepare_sequence(source, root / "out", settings)
    ours = time.process_time() - start
    if "error" in result:
        raise RuntimeError(result["error"])
    start = time.process_time()
    for path in sorted((root / "in" / "recording").glob("*.mp4")):
        with av.open(str(path)) as container:
            for _ in container.decode(video=0):
                pass
    report("prepare_3_views_25_frames_cpu_s", ours, time.process_time() - start)


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
    section = {"records": str(root / "records"), "cache": str(root / "cache"), "split": "train"}
    config = ml_collections.ConfigDict({"data": section, "task": {"views": 3}})
    batches = pipeline.train_iterator(config, batch_size=1, seed=0, shard_index=0, shard_count=1)
    for _ in range(10):
        batch = next(batches)
    start = time.perf_counter()
    for _ in range(SAMPLES):
        batch = next(batches)
    seconds = (time.perf_counter() - start) / SAMPLES
    report("read_three_view_sample_s", seconds, 0.2)
    print(f"# batch of {sum(x.nbytes for x in batch.values()) / 1e6:.1f} MB")


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="data-bench-"))
    try:
        preparation(root)
        reading(root)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"# peak memory {peak:.2f} GB")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
