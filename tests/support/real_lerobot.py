"""The real lerobot library against our reader and writer, by hand: docs/robots.md has the commands.

    python tests/support/real_lerobot.py write DIR     ours writes DIR/{h264,av1}
    python tests/support/real_lerobot.py open DIR...   lerobot reads what ours has written
    python tests/support/real_lerobot.py record DIR    lerobot writes DIR
    python tests/support/real_lerobot.py read DIR...   ours reads what lerobot has written

`open` and `record` run in lerobot's environment and need nothing of this package. Every frame has a
bar code (lerobot_sets.py); each prints how many frames were read and how many of them were wrong,
and ends with 1 where one was, or where numbers, texts or time stamps are others.
"""

import sys
from pathlib import Path

import lerobot_sets as sets
import numpy as np

KEY = "observation.images."


def write(root: Path) -> int:
    """Ours writes; a file holds about two episodes of a camera."""
    from syncmv4d_jax.data.sources import lerobot_writer

    for codec in ("h264", "av1"):
        takes = [
            lerobot_writer.Take(
                sets.TASKS[e % 2],
                {KEY + name: np.stack(sets.clip(name, e)) for name in sets.CAMERAS},
                {"action": sets.actions(e)},
            )
            for e in range(len(sets.LENGTHS))
        ]
        lerobot_writer.write(
            root / codec, takes, fps=sets.FPS, codec=codec, video_mb=0.01, data_mb=0.002
        )
        files = len(list((root / codec / "videos").rglob("*.mp4")))
        print(f"{codec}: {len(takes)} episodes of {len(sets.CAMERAS)} cameras in {files} files")
    return 0


def opened(root: Path) -> tuple[int, int]:
    """What lerobot says of a data set: frames of all cameras, and how many are wrong."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset("local/coded", root=root, video_backend="pyav")
    assert data.num_episodes == len(sets.LENGTHS) and len(data) == sum(sets.LENGTHS)
    read = wrong = 0
    for e, first in enumerate(sets.starts()):
        for i in range(sets.LENGTHS[e]):
            row = data[int(first + i)]
            assert row["task"] == sets.TASKS[e % 2], row["task"]
            assert abs(float(row["timestamp"]) - i / sets.FPS) < 1e-5, row["timestamp"]
            assert int(row["episode_index"]) == e and int(row["frame_index"]) == i
            np.testing.assert_array_equal(np.asarray(row["action"]), sets.actions(e)[i])
            for name in sets.CAMERAS:
                picture = (np.asarray(row[KEY + name]).transpose(1, 2, 0) * 255).round()
                assert picture.shape == (*sets.CAMERAS[name], 3), picture.shape
                read, wrong = read + 1, wrong + (sets.read_code(picture) != (name, first + i))
    return read, wrong


def record(root: Path) -> int:
    """lerobot writes: two cameras as videos, by its defaults, and one as pictures."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = ["height", "width", "channels"]
    features = {
        KEY + name: {"dtype": "image" if name == "right" else "video", "shape": (*size, 3),
                     "names": names}
        for name, size in sets.CAMERAS.items()
    }  # fmt: skip
    features["action"] = {"dtype": "float32", "shape": (2,), "names": ["j0", "j1"]}
    data = LeRobotDataset.create("local/coded", sets.FPS, features, root=root)
    for e, length in enumerate(sets.LENGTHS):
        clips = {KEY + name: sets.clip(name, e) for name in sets.CAMERAS}
        for i in range(length):
            row = {key: clip[i] for key, clip in clips.items()}
            data.add_frame(row | {"action": sets.actions(e)[i], "task": sets.TASKS[e % 2]})
        data.save_episode()
    data.finalize()
    print(f"{len(sets.LENGTHS)} episodes in {sorted(p.name for p in root.iterdir())}")
    return 0


def read(root: Path) -> tuple[int, int]:
    """What ours says of a data set: frames of all cameras, and how many are wrong."""
    from syncmv4d_jax.data.sources import lerobot

    data = lerobot.open_dataset(root)
    assert [e.length for e in data.episodes] == list(sets.LENGTHS)
    count = wrong = 0
    for e, first in enumerate(sets.starts()):
        episode, index = data.episode(e), np.arange(sets.LENGTHS[e])
        assert episode.text == sets.TASKS[e % 2], episode.text
        np.testing.assert_array_equal(data.column(episode, "action"), sets.actions(e))
        np.testing.assert_allclose(data.stamps(episode), index / sets.FPS, atol=1e-6)
        for name in sets.CAMERAS:
            camera = data.camera(name)
            pictures, _ = data.pictures(episode, camera, index, camera.size)
            wrong += sum(sets.read_code(x) != (name, first + i) for i, x in enumerate(pictures))
            count += len(pictures)
    every = np.concatenate([sets.actions(e) for e in range(len(sets.LENGTHS))])
    mean, std = lerobot.statistics(data, "action")
    np.testing.assert_allclose(mean, every.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, every.std(0), rtol=1e-5)
    return count, wrong


def main(argv: list[str]) -> int:
    """Runs one of them; returns the exit status."""
    name, *roots = argv
    if name in ("write", "record"):
        return {"write": write, "record": record}[name](Path(roots[0]))
    total = 0
    for root in roots:
        count, wrong = {"open": opened, "read": read}[name](Path(root))
        print(f"{root}: {count} frames, {wrong} wrong")
        total += wrong
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
