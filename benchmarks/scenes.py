"""Can what happens be had without looking? Errors of rows that no model made, on records.

    python benchmarks/scenes.py --records RECORDS/64x96

All rows get the true first frame; what they add is, for every point alike,

    held                   nothing
    mean path              the mean displacement of the training scenes of the same action
    crop ridge             a ridge regression of the place of frame 0's foreground in its crops
    one true translation   the true mean displacement of the seen points, frame by frame
    constant velocity      (each point by itself) the true first step, repeated

Errors are mm, mean over frames and the points that a view sees in frame 0; means and standard
errors over the held-out triplets. R2: of the ridge's displacement at the end, by direction.
"""

import argparse
from pathlib import Path

import numpy as np

from syncmv4d_jax.data import records

ROWS = ("held", "mean path", "crop ridge", "one true translation", "constant velocity")


def read(root: Path, split: str) -> list[dict]:
    """Displacement [n k 3], seen [k], places of the foreground [12], triplet of every scene."""
    reader, scenes = records.Reader(root, split), []
    for window in reader.windows:
        own, places, seen = reader.tracks(window), [], False
        first = {view.cluster: view for view in reversed(window.views)}
        for _, view in sorted(first.items()):
            values = reader.view(window, view)
            seen = seen | values["anchor_valid"]
            y, x = np.nonzero(records.decode(values["motion"])[0][..., :2].max(-1) > 20)
            places += [x.mean(), y.mean(), (x.min() + x.max()) / 2, (y.min() + y.max()) / 2]
        tracks = own["tracks"].astype(np.float64)
        scenes.append(
            {
                "way": tracks - tracks[:1],
                "seen": np.broadcast_to(seen, tracks.shape[1]),
                "places": np.array(places),
                "triplet": window.triplet,
            }
        )
    return scenes


def ridge(scenes: list[dict]) -> np.ndarray:
    """Mean displacements [s n 3], each predicted by a regression on all the other scenes."""
    places = np.stack([scene["places"] for scene in scenes])
    x = np.c_[(places - places.mean(0)) / 10, np.ones(len(scenes))]
    y = np.stack([scene["way"].mean(1) for scene in scenes])
    hat = x @ np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T)
    flat = y.reshape(len(y), -1)
    left_out = flat - (flat - hat @ flat) / (1 - np.diag(hat))[:, None]
    return left_out.reshape(y.shape)


def evaluate(train: list[dict], test: list[dict]) -> tuple[dict[str, list[np.ndarray]], np.ndarray]:
    """{row: errors of the scenes of each triplet}, and the ridge's R2 [3]."""
    action = lambda scene: scene["triplet"][0]  # noqa: E731
    paths = {
        name: np.mean([s["way"].mean(1) for s in train if action(s) == name], axis=0)
        for name in {action(s) for s in train}
    }
    guessed = ridge(train + test)
    ends = np.stack([s["way"][-1].mean(0) for s in train + test])
    r2 = 1 - (ends - guessed[:, -1]).var(0) / ends.var(0)
    errors = {row: {} for row in ROWS}
    for scene, guess in zip(test, guessed[len(train) :], strict=True):
        way, seen = scene["way"], scene["seen"]
        frames = np.arange(len(way))[:, None, None]
        made = {
            "held": np.zeros_like(way),
            "mean path": paths[action(scene)][:, None],
            "crop ridge": guess[:, None],
            "one true translation": way[:, seen].mean(1, keepdims=True),
            "constant velocity": way[1:2] * frames,
        }
        for row, value in made.items():
            error = 1e3 * np.linalg.norm(value - way, axis=-1)[:, seen].mean()
            errors[row].setdefault(scene["triplet"], []).append(error)
    return {row: [np.mean(x) for x in found.values()] for row, found in errors.items()}, r2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, required=True)
    args = parser.parse_args()
    train, test = read(args.records, "train"), read(args.records, "test")
    errors, r2 = evaluate(train, test)
    triplets = len(errors["held"])
    print(f"{len(train)} training scenes, {len(test)} held out, of {triplets} triplets\n")
    print("| row | mm |\n| --- | --- |")
    for row, found in errors.items():
        print(f"| {row} | {np.mean(found):.1f} +- {np.std(found, ddof=1) / triplets**0.5:.1f} |")
    gain = np.subtract(errors["mean path"], errors["crop ridge"])
    spread = gain.std(ddof=1) / triplets**0.5
    print(f"\nmean path minus crop ridge {gain.mean():.1f} +- {spread:.1f} mm")
    print(f"R2 of the ridge: {', '.join(f'{x:.2f}' for x in r2)}")
    shares = [scene["seen"].mean() for scene in train + test]
    print(f"points that a view sees in frame 0: {np.mean(shares):.0%}")


if __name__ == "__main__":
    main()
