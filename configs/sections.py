"""The sections that configurations share; what their keys mean stands in run/sections.py."""

import dataclasses
from typing import Any

import ml_collections

from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.run import sections

# Paths of MJD that Wan's checkpoint has, and those that it does not.
WAN_PATHS = (
    r"^dit/(patch_embedding|text_embedding|time_embedding|time_projection|head)/"
    r"|^dit/blocks/(modulation|self_attn|cross_attn|norm3|ffn)"
)
NEW_PATHS = (
    r"^dpa/|^prior/|^dit/(motion_|feedback_|extra_|scale_|action_)"
    r"|^dit/blocks/(inter_view_|motion_|scale_|camera_)"
)


def base() -> ml_collections.ConfigDict:
    """Returns the sections every configuration has, with the values of every key a run can set."""
    config = ml_collections.ConfigDict()
    config.mode = "train"
    config.seed = 0
    config.task = ml_collections.ConfigDict()
    config.weights = {"dit": "", "dpa": "", "prior": "", "vae": ""}
    config.data = dataclasses.asdict(data_config.DataConfig())
    config.text = dataclasses.asdict(sections.TextConfig())
    config.optim = optim()
    config.train = dataclasses.asdict(sections.TrainConfig())
    config.mesh = {"data": 1, "fsdp": -1, "view": 1, "sequence": 1}
    config.sharding = ()
    config.stages = ()
    config.sample = dataclasses.asdict(sections.SampleConfig())
    config.evaluate = dataclasses.asdict(sections.EvaluateConfig())
    config.plan = dataclasses.asdict(sections.PlanConfig())
    config.serve = dataclasses.asdict(sections.ServeConfig())
    return config


def optim(**values: Any) -> dict[str, Any]:
    """Returns the section `optim` with some values set."""
    return dataclasses.asdict(sections.OptimConfig(**values))


def shrink(config: ml_collections.ConfigDict) -> None:
    """Makes a configuration tiny, the same code path: the `:debug` variants."""
    config.task.size, config.task.frames, config.task.points = (32, 48), 5, 32
    config.task.sample_steps, config.task.guidance = 4, 1.0
    config.task.dit = small_dit(dim=48, layers=2, heads=2)
    config.task.dpa = {"width": 32, "heads": 2, "depth": 2, "coarse_blocks": 1,
                       "cpe_channels": 16, "patch": 64}  # fmt: skip
    config.task.vae = small_vae(dim=8, dec_dim=8, z=8)
    config.train.steps, config.train.batch_size = 4, 1
    config.data.name, config.data.cameras, config.data.raw = "embedded", "fixed", True
    config.train.log_every = config.train.checkpoint_every = 2
    config.optim.warmup = 1
    config.stages = ()
    config.sample.count = 1


def small_dit(*, dim: int, layers: int, heads: int) -> dict:
    """Wan's transformer at small numbers: tokens of one latent cell, short text."""
    return {
        "dim": dim, "ffn_dim": 4 * dim, "heads": heads, "layers": layers, "patch": (1, 1, 1),
        "in_channels": 8, "out_channels": 8, "freq_dim": 64, "text_dim": 32, "text_len": 48,
        "dtype": "float32",
    }  # fmt: skip


def small_vae(*, dim: int, dec_dim: int, z: int) -> dict:
    """Wan's autoencoder at small numbers, 4 x 8 x 8."""
    return {
        "z_dim": z, "dim": dim, "dec_dim": dec_dim, "dim_mult": (1, 2, 2),
        "num_res_blocks": 1, "temporal_downsample": (True, True),
    }  # fmt: skip
