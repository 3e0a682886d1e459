"""Rows that no training stands behind: what held-out clips are by other means than a model's.

    python demo/references.py --row autoencoder --records RECORDS --weights WEIGHTS --out ROW

    autoencoder   the truth through the autoencoder: no video of the demo can be nearer the truth
    warped        frame 0's own pixels moved as the surfaces move, on what is left of frame 0
                  (data/controls.py): what control tells without a network

A stage of demo/hvg.py. Writes ROW/samples/<id> as sampling does; a sample that is there is left
alone.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import disk
from syncmv4d_jax.data import controls, records
from syncmv4d_jax.results import samples
from syncmv4d_jax.tasks import video
from syncmv4d_jax.weights import store

Clip = Callable[[Mapping[str, Any]], np.ndarray]  # of a view's values: [n h w 3] in -1..1


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--row", choices=("autoencoder", "warped"), required=True)
    add("--records", type=disk.local, required=True, help="with points,das,image")
    add("--weights", type=disk.local, required=True, help="with the part vae")
    add("--out", type=disk.local, required=True, help="a run's folder")
    return parser.parse_args(argv)


def rebuilt(weights: Path) -> Clip:
    """The video through the autoencoder."""
    config, params = store.load("vae", weights, dtype=np.float32)
    codec = video.FrozenVAE(config)

    def clip(view: Mapping[str, Any]) -> np.ndarray:
        pixels = jnp.asarray(records.decode(view["video"]))[None, None]
        latents = video.encode(codec, params, pixels)
        return np.asarray(video.decode(codec, params, latents))[0, 0]

    return clip


def warped(view: Mapping[str, Any]) -> np.ndarray:
    """Frame 0 warped."""
    made = controls.clip(view, "warped")
    return made.astype(np.float32) / 127.5 - 1


def main(argv: list[str]) -> int:
    """Writes what is missing; returns the exit status."""
    args = parse(argv)
    clip = warped if args.row == "warped" else rebuilt(args.weights)
    reader = records.Reader(args.records, "test")
    done = samples.find(args.out / "samples")
    for window in reader.windows:
        if window.id in done:
            continue
        made = np.stack([clip(reader.view(window, view)) for view in window.views])
        meta = {"id": window.id, "prompt": window.text, "fps": reader.settings["fps"]}
        samples.write(args.out / "samples" / window.id, {"video": made}, {}, meta, exact=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
