"""The learned motion codec beside the autoencoder it stands in for: track error, latents, seconds.

    python benchmarks/motion_codec.py --records out/demo-train/records/64x96 \\
        --vae out/demo-train/weights --codec out/codec/weights.safetensors

Held-out pseudo videos at demo size pass the loop's own two ways, at latent noise of each deviation:

    decode   latents + noise -> maps -> matching -> tracks of each view
    encode   true tracks -> painted -> latents, decoded again by the autoencoder -> tracks

Prints Markdown: error of the points a view sees, millimetres, mean over scenes with its standard
error, of both ways and their ratio (aim 1.5), the codec's latents' distance from the autoencoder's,
and seconds of a decode and an encode of all views, interleaved.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
from alignment import read

from configs.readings import learned_codec
from syncmv4d_jax.tasks import syncmv4d
from syncmv4d_jax.weights import exports, store

WAYS = ("autoencoder", "codec")
CONTEXT = ("anchors", "anchor_valid", "intrinsics", "extrinsics")


class Way:
    """One task's decoding and encoding, compiled."""

    def __init__(self, task: syncmv4d.task.SyncMV4D, params: dict[str, Any]):
        def encode(p, tracks, scale, first, latents, context):
            """Tracks painted by the warp that frame 0 of `latents` gives, as in the loop."""
            _, pseudo = motion.decode(p, first, latents, scale, context)
            warp = motion.warp(pseudo[:, :, 0], scale, context)
            return motion.encode(p, tracks, scale, warp, context)

        motion, self.params = task.loop.motion, params
        self._decode = jax.jit(lambda *x: motion.decode(*x)[0].tracks)
        self._encode = jax.jit(encode)

    def decode(self, first, latents, scale, context):
        """latents [b v f h w c], first [b v 1 h w c] of the videos -> tracks [b v n k 3] metres."""
        return self._decode(self.params, first, latents, scale, context)

    def encode(self, tracks, scale, first, latents, context):
        """tracks [b v n k 3] metres -> latents [b v f h w c]."""
        return self._encode(self.params, tracks, scale, first, latents, context)


def make(vae: Path, codec: Path) -> tuple[Any, dict[str, Way]]:
    """Returns the task and both ways of it."""
    config = learned_codec.get_config("demo")
    with_codec = syncmv4d.make(config)
    faithful_config = config.copy_and_resolve_references().unlock()
    del faithful_config.task["codec"]
    task = syncmv4d.make(faithful_config)
    params = {"vae": store.load("vae", vae, dtype=jnp.float32)[1]}
    learned = {"codec": exports.read(codec, "codec")}
    return task, {"autoencoder": Way(task, params), "codec": Way(with_codec, params | learned)}


def error(tracks: jax.Array, scene: dict[str, np.ndarray]) -> float:
    """Mean distance in millimetres of the points that a view sees, true frames only."""
    n = int(scene["frame_valid"].sum())
    seen = (scene["visibility"] & scene["anchor_valid"][:, None])[:, :n]
    gap = np.asarray(tracks[0])[:, :n] - scene["tracks"][:n]
    return float(1e3 * np.linalg.norm(gap, axis=-1)[seen].mean())


def spread(values: np.ndarray) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True, help="converted autoencoder")
    parser.add_argument("--codec", type=Path, required=True, help="of configs/motion_codec.py:demo")
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.2, 0.4])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    task, ways = make(args.vae, args.codec)
    errors: dict[tuple, list[float]] = {}
    distances = []
    for index, scene in enumerate(read(args.records, "test")[: args.scenes]):
        context = {key: jnp.asarray(scene[key])[None] for key in CONTEXT}
        scale = jnp.asarray(scene["scale"])[None]
        weights = ways["codec"].params
        clean = task.encode(weights, jnp.asarray(scene["motion"])[None])
        first = task.encode(weights, jnp.asarray(scene["first"])[None, :, None])
        tracks = jnp.broadcast_to(
            scene["tracks"], (1, len(scene["motion"]), *scene["tracks"].shape)
        )
        for noise in args.noise:
            draw = jax.random.normal(jax.random.key(index), clean.shape)
            for name, way in ways.items():
                found = way.decode(first, clean + noise * draw, scale, context)
                errors.setdefault(("decode", noise, name), []).append(error(found, scene))
        painted = {
            name: way.encode(tracks, scale, first, clean, context) for name, way in ways.items()
        }
        for name, latents in painted.items():
            found = ways["autoencoder"].decode(first, latents, scale, context)
            errors.setdefault(("encode", 0.0, name), []).append(error(found, scene))
        gap = jnp.sqrt(jnp.mean(jnp.square(painted["codec"] - painted["autoencoder"])))
        distances.append(float(gap / jnp.std(painted["autoencoder"])))
    print("| way | noise | autoencoder, mm | codec, mm | ratio |\n|---|---|---|---|---|")
    for way, noise in dict.fromkeys(key[:2] for key in errors):
        rows = [np.array(errors[way, noise, name]) for name in WAYS]
        ratio = rows[1].mean() / rows[0].mean()
        print(f"| {way} | {noise:g} | {spread(rows[0])} | {spread(rows[1])} | {ratio:.2f} |")
    print(f"\ncodec's latents from the autoencoder's: {np.mean(distances):.2f} of their deviation")
    for title, call in (
        ("decode", lambda way: way.decode(first, clean, scale, context)),
        ("encode", lambda way: way.encode(tracks, scale, first, clean, context)),
    ):
        runs = {name: functools.partial(call, way) for name, way in ways.items()}
        took = timing.interleaved(runs, args.repeats)
        timing.row(f"{title}_seconds", took["codec"].best, took["autoencoder"].best)


if __name__ == "__main__":
    main()
