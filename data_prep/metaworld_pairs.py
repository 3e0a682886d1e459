"""Pairs of rollouts of one reset, as import_metaworld.py --mirrored writes them.

What is generated of either starts with the same pictures and the same text, so only the actions can
say where it goes. That holds only while both stored recordings begin alike, pixel by pixel, and go
different ways; neither is taken on trust from the simulator.
"""

import json
from pathlib import Path

import av
import numpy as np

MOVES = 0.02  # metres that some point must lie from the other rollout's at some time


def unlike(first: Path, second: Path) -> str:
    """What is wrong with a pair of recordings, "" where nothing is.

    Compared of both folders: recording.json, the poses and intrinsics of cameras.json in frame 0,
    the first picture of every video as decoded, tracks.npz in frame 0; and that tracks part by
    MOVES at some time.
    """
    described, other = (_json(x / "recording.json") for x in (first, second))
    if described != other:
        return f"recording.json differs in {_differ(described, other)}"
    cameras, others = (_begin(_json(x / "cameras.json")) for x in (first, second))
    if cameras != others:
        return f"the cameras of frame 0 differ: {_differ(cameras, others)}"
    for name in cameras:
        one, two = (_picture(x / f"{name}.mp4") for x in (first, second))
        if one.shape != two.shape or (one != two).any():
            return f"the first pictures of {name} differ"
    one, two = (np.load(x / "tracks.npz")["tracks"] for x in (first, second))
    if one.shape != two.shape or (one[0] != two[0]).any():
        return "the tracks of frame 0 differ"
    apart = float(np.linalg.norm(one - two, axis=-1).max())
    if apart < MOVES:
        return f"both move alike: no point is {MOVES} m from the other's, the most is {apart:.4f} m"
    return ""


def _json(path: Path) -> dict:
    return json.loads(path.read_text())


def _differ(one: dict, two: dict) -> list[str]:
    return sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))


def _begin(cameras: dict) -> dict:
    """{name: K, R and T of frame 0} of what cameras.json has, fixed or a row a frame."""
    return {
        name: [camera["K"], *(np.reshape(camera[key], (-1, width))[0].tolist()
                              for key, width in (("R", 9), ("T", 3)))]
        for name, camera in cameras.items()
    }  # fmt: skip


def _picture(path: Path) -> np.ndarray:
    """The first picture [h w 3] uint8 of a video."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")
