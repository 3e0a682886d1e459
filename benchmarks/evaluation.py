"""Time of the motion metrics: samples of 3 views, 49 frames, 480 x 704, 1600 points.

    python benchmarks/evaluation.py                 # 100 samples, tracks only
    python benchmarks/evaluation.py --samples 2 --videos   # a sample's video metrics, too

Prints `name ours peer ratio`: seconds for 100 samples (scaled up where fewer are given) against the
budget of 120 s on 2 cores, by the clock and, for busy machines, by processor time over the cores.
Every sample's tracks.npz is read from disk and scored in all rows (the
model, two baselines, the oracles, the truth), as evaluate does.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import scene

BUDGET = 120.0
VIEWS, FRAMES, POINTS, HEIGHT, WIDTH = 3, 49, 1600, 480, 704


def make_truth(seed: int) -> dict[str, np.ndarray]:
    """A turning, travelling cloud of points seen by three cameras."""
    rng = np.random.default_rng(seed)
    angles = np.array([-0.7, 0.1, 1.0])[:VIEWS]
    eye = np.stack([0.9 * np.sin(angles), -0.9 * np.cos(angles), 1.5 + 0 * angles], -1)
    pose = cameras.look_at(eye, np.tile([0.0, 0, 1], (VIEWS, 1)), np.tile([0.0, 0, 1], (VIEWS, 1)))
    shape = rng.uniform(-0.12, 0.12, (POINTS, 3))
    tracks = []
    for s in np.linspace(-0.5, 0.5, FRAMES):
        c, z = np.cos(s), np.sin(s)
        turn = np.array([[c, -z, 0], [z, c, 0], [0, 0, 1]])
        tracks.append(shape @ turn.T + [0.2 * s, 0.1 * s, 1])
    return {
        "tracks": np.array(tracks, np.float32),
        "visibility": rng.random((VIEWS, FRAMES, POINTS)) < 0.8,
        "anchor_valid": rng.random((VIEWS, POINTS)) < 0.5,
        "extrinsics": pose[:, None].astype(np.float32),
    }


def write_sample(path: Path, truth: dict[str, np.ndarray], seed: int) -> None:
    """A tracks.npz 1 cm off, compressed as sampling writes it."""
    error = np.random.default_rng(seed).normal(0, 0.01, (VIEWS, 1, POINTS, 3))
    per_view = (truth["tracks"] + error).astype(np.float32)
    np.savez_compressed(path, tracks_per_view=per_view, tracks=per_view.mean(0))


def motion_seconds(samples: int) -> float:
    """Reads and scores tracks."""
    with tempfile.TemporaryDirectory() as folder:
        truth = make_truth(0)
        path = Path(folder) / "tracks.npz"
        write_sample(path, truth, 0)
        start = time.perf_counter()
        for _ in range(samples):
            with np.load(path) as arrays:
                sample = {"meta": {}} | {key: arrays[key] for key in arrays}
            found = scene.track_rows(sample, truth, truth, {}, FRAMES)
            assert found["model"]["rpe"] > 0
        return time.perf_counter() - start


def video_seconds(samples: int) -> float:
    """Scores decoded videos."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 60, (VIEWS, FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8)
    for n in range(FRAMES):
        true[:, n, 100:260, 20 + 10 * n : 150 + 10 * n] += 180
    pred = np.clip(true + rng.normal(0, 10, (1, 1, *true.shape[2:])), 0, 255).astype(np.uint8)
    start = time.perf_counter()
    for _ in range(samples):
        scene.video_rows(pred, true)
    return time.perf_counter() - start


def report(name: str, measure: Callable[[int], float], samples: int) -> None:
    """Prints the seconds of 100 samples by the clock and by the processors' time."""
    cores, before = min(2, os.cpu_count()), time.process_time()
    clock = measure(samples) * 100 / samples
    worked = (time.process_time() - before) * 100 / samples / cores
    for kind, seconds in (("clock", clock), (f"processor_time_over_{cores}_cores", worked)):
        print(f"{name}_100_samples_{kind} {seconds:.1f} {BUDGET:.0f} {seconds / BUDGET:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--videos", action="store_true")
    flags = parser.parse_args()
    report("motion_metrics", motion_seconds, flags.samples)
    if flags.videos:
        report("video_metrics", video_seconds, flags.samples)
    print(f"({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})")


if __name__ == "__main__":
    main()
