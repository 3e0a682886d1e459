"""What an autoencoder leaves of videos and of tracks in pseudo videos, on held-out records.

    python benchmarks/autoencoder.py --records RECORDS/64x96 --vae DIR [--scenes 16]

Each view's true video and pseudo video go through encode and decode. Prints PSNR in all pixels, and
in those that hands and objects fill at some time, where also the gradient energy as a share of the
truth's (mean absolute difference of neighbours, frames beyond the first: blur lowers it); and the
error of the tracks that the pseudo video is decoded to, in each view by itself, over points that
the view sees in frame 0 and then (wanted: 10 mm, gradient energy 0.9), beside the same of the true
pseudo video. Means and standard errors over scenes.
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from alignment import read

from syncmv4d_jax import models
from syncmv4d_jax.data import records
from syncmv4d_jax.geometry import matching, pseudo_video
from syncmv4d_jax.metrics import video
from syncmv4d_jax.weights import store


def psnr(error: np.ndarray) -> float:
    """dB of squared errors over 0..255."""
    return float(10 * np.log10(255**2 / error.mean()))


def tracks_error(scene: dict, view: int, motion: np.ndarray, settings) -> float:
    """mm between the true tracks and those of a pseudo video [n h w 3] in 0..1."""
    one = {key: scene[key][view] for key in ("anchors", "anchor_valid", "scale")}
    camera = scene["intrinsics"][view], scene["extrinsics"][view]
    found = _decode(motion, one["anchors"], one["anchor_valid"], one["scale"], *camera, settings)
    seen = scene["visibility"][view] & one["anchor_valid"]
    return float(
        1e3 * np.linalg.norm(np.asarray(found.tracks) - scene["tracks"], axis=-1)[seen].mean()
    )


@functools.partial(jax.jit, static_argnums=6)
def _decode(motion, anchors, valid, scale, intrinsics, extrinsics, settings):
    return pseudo_video.decode(
        motion, anchors, valid, scale, intrinsics, extrinsics, settings=settings
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True, help="folder with vae/")
    parser.add_argument("--scenes", type=int, default=16)
    args = parser.parse_args()
    config, params = store.load("vae", args.vae)
    through = jax.jit(lambda x: _through(config, params, x))
    reader, rows = records.Reader(args.records, "test"), {}
    settings = matching.settings_for(*reader.settings["size"])
    for window, scene in zip(
        reader.windows[: args.scenes], read(args.records, "test"), strict=False
    ):
        clusters = [view.cluster for view in window.views]
        found = {}
        for view in (clusters.index(cluster) for cluster in sorted(set(clusters))):
            values = reader.view(window, window.views[view])
            true, motion = (records.decode(values[key]) for key in ("video", "motion"))
            made, again = (np.asarray(through(clip)) for clip in (true, motion))
            where = motion.max(-1).max(0) > 0
            squares = np.square(made - true.astype(np.float32))
            found.setdefault("PSNR, dB", []).append(psnr(squares))
            found.setdefault("PSNR there, dB", []).append(psnr(squares[:, where]))
            share = video.gradient_energy(made[None, 1:], true[None, 1:], where[None])
            found.setdefault("gradient energy", []).append(share)
            squares = np.square(again - motion.astype(np.float32))
            found.setdefault("pseudo video, PSNR there, dB", []).append(psnr(squares[:, where]))
            for name, clip in (("through it", again), ("true", motion)):
                error = tracks_error(scene, view, clip.astype(np.float32) / 255, settings)
                found.setdefault(f"tracks per view, {name}, mm", []).append(error)
        for name, numbers in found.items():
            rows.setdefault(name, []).append(np.mean(numbers))
    print(f"{args.vae}, {len(rows['PSNR, dB'])} scenes\n\n| | |\n| --- | --- |")
    for name, numbers in rows.items():
        spread = np.std(numbers, ddof=1) / len(numbers) ** 0.5
        print(f"| {name} | {np.mean(numbers):.2f} +- {spread:.2f} |")


def _through(config, params, clip: jax.Array) -> jax.Array:
    """clip: [n h w 3] uint8 -> the same in float32, 0..255, decoded from its latents."""
    latents = models.apply("vae", config, params, encode=clip[None].astype(jnp.float32) / 127.5 - 1)
    decoded = models.apply("vae", config, params, decode=latents)
    return jnp.clip(jnp.round((decoded[0] + 1) * 127.5), 0, 255)


if __name__ == "__main__":
    main()
