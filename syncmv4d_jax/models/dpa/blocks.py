"""The aligner's super-block, with adaLN-Zero on t around every residual:

    inter-view geometry attention    xCPE, then attention in patches of the union of a frame's views
    coarse-motion cross-attention    xCPE, then queries from M_t to M^ in the same patches
    track attention                  all views and frames of one track ("track"), or left out

The paper fixes the first two, their order and PTv3's sparse convolutions; the rest is ours.
Points of a frame are p = (v k), groups g = (b n).
"""

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.nn import layers
from syncmv4d_jax.models.ptv3 import layers as ptv3

RESIDUALS = 5  # modulated residuals of a super-block


class Embedding(nnx.Module):
    """Linear, GELU, Linear."""

    def __init__(self, d_in: int, d: int, *, rngs: nnx.Rngs):
        self.linear_0 = layers.Linear(d_in, d, rngs=rngs)
        self.linear_1 = layers.Linear(d, d, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [... d_in] -> [... d]."""
        return self.linear_1(jax.nn.gelu(self.linear_0(x), approximate=False))


class CoarseCrossAttention(nnx.Module):
    """Attention from points to the coarse motion of the same patch."""

    def __init__(self, d: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.q = layers.Linear(d, d, rngs=rngs)
        self.kv = layers.Linear(d, 2 * d, rngs=rngs)
        self.proj = layers.Linear(d, d, rngs=rngs)

    def __call__(self, x, coarse, geometry, *, measured, patch, placement):
        """x, coarse: [g p d]; measured: [g p] bool, coarse points to attend to -> [g p d]."""
        q = ptv3.to_patches(self.q(x), geometry, patch=patch)
        kv = ptv3.to_patches(self.kv(coarse), geometry, patch=patch)
        q = einops.rearrange(q, "m s (h d) -> m s h d", h=self.heads)
        k, v = einops.rearrange(kv, "m s (two h d) -> two m s h d", two=2, h=self.heads)
        mask = ptv3.patch_mask(measured, geometry, patch=patch)
        x = placement.attend(q, k, v, mask=mask[:, None, None, :], kind="patches")
        return self.proj(ptv3.from_patches(einops.rearrange(x, "m s h d -> m s (h d)"), geometry))


class TrackAttention(nnx.Module):
    """Attention among all views and frames of one track."""

    def __init__(self, d: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = layers.Linear(d, 3 * d, rngs=rngs)
        self.proj = layers.Linear(d, d, rngs=rngs)

    def __call__(self, x, valid, *, placement):
        """x: [b v n k d]; valid: [b v n k] bool -> [b v n k d]."""
        views, frames, points = x.shape[1:4]
        tracks = einops.rearrange(self.qkv(x), "b v n k d -> (b k) (v n) d")
        q, k, v = einops.rearrange(
            tracks, "g s (three h d) -> three g s h d", three=3, h=self.heads
        )
        mask = einops.rearrange(valid, "b v n k -> (b k) 1 1 (v n)")
        x = placement.attend(q, k, v, mask=mask, kind="tracks")
        pattern = "(b k) (v n) h d -> b v n k (h d)"
        return self.proj(einops.rearrange(x, pattern, k=points, v=views, n=frames))


class SuperBlock(nnx.Module):
    """Inter-view geometry attention, coarse-motion cross-attention, track attention."""

    def __init__(self, config: dpa_config.AlignerConfig, *, rngs: nnx.Rngs):
        d, heads = config.width, config.heads
        self.config = config
        self.modulation = layers.Linear(
            d, RESIDUALS * 3 * d, kernel_init=layers.ZEROS_INIT, rngs=rngs
        )
        self.view_cpe = ptv3.CPE(d, channels=config.cpe_channels, rngs=rngs)
        self.view_attn = ptv3.PatchAttention(d, heads, rngs=rngs)
        self.view_mlp = ptv3.MLP(d, rngs=rngs)
        self.coarse_cpe = ptv3.CPE(d, channels=config.cpe_channels, rngs=rngs)
        self.coarse_attn = CoarseCrossAttention(d, heads, rngs=rngs)
        self.coarse_mlp = ptv3.MLP(d, rngs=rngs)
        if config.temporal == "track":
            self.track_attn = TrackAttention(d, heads, rngs=rngs)

    def __call__(self, x, coarse, context, geometry, *, measured, placement):
        """x: [b v n k d]; coarse: [g p d], g = (b n), p = (v k); context: [b d] -> [b v n k d]."""
        b, v, n, k, _ = x.shape
        patch = self.config.patch
        rows = jnp.split(self.modulation(jax.nn.silu(context)), 3 * RESIDUALS, axis=-1)
        rows = [row[:, None, None, None, :] for row in rows]

        def residual(x, i, step):
            shift, scale, gate = rows[3 * i : 3 * i + 3]
            y = layers.modulate(x, shift, scale, eps=ptv3.EPS).astype(x.dtype)
            return x + (gate * step(y)).astype(x.dtype)

        def by_frame(step):
            def run(x):
                x = einops.rearrange(x, "b v n k d -> (b n) (v k) d")
                return einops.rearrange(step(x), "(b n) (v k) d -> b v n k d", b=b, v=v)

            return run

        def view_attend(y):
            return self.view_attn(y, geometry, patch=patch, placement=placement)

        def coarse_attend(y):
            return self.coarse_attn(
                y, coarse, geometry, measured=measured, patch=patch, placement=placement
            )

        x = x + by_frame(lambda y: self.view_cpe(y, geometry))(x)
        x = residual(x, 0, by_frame(view_attend))
        x = residual(x, 1, self.view_mlp)
        x = x + by_frame(lambda y: self.coarse_cpe(y, geometry))(x)
        x = residual(x, 2, by_frame(coarse_attend))
        x = residual(x, 3, self.coarse_mlp)
        if self.config.temporal == "track":
            valid = einops.rearrange(geometry.valid, "(b n) (v k) -> b v n k", b=b, v=v)
            x = residual(x, 4, lambda y: self.track_attn(y, valid, placement=placement))
        return x
