"""A block of MJD: Wan's behind inter-view geometry attention; mjd.py has the formulas."""

from collections.abc import Sequence
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import tokens as token_layout
from syncmv4d_jax.models.nn import layers, protocol, rope
from syncmv4d_jax.models.wan import block as dit_block


class Conditions(NamedTuple):
    """What every block reads beside the tokens and the text.

    video_time: [b 2 6 d] projections at t = 0 and t.   motion_time: [b 1 6 d] at t. With actions
    of each latent frame both are [b f 6 d].
    intra_rotation: tables [s d_head/2].                inter_rotation: tables [(b f) s d_head/2].
    cameras: [(b v) 1 12], or of each token [(b v) s 12 or 6], or None.
    hidden: [b v] bool, views whose video frame 0 is noisy, at t; None: none.
    """

    video_time: jax.Array
    motion_time: jax.Array | None
    intra_rotation: rope.Rotation
    inter_rotation: rope.Rotation | None
    cameras: jax.Array | None
    hidden: jax.Array | None = None


class MJDBlock(dit_block.Block):
    """Wan's block behind inter-view geometry attention, modulated per modality."""

    config: mjd_config.MJDConfig

    def __init__(self, config: mjd_config.MJDConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        d = config.dim
        if config.multi_view:
            self.inter_view_attn = dit_block.Attention(config, rngs=rngs)
            self.inter_view_modulation = nnx.Param(jnp.zeros((1, 3, d), jnp.float32))
            if config.camera_embedding:
                numbers = mjd_config.CAMERA_FORMS[config.camera_form]
                self.camera_embedding = layers.Linear(
                    numbers, d, kernel_init=layers.ZEROS_INIT, rngs=rngs
                )
        if config.joint_motion:
            self.motion_modulation = nnx.Param(jnp.zeros((1, 9, d), jnp.float32))
            self.scale_modulation = nnx.Param(jnp.zeros((1, 9, d), jnp.float32))

    def __call__(  # type: ignore[override]  # other steps than Wan's, between the same parts
        self,
        x: jax.Array,
        context: jax.Array | dit_block.Keys,
        *,
        conditions: Conditions,
        layout: token_layout.Layout,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> jax.Array:
        """x: [(b v) s d] residual dtype; context: text [b l d] or its keys -> [(b v) s d]."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate, *inter = self.vectors(
            conditions, layout
        )
        if self.config.multi_view:
            x = self.inter_view(x, inter, conditions, layout, placement)
        x = self.attend(
            x,
            shift=shift,
            scale=scale,
            gate=gate,
            rotation=conditions.intra_rotation,
            lengths=jnp.full(len(x), layout.tokens - layout.pad) if layout.pad else None,
            placement=placement,
        )
        x = self.cross(x, context, placement=placement)
        return self.feed(x, shift=ffn_shift, scale=ffn_scale, gate=ffn_gate)

    @jax.named_scope("modulation")
    def vectors(self, conditions: Conditions, layout: token_layout.Layout) -> list[jax.Array]:
        """The modulation vectors of all tokens, 6 or 9 of [(b v) s d] float32 (A12)."""
        video = self.modulation[...][None] + conditions.video_time
        motion: jax.Array | None = None
        extra: jax.Array | None = None
        if self.config.multi_view:
            rows = self.inter_view_modulation[...][None] + conditions.video_time[:, :, :3]
            video = jnp.concatenate([video, rows], 2)
        if conditions.motion_time is not None:  # joint motion
            time = conditions.motion_time
            time = jnp.concatenate([time, time[:, :, :3]], 2)
            motion = self.motion_modulation[...][None] + time
            extra = self.scale_modulation[...][None] + time[:, :1]

        def pick(table: jax.Array | None, i: int) -> jax.Array | None:
            return None if table is None else table[:, :, i]

        return [
            layout.spread(video[:, :, i], pick(motion, i), pick(extra, i), conditions.hidden)
            for i in range(video.shape[2])
        ]

    @jax.named_scope("inter_view_attention")
    def inter_view(
        self,
        x: jax.Array,
        vectors: Sequence[jax.Array],
        conditions: Conditions,
        layout: token_layout.Layout,
        placement: protocol.Placement,
    ) -> jax.Array:
        """x + gate * inter_view_attn(modulate(x)): per latent frame over views and modalities.

        vectors: shift, scale and gate of the tokens.
        """
        shift, scale, gate = vectors
        y = layers.modulate(x, shift, scale, eps=self.config.eps).astype(self.config.dtype)
        if conditions.cameras is not None:  # of a camera embedding
            y = y + self.camera_embedding(conditions.cameras.astype(y.dtype))
        v, e = layout.views, layout.extra
        # All tokens of some heads, instead of all heads of some: what follows moves tokens.
        qkv = [placement.heads(a) for a in self.inter_view_attn.project(y, y)]
        # Reordered by head: then tokens are no tiled axis, and a TPU moves whole rows.
        sizes = {"v": v, "m": layout.modalities, "f": layout.grid[0]}
        tokens, frames = "(b v) (m f p) h d", "(b f) (v m p) h d"
        last = e + layout.modalities * layout.dense
        dense = [einops.rearrange(a[:, e:last], f"{tokens} -> {frames}", **sizes) for a in qkv]
        if conditions.inter_rotation is not None:
            dense[:2] = (rope.apply(a, conditions.inter_rotation) for a in dense[:2])
        q, k, values = dense
        z = placement.attend(q, k, values, kind="inter")
        z = einops.rearrange(z, f"{frames} -> {tokens}", **sizes)
        if e:
            q, k, values = (
                einops.rearrange(a[:, :e], "(b v) e h d -> b (v e) h d", v=v) for a in qkv
            )
            extra = placement.attend(q, k, values, kind="extra")
            extra = einops.rearrange(extra, "b (v e) h d -> (b v) e h d", v=v)
            z = jnp.concatenate([extra, z], 1)
        z = jnp.pad(z, ((0, 0), (0, layout.pad), (0, 0), (0, 0))) if layout.pad else z
        z = placement.constrain(z, "(b v) s h d")
        return self.add(x, self.inter_view_attn.join(z), gate)
