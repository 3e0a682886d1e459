"""What the fed-back latents hold: the gate before the closed loop is trained (A22).

    python benchmarks/feedback.py --records RECORDS --cache CACHE --weights PARTS --model MODEL

One pass of MJD at t = 1 on held-out scenes, its motion decoded, aligned in closed form, painted and
encoded, as sampling does. Rows differ in what is painted, `MODEL` is a file of `train.export`;
`--codec` names the motion codec's weights, which then reads and paints (configs/motion_codec.py):

    as painted          closed-form tracks, warped from frame 0 of the decoded estimate
    image's mask        the same with the silhouette of the clean reference image (here the record's
                        frame 0, as a segmentation of the image would have it)
    true tracks         true tracks, warped from the decoded frame 0
    both                true tracks and the image's mask

Columns: the painted silhouette's overlap with the true one (IoU); the mean square error of z~
against the true motion latents, beside that of MJD's estimate z^0; the share of the residual
z_0 - z^0 that z~ - z^0 explains (partial R2, one coefficient a scene). Query pixels are the
record's: true tracks need them. Mean and standard error over triplets. Feedback that explains
little is not worth training on; 12 % is what the loop's gate asks for.
"""

import argparse
from pathlib import Path
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from configs import demo
from configs.readings import learned_codec
from syncmv4d_jax import flow, schema
from syncmv4d_jax.metrics import summary
from syncmv4d_jax.models import motion_codec
from syncmv4d_jax.run import assembly, inputs
from syncmv4d_jax.tasks.syncmv4d import cycle

ROWS = ("as painted", "image's mask", "true tracks", "both")


def configure(args: argparse.Namespace) -> Any:
    """The demo's configuration with these files."""
    config = (learned_codec.get_config("demo") if args.codec else demo.get_config()).unlock()
    if args.codec:
        config.weights.codec = str(args.codec)
    config.data.records, config.data.cache = str(args.records), str(args.cache)
    config.weights.vae = config.text.weights = str(args.weights)
    for part in ("dit", "dpa", "prior"):
        config.weights[part] = str(args.model)
    config.sample.count = args.scenes
    return config


def program(task: Any) -> Any:
    """(params, batch, true latents, true frame 0 [b v h w 3], key) -> {name: array}; compiled."""
    loop = task.loop

    @jax.jit
    def run(params, batch, latents, frame0, key):
        context, first = loop.context(batch), batch["first"]
        functions = loop.functions(params, first, network=False)
        t, keys = jnp.ones(len(first)), jax.random.split(key)
        noisy = flow.hold_first(jax.random.normal(keys[0], latents.shape), first)
        motion = jax.random.normal(keys[1], latents.shape)
        out = functions.mjd(noisy, motion, jnp.zeros_like(motion), t, context)
        estimate = flow.to_data(motion, out.motion_velocity, t)
        coarse, pseudo = functions.decode(estimate, out.scale, context)
        tracks = jnp.broadcast_to(batch["tracks"][:, None], coarse.tracks.shape)
        noise = jax.random.normal(keys[0], coarse.tracks.shape)
        velocity = functions.dpa(noise, cycle.Coarse(*coarse), t, context)
        closed = functions.denormalise(flow.to_data(noise, velocity, t), context)
        mask = jnp.max(frame0[..., :2], -1) > loop.motion.settings.foreground
        soft = functions.warp(pseudo[:, :, 0], out.scale, context)
        sharp = functions.warp(pseudo[:, :, 0], out.scale, {**context, "mask": mask})
        found = {"estimate": estimate}
        ways = (closed, soft), (closed, sharp), (tracks, soft), (tracks, sharp)
        for name, (moved, warp) in zip(ROWS, ways, strict=True):
            found[name] = functions.encode(moved, out.scale, warp, context)
            found[f"{name}, painted"] = loop.motion.paint(moved, out.scale, warp, context)
        return found

    return run


def score(found: dict[str, np.ndarray], latents: np.ndarray, motion: np.ndarray) -> dict:
    """{row: {column: value}} of one scene; motion: true pseudo video [b v n h w 3] in [0, 1]."""
    silhouette = lambda x: x[..., :2].max(-1) > motion_codec.FOREGROUND  # noqa: E731
    true, left = silhouette(motion), latents - found["estimate"]
    reduction = motion.shape[-2] // found[f"{ROWS[0]}, painted"].shape[-2]
    if reduction > 1:  # painted by the codec
        pixels = einops.rearrange(motion, "b v n h w c -> (b v) n h w c")
        mask = np.asarray(motion_codec.reduce_video(pixels, reduction)[1])
        true = einops.rearrange(mask, "(b v) n h w -> b v n h w", b=len(motion))
    alone = {"iou": None, "error": float(np.square(left).mean()), "explains": None}
    rows = {"MJD's estimate": alone}
    for name in ROWS:
        own, step = silhouette(found[f"{name}, painted"]), found[name] - found["estimate"]
        gain = float((step * left).sum() / np.square(step).sum())
        rest = np.square(left - gain * step).sum() / np.square(left).sum()
        rows[name] = {
            "iou": float((own & true).sum() / (own | true).sum()),
            "error": float(np.square(found[name] - latents).mean()),
            "explains": float(100 * (1 - rest)),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("records", "cache", "weights", "model"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--codec", type=Path)
    parser.add_argument("--scenes", type=int, default=16)
    args = parser.parse_args()
    config = configure(args)
    task, settings = assembly.task(config), assembly.read(config)
    params, run = assembly.load_params(task, config, Path("out/nothing")), program(task)
    scores, triplets = {}, {}
    for name, example in inputs.examples(settings, "test"):
        given = inputs.given(example, anchors="given")
        batch = {k: jnp.asarray(given[k])[None] for k in schema.CONDITIONS if k in given}
        batch |= {"tracks": jnp.asarray(example["tracks"])[None]}
        batch["first"] = task.encode(params, jnp.asarray(given["images"])[None, :, None])
        latents = task.encode(params, jnp.asarray(example["motion"])[None])
        motion = example["motion"][None].astype(np.float32) / 255
        key = jax.random.fold_in(jax.random.key(0), inputs.stable_hash(name))
        found = jax.device_get(run(params, batch, latents, jnp.asarray(motion[:, :, 0]), key))
        scores[name] = score(found, np.asarray(latents), motion)
        triplets[name] = ", ".join(example["triplet"])
    print("| | IoU | latent error | explains % |\n|---|---|---|---|")
    for row in ("MJD's estimate", *ROWS):
        cells = []
        for column in ("iou", "error", "explains"):
            cell = summary.mean({s: one[row][column] for s, one in scores.items()}, triplets)
            shown = "-" if cell["value"] is None else f"{cell['value']:.3g}"
            cells.append(shown + (f" ± {cell['se']:.2g}" if cell["se"] is not None else ""))
        print(f"| {row} | {' | '.join(cells)} |")
    print(f"\n{len(scores)} scenes of {len(set(triplets.values()))} triplets")


if __name__ == "__main__":
    main()
