"""Sampling with control: Z and the keys of the text once, then runs of guided steps.

Both branches of guidance are controlled, in the first `control_until` of the steps, from noise on;
the others run the backbone by itself. With `Options.details` the decoded video takes the pixels of
a tracking video of frame 0's own colours where it agrees with it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from syncmv4d_jax import flow
from syncmv4d_jax.tasks import base, video
from syncmv4d_jax.tasks.hvg3d import backbone, options
from syncmv4d_jax.tasks.hvg3d import network as networks

Array = jax.Array
Params = dict[str, Any]


def schedule(network: networks.Network) -> flow.Schedule:
    """The steps."""
    o = network.options
    return flow.schedule(o.sampler, o.sample_steps, shift=o.sample_shift)


def runs(network: networks.Network) -> list[tuple[int, int, bool]]:
    """(first, last, controlled) of the runs of steps that are compiled together."""
    o, found = network.options, []
    until = round(o.control_until * o.sample_steps) if o.controls else 0
    for begin, end, controlled in ((0, until, True), (until, o.sample_steps, False)):
        count = end - begin
        length = next((n for n in range(o.run_steps, 0, -1) if count % n == 0), 1)
        found += [(a, a + length, controlled) for a in range(begin, end, length)]
    return found


def sample(
    network: networks.Network,
    params: Params,
    inputs: dict[str, Array],
    rng: Array,
    *,
    progress: base.Progress | None = None,
) -> base.Sample:
    """Samples videos.

    Args:
      params: all parts.
      inputs: of schema.BATCH the text (the null text too, unless guidance is 1), cameras, the keys
        of clouds, tracking_latents or tracking (with details the latter); `first` [b v 1 h w c],
        the reference images' latents.
      rng: key; the video's noise is jax.random.normal(fold_in(rng, 0), (b, v, f, h, w, c)).
      progress: called with (steps done, steps) after each run of steps.

    Raises:
      ValueError: no reference image, nothing to follow where something was to be followed, or
        latents alone of a tracking video whose details were to be taken.
    """
    controls = {"points": "points", "tracking": "tracking", "tracking_latents": "tracking"}
    there = {name for key, name in controls.items() if inputs.get(key) is not None}
    if network.options.controls and not there & set(network.options.controls):
        raise ValueError(
            f"task hvg3d, sample: wanted {' or '.join(network.options.controls)} to follow, got "
            f"{sorted(inputs)}; prepare records with --with points,das, or sample the backbone "
            "alone with config.task.controls=()"
        )
    if inputs.get("first") is None:
        raise ValueError(f"task hvg3d, sample: wanted reference images, got {sorted(inputs)}")
    given = details(network.options, inputs)
    inputs = _encoded(network, params, inputs)
    state, fixed = _begin(network, params, inputs, rng)
    whole, steps = schedule(network), network.options.sample_steps
    for first, last, controlled in runs(network):
        state = _run_steps(network, controlled, params, state, whole.rows(first, last), fixed)
        if progress is not None:
            jax.block_until_ready(state)
            progress(last, steps)
    # Without a motion of its own, the page shows the one that was to be followed.
    motion = state.latents.get("motion", inputs.get("tracking_latents"))
    return base.Sample(state.latents["video"], motion, **given)


def details(o: options.Options, inputs: dict[str, Array]) -> dict[str, Array]:
    """The tracking video whose details a sample takes, and by how much (`base.Sample`); {} without.

    Raises:
      ValueError: its latents alone.
    """
    if not (o.details and o.control_scale and "tracking" in o.controls):
        return {}
    pixels = inputs.get("tracking")
    if pixels is not None:
        share = jnp.full(pixels.shape[:-1], min(o.control_scale, 1.0))
        return {"given": pixels.astype(jnp.float32) / 127.5 - 1, "given_share": share}
    if inputs.get("tracking_latents") is None:
        return {}
    raise ValueError(
        "task hvg3d, sample: wanted the pixels of the tracking video (tracking), whose details are "
        "taken (task.details), got its latents alone"
    )


def _encoded(
    network: networks.Network, params: Params, inputs: dict[str, Array]
) -> dict[str, Array]:
    """The inputs with latents of the tracking video, and of a black one."""
    found = dict(inputs)
    pixels = found.pop("tracking", None)
    if found.get("tracking_latents") is None and pixels is not None:
        found["tracking_latents"] = video.encode(network.vae, params["vae"], pixels)
    if found.get("black_latents") is None:
        o, b = network.options, len(found["text"])
        black = jnp.zeros((1, 1, o.frames, *o.size, 3), jnp.uint8)
        black = video.encode(network.vae, params["vae"], black)
        found["black_latents"] = jnp.broadcast_to(black[0], (b, *black.shape[2:]))
    return found


def begin(
    network: networks.Network, params: Params, inputs: dict[str, Array], rng: Array
) -> tuple[video.State, dict[str, Any]]:
    """The state before the first step, and what is the same in all of them.

    Fixed: text, keys of the g branches [blocks (g b) l heads k]; z [b v f hl wl 2c]; views; first.
    """
    o, b = network.options, len(inputs["text"])
    text = [backbone.Text(inputs["text"], inputs["text_lengths"])]
    if o.guidance != 1.0:
        reason = f"task.guidance={o.guidance}"
        text.append(backbone.Text(*video.null_text(inputs, reason)))
    count = max(features.shape[1] for features, _ in text)
    features = jnp.concatenate([video.rows(x, count) for x, _ in text])
    joined = backbone.Text(features, jnp.concatenate([lengths for _, lengths in text]))
    first = inputs["first"].astype(jnp.float32)
    shape = (b, *network.latent_shape)
    latents = {
        name: jax.random.normal(jax.random.fold_in(rng, i), shape)
        for i, name in enumerate(("video", *["motion"] * network.joint_motion))
    }
    latents["video"] = flow.hold_first(latents["video"], first)
    fixed = {
        "text": network.backbone.text_keys(params, joined),
        "z": network.control_latents(params, inputs),
        "views": network.views(inputs),
        "first": {"video": first},
    }
    return video.start(schedule(network), latents), fixed


_begin = functools.partial(jax.jit, static_argnums=0)(begin)


def sample_run(
    network: networks.Network,
    controlled: bool,
    params: Params,
    state: video.State,
    steps: flow.Schedule,
    fixed: dict[str, Any],
) -> video.State:
    """A run of sampling steps, with or without the branch."""
    b = len(state.latents["video"])
    keys = fixed["text"]
    branches = keys.own.k.shape[1] // b
    scales = (network.options.guidance,) * (branches - 1)
    views, first = (video.branch(fixed[name], branches) for name in ("views", "first"))
    z = video.branch(fixed["z"], branches) if controlled else None

    def denoise(state, row, _):
        noisy = video.branch(state.latents, branches)
        t = jnp.full((b * branches,), row.t)
        velocity = network.velocity(
            params, noisy, t, keys, views, z, first["video"], scale=network.options.control_scale
        )
        return video.guide(velocity, scales), None

    return video.scan(denoise, state, steps, first=fixed["first"])


_run_steps = jax.jit(sample_run, static_argnums=(0, 1))
