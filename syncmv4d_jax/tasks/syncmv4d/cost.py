"""What the closed loop costs: FLOPs of its parts, and of a training and a sampling step.

    training   3 (4 with remat) MJD + q decode + 3 DPA + p (condition + DPA + encode)
    condition  MJD + decode (x0_selfcond, sim), decode (noisy);   p, q = cycle.probability, .decoded
    sampling   g MJD a step, and decode + DPA + encode a refining step;   g = 2 with guidance, at
               sigmas of guidance_interval; what only the text decides once a sample

MJD by the closed formulas of `flops`, the autoencoder and the aligner by `flop_count` from their
jaxprs. Matching and painting have no matrix products (benchmarks/cycle.py measures them).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.models import flops, motion_codec
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import dpa
from syncmv4d_jax.tasks.syncmv4d import loop as loops
from syncmv4d_jax.tasks.syncmv4d import maps
from syncmv4d_jax.tasks.syncmv4d import sampling as loop_sampling

Cost = dict[str, float]


def parts(loop: loops.Loop) -> Cost:
    """Returns the FLOPs of one forward pass of each part for one sample of all views.

    "encode" and "decode" are the loop's (autoencoder or learned codec), "pixels" encodes videos.
    """
    v, f, h, w, c = loop.latent_shape
    o, config = loop.options, loop.mjd_config
    grid = [n // p for n, p in zip((f, h, w), config.patch, strict=True)]
    streams = {"modalities": 1 + config.joint_motion, "extra": config.extra_tokens}
    one = flops.mjd(config, views=v, frames=grid[0], positions=grid[1] * grid[2], **streams)
    if not config.multi_view:
        one = flops.add(one, {"inter": -one["inter"], "linear": -_inter_linear(loop, grid, v)})
    result = {"mjd": float(flops.total(one))}
    result |= _codec(vae.VAE, loop.vae.config, loop, (o.frames, *o.size, 3))
    result["pixels"] = result["encode"]
    if isinstance(loop.motion.maps, maps.Codec):
        result |= learned(loop, loop.motion.maps)
    if loop.settings.dpa:
        result["dpa"] = dpa.forward_flops(loop.dpa_config, o.views, o.frames, o.points)
    return result


def learned(loop: loops.Loop, way: maps.Codec) -> Cost:
    """Encoding and decoding by the learned codec, in place of the autoencoder inside the loop."""
    sizes = (loop.options.frames, *way.size, motion_codec.CHANNELS)
    return _codec(motion_codec.Codec, way.config, loop, sizes)


def _codec(network: type, config: Any, loop: loops.Loop, clip: tuple[int, ...]) -> Cost:
    """Encoding and decoding of the clips of all views."""
    v, *latents = loop.latent_shape
    weights, result = module.shapes(network, config), {}
    for name, shape in (("encode", clip), ("decode", latents)):

        def run(params, *x, name=name):
            return getattr(module.bind(network, config, params), name)(*x)

        given = [jax.ShapeDtypeStruct((1, *shape), jnp.float32)]
        if name == "decode" and isinstance(config, motion_codec.CodecConfig) and config.guide:
            given.append(jax.ShapeDtypeStruct((1, *shape[1:3], config.guide), jnp.float32))
        result[name] = float(v * flops.count(run, weights, *given))
    return result


def _inter_linear(loop: loops.Loop, grid: list[int], views: int) -> int:
    """FLOPs of the four projections of inter-view attention in all blocks."""
    config = loop.mjd_config
    tokens = config.extra_tokens + (1 + config.joint_motion) * int(np.prod(grid))
    return config.layers * flops.linear(views * tokens, config.dim, 4 * config.dim)


def text(loop: loops.Loop) -> float:
    """Returns the FLOPs of MJD that depend on one text only: its embedding, keys and values."""
    c = loop.mjd_config
    embedding = flops.linear(c.text_len, c.text_dim, c.dim) + flops.linear(c.text_len, c.dim, c.dim)
    return float(embedding + c.layers * flops.linear(c.text_len, c.dim, 2 * c.dim))


def training(loop: loops.Loop, each: Cost, *, raw: bool = False, recomputed: bool = True) -> Cost:
    """Returns the FLOPs of a training step over one sample, by part.

    Args:
      each: `parts(loop)`.
      raw: clips are encoded in the step instead of read from a cache.
      recomputed: count what rematerialisation computes again; False for a utilisation figure.
    """
    s, rerun = loop.settings, recomputed and loop.mjd_config.remat != "none"
    again = s.probability * s.cycle
    result = {"mjd": each["mjd"] * (3 + rerun + again * (s.cond != "noisy"))}
    if s.dpa:
        fed = again * s.network  # the closed form alone is next to nothing
        result["dpa"] = each["dpa"] * (3 + (recomputed and loop.dpa_config.remat) + fed)
        result["decode"] = each["decode"] * (s.decoded + again)
    if again:
        result["encode"] = each["encode"] * again
    if raw:
        result["pixels"] = each["pixels"] * (1 + s.joint_motion)
    return result


def sampling(loop: loops.Loop, each: Cost, *, anchors_given: bool = True, reused: int = 0) -> Cost:
    """Returns the FLOPs of sampling one sample, by part; without encoding the reference images and
    the final decode.

    Args:
      each: `parts(loop)`.
      anchors_given: otherwise they are chosen in one more call of MJD, whose motion is decoded.
      reused: steps that did not run the blocks (models/reuse.py), taken as guided like the average.
    """
    o = loop.options
    runs = loop_sampling.plan(loop).runs
    refining, guides = sum(run.refine for run in runs), o.guidance != 1.0
    doubled = guides * sum(run.last - run.first for run in runs if run.guided)
    # A step that reuses the blocks still embeds and reads out: next to nothing.
    calls = (o.sample_steps + doubled) * (1 - reused / o.sample_steps)
    once = text(loop)
    result = {"mjd": calls * (each["mjd"] - once) + (1 + (doubled > 0)) * once}
    if loop.settings.dpa:
        aligned = refining * loop.settings.network + 1  # and once at the end, for comparison
        result |= {"dpa": aligned * each["dpa"], "decode": refining * each["decode"]}
        if not anchors_given:
            result["mjd"] += (1 + runs[0].guided * guides) * (each["mjd"] - once)
            result["decode"] += each["decode"]
    if loop.settings.cycle:
        result["encode"] = refining * each["encode"]
    return result
