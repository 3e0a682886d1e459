"""What a latent frame of MJD may be told besides the text: its camera, and what a robot does.

    cameras   [R|t], or the ray (direction d, moment o x d) through the middle of each token
    actions   e_f + MLP(a_{4f-4} .. a_{4f-1}),   e_f the time vector of latent frame f > 0      (1)

Latent frame f > 0 holds video frames 4f - 3 .. 4f, so the actions of Eq. 1 are those that lead to
them; latent frame 0 is given, and nothing led to it. A camera is that of the last frame of its
latent frame. Both maps start at zero: a model that is given them begins as the one without.
"""

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax.geometry import cameras as pinhole
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import tokens as token_layout
from syncmv4d_jax.models.nn import layers

STRIDE = 4  # video frames a latent frame


class ActionEmbedding(nnx.Module):
    """Adds the actions of each latent frame to its time vector (Eq. 1)."""

    def __init__(self, config: mjd_config.MJDConfig, *, rngs: nnx.Rngs):
        d = config.dim
        self.first = layers.Linear(STRIDE * config.actions, d, rngs=rngs)
        self.last = layers.Linear(d, d, kernel_init=layers.ZEROS_INIT, rngs=rngs)

    def __call__(
        self, time: jax.Array, actions: jax.Array, acts: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the time vectors of each latent frame, of the video and of the motion.

        Args:
          time: [b 2 d] at t = 0 and t.
          actions: [b n a], n = 4 (f - 1) + 1: what is commanded at each frame.
          acts: [b] bool, whether they count; None: they do.

        Returns:
          [b f d] twice; the video's latent frame 0 is at t = 0, all others are at t.
        """
        rows = einops.rearrange(actions[:, :-1], "b (f four) a -> b f (four a)", four=STRIDE)
        added = self.last(jax.nn.silu(self.first(rows.astype(jnp.float32))))
        if acts is not None:
            added = jnp.where(acts[:, None, None], added, 0.0)
        later = time[:, 1:] + added
        given = jnp.concatenate([time[:, :1], later], 1)
        return given, jnp.concatenate([time[:, 1:], later], 1)


def cameras(
    extrinsics: jax.Array,
    intrinsics: jax.Array | None,
    layout: token_layout.Layout,
    *,
    form: str,
) -> jax.Array:
    """What the blocks read of the cameras.

    Args:
      extrinsics: [b v 3 4], or [b v n 3 4] of cameras that move.
      intrinsics: [b v 3 3] of an image with a pixel a token, for rays.
      form: of config.CAMERA_FORMS.

    Returns:
      Poses [(b v) 1 12] of cameras that stand, else the numbers of each token [(b v) s c]; scale
      and register tokens have those of frame 0, of its middle, and padding has zeros.
    """
    if form == "pose" and extrinsics.ndim == 4:
        return einops.rearrange(extrinsics, "b v i j -> (b v) 1 (i j)")
    f, h, w = layout.grid
    moving = extrinsics if extrinsics.ndim == 5 else extrinsics[:, :, None]
    poses = jnp.broadcast_to(moving[:, :, ::STRIDE], (*extrinsics.shape[:2], f, 3, 4))
    if form == "pose":
        cells = einops.repeat(poses, "b v f i j -> (b v) f p (i j)", p=h * w)
        middle = cells[:, 0, :1]
    else:
        cells = _rays(poses, intrinsics, (h, w))
        middle = cells[:, 0, (h // 2) * w + w // 2][:, None]
    dense = einops.rearrange(cells, "s f p c -> s (f p) c")
    extra = jnp.repeat(middle, layout.extra, axis=1)
    tokens = jnp.concatenate([extra] + [dense] * layout.modalities, 1)
    return jnp.pad(tokens, ((0, 0), (0, layout.pad), (0, 0)))


def _rays(poses: jax.Array, intrinsics: jax.Array | None, size: tuple[int, int]) -> jax.Array:
    """Directions and moments [(b v) f (h w) 6] of poses [b v f 3 4]; metres from the middle of the
    views' first cameras, as the world's origin is anybody's."""
    assert intrinsics is not None  # `MJD` has checked it
    grid = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1).reshape(-1, 2)
    pixels = jnp.broadcast_to(
        jnp.asarray(grid, jnp.float32), (*poses.shape[:3], size[0] * size[1], 2)
    )
    ray = pinhole.directions(pixels, intrinsics, poses)
    eye = pinhole.camera_centre(poses)
    eye = eye - jnp.mean(eye[:, :, :1], axis=1, keepdims=True)
    moment = jnp.cross(jnp.broadcast_to(eye[..., None, :], ray.shape), ray)
    return einops.rearrange(jnp.concatenate([ray, moment], -1), "b v f p c -> (b v) f p c")
