"""Parameters of MJD: fresh ones, and ones grown from a Wan transformer."""

from typing import Any

import jax
import jax.numpy as jnp

from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import mjd
from syncmv4d_jax.models.nn import module


def init(config: mjd_config.MJDConfig, key: jax.Array) -> module.Params:
    """Returns initial parameters: random Wan weights, new parts derived from them (A12, A13)."""
    params = module.init(mjd.MJD, config, key)
    return warm_start(config, params, params)


def warm_start(
    config: mjd_config.MJDConfig, params: module.Params, wan: dict[str, Any]
) -> module.Params:
    """Returns MJD parameters that start from a Wan transformer.

    Args:
      config: MJD's configuration.
      params: initial MJD parameters; supplies what Wan does not have (tokens, scale head).
      wan: parameters of `dit.DiT` (or of MJD) at the same sizes.

    Inter-view attention copies self-attention with a zero output projection; its modulation copies
    rows 0-2; the motion and scale tables copy the six and rows 0-2; the motion modality's patch
    embedding, head and time projection are copies.
    """
    own = dit_paths(params, wan)
    blocks = dict(own["blocks"])
    rows = blocks["modulation"]
    if config.multi_view:
        attn = dict(blocks["self_attn"])
        attn["o"] = jax.tree.map(jnp.zeros_like, attn["o"])
        blocks |= {"inter_view_attn": attn, "inter_view_modulation": rows[:, :, :3]}
    if config.joint_motion:
        table = jnp.concatenate([rows, rows[:, :, :3]], axis=2)
        nine = table[:, :, : blocks["motion_modulation"].shape[2]]
        blocks |= {"motion_modulation": nine, "scale_modulation": nine}
        own |= {
            "motion_patch_embedding": own["patch_embedding"],
            "motion_time_projection": own["time_projection"],
            "motion_head": own["head"],
        }
    return own | {"blocks": blocks}


def dit_paths(params: module.Params, wan: dict[str, Any]) -> dict[str, Any]:
    """Returns `params` with every path that `wan` also has taken from `wan`."""
    return {
        key: dit_paths(value, wan[key])
        if isinstance(value, dict) and key in wan
        else wan.get(key, value)
        for key, value in params.items()
    }
