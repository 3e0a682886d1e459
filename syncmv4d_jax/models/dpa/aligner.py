"""The 4D aligner (DPA, Sec. 3.3): flow matching on world tracks given the views' coarse tracks.

    v = DPA(M_t, M^, t)        M- = M_t - t v        L = mean |v - (eps - M)|^2 + Chamfer(M-, M)

Tracks are normalised, X' = (X - centre) / unit, centre from the cameras alone and unit = 0.25 m
(A16). Voxels come from M^, which is bounded at every t; curves alternate between M^ and M_t. The
coarse tracks are first fused in closed form (models.dpa.fusion: errors of each view's scale and
offset, outliers, noise, the rays of frame 0) to one estimate c a track. The network corrects what a
Gaussian of deviation s about c implies: preconditioning as in EDM (Karras et al., 2022), here for
the velocity of rectified flow, with q = s^2 (1-t)^2 + t^2:

    v = (M_t - (1-t) c) (t - (1-t) s^2) / q - c + s / sqrt(q) head(x)

The head is zero at first, so v starts as the Bayes estimate from M_t and c. What the network sees
of M_t is damped towards c where M_t is noise,

    m = c + (1-t) (M_t - (1-t) c)        m = M at t = 0, m = c at t = 1

else it answers the noise with jitter. Without its network (`network=False`) the aligner is c
itself, v = (M_t - c) / t: what M_t holds in sampling is the noise that it began with and what the
same c said before, and to weigh that in would be a draw from the posterior, tracks that jitter.
With `sigma_coarse=None`, v = head(x), and it sees M_t itself. The super-blocks are in
models.dpa.blocks.

The grid's corner is fixed (centre minus half the grid), not the data's minimum: one outlier then
cannot push the scene out of the grid. Whole-cell shifts leave tables alone but move patches.
"""

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax import flow
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.models.dpa import blocks, fusion
from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.nn import layers, protocol
from syncmv4d_jax.models.points import chamfer, serialization, voxel_hash
from syncmv4d_jax.models.ptv3 import layers as ptv3

LIMIT = 16.0  # normalised units: coordinates are clipped here (4 m)
FRAME_FEATURES = 16


def loss(
    velocity: jax.Array,
    *,
    target: jax.Array,
    tracks_t: jax.Array,
    tracks: jax.Array,
    t: jax.Array,
    valid: jax.Array,
    chamfer_weight: float = 1.0,
    placement: protocol.Placement = protocol.LOCAL,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L_DPA: velocity MSE plus Chamfer of the clean estimate, in normalised units.

    Args:
      velocity, target, tracks_t: [b v n k 3]; target = noise - tracks.
      tracks: [b n k 3], the truth.  t: [b].  valid: [b v n k] bool.
      placement: spreads the frames of the Chamfer distance.

    Returns:
      (loss [] float32, {"velocity", "chamfer", "distance"}): distance is the mean error of the
      clean estimate.
    """
    velocity, count = velocity.astype(jnp.float32), jnp.maximum(jnp.sum(valid), 1)
    square = jnp.mean(jnp.square(velocity - target), axis=-1)
    velocity_loss = jnp.sum(jnp.where(valid, square, 0.0)) / count
    clean = tracks_t - world_tracks.like(t, tracks_t) * velocity
    sets = (
        einops.rearrange(clean, "b v n k c -> b n (v k) c"),
        tracks,
        einops.rearrange(valid, "b v n k -> b n (v k)"),
        jnp.any(valid, axis=1),
    )
    # Frame by frame on every device: a loop over cut frames gathers them all in each turn.
    sets = placement.each(lambda _, frame: chamfer.frame(frame), None, sets)
    frames = jnp.maximum(jnp.sum(jnp.any(valid, axis=(1, 3))), 1)
    chamfer_loss = jnp.sum(sets) / frames
    gap = jnp.linalg.norm(jax.lax.stop_gradient(clean) - tracks[:, None], axis=-1)
    distance = jnp.sum(jnp.where(valid, gap, 0.0)) / count
    total = velocity_loss + chamfer_weight * chamfer_loss
    return total, {"velocity": velocity_loss, "chamfer": chamfer_loss, "distance": distance}


def known(confidence: jax.Array) -> jax.Array:
    """Tracks that some view has measured once; nothing can be learned of others. [b v n k]."""
    return jnp.any(confidence > 0, axis=(1, 2), keepdims=True)


class Aligner(nnx.Module):
    """The network; see the module docstring."""

    def __init__(self, config: dpa_config.AlignerConfig, *, rngs: nnx.Rngs):
        d = config.width
        self.config = config
        place = 3 * (1 + 2 * config.octaves)
        given = place + 3 + 3 + 4 + 4 + 6 + FRAME_FEATURES
        self.embed_time = blocks.Embedding(d, d, rngs=rngs)
        self.embed_coarse = blocks.Embedding(given, d, rngs=rngs)
        self.embed_tracks = blocks.Embedding(place + 3 + 3 + given, d, rngs=rngs)
        self.coarse_blocks = nnx.vmap(lambda r: self._coarse_block(config, r))(
            rngs.split(config.coarse_blocks)
        )
        self.blocks = nnx.vmap(lambda r: blocks.SuperBlock(config, rngs=r))(
            rngs.split(config.depth)
        )
        self.modulation = layers.Linear(d, 2 * d, kernel_init=layers.ZEROS_INIT, rngs=rngs)
        self.head = layers.Linear(d, 3, kernel_init=layers.ZEROS_INIT, rngs=rngs)

    @staticmethod
    def _coarse_block(config: dpa_config.AlignerConfig, rngs: nnx.Rngs) -> ptv3.Block:
        return ptv3.Block(
            config.width, config.heads, patch=config.patch, channels=config.cpe_channels, rngs=rngs
        )

    def __call__(
        self,
        tracks_t: jax.Array,
        coarse: jax.Array,
        t: jax.Array,
        *,
        confidence: jax.Array,
        valid: jax.Array,
        rays: jax.Array,
        network: bool = True,
        placement: protocol.Placement | None = None,
    ) -> jax.Array:
        """Returns the velocity of the tracks.

        Args:
          tracks_t: [b v n k 3] noisy tracks, normalised.
          coarse: [b v n k 3] measured tracks, normalised; values that are not finite count as not
            measured.
          t: [b] in 0..1, 1 = noise.
          confidence: [b v n k] in 0..1 of coarse; 0 = not measured.
          valid: [b v n k] bool; False = padding (nothing attends to it). A real point that a view
            has not measured is valid with confidence 0.
          rays: [b v n k 6] from the view's camera through the coarse point, `point_rays`.
          network: False for the closed form alone: M- = c, whatever M_t is.
          placement: sharding and attention kernels; None: one device.

        Returns:
          [b v n k 3] float32.

        Raises:
          ValueError: shapes that do not fit, or no closed form to leave.
        """
        _check(tracks_t, coarse, t, confidence, valid, rays)
        placement = protocol.LOCAL if placement is None else placement
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        tracks_t, coarse, confidence, rays = _sanitise(tracks_t, coarse, confidence, valid, rays)
        ordered = config.temporal == "track"
        anchored = ordered and config.anchored
        fused = fusion.fuse(coarse, confidence, rays, ordered=ordered, anchored=anchored)
        if not network:
            if config.sigma_coarse is None:
                raise ValueError("network=False: an aligner with sigma_coarse=None is all network")
            return (tracks_t - fused.points[:, None]) / flow.bounded_time(t, tracks_t)
        seen = self._damped(tracks_t, fused.points[:, None], t)
        geometry = jax.lax.stop_gradient(self._geometry(fused.aligned, seen, valid))
        measured = einops.rearrange(confidence > 0, "b v n k -> (b n) (v k)")
        x, c = self._embed(seen, confidence, valid, rays, fused)
        context = self.embed_time(layers.sincos(1000 * t, width=config.width)).astype(dtype)
        c = einops.rearrange(c.astype(dtype), "b v n k d -> (b n) (v k) d")

        def encode(c, inputs):
            block, index = inputs
            c = block(c, geometry.along(index % 4), placement=placement)
            return placement.constrain(c, "(b n) any d"), None

        c, _ = jax.lax.scan(
            self._remat(encode), c, (self.coarse_blocks, jnp.arange(config.coarse_blocks))
        )

        def step(x, inputs):
            block, index = inputs
            along = geometry.along(index % 4)
            x = block(x, c, context, along, measured=measured, placement=placement)
            return placement.constrain(x, "b any n k d"), None

        x = x.astype(dtype)
        x, _ = jax.lax.scan(self._remat(step), x, (self.blocks, jnp.arange(config.depth)))
        shift, scale = jnp.split(self.modulation(jax.nn.silu(context)), 2, axis=-1)
        x = layers.modulate(
            x, *(row[:, None, None, None, :] for row in (shift, scale)), eps=ptv3.EPS
        )
        return self._velocity(self.head(x), tracks_t, fused.points[:, None], t)

    def _remat(self, step):
        return jax.checkpoint(step, prevent_cse=False) if self.config.remat else step

    def _velocity(self, head, tracks_t, fused, t):
        s, t = self.config.sigma_coarse, world_tracks.like(t, tracks_t)
        if s is None:
            return head
        q = s**2 * (1 - t) ** 2 + t**2
        base = (tracks_t - (1 - t) * fused) * (t - (1 - t) * s**2) / q - fused
        return base + s * jax.lax.rsqrt(q) * head

    def _damped(self, tracks_t, fused, t):
        """What is seen of M_t; see the module docstring."""
        if self.config.sigma_coarse is None:
            return tracks_t
        rest = 1 - world_tracks.like(t, tracks_t)
        return fused + rest * (tracks_t - rest * fused)

    def _geometry(self, coarse, tracks_t, valid):
        """Voxels of coarse; curves: Hilbert and z, on coarse and seen M_t in turn; per frame."""
        cell, half = self.config.voxel, voxel_hash.CELLS // 2
        coarse, tracks_t, mask = (
            einops.rearrange(x, "b v n k ... -> (b n) (v k) ...") for x in (coarse, tracks_t, valid)
        )
        grid, _ = voxel_hash.quantise(coarse, mask, cell=cell, origin=-half * cell)
        fine, depth = cell / 4, serialization.WORD_DEPTH
        half = 1 << (depth - 1)
        places = [
            voxel_hash.quantise(x, mask, cell=fine, origin=-half * fine, cells=2 * half)[0]
            for x in (coarse, tracks_t)
        ]
        orders = ("hilbert", "z-trans", "hilbert-trans", "z")
        pairs = [
            serialization.permutation(places[i % 2], mask, depth=depth, order=orders[i])
            for i in range(4)
        ]
        order, inverse = (jnp.stack(x) for x in zip(*pairs, strict=True))
        voxels = jax.vmap(voxel_hash.voxelise)(grid, mask)
        table = jax.vmap(voxel_hash.neighbours)(voxels.keys)
        return ptv3.Geometry(voxels, table, order, inverse, mask)

    def _embed(self, tracks_t, confidence, valid, rays, fused):
        """Returns the features of M_t and of the condition, [b v n k d] each."""
        shape, octaves = tracks_t.shape[:4], self.config.octaves
        places = jnp.arange(shape[2]) * (self.config.temporal == "track")
        frames = layers.sincos(places, width=FRAME_FEATURES, period=100.0)
        one = jnp.float32
        parts = [
            _fourier(fused.points, octaves)[:, None],
            fused.extent[:, None, None, None, :3],
            fused.residual,
            jnp.stack(
                [confidence, fused.weight, (confidence > 0).astype(one), valid.astype(one)], -1
            ),
            fused.fit[:, :, None, None],
            rays,
            frames[None, None, :, None],
        ]
        given = jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in parts], -1)
        low = fused.extent[:, None, None, 3:]
        own = [
            _fourier(tracks_t, octaves),
            tracks_t - fused.points[:, None],
            jnp.broadcast_to((fused.points - low)[:, None], tracks_t.shape),
        ]
        return self.embed_tracks(jnp.concatenate([*own, given], -1)), self.embed_coarse(given)


def _fourier(x, octaves):
    """x: [... 3] -> [... 3 (1 + 2 octaves)]: x, then sines and cosines of wavelengths 8 / 2^i."""
    phase = (
        x[..., None]
        * jnp.asarray(np.pi / 4 * 2.0 ** np.arange(octaves), jnp.float32)[(None,) * x.ndim]
    )
    waves = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)
    return jnp.concatenate([x, einops.rearrange(waves, "... c f -> ... (c f)")], axis=-1)


def _sanitise(tracks_t, coarse, confidence, valid, rays):
    """Clips, and turns what is not finite or not valid into "not measured" at the origin."""
    finite = jnp.all(jnp.isfinite(coarse), axis=-1) & jnp.isfinite(confidence) & valid
    confidence = jnp.where(finite, jnp.clip(confidence.astype(jnp.float32), 0.0, 1.0), 0.0)
    coarse = jnp.where((confidence > 0)[..., None], coarse, 0.0)
    tracks_t, rays = (jnp.where(jnp.isfinite(x), x, 0.0) for x in (tracks_t, rays))
    tracks_t, coarse = (jnp.clip(x.astype(jnp.float32), -LIMIT, LIMIT) for x in (tracks_t, coarse))
    return tracks_t, coarse, confidence, rays.astype(jnp.float32)


def _check(tracks_t, coarse, t, confidence, valid, rays):
    lead = tracks_t.shape[:-1]
    got = [x.shape for x in (tracks_t, coarse, t, confidence, valid, rays)]
    if len(lead) != 4 or got != [(*lead, 3), (*lead, 3), lead[:1], lead, lead, (*lead, 6)]:
        raise ValueError(
            "wanted tracks_t, coarse [b v n k 3], t [b], confidence, valid [b v n k], "
            f"rays [b v n k 6]; got {', '.join(map(str, got))}"
        )
