"""The networks, and one door to run any of Wan's parts: `apply`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from syncmv4d_jax.models import conditioned
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit, umt5, vae

MODELS: dict[str, Any] = {"dit": dit.DiT, "vae": vae.VAE, "umt5": umt5.UMT5}
Config = wan_config.DiTConfig | vae.VAEConfig | umt5.UMT5Config
CONFIGS = {"dit": wan_config.DiTConfig, "vae": vae.VAEConfig, "umt5": umt5.UMT5Config}


def network(part: str, config: Config) -> Any:
    """Returns the class of a part with this config."""
    inpaints = isinstance(config, conditioned.ConditionedConfig)
    return conditioned.ConditionedDiT if inpaints else MODELS[part]


INPUTS = {
    "dit": ({"latents", "t", "context"}, {"context_lengths", "first_frame"}),
    "umt5": ({"ids", "mask"}, set()),
}


def apply(part: str, config: Config, params: dict[str, Any], **arrays: ArrayLike) -> jax.Array:
    """Runs a part of Wan2.2, compiled.

    Args:
      part: "dit", "vae" or "umt5".
      config: DiTConfig, VAEConfig or UMT5Config.
      params: the part's dict tree, e.g. of weights.load.
      **arrays: dit: latents [b f h w c], t [b] or [b f] in 0..1000, context [b l d], and optionally
        context_lengths [b] and first_frame [b] bool; vae: either encode, video [b n h w 3] in
        -1..1, or decode, latents [b f h w c]; umt5: ids [b l] int32 and mask [b l].

    Returns:
      dit: velocity [b f h w c]; vae: normalised latents or video; umt5: features [b l d].

    Raises:
      ValueError: an unknown part, or other arrays than these.
    """
    if part not in MODELS:
        raise ValueError(f"wanted a part of {tuple(MODELS)}, got {part!r}")
    given = set(arrays)
    if part == "vae":
        fits = given in ({"encode"}, {"decode"})
    else:
        needed, optional = INPUTS[part]
        fits = needed <= given <= needed | optional
    if not fits:
        wanted = "encode= or decode=" if part == "vae" else f"{INPUTS[part][0]}"
        raise ValueError(f"{part}: wanted {wanted}, got {sorted(given)}")
    return _run(part, config, params, {key: jnp.asarray(x) for key, x in arrays.items()})


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(
    part: str, config: Config, params: dict[str, Any], arrays: dict[str, jax.Array]
) -> jax.Array:
    model = module.bind(network(part, config), config, params)
    if part == "vae":
        ((name, array),) = arrays.items()
        return getattr(model, name)(array)
    if part == "umt5":
        return model(arrays["ids"], arrays["mask"])
    arrays = dict(arrays)
    return model(arrays.pop("latents"), arrays.pop("t"), arrays.pop("context"), **arrays)
