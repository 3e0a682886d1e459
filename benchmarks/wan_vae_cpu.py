"""Wan2.2's VAE on CPU against diffusers (torch): forward, and forward with gradients.

    python benchmarks/wan_vae_cpu.py [--full] [--rounds 3]

Prints `name ours peer ratio`, best of interleaved runs in milliseconds, compilation not counted.
The default is half of the real widths (80/128, a quarter of the weights); --full takes the real
ones (2.8 GB of weights on each side). Both sides compute the same clip, 5 x 32 x 48, in float32;
ours at once, diffusers in its chunks.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import timing  # noqa: E402
import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import vae_reference as reference  # noqa: E402

from syncmv4d_jax.models.nn import module  # noqa: E402
from syncmv4d_jax.models.wan import vae  # noqa: E402


def pairs(config: vae.VAEConfig, model, params: dict) -> dict:
    """Returns {name: (ours, peer)}, functions that run to the end."""
    video = np.random.default_rng(0).uniform(-1, 1, (1, 5, 32, 48, 3)).astype(np.float32)
    latents = np.random.default_rng(1).standard_normal((1, 2, 2, 3, config.z_dim), np.float32)
    ours = {
        "encode": (lambda p, x: module.bind(vae.VAE, config, p).moments(x)[0], video),
        "decode": (lambda p, x: module.bind(vae.VAE, config, p).decode(x), latents),
    }
    peers = {
        "encode": lambda x: model.encode(x).latent_dist.mean,
        "decode": lambda x: model.decode(x).sample,
    }
    result = {}
    for name, (function, x) in ours.items():
        forward = jax.jit(function)
        both = jax.jit(jax.value_and_grad(lambda p, x, f=function: (f(p, x) ** 2).mean()))
        tensor, peer = reference.first(x), peers[name]

        def torch_forward(peer=peer, tensor=tensor):
            with torch.no_grad():
                peer(tensor)

        def torch_both(peer=peer, tensor=tensor):
            model.zero_grad()
            (peer(tensor) ** 2).mean().backward()

        result[f"vae_{name}_forward"] = (
            lambda f=forward, x=x: jax.block_until_ready(f(params, x)),
            torch_forward,
        )
        result[f"vae_{name}_forward_backward"] = (
            lambda f=both, x=x: jax.block_until_ready(f(params, x)),
            torch_both,
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    config = vae.VAEConfig() if options.full else vae.VAEConfig(dim=80, dec_dim=128)
    model = reference.build(config, seed=0)
    params = jax.tree.map(jax.numpy.asarray, reference.ours(model.state_dict()))
    for name, (ours, peer) in pairs(config, model, params).items():
        times = timing.interleaved({"ours": ours, "peer": peer}, options.rounds, steady=True)
        timing.row(name, 1e3 * times["ours"].best, 1e3 * times["peer"].best)


if __name__ == "__main__":
    main()
