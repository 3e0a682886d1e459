"""Makes loop.npz: image to video by diffusers 0.42.1 (torch 2.13, CPU, float32), tiny.

    python tests/golden/wan_ti2v/make_golden.py

The networks are those of ../wan_dit/tiny.npz and ../wan_vae/tiny.npz (the same seeds), with other
latent statistics. Holds the image (uint8), texts, the image's latents, the latents after six UniPC
steps of the official schedule with guidance 5, and the decoded video (clamped to -1..1). The noise
is that of the task: jax.random.normal(jax.random.key(SEED), (b, v, f, h, w, c)).
"""

import sys
from pathlib import Path

import jax
import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "support")]

import ti2v_reference  # noqa: E402
import vae_reference  # noqa: E402
import wan_reference  # noqa: E402

from syncmv4d_jax.models.wan import config as wan_config  # noqa: E402
from syncmv4d_jax.models.wan import vae  # noqa: E402

SEED, STEPS, GUIDANCE = 7, 6, 5.0
MEAN, STD = (0.1, -0.2, 0.3, 0.05), (0.8, 1.3, 0.6, 1.1)


def main() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 48, 3), np.uint8)
    texts = rng.standard_normal((2, wan_config.TINY.text_len, wan_config.TINY.text_dim), np.float32)
    lengths = np.array([6, 3], np.int32)
    for row, length in zip(texts, lengths, strict=True):
        row[length:] = 0
    noise = jax.random.normal(jax.random.key(SEED), (1, 1, 3, 4, 6, vae.TINY.z_dim))
    first, latents, video = ti2v_reference.image_to_video(
        wan_reference.build(wan_config.TINY, seed=1),
        vae_reference.build(vae.TINY, seed=3),
        image=image[None, None].astype(np.float32) / 127.5 - 1,
        noise=np.array(noise[:, 0]),
        texts=texts,
        kind="unipc",
        steps=STEPS,
        guidance=GUIDANCE,
        mean=MEAN,
        std=STD,
    )
    out = {"image": image, "texts": texts, "lengths": lengths, "first": first, "latents": latents}
    np.savez_compressed(HERE / "loop.npz", **out, video=video.astype(np.float16))
    print({key: (x.shape, float(np.abs(x).max())) for key, x in out.items()}, video.shape)


if __name__ == "__main__":
    main()
