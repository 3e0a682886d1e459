"""Details of a given video that its autoencoder loses: taken where a sample agrees with it."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.tasks import video

SHAPE = (1, 2, 3, 12, 12)  # b v n h w


@dataclasses.dataclass(frozen=True)
class Halving:
    """An autoencoder that loses half of every colour."""

    def encode(self, params, pixels):
        return pixels * params["vae"]

    def decode(self, params, latents):
        return latents


def detailed(made, given, share, width=0.1):
    share = jnp.broadcast_to(jnp.asarray(share, jnp.float32), SHAPE)
    return np.asarray(video.detailed(Halving(), jnp.float32(0.5), made, given, share, width))


def given():
    return np.random.default_rng(0).uniform(-0.8, 0.8, (*SHAPE, 3)).astype(np.float32)


def test_a_sample_that_is_all_the_autoencoder_leaves_is_the_given_video():
    g = given()
    np.testing.assert_allclose(detailed(0.5 * g, g, 1), g, atol=1e-6)
    np.testing.assert_allclose(detailed(0.5 * g, g, 0.5), 0.75 * g, atol=1e-6)
    np.testing.assert_array_equal(detailed(0.5 * g, g, 0), 0.5 * g)


def test_the_farther_apart_the_less():
    g = given()
    for apart, width in ((0.1, 0.1), (0.05, 0.1), (0.1, 0.2)):
        made = 0.5 * g + apart
        weight = np.exp(-((apart / width) ** 2))
        np.testing.assert_allclose(
            detailed(made, g, 1, width), made + weight * (g - made), atol=1e-5
        )


def test_agreement_is_of_a_window_over_all_channels():
    g = given()
    made = 0.5 * g
    made[0, 0, 1, 6, 6, 2] += 0.6
    found = detailed(made, g, 1)
    weight = np.ones(SHAPE)
    weight[0, 0, 1, 4:9, 4:9] = np.exp(-((0.6 / 3 / 25 / 0.1) ** 2))
    np.testing.assert_allclose(found, made + weight[..., None] * (g - made), atol=1e-5)
    made[0, 0, 1, 0, 0] += 0.2  # at the border of the picture the window is smaller
    found = detailed(made, g, 1)[0, 0, 1, 0, 0]
    weight = np.exp(-((0.2 / 9 / 0.1) ** 2))
    np.testing.assert_allclose(found, (made + weight * (g - made))[0, 0, 1, 0, 0], atol=1e-5)


def test_what_is_not_given_does_not_blur_what_is():
    """In holes the sample stands for the given video: their colours do not count."""
    g, made = given(), 0.5 * given()
    share = np.ones(SHAPE)
    share[..., 6:] = 0
    made[..., 6:, :] = 0.0  # the halved sample agrees with itself
    hole = g.copy()
    hole[..., 6:, :] = 0.9
    found = detailed(made, hole, share)
    np.testing.assert_allclose(found[..., :6, :], g[..., :6, :], atol=1e-6)
    np.testing.assert_array_equal(found[..., 6:, :], made[..., 6:, :])
