"""Who sees a point: our ray casting against what a simulator draws of the same recordings.

    .cache/metaworld/bin/python data_prep/import_metaworld.py --out EPISODES --episodes 7 --check 4
    python benchmarks/visibility.py EPISODES

Ours is `clips.seen`, as records have it: rays against the recording's surfaces, occluders among
them, at the size of its videos. The simulator's are its pictures of depth and of segmentation, four
times as fine, at the four pixels around a point's place (data_prep/metaworld_points.py). At a pixel
the simulator shows a point where its depth is the point's within 10 mm and what it draws there is
a part of the recording. Where all four say the same the place is clear; where they differ a
silhouette passes within a quarter of a pixel of the video, and that place is at an edge.

    called       points that we call visible, of all frames that were looked at
    edge %       of these the share whose place is at an edge
    agree %      of the others: the simulator shows them too (the bar is 98)
    range %      of all of them, edges included: their depth lies between the least and the
                 greatest of the four pixels, widened by 10 mm (the bar is 98, too)
    strict %     of all of them: shown at all four pixels, so that every edge is an error
    own %        of those shown: drawn there is the part that the point lies on
    found %      of clear places at which the simulator shows a point: we call it visible too
    left out %   `agree` where the occluders are not cast

At the end, what the simulator draws in place of the points that it does not show, and how far from
them in depth, in the median: a part that is as thick as the tolerance shows there.
"""

import argparse
import collections
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from syncmv4d_jax.data import clips, raycast, surfaces
from syncmv4d_jax.data.sources import recordings
from syncmv4d_jax.geometry import cameras

BAR = 98  # per cent
NEAR, OUTSIDE = 0.01, -2  # metres; OUTSIDE as metaworld_points.py has it
COLUMNS = ("called", "edge %", "agree %", "range %", "strict %", "own %", "found %", "left out %")


class Seen(NamedTuple):
    """Of the points of a view, each [c k] bool: ours with and without occluders, the simulator's.

    Attributes:
      shown: [c k 4], at each of the four pixels. between: [c k], not before the nearest of them
        nor behind the farthest. own: [c k], all four draw the point's own part.
    """

    cast: np.ndarray
    left_out: np.ndarray
    shown: np.ndarray
    between: np.ndarray
    own: np.ndarray


class Checked(NamedTuple):
    """tracks.npz of a recording that was checked; see data_prep/import_metaworld.py."""

    tracks: np.ndarray
    owner: np.ndarray
    parts: np.ndarray
    cameras: np.ndarray
    depth: np.ndarray
    part: np.ndarray
    checked: np.ndarray


def read(folder: Path) -> Checked:
    """Reads what the simulator shows.

    Raises:
      ValueError: it was not asked.
    """
    with np.load(folder / "tracks.npz") as arrays:
        if missing := sorted(set(Checked._fields) - set(arrays)):
            raise ValueError(f"{folder}/tracks.npz: no {missing}; import_metaworld.py --check 4")
        return Checked(*(arrays[key] for key in Checked._fields))


def views(source: recordings.Source) -> Iterator[tuple[str, Seen, Checked, np.ndarray]]:
    """Yields (camera, who sees what, the simulator's answers, depth [c k] of the points)."""
    recording, told = source.open(), read(Path(source.root) / source.id)
    every = recording.surfaces
    kept = [s for s in every if s.kind == surfaces.TRACKED]
    scenes = [
        [raycast.Scene([(s.at(n), s.faces) for s in some]) for some in (every, kept)]
        for n in map(int, told.checked)
    ]
    for v, name in enumerate(map(str, told.cameras)):
        camera, ours, far = recording.cameras[name], [], []
        for n, both in zip(map(int, told.checked), scenes, strict=True):
            pose = camera.extrinsics if camera.path is None else camera.path[n]
            points = told.tracks[n].astype(np.float64)
            pixels, depth = cameras.project(points, camera.intrinsics, pose)
            ours.append([
                clips.seen(scene, pixels, depth, camera.intrinsics, pose,
                           size=camera.size, behind=clips.Settings().visible)
                for scene in both
            ])  # fmt: skip
            far.append(depth)
        depth = np.array(far)
        inside = (told.part[v] != OUTSIDE).all(-1)
        cast, left_out = (inside & x for x in np.moveaxis(np.array(ours), 1, 0))
        far_off = told.depth[v] - depth[..., None]  # [c k 4], metres behind the point
        shown = (np.abs(far_off) < NEAR) & (told.part[v] >= 0)
        between = (far_off.min(-1) < NEAR) & (far_off.max(-1) > -NEAR)
        own = (told.part[v] == told.owner[:, None]).all(-1)
        yield name, Seen(cast, left_out, shown, between, own), told, depth


def row(seen: Seen) -> list[float]:
    """The numbers of COLUMNS."""
    all_four, none = seen.shown.all(-1), ~seen.shown.any(-1)
    clear = all_four | none

    def share(what, of):
        return 100 * float(what[of].mean()) if of.any() else float("nan")

    return [
        int(seen.cast.sum()), share(~clear, seen.cast), share(all_four, seen.cast & clear),
        share(seen.between, seen.cast), share(all_four, seen.cast),
        share(seen.own, seen.cast & all_four), share(seen.cast, all_four),
        share(all_four, seen.left_out & clear),
    ]  # fmt: skip


def instead(
    seen: Seen, told: Checked, v: int, depth: np.ndarray
) -> dict[tuple[str, str, str], list[float]]:
    """{(the point's part, what is drawn there, in front or behind): metres of points not shown}."""
    wrong = seen.cast & ~seen.shown.any(-1)
    found: dict[tuple[str, str, str], list[float]] = collections.defaultdict(list)
    for c, k in np.argwhere(wrong):
        drawn = int(told.part[v, c, k, 0])
        far = float(told.depth[v, c, k, 0] - depth[c, k])
        side = "in front" if far < 0 else "behind"
        name = str(told.parts[drawn]) if drawn >= 0 else "no part"
        found[str(told.parts[told.owner[k]]), name, side].append(abs(far))
    return found


def joined(some: list[Seen]) -> Seen:
    return Seen(*(np.concatenate(x) for x in zip(*some, strict=True)))


def main(argv: list[str]) -> int:
    """Prints the tables; returns 1 where a view is below the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("episodes", type=Path, help="root of checked recordings")
    args = parser.parse_args(argv)
    by_view: dict[str, list[Seen]] = {}
    wrong: dict[tuple[str, str, str], list[float]] = collections.defaultdict(list)
    print("| recording | view | " + " | ".join(COLUMNS) + " |")
    print("|---|---|" + "---|" * len(COLUMNS))
    line = "| {} | {} | {} |" + " {:.1f} |" * (len(COLUMNS) - 1)
    try:
        for source in recordings.folder_sources(args.episodes):
            for v, (name, seen, told, depth) in enumerate(views(source)):
                by_view.setdefault(name, []).append(seen)
                for key, metres in instead(seen, told, v, depth).items():
                    wrong[key] += metres
                print(line.format(source.id, name, *row(seen)), flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"visibility: {type(error).__name__}: {error}")
    rows = {name: row(joined(some)) for name, some in by_view.items()}
    for name, numbers in rows.items():
        print(line.format(f"all {len(by_view[name])}", name, *numbers))
    for (owner, drawn, side), some in sorted(wrong.items(), key=lambda x: -len(x[1]))[:12]:
        millimetres = 1000 * np.median(some)
        print(f"{len(some)} points of {owner}: {drawn} is drawn {side}, {millimetres:.1f} mm")
    return int(min(min(numbers[2:4]) for numbers in rows.values()) < BAR)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
