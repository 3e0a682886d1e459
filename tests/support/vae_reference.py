"""The diffusers Wan2.2 VAE at small sizes: builds it, names its weights our way. Needs torch."""

import re

import numpy as np

from syncmv4d_jax import tree
from syncmv4d_jax.models.wan import vae

# Two implementations of the reference differ by 4e-6 single-pass against chunked.
RULES = (
    (r"^quant_conv", "conv1"),
    (r"^post_quant_conv", "conv2"),
    (r"(encoder|decoder)\.conv_in", r"\1.conv1"),
    (r"norm_out\.gamma", "head.norm.gamma"),
    (r"conv_out", "head.conv"),
    (r"mid_block\.resnets\.(\d)", r"middle.resnet_\1"),
    (r"mid_block\.attentions\.0", "middle.attention"),
    (r"down_blocks\.(\d)", r"downsamples_\1"),
    (r"up_blocks\.(\d)", r"upsamples_\1"),
    (r"resnets\.(\d)", r"resnet_\1"),
    (r"(down|up)sampler", "resample"),
    (r"resample\.resample\.1", "resample.conv"),
    (r"conv_shortcut", "shortcut"),
    (r"weight$", "kernel"),
)


def build(config: vae.VAEConfig, *, seed: int):
    """Returns the diffusers model of `config` with every parameter random."""
    import torch
    from diffusers import AutoencoderKLWan

    model = AutoencoderKLWan(
        base_dim=config.dim,
        decoder_base_dim=config.dec_dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
        latents_mean=list(config.latents_mean) or [0.0] * config.z_dim,
        latents_std=list(config.latents_std) or [1.0] * config.z_dim,
        is_residual=True,
        in_channels=3 * config.patch**2,
        out_channels=3 * config.patch**2,
        patch_size=config.patch,
        scale_factor_temporal=config.stride[0],
        scale_factor_spatial=config.stride[1],
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("gamma"):
                p.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                p.copy_(0.3 * noise)
            else:
                p.copy_(noise * p[0].numel() ** -0.5)
    return model


def path(name: str) -> str:
    """Returns our path of a diffusers parameter name."""
    for pattern, ours in RULES:
        name = re.sub(pattern, ours, name)
    return name.replace(".", "/")


def ours(tensors: dict) -> dict:
    """Returns our dict tree for diffusers tensors (weights or gradients)."""
    flat = {}
    for name, value in tensors.items():
        value = np.array(value.detach(), np.float32)
        if name.endswith("gamma"):
            value = value.reshape(-1)
        elif value.ndim > 1:  # [c_out c_in ...] -> [... c_in c_out]
            value = np.moveaxis(value, (0, 1), (-1, -2))
        flat[path(name)] = value
    return tree.unflatten(flat)


def first(x):
    """[b n h w c] numpy -> [b c n h w] torch."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x, np.float32), -1, 1)))


def last(x) -> np.ndarray:
    """[b c n h w] torch -> [b n h w c] numpy."""
    return np.ascontiguousarray(np.moveaxis(x.detach().numpy(), 1, -1))
