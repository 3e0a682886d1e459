"""What control costs: FLOPs of the backbone, the branch and the points' encoder.

    training   2 B + 3 (C + P), everything rematerialised 3 B + 4 (C + P): of the frozen backbone
               only activations have gradients
    sampling   g (B + C) a step, g = 2 with guidance; P once a sample

A point's encoder is some 9 MFLOP a point at full size; splats have no matrix products.
"""

import jax.numpy as jnp

from syncmv4d_jax.geometry import point_features
from syncmv4d_jax.models import control, flops, point_condition
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.tasks import base
from syncmv4d_jax.tasks.hvg3d import network as networks

Cost = dict[str, float]


def tokens(network: networks.Network) -> int:
    """Video tokens of a sample: those that the branch sees."""
    v, *latents, _ = network.latent_shape
    return v * flops.tokens(network.dit_config, latents)


def parts(network: networks.Network) -> Cost:
    """FLOPs of one forward pass over one sample of all views: "dit", "control", "points"."""
    v, f, h, w, _ = network.latent_shape
    one = tokens(network) // v
    config = network.dit_config
    if isinstance(config, mjd_config.MJDConfig):
        grid = f // config.patch[0], one // (f // config.patch[0])
        streams = {"modalities": 1 + config.joint_motion, "extra": config.extra_tokens}
        whole = flops.total(
            flops.mjd(config, views=v, frames=grid[0], positions=grid[1], **streams)
        )
    else:
        whole = v * flops.total(flops.wan_dit(config, one, timesteps=2))
    points = network.options.frames * network.options.cloud * point(network.point_config)
    return {
        "dit": float(whole),
        "control": float(v * branch(network.control_config, one)),
        "points": float(points * ("points" in network.options.controls)),
    }


def branch(config: control.ControlConfig, count: int) -> int:
    """FLOPs of a branch over `count` tokens."""
    own = config.backbone
    block = flops.total(flops.wan_block(own, count)) + flops.linear(count, own.dim, own.dim)
    channels = own.patch_size * control.PARTS * own.in_channels
    answer = flops.linear(count, own.dim, 2 * own.patch_size * own.in_channels)
    embed = flops.linear(count, channels, own.dim)
    return config.blocks * block + embed + config.copies * answer


def point(config: point_condition.PointConfig) -> int:
    """FLOPs of encoding a point."""
    w, c, s = config.width, config.cpe_channels, config.channels
    embed = flops.linear(1, point_features.FEATURES, w) + flops.linear(1, w, w)
    position = 2 * flops.linear(1, w, c) + 27 * flops.linear(1, c, c)
    attend = 4 * flops.linear(1, w, w) + flops.attention(1, config.patch, w)
    block = position + attend + 2 * flops.linear(1, w, 4 * w)
    return embed + config.depth * block + flops.linear(1, w, s)


def training(each: Cost, *, recomputed: bool = True) -> Cost:
    """FLOPs of a training step over one sample, by part.

    Args:
      each: `parts`.
      recomputed: count what rematerialisation computes again; False for a utilisation figure.
    """
    times = {"dit": 2 + recomputed, "control": 3 + recomputed, "points": 3 + recomputed}
    return {name: times[name] * value for name, value in each.items()}


def work(network: networks.Network, *, training: bool) -> base.Work:
    """What a step does to one sample."""
    config, each = network.dit_config, parts(network)
    remat = config.remat != "none"
    if training:
        found = {name: (2 + remat + (name != "dit")) * value for name, value in each.items()}
    else:
        branches = 1 + (network.options.guidance != 1.0)
        found = {name: branches * each[name] for name in ("dit", "control")}
    return base.Work(
        found,
        views=network.options.views,
        heads=config.heads,
        tokens=tokens(network),
        width=config.dim,
        layers=config.layers + network.control_config.blocks,
        residual=jnp.dtype(config.residual_dtype).itemsize,
        remat=remat,
    )
