"""Records made of random numbers, right in shape: three sequences of two cameras a cluster."""

import numpy as np

from syncmv4d_jax.data import records

SIZE, FRAMES, POINTS, CLUSTERS = (16, 24), 5, 12, 3


def view(rng, extrinsics):
    """The values of one view."""
    seen = rng.random((FRAMES, POINTS)) < 0.7
    return {
        "video": records.encode(rng.integers(0, 255, (FRAMES, *SIZE, 3), np.uint8)),
        "motion": records.encode(rng.integers(0, 255, (FRAMES, *SIZE, 3), np.uint8)),
        "anchors": rng.uniform(0, 16, (POINTS, 2)).astype(np.float32),
        "anchor_valid": seen[0],
        "visibility": seen,
        "intrinsics": np.diag([30.0, 30.0, 1.0]).astype(np.float32),
        "extrinsics": extrinsics.astype(np.float32),
        "scale": np.array([0.5, 1.5], np.float32),
    }


def write(root, sequences=4, valid=FRAMES, moving=None):
    """Writes root/16x24; the last sequence is the test split; cameras of cluster `moving` move.
    Returns the folder."""
    folder = root / f"{SIZE[0]}x{SIZE[1]}"
    settings = {"size": list(SIZE), "frames": FRAMES, "fps": 8.0, "points": POINTS}
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
        records.write_file(folder / file, [own, *(view(rng, pose) for pose in poses)])
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
