"""SyncMV4D: the multi-view joint diffusion transformer and the aligner in a closed loop."""

from typing import Any

from syncmv4d_jax.configuration import section
from syncmv4d_jax.models import lora, motion_codec, silhouette
from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.nn import protocol
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks.syncmv4d import cycle, task
from syncmv4d_jax.tasks.syncmv4d import options as task_options


def make(config: Any, *, placement: protocol.Placement = protocol.LOCAL) -> task.SyncMV4D:
    """Builds the task from `config.task`: `options.Options`, sections dit, dpa, vae, cycle, lora.

    With a section `codec` the loop uses the learned motion codec (maps.py), with `silhouette` what
    it paints is cut by the reference images' silhouette (`loop.Loop.warp`).
    """
    values = dict(config.task)
    values.pop("name", None)
    codec, cut = values.pop("codec", None), values.pop("silhouette", None)
    if codec:
        codec = section(motion_codec.CodecConfig, codec, "config.task.codec")
    if cut:
        cut = section(silhouette.SilhouetteConfig, cut, "config.task.silhouette")
    parts = {key: values.pop(key, {}) for key in ("dit", "dpa", "vae", "cycle", "lora")}
    return task.SyncMV4D(
        options=section(task_options.Options, values, "config.task"),
        mjd_config=section(mjd_config.MJDConfig, parts["dit"], "config.task.dit"),
        dpa_config=section(dpa_config.AlignerConfig, parts["dpa"], "config.task.dpa"),
        vae_config=vae.released(section(vae.VAEConfig, parts["vae"], "config.task.vae")),
        settings=section(cycle.Settings, parts["cycle"], "config.task.cycle"),
        codec_config=codec or None,
        silhouette_config=cut or None,
        lora_config=section(lora.LoRAConfig, parts["lora"], "config.task.lora"),
        placement=placement,
    )
