"""The linear start of a small autoencoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae, vae_linear

CONFIG = vae.VAEConfig(
    z_dim=24,
    dim=24,
    dec_dim=24,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
)


def clips():
    """Smooth blobs that drift: [3 5 32 48 3]."""
    y, x = np.mgrid[:32, :48]
    rng = np.random.default_rng(0)
    out = np.zeros((3, 5, 32, 48, 3), np.float32)
    for clip in out:
        for _ in range(3):
            centre, speed = rng.uniform((6, 6), (26, 42)), rng.normal(size=2)
            colour = rng.uniform(-1, 1, 3)
            for n, frame in enumerate(clip):
                cy, cx = centre + n * speed
                frame += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 60)[..., None] * colour
    return jnp.asarray(np.clip(out, -1, 1))


@pytest.mark.slow
def test_starts_as_a_linear_codec():
    video = clips()
    params = module.init(vae.VAE, CONFIG, jax.random.key(0))

    @jax.jit
    def error(params):
        model = module.bind(vae.VAE, CONFIG, params)
        latents = model.encode(video)
        return jnp.mean(jnp.square(model.decode(latents) - video)), jnp.std(latents)

    fitted = jax.jit(lambda p: vae_linear.fit(CONFIG, p, video))(params)
    tree.check_same(params, fitted, wanted_from="init", got_from="fit")
    before, after = error(params)[0], error(fitted)[0]
    assert float(after) < 0.1 * float(before)
    assert float(after) < 0.1 * float(jnp.mean(jnp.square(video)))
    assert 0.5 < float(error(fitted)[1]) < 2.0
    gradients = jax.jit(jax.grad(lambda p: error(p)[0]))(fitted)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradients))
    with pytest.raises(ValueError, match="wanted 5 frames, got 1"):
        vae_linear.fit(CONFIG, params, video[:, :1])
