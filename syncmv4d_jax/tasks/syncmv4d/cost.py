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

from syncmv4d_jax import flow
from syncmv4d_jax.models import flops, motion_codec
from syncmv4d_jax.models.dpa import aligner
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks.syncmv4d import cycle_sampling

Cost = dict[str, float]


def parts(task: Any) -> Cost:
    """Returns the FLOPs of one forward pass of each part for one sample of all views.

    "encode" and "decode" are the loop's (autoencoder or learned codec), "pixels" encodes videos.

    Args:
      task: a `syncmv4d_loop.Loop`.
    """
    v, f, h, w, c = task.latent_shape
    o, config = task.options, task.mjd_config
    grid = [n // p for n, p in zip((f, h, w), config.patch, strict=True)]
    streams = {"modalities": 1 + config.joint_motion, "extra": config.extra_tokens}
    one = flops.mjd(config, views=v, frames=grid[0], positions=grid[1] * grid[2], **streams)
    if not config.multi_view:
        one = flops.add(one, {"inter": -one["inter"], "linear": -_inter_linear(task, grid, v)})
    result = {"mjd": float(flops.total(one))}
    weights = module.shapes(vae.VAE, task.vae_config)
    for name, shape in (("encode", (1, o.frames, *o.size, 3)), ("decode", (1, f, h, w, c))):

        def run(params, x, name=name):
            return getattr(module.bind(vae.VAE, task.vae_config, params), name)(x)

        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        result[name] = float(v * flops.count(run, weights, x))
    result["pixels"] = result["encode"]
    if hasattr(task, "codec_config"):
        result |= _codec(task)
    if task.settings.dpa:
        result["dpa"] = _aligner(task)
    return result


def _codec(task: Any) -> Cost:
    """The learned codec in place of the autoencoder inside the loop."""
    v, f, h, w, c = task.latent_shape
    weights = module.shapes(motion_codec.Codec, task.codec_config)
    maps = (1, task.options.frames, *task.map_size, motion_codec.CHANNELS)
    result = {}
    for name, shape in (("encode", maps), ("decode", (1, f, h, w, c))):

        def run(params, x, name=name):
            return getattr(module.bind(motion_codec.Codec, task.codec_config, params), name)(x)

        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        result[name] = float(v * flops.count(run, weights, x))
    return result


def _inter_linear(task: Any, grid: list[int], views: int) -> int:
    """FLOPs of the four projections of inter-view attention in all blocks."""
    config = task.mjd_config
    tokens = config.extra_tokens + (1 + config.joint_motion) * int(np.prod(grid))
    return config.layers * flops.linear(views * tokens, config.dim, 4 * config.dim)


def _aligner(task: Any) -> float:
    o = task.options
    weights = module.shapes(aligner.Aligner, task.dpa_config)
    lead = (1, o.views, o.frames, o.points)
    shape = lambda *last: jax.ShapeDtypeStruct((*lead, *last), jnp.float32)  # noqa: E731

    def run(params, tracks, t, confidence, rays):
        model = module.bind(aligner.Aligner, task.dpa_config, params)
        valid = jnp.ones(lead, bool)
        return model(tracks, tracks, t, confidence=confidence, valid=valid, rays=rays)

    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    return float(flops.count(run, weights, shape(3), t, shape(), shape(6)))


def text(task: Any) -> float:
    """Returns the FLOPs of MJD that depend on one text only: its embedding, keys and values."""
    c = task.mjd_config
    embedding = flops.linear(c.text_len, c.text_dim, c.dim) + flops.linear(c.text_len, c.dim, c.dim)
    return float(embedding + c.layers * flops.linear(c.text_len, c.dim, 2 * c.dim))


def training(task: Any, each: Cost, *, raw: bool = False, recomputed: bool = True) -> Cost:
    """Returns the FLOPs of a training step over one sample, by part.

    Args:
      each: `parts(task)`.
      raw: clips are encoded in the step instead of read from a cache.
      recomputed: count what rematerialisation computes again; False for a utilisation figure.
    """
    s, rerun = task.settings, recomputed and task.mjd_config.remat != "none"
    again = s.probability * s.cycle
    result = {"mjd": each["mjd"] * (3 + rerun + again * (s.cond != "noisy"))}
    if s.dpa:
        result["dpa"] = each["dpa"] * (3 + (recomputed and task.dpa_config.remat) + again)
        result["decode"] = each["decode"] * (s.decoded + again)
    if again:
        result["encode"] = each["encode"] * again
    if raw:
        result["pixels"] = each["pixels"] * (1 + s.joint_motion)
    return result


def sampling(task: Any, each: Cost, *, anchors_given: bool = True, reused: int = 0) -> Cost:
    """Returns the FLOPs of sampling one sample, by part; without encoding the reference images and
    the final decode.

    Args:
      each: `parts(task)`.
      anchors_given: see `cycle_sampling.plan_steps`.
      reused: steps that did not run the blocks (models/reuse.py), taken as guided like the average.
    """
    o = task.options
    sigmas = np.append(flow.schedule(o.sampler, o.sample_steps, shift=o.sample_shift).sigma, 0.0)
    runs = cycle_sampling.plan_steps(sigmas, task.settings, anchors_given=anchors_given)
    refining = sum(refine for *_, refine in runs)
    guides = o.guidance != 1.0
    plan = cycle_sampling.plan_guidance(sigmas, runs, o.guidance_interval)
    doubled = guides * sum(end - begin for begin, end, _, guided in plan if guided)
    # A step that reuses the blocks still embeds and reads out: next to nothing.
    calls = (o.sample_steps + doubled) * (1 - reused / o.sample_steps)
    once = text(task)
    result = {"mjd": calls * (each["mjd"] - once) + (1 + (doubled > 0)) * once}
    if task.settings.dpa:
        result |= {"dpa": refining * each["dpa"], "decode": refining * each["decode"]}
    if task.settings.cycle:
        result["encode"] = refining * each["encode"]
    return result
