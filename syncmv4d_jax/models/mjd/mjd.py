"""Multi-view joint diffusion (MJD): Wan's transformer denoises video and motion of all views.

Tokens of a view: [scale and register tokens | video | motion], s = 2 + 6 + 2 (f h w) (paper 3.2;
9100 with the 512 text rows at full size). A block is Wan's behind inter-view geometry attention
(Figure 2):

    x += gate * InterView(LN(x) (1 + scale) + shift)   per latent frame, over views, both modalities
    x += gate * SelfAttention(...)                     per view, over time, space, both modalities
    x += CrossAttention(LN(x), text)                   no gate
    x += gate * FFN(...)

so nine modulation vectors a block and modality. Wan's own six come first in every table, the three
of inter-view attention last. Readings (docs/paper.md): A6 scale and register tokens attend with the
views' own tokens and, across views, among themselves, without rope; A7 modalities attend jointly;
A8 the feedback has its own zero-initialised patch embedding; A12 two time projections, three
tables; A13 inter-view attention starts as a copy of self-attention with a zero output projection,
the rope's time slot is the view index; A14 motion tokens carry a zero-initialised domain embedding.

Video latent frame 0 is the reference image at t = 0; motion, scale and register tokens are at t.
"""

import functools
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax.models import reuse
from syncmv4d_jax.models.mjd import block as mjd_block
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import tokens as token_layout
from syncmv4d_jax.models.nn import layers, protocol, rope
from syncmv4d_jax.models.wan import block as dit_block
from syncmv4d_jax.models.wan import dit, embeddings


class Output(NamedTuple):
    """video, motion: [b v f h w c] float32; scale: [b v 2] standardised (None without motion)."""

    video: jax.Array
    motion: jax.Array | None
    scale: jax.Array | None


class MJD(dit.DiT):
    """The joint denoiser of all views."""

    token_axes = "(b v) s d"

    def __init__(self, config: mjd_config.MJDConfig, *, rngs: nnx.Rngs):
        super().__init__(config, mjd_block.MJDBlock, rngs=rngs)
        if not config.joint_motion:
            return
        d, patch = config.dim, config.patch_size * config.in_channels
        self.motion_patch_embedding = layers.Linear(patch, d, rngs=rngs)
        self.motion_embedding = nnx.Param(jnp.zeros((d,), jnp.float32))
        if config.inject == "second_embed":
            self.feedback_embedding = layers.Linear(
                patch, d, use_bias=False, kernel_init=layers.ZEROS_INIT, rngs=rngs
            )
        tokens = jax.random.normal(rngs.params(), (config.extra_tokens, d)) / d**0.5
        self.extra_embedding = nnx.Param(tokens)
        self.motion_time_projection = embeddings.TimeProjection(config, rngs=rngs)
        self.motion_head = embeddings.Head(config, rngs=rngs)
        self.scale_norm = layers.LayerNorm(d, eps=config.eps, rngs=rngs)
        self.scale_head = layers.Linear(d, 1, rngs=rngs)

    def __call__(
        self,
        video: jax.Array,
        motion: jax.Array | None,
        t: jax.Array,
        context: jax.Array | dit_block.Keys,
        *,
        context_lengths: jax.Array | None = None,
        feedback: jax.Array | None = None,
        view_index: jax.Array | None = None,
        extrinsics: jax.Array | None = None,
        hide_motion: bool = False,
        memory: reuse.Memory | None = None,
        reusing: reuse.Rule | None = None,
        placement: protocol.Placement | None = None,
    ) -> Output | tuple[Output, reuse.Memory]:
        """Denoises video and motion latents of all views.

        Args:
          video: [b v f h w c], latent frame 0 is the clean reference.
          motion: [b v f h w c] noisy pseudo-video latents, or None without joint motion.
          t: [b] in 0..1000.
          context: [b l d_text] text features, or what `text_keys` makes of them; context_lengths:
            [b] int.
          feedback: [b v f h w c] latents of the refined motion (zeros: none yet), or None.
          view_index: [b v] int, the time slot of inter-view rope; None: 0..v-1.
          extrinsics: [b v 3 4], needed with camera_embedding only.
          hide_motion: mask motion, scale and register tokens out of attention (tests).
          memory, reusing: of the last sampling step, and when its blocks may stand for this one's.
          placement: see models/nn/attention.py.

        Returns:
          `Output`; with `memory` given also the memory for the next step.

        Raises:
          ValueError: inputs that do not fit the configuration.
        """
        config = self.config
        self._check(video, motion, extrinsics)
        placement = protocol.LOCAL if placement is None else placement
        b, views = video.shape[:2]
        x, layout = self.tokens(video, motion, feedback, placement=placement)
        more = placement.tokens(x.shape[1]) - x.shape[1]
        x, layout = jnp.pad(x, ((0, 0), (0, more), (0, 0))), layout._replace(pad=more)
        video_e = self.time_embedding(jnp.stack([jnp.zeros_like(t), t], 1).astype(jnp.float32))
        motion_time = None
        if config.joint_motion:
            motion_time = self.motion_time_projection(video_e[:, 1:])
        if view_index is None:
            view_index = einops.repeat(jnp.arange(views), "v -> b v", b=b)
        cameras = None
        if config.camera_embedding:
            cameras = einops.rearrange(extrinsics, "b v i j -> (b v) 1 (i j)")
        conditions = mjd_block.Conditions(
            self.time_projection(video_e),
            motion_time,
            self._intra_rotation(layout),
            self._inter_rotation(layout, view_index) if config.multi_view else None,
            cameras,
        )
        text = context
        if not isinstance(context, dit_block.Keys):
            text = self.text_embedding(context, context_lengths)
        static = {"layout": layout, "hide_motion": hide_motion, "placement": placement}
        run = functools.partial(self.run_blocks, context=text, conditions=conditions, **static)
        x = placement.constrain(x, self.token_axes)
        if memory is None:
            return self._heads(run(x), video_e, layout, placement)
        seen = self._first_input(x, conditions, layout, placement)
        x, memory = reuse.step(run, x, seen, memory, rule=reusing)
        return self._heads(x, video_e, layout, placement), memory

    def _first_input(self, x, conditions, layout, placement) -> jax.Array:
        """What the first block's self-attention would read of tokens x: [(b v) s d]."""
        block = jax.tree.map(lambda weights: weights[0], self.blocks)
        shift, scale, *_ = block.vectors(conditions, layout)
        y = layers.modulate(x, shift, scale, eps=self.config.eps).astype(self.config.dtype)
        return placement.constrain(y, self.token_axes)

    def tokens(
        self, video, motion, feedback, *, placement: protocol.Placement = protocol.LOCAL
    ) -> tuple[jax.Array, token_layout.Layout]:
        """Embeds latents [b v f h w c]: tokens [(b v) s d] in the order extra, video, motion.

        Here and at the heads tokens are whole on each device of a sample: parts of uneven length
        are cut badly, and gathered with the whole batch.
        """
        fold = "b v f h w c -> (b v) f h w c"
        x, grid = self.embed(einops.rearrange(video, fold), placement=placement)
        x = placement.constrain(x, "(b v) any d")
        layout = token_layout.Layout(video.shape[1], grid, self.config.extra_tokens, 1)
        if not self.config.joint_motion:
            return x, layout
        literal = self.config.inject == "literal_sum"
        if feedback is not None and literal:
            motion = motion + feedback
        motion = einops.rearrange(motion, fold)
        y = self.embed_patches(motion, self.motion_patch_embedding, placement)
        if feedback is not None and not literal:
            feedback = einops.rearrange(feedback, fold)
            y = y + self.embed_patches(feedback, self.feedback_embedding, placement)
        y = y + self.motion_embedding[...].astype(y.dtype)[None, None]
        y = placement.constrain(y, "(b v) any d")
        extra = einops.repeat(self.extra_embedding[...], "e d -> n e d", n=x.shape[0])
        x = placement.constrain(jnp.concatenate([extra.astype(x.dtype), x, y], 1), "(b v) any d")
        return x, layout._replace(modalities=2)

    def _intra_rotation(self, layout: token_layout.Layout) -> rope.Rotation:
        grid = rope.grid_positions(layout.grid)
        extra, pad = (np.zeros((n, 3), grid.dtype) for n in (layout.extra, layout.pad))
        positions = np.concatenate([extra] + [grid] * layout.modalities + [pad])
        return rope.rotations(positions, d_head=self.config.d_head)

    def _inter_rotation(self, layout: token_layout.Layout, view_index: jax.Array) -> rope.Rotation:
        d_head, (f, h, w), m = self.config.d_head, layout.grid, layout.modalities
        rows = jnp.stack([view_index] + 2 * [jnp.zeros_like(view_index)], -1)
        views = rope.rotations(rows, d_head=d_head)  # [b v d_head/2]
        patch = rope.rotations(rope.grid_positions((1, h, w)), d_head=d_head)  # [p d_head/2]
        # Only the view is looked up while running: a look-up of every token is slow on a TPU.
        joined = rope.join(
            [einops.repeat(x, "b v d -> b v p d", p=h * w) for x in views],
            [einops.repeat(x, "p d -> b v p d", b=len(rows), v=layout.views) for x in patch],
            d_head=d_head,
        )
        return tuple(einops.repeat(x, "b v p d -> (b f) (v m p) d", f=f, m=m) for x in joined)

    def _heads(self, x: jax.Array, e: jax.Array, layout: token_layout.Layout, placement) -> Output:
        """x: [(b v) s d], e: [b 2 d] -> `Output`."""
        first, last = layout.extra, layout.extra + layout.dense
        whole = lambda x: placement.constrain(x, "(b v) any d")  # noqa: E731
        x = whole(x)
        dense = layout._replace(extra=0, modalities=1, pad=0).spread(e, None, None)

        def latents(patches):
            y = embeddings.unpatchify(patches, layout.grid, self.config.patch)
            return einops.rearrange(y, "(b v) f h w c -> b v f h w c", v=layout.views)

        video = latents(whole(placement.replicate(self.head)(whole(x[:, first:last]), dense)))
        if not self.config.joint_motion:
            return Output(video, None, None)
        t = einops.repeat(e[:, 1:], "b one d -> (b v) one d", v=layout.views)
        motion = whole(x[:, last : last + layout.dense])
        motion = latents(whole(placement.replicate(self.motion_head)(motion, t)))
        scale = x[:, : self.config.scale_tokens].astype(jnp.float32)
        scale = self.scale_head(self.scale_norm(scale))
        scale = einops.rearrange(scale, "(b v) two 1 -> b v two", v=layout.views)
        return Output(video, motion, scale)

    def _check(self, video, motion, extrinsics) -> None:
        if video.ndim != 6:
            raise ValueError(f"mjd: wanted video latents [b v f h w c], got {video.shape}")
        if self.config.joint_motion != (motion is not None):
            raise ValueError(
                f"mjd: joint_motion={self.config.joint_motion}, but motion latents are "
                f"{'given' if motion is not None else 'missing'}"
            )
        if motion is not None and motion.shape != video.shape:
            raise ValueError(
                f"mjd: wanted motion latents like the video's {video.shape}, got {motion.shape}"
            )
        if self.config.camera_embedding and extrinsics is None:
            raise ValueError("mjd: camera_embedding needs extrinsics [b v 3 4]")
