"""HVG-3D: videos that follow point clouds and tracks. task.py has the task, `make` builds it."""

from typing import Any

from syncmv4d_jax.configuration import section
from syncmv4d_jax.models import point_condition
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.nn import protocol
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks.hvg3d import network, options, task

SIZES = {"wan": wan_config.DiTConfig, "mjd": mjd_config.MJDConfig}


def make(config: Any, *, placement: protocol.Placement = protocol.LOCAL) -> task.HVG3D:
    """Builds the task from `config.task`: `Options` and sections dit, vae, encoder.

    Raises:
      ValueError: unknown keys, or sizes that do not fit each other.
    """
    values = dict(config.task)
    values.pop("name", None)
    parts = {key: dict(values.pop(key, {})) for key in ("dit", "vae", "encoder")}
    own = section(options.Options, values, "config.task")
    vae_config = vae.released(section(vae.VAEConfig, parts["vae"], "config.task.vae"))
    time, stride = vae_config.stride
    derived = {"out_channels": vae_config.z_dim, "time": time, "stride": stride}
    if given := sorted(derived.keys() & parts["encoder"].keys()):
        raise ValueError(
            f"config.task.encoder: {given} follow from the autoencoder; leave them out"
        )
    encoder = section(
        point_condition.PointConfig, parts["encoder"] | derived, "config.task.encoder"
    )
    made = network.Network(
        options=own,
        dit_config=section(SIZES[own.backbone], parts["dit"], "config.task.dit"),
        vae_config=vae_config,
        point_config=encoder,
        placement=placement,
    )
    return task.HVG3D(network=made)
