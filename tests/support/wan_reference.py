"""The diffusers WanTransformer3DModel as an oracle, and its parameters under our paths.

diffusers 0.42.1 and the official repository agree to 3e-5 in float32. The official `norm3` is
diffusers' `norm2`. torch is imported inside of the functions only.
"""

import re

import einops
import numpy as np

from syncmv4d_jax.models.wan import config as wan_config

# pattern of a diffusers key -> our path; {n} is the layer.
NAMES = {
    r"patch_embedding": "patch_embedding",
    r"condition_embedder\.text_embedder\.linear_1": "text_embedding/linear_0",
    r"condition_embedder\.text_embedder\.linear_2": "text_embedding/linear_2",
    r"condition_embedder\.time_embedder\.linear_1": "time_embedding/linear_0",
    r"condition_embedder\.time_embedder\.linear_2": "time_embedding/linear_2",
    r"condition_embedder\.time_proj": "time_projection/linear_1",
    r"scale_shift_table": "head/modulation",
    r"proj_out": "head/head",
    r"blocks\.\d+\.scale_shift_table": "blocks/modulation",
    r"blocks\.\d+\.attn1\.to_([qkv])": r"blocks/self_attn/\1",
    r"blocks\.\d+\.attn1\.to_out\.0": "blocks/self_attn/o",
    r"blocks\.\d+\.attn1\.norm_([qk])": r"blocks/self_attn/norm_\1",
    r"blocks\.\d+\.attn2\.to_([qkv])": r"blocks/cross_attn/\1",
    r"blocks\.\d+\.attn2\.to_out\.0": "blocks/cross_attn/o",
    r"blocks\.\d+\.attn2\.norm_([qk])": r"blocks/cross_attn/norm_\1",
    r"blocks\.\d+\.norm2": "blocks/norm3",
    r"blocks\.\d+\.ffn\.net\.0\.proj": "blocks/ffn/linear_0",
    r"blocks\.\d+\.ffn\.net\.2": "blocks/ffn/linear_2",
}


def path_of(key: str) -> str:
    """Returns our path of a diffusers key."""
    module, _, leaf = key.rpartition(".")
    if leaf not in ("weight", "bias"):
        module, leaf = key, ""
    for pattern, path in NAMES.items():
        if match := re.fullmatch(pattern, module):
            path = match.expand(path)
            norm = "norm" in path.rpartition("/")[2]
            names = {"": "", "bias": "/bias", "weight": "/scale" if norm else "/kernel"}
            return path + names[leaf]
    raise KeyError(key)


def from_diffusers(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns {our path: array} of a diffusers state dict (or its gradients), layers stacked."""
    flat: dict[str, np.ndarray] = {}
    stacks: dict[str, dict[int, np.ndarray]] = {}
    for key, value in tensors.items():
        path = path_of(key)
        if value.ndim == 5:
            value = einops.rearrange(value, "d c f h w -> (f h w c) d")
        elif value.ndim == 2:
            value = value.T
        if key.startswith("blocks."):
            stacks.setdefault(path, {})[int(key.split(".")[1])] = value
        else:
            flat[path] = value
    for path, layers in stacks.items():
        flat[path] = np.stack([layers[i] for i in range(len(layers))])
    return flat


def build(config: wan_config.DiTConfig, seed: int):
    """Returns a diffusers model with random parameters, norm scales and modulations included."""
    import torch
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        patch_size=config.patch,
        num_attention_heads=config.heads,
        attention_head_dim=config.d_head,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.layers,
        cross_attn_norm=config.cross_attn_norm,
        eps=config.eps,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.3 * noise)
            elif p.ndim == 1 or "table" in name:
                p.copy_(0.3 * noise)
            else:
                p.copy_(noise * (p[0].numel() ** -0.5))
    return model.eval()


def arrays(model) -> dict[str, np.ndarray]:
    """Returns the parameters of a diffusers model as numpy, under its own keys."""
    return {k: v.detach().numpy() for k, v in model.named_parameters()}


def gradients(model) -> dict[str, np.ndarray]:
    """Returns the gradients of a diffusers model as numpy, under its own keys."""
    return {k: v.grad.numpy() for k, v in model.named_parameters()}


def run(model, latents: np.ndarray, t: np.ndarray, context: np.ndarray):
    """latents [b f h w c], t [b] or [b s], context [b text_len d] -> velocity [b f h w c]."""
    import torch

    x = torch.from_numpy(einops.rearrange(latents, "b f h w c -> b c f h w").copy())
    y = model(x, torch.from_numpy(t), torch.from_numpy(context), return_dict=False)[0]
    return y.permute(0, 2, 3, 4, 1)
