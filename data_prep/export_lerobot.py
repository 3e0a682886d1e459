"""Writes the samples of a run as a LeRobot data set of version 3.0, an episode a sample.

    python data_prep/export_lerobot.py --samples RUN/samples --out DIR --views head,left,right

Samples with cameras keep them: each view's poses as the feature observation.extrinsics.<view>, and
its K as observation.intrinsics.<view>, as data_prep/import_lerobot.py reads them.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from prepare_taco import names

from syncmv4d_jax import disk
from syncmv4d_jax.data.sources import lerobot_writer
from syncmv4d_jax.results import samples


def takes(found: Mapping[str, Path], views: tuple[str, ...]) -> Iterator[lerobot_writer.Take]:
    """Yields the samples as episodes.

    Raises:
      ValueError: a sample with another number of views.
    """
    for name, path in found.items():
        sample = samples.read(path)
        if len(sample["video"]) != len(views):
            raise ValueError(f"{name}: wanted {len(views)} views {views}, it has "
                             f"{len(sample['video'])}")  # fmt: skip
        frames = sample["video"].shape[1]
        numbers: dict[str, Any] = {}
        for v, pose in enumerate(sample.get("extrinsics", ())):
            rows = np.broadcast_to(pose if pose.ndim == 3 else pose[None], (frames, 3, 4))
            numbers[f"observation.extrinsics.{views[v]}"] = rows
            lens = np.broadcast_to(sample["intrinsics"][v], (frames, 3, 3))
            numbers[f"observation.intrinsics.{views[v]}"] = lens
        videos = {f"observation.images.{view}": sample["video"][v] for v, view in enumerate(views)}
        text = str(sample["meta"].get("prompt") or name)
        yield lerobot_writer.Take(text, videos, numbers)


def main(argv: list[str]) -> int:
    """Parses the flags and writes; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--samples", type=disk.local, required=True, help="folder of samples")
    add("--out", type=disk.local, required=True, help="a folder that is not there yet")
    add("--views", type=names, required=True, help="names of the views, in their order")
    add("--robot", default="", help="robot_type of info.json")
    add("--codec", choices=sorted(lerobot_writer.CODECS), default="h264")
    args = parser.parse_args(argv)
    try:
        found = samples.find(args.samples)
        if not found:
            raise ValueError(f"{args.samples}: no finished samples in it")
        rates = {samples.fps(_meta(path)) for path in found.values()}
        if len(rates) > 1:
            raise ValueError(f"{args.samples}: samples of {sorted(rates)} frames a second")
        count = lerobot_writer.write(
            args.out, takes(found, args.views), fps=rates.pop(), robot=args.robot, codec=args.codec
        )
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{args.out}: {count} episodes, {len(args.views)} cameras")
    return 0


def _meta(path: Path) -> dict[str, Any]:
    return {"meta": json.loads((path / "meta.json").read_text(encoding="utf-8"))}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
