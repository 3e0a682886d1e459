"""Makes tiny.npz: a tiny random Wan transformer run by diffusers 0.42.1 (torch 2.13, CPU, float32).

    python tests/golden/wan_dit/make_golden.py

Holds inputs, weights and gradients under our paths (`w:`, `g:`), the T2V output, the output with
t = 0 on latent frame 0 (per-token timesteps), and inputs and outputs of the first block and its
parts. The gradients are those of sum(output * probe) for the T2V run. prims.npz beside it comes
from the official repository at 42bf4cf (rope_params, rope_apply, sinusoidal_embedding_1d,
WanRMSNorm). ti2v_5b_shapes.txt lists the paths and shapes of the real model.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "support"))

import wan_reference as reference  # noqa: E402

from syncmv4d_jax.models.wan import config as wan_config  # noqa: E402


def main() -> None:
    import torch

    config = wan_config.TINY
    rng = np.random.default_rng(0)
    model = reference.build(config, seed=1)
    grid = (3, 2, 3)
    latents = rng.standard_normal((2, 3, 4, 6, config.in_channels), np.float32)
    t = np.array([637.5, 12.0], np.float32)
    context = rng.standard_normal((2, config.text_len, config.text_dim), np.float32)
    lengths = np.array([5, 2], np.int32)
    for row, length in zip(context, lengths, strict=True):
        row[length:] = 0
    probe = rng.standard_normal(latents.shape, np.float32)
    out = {"latents": latents, "t": t, "context": context, "lengths": lengths, "probe": probe}

    def keep(name):
        def hook(_, args, kwargs, result):
            inputs = [*args, *kwargs.values()]
            out[f"first:{name}:in"] = inputs[0].detach().numpy()
            if name == "block":
                out["first:context"] = inputs[1].detach().numpy()
                out["first:time"] = inputs[2].detach().numpy()
            out[f"first:{name}:out"] = result.detach().numpy()

        return hook

    block = model.blocks[0]
    parts = {"block": block, "self_attn": block.attn1, "cross_attn": block.attn2, "ffn": block.ffn}
    handles = [m.register_forward_hook(keep(n), with_kwargs=True) for n, m in parts.items()]
    velocity = reference.run(model, latents, t, context)
    for handle in handles:
        handle.remove()
    out["velocity"] = velocity.detach().numpy()
    (velocity * torch.from_numpy(probe)).sum().backward()
    tokens = np.repeat(t[:, None], np.prod(grid), 1)
    tokens[:, : grid[1] * grid[2]] = 0
    out["velocity_first_frame"] = reference.run(model, latents, tokens, context).detach().numpy()
    for prefix, tensors in (("w", reference.arrays(model)), ("g", reference.gradients(model))):
        for path, value in reference.from_diffusers(tensors).items():
            out[f"{prefix}:{path}"] = value
    np.savez_compressed(HERE / "tiny.npz", **out)
    print({k: v.shape for k, v in out.items() if k[:2] not in ("w:", "g:")})


if __name__ == "__main__":
    main()
