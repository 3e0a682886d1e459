"""What the autoencoder alone makes of held-out clips: no video of the demo can be nearer the truth.

    python demo/autoencoded.py --records RECORDS --weights WEIGHTS --out ROW

A stage of demo/hvg.py. Writes ROW/samples/<id> as sampling does; a sample that is there is left
alone.
"""

import argparse
import sys

import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import disk
from syncmv4d_jax.data import records
from syncmv4d_jax.results import samples
from syncmv4d_jax.tasks import video
from syncmv4d_jax.weights import store


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--records", type=disk.local, required=True)
    add("--weights", type=disk.local, required=True, help="with the part vae")
    add("--out", type=disk.local, required=True, help="a run's folder")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Writes what is missing; returns the exit status."""
    args = parse(argv)
    config, weights = store.load("vae", args.weights, dtype=np.float32)
    codec, reader = video.FrozenVAE(config), records.Reader(args.records, "test")
    done = samples.find(args.out / "samples")
    for window in reader.windows:
        if window.id in done:
            continue
        views = [reader.view(window, view) for view in window.views]
        pixels = np.stack([records.decode(view["video"]) for view in views])
        latents = video.encode(codec, weights, jnp.asarray(pixels)[None])
        made = np.asarray(video.decode(codec, weights, latents))[0]
        meta = {"id": window.id, "prompt": window.text, "fps": reader.settings["fps"]}
        samples.write(args.out / "samples" / window.id, {"video": made}, {}, meta)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
