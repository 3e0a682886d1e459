"""Records made of random numbers, right in shape: three sequences of two cameras a cluster."""

import itertools

import ml_collections
import numpy as np

from syncmv4d_jax.data import pipeline, pixel_flow, records
from syncmv4d_jax.run import assembly

SIZE, FRAMES, POINTS, CLUSTERS = (16, 24), 5, 12, 3
STARTED = (np.arange(FRAMES) > 0).astype(np.float32)[:, None, None, None]  # frame 0's flow is zero


def view(rng, extrinsics, flow=False):
    """The values of one view."""
    seen = rng.random((FRAMES, POINTS)) < 0.7
    fields = {} if not flow else {
        "flow": rng.normal(size=(FRAMES, *SIZE, 3)).astype(np.float32) / 20 * STARTED,
        "flow_valid": rng.random(SIZE) < 0.8,
        "depth0": rng.uniform(0.5, 1.0, SIZE).astype(np.float32),
    }  # fmt: skip
    return (pixel_flow.pack(fields) if flow else {}) | {
        "video": records.encode(rng.integers(0, 255, (FRAMES, *SIZE, 3), np.uint8)),
        "motion": records.encode(rng.integers(0, 255, (FRAMES, *SIZE, 3), np.uint8)),
        "anchors": rng.uniform(0, 16, (POINTS, 2)).astype(np.float32),
        "anchor_valid": seen[0],
        "visibility": seen,
        "intrinsics": np.diag([30.0, 30.0, 1.0]).astype(np.float32),
        "extrinsics": extrinsics.astype(np.float32),
        "scale": np.array([0.5, 1.5], np.float32),
    }


def write(root, sequences=4, valid=FRAMES, moving=None, flow=False):
    """Writes root/16x24; the last sequence is the test split; cameras of cluster `moving` move.
    Returns the folder."""
    folder = root / f"{SIZE[0]}x{SIZE[1]}"
    settings = {"size": list(SIZE), "frames": FRAMES, "fps": 8.0, "points": POINTS}
    settings |= {"fields": ["flow"]} if flow else {}
    records.write_json(folder / "settings.json", settings | {"clusters": CLUSTERS})
    for i in range(sequences):
        rng, file = np.random.default_rng(i), f"sequences/s{i}.array_record"
        own = {
            "tracks": rng.normal(size=(FRAMES, POINTS, 3)).astype(np.float32),
            "frame_valid": np.arange(FRAMES) < valid,
        }
        turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2 * CLUSTERS)]
        poses = [np.concatenate([turn, rng.normal(size=(3, 1))], axis=1) for turn in turns]
        if moving is not None:
            for j in (2 * moving, 2 * moving + 1):
                poses[j] = poses[j] + 0.1 * np.arange(FRAMES)[:, None, None] * np.eye(3, 4)[::-1]
        records.write_file(folder / file, [own, *(view(rng, pose, flow) for pose in poses)])
        views = [
            {"record": 1 + j, "serial": f"c{j}", "cluster": j // 2} for j in range(2 * CLUSTERS)
        ]
        window = {
            "id": f"s{i}-0", "sequence": f"s{i}", "triplet": ["stir", "spoon", "bowl"],
            "split": "test" if i == sequences - 1 else "train", "text": f"text {i % 2}",
            "file": file, "record": 0, "views": views,
        }  # fmt: skip
        records.write_json(folder / "sequences" / f"s{i}.json", {"windows": [window]})
    records.gather_index(folder)
    return folder


def configuration(root, **data):
    config = ml_collections.ConfigDict()
    config.data = {
        "name": "taco", "records": str(root), "cache": "", "split": "train", "fps": 8.0,
        "cameras": "sample", "raw": False, "augment": False,
    } | data  # fmt: skip
    config.task = {"size": (16, 24), "frames": 5, "points": 12, "views": 3}
    config.weights = {"vae": ""}
    return config


def batches(config, count, *, size=2, seed=0, index=0, shards=1):
    iterator = pipeline.train_iterator(
        *asked(config), batch_size=size, seed=seed, shard_index=index, shard_count=shards
    )
    return list(itertools.islice(iterator, count))


def asked(config):
    """What the readers are told of a configuration."""
    settings = assembly.read(config)
    return settings.data, assembly.wanted(settings)
