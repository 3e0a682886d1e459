"""The sections that configurations share, with the values of every key a run can set."""

import ml_collections

# Paths of MJD that Wan's checkpoint has, and those that it does not.
WAN_PATHS = (
    r"^dit/(patch_embedding|text_embedding|time_embedding|time_projection|head)/"
    r"|^dit/blocks/(modulation|self_attn|cross_attn|norm3|ffn)"
)
NEW_PATHS = (
    r"^dpa/|^prior/|^dit/(motion_|feedback_|extra_|scale_)"
    r"|^dit/blocks/(inter_view_|motion_|scale_|camera_)"
)


def base() -> ml_collections.ConfigDict:
    """Returns the sections every configuration has."""
    config = ml_collections.ConfigDict()
    config.mode = "train"
    config.seed = 0
    config.task = ml_collections.ConfigDict()
    config.weights = {"dit": "", "dpa": "", "prior": "", "vae": ""}
    config.data = {
        "name": "taco",
        "records": "",
        "cache": "",
        "split": "train",
        "fps": 8.0,
        "cameras": "sample",
        "raw": False,
        "latents": False,
        "augment": False,
        "jitter": 0.0,
        "skip_corrupt": False,
        "share": 1.0,
    }
    config.text = {"weights": "", "max_length": 512}
    config.optim = ml_collections.ConfigDict()
    config.train = {
        "steps": 1000,
        "batch_size": 1,
        "log_every": 10,
        "checkpoint_every": 500,
        "keep": 2,
        "new": "",
        "random_frozen": False,
        "frozen_dtype": "float32",
        "sample_every": 0,
        "wandb": "",
        "silence": 20.0,
        "attention": "auto",
        "sequence": "ulysses",
        "export": "",
    }
    config.mesh = {"fsdp": -1}
    config.stages = ()
    config.sample = {
        "split": "test",
        "count": 0,
        "seed": 0,
        "seeds": (),
        "best_of": 1,
        "images": "",
        "prompt": "",
        "prompts": "",
        "negative_prompt": "",
        "name": "",
    }
    config.evaluate = {"samples": "", "split": "test", "features": "", "matcher": ""}
    config.plan = {
        "topologies": (),
        "entries": ("mjd_step", "closed_loop_step", "sample_step"),
        "mesh": (),
        "samples": 1,
        "compiled": 2,
        "until": "whole",
    }
    return config


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
