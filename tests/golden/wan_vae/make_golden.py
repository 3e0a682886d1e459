"""Makes tiny.npz: a tiny random Wan2.2 VAE run by diffusers 0.42.1 (torch 2.13, CPU, float32).

    python tests/golden/wan_vae/make_golden.py

Holds the weights (`w:` our paths), a video of 13 frames, and means and decoded videos of its first
1, 5 and 13 frames. Decoded values are clamped to -1..1 by diffusers.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "support"))

import vae_reference as reference  # noqa: E402

from syncmv4d_jax import tree  # noqa: E402
from syncmv4d_jax.models.wan import vae  # noqa: E402


def main() -> None:
    import torch

    config = vae.TINY
    model = reference.build(config, seed=3)
    video = np.random.default_rng(0).uniform(-1, 1, (1, 13, 16, 24, 3)).astype(np.float32)
    out = {"video": video}
    for name, value in tree.flatten(reference.ours(model.state_dict())).items():
        out[f"w:{name}"] = value
    with torch.no_grad():
        for frames in (1, 5, 13):
            mean = model.encode(reference.first(video[:, :frames])).latent_dist.mean
            out[f"mean_{frames}"] = reference.last(mean)
            out[f"decoded_{frames}"] = reference.last(model.decode(mean).sample)
    np.savez_compressed(HERE / "tiny.npz", **out)
    print({k: v.shape for k, v in out.items() if not k.startswith("w:")})


if __name__ == "__main__":
    main()
