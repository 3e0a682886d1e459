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

from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax.models.mjd import block as mjd_block
from syncmv4d_jax.models.mjd import conditions
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import tokens as token_layout
from syncmv4d_jax.models.nn import layers, protocol, rope
from syncmv4d_jax.models.wan import block as dit_block
from syncmv4d_jax.models.wan import dit, embeddings


class Inputs(NamedTuple):
    """What is denoised, and what of the views goes with it.

    latents: [b v f h w c] of the video; latent frame 0 is the clean reference, but of `hidden`.
    motion_latents: [b v f h w c] noisy, of the pseudo video; None without joint motion.
    t: [b] in 0..1000.
    feedback: [b v f h w c] latents of the refined motion (zeros: none yet), or None.
    view_index: [b v] int, the time slot of inter-view rope; None: 0..v-1.
    extrinsics: [b v 3 4], or of cameras that move [b v n 3 4], n = 4 (f - 1) + 1; needed with
      camera_embedding only.
    intrinsics: [b v 3 3] of an image with a pixel a token, needed for its rays only.
    actions: [b n a], needed with actions only.  acts: [b] bool, whether they count; None: they do.
    hidden: [b v] bool, views without a reference, whose frame 0 is noisy, at t; None: none.
    """

    latents: jax.Array
    motion_latents: jax.Array | None
    t: jax.Array
    feedback: jax.Array | None = None
    view_index: jax.Array | None = None
    extrinsics: jax.Array | None = None
    intrinsics: jax.Array | None = None
    actions: jax.Array | None = None
    acts: jax.Array | None = None
    hidden: jax.Array | None = None


class Text(NamedTuple):
    """Features [b l d_text] and how many of their rows count, [b] int; None: all."""

    features: jax.Array
    lengths: jax.Array | None = None


class Times(NamedTuple):
    """Embeddings of time. video: [b 2 d] of t = 0 and t; motion: [b 1 d] of t; with actions both
    are [b f d], those of each latent frame."""

    video: jax.Array
    motion: jax.Array


class Tokens(NamedTuple):
    """Embedded inputs: x [(b v) s d], and what blocks and heads read beside it.

    text: [b l d] embedded, or keys of all blocks.
    """

    x: jax.Array
    text: jax.Array | dit_block.Keys
    conditions: mjd_block.Conditions
    layout: token_layout.Layout
    time: Times


class Output(NamedTuple):
    """velocity, motion_velocity: [b v f h w c] float32; scale: [b v 2] standardised.

    The latter two are None without motion. A task may train the heads to give clean latents.
    """

    velocity: jax.Array
    motion_velocity: jax.Array | None
    scale: jax.Array | None


class MJD(dit.DiT):
    """The joint denoiser of all views."""

    config: mjd_config.MJDConfig
    token_axes = "(b v) s d"

    def __init__(self, config: mjd_config.MJDConfig, *, rngs: nnx.Rngs):
        super().__init__(config, mjd_block.MJDBlock, rngs=rngs)
        if config.actions:
            self.action_embedding = conditions.ActionEmbedding(config, rngs=rngs)
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

    def __call__(  # type: ignore[override]  # all views and modalities, where Wan has one video
        self,
        inputs: Inputs,
        text: Text | dit_block.Keys,
        *,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> Output:
        """Denoises video and motion latents of all views.

        Args:
          text: or what `text_keys` makes of it.

        Raises:
          ValueError: inputs that do not fit the configuration.
        """
        tokens = self.prepare(inputs, text, placement=placement)
        return self.read(self.run(tokens, placement=placement), tokens, placement=placement)

    def prepare(
        self,
        inputs: Inputs,
        text: Text | dit_block.Keys,
        *,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> Tokens:
        """Embeds inputs, time and text; see `__call__`."""
        config, t = self.config, inputs.t
        self._check(inputs)
        with jax.named_scope("tokens"):
            x, layout = self.tokens(
                inputs.latents, inputs.motion_latents, inputs.feedback, placement=placement
            )
        more = placement.tokens(x.shape[1]) - x.shape[1]
        x, layout = jnp.pad(x, ((0, 0), (0, more), (0, 0))), layout._replace(pad=more)
        video_e = self.time_embedding(jnp.stack([jnp.zeros_like(t), t], 1).astype(jnp.float32))
        motion_e = video_e[:, 1:]
        if config.actions:
            assert inputs.actions is not None  # `_check`
            video_e, motion_e = self.action_embedding(video_e, inputs.actions, inputs.acts)
        motion_time = None
        if config.joint_motion:
            motion_time = self.motion_time_projection(motion_e)
        view_index = inputs.view_index
        if view_index is None:
            view_index = einops.repeat(jnp.arange(layout.views), "v -> b v", b=len(t))
        cameras = None
        if config.camera_embedding:
            assert inputs.extrinsics is not None  # `_check`
            cameras = conditions.cameras(
                inputs.extrinsics, inputs.intrinsics, layout, form=config.camera_form
            )
            if cameras.shape[1] > 1:
                cameras = placement.constrain(cameras, self.token_axes)
        given = mjd_block.Conditions(
            self.time_projection(video_e),
            motion_time,
            self._intra_rotation(layout),
            self._inter_rotation(layout, view_index) if config.multi_view else None,
            cameras,
            inputs.hidden,
        )
        known = text if isinstance(text, dit_block.Keys) else self.text_embedding(*text)
        x = placement.constrain(x, self.token_axes)
        return Tokens(x, known, given, layout, Times(video_e, motion_e))

    def run(self, tokens: Tokens, *, placement: protocol.Placement = protocol.LOCAL) -> jax.Array:
        """Runs the blocks: x [(b v) s d] -> the same. Reuse of a step goes around this."""
        given: dict[str, Any] = {"conditions": tokens.conditions, "layout": tokens.layout}
        return self.run_blocks(tokens.x, tokens.text, placement=placement, **given)

    def first_input(
        self, tokens: Tokens, *, placement: protocol.Placement = protocol.LOCAL
    ) -> jax.Array:
        """What the first block's self-attention would read: [(b v) s d]; for models/reuse.py."""
        block = jax.tree.map(lambda weights: weights[0], self.blocks)
        shift, scale, *_ = block.vectors(tokens.conditions, tokens.layout)
        y = layers.modulate(tokens.x, shift, scale, eps=self.config.eps)
        return placement.constrain(y.astype(self.config.dtype), self.token_axes)

    @jax.named_scope("heads")
    def read(
        self, x: jax.Array, tokens: Tokens, *, placement: protocol.Placement = protocol.LOCAL
    ) -> Output:
        """Reads the velocities and the scale off x [(b v) s d], made of `tokens` by the blocks."""
        e, layout = tokens.time.video, tokens.layout
        first, last = layout.extra, layout.extra + layout.dense
        whole = lambda x: placement.constrain(x, "(b v) any d")  # noqa: E731
        x = whole(x)
        dense = layout._replace(extra=0, modalities=1, pad=0).spread(
            e, None, None, tokens.conditions.hidden
        )

        def latents(patches):
            y = embeddings.unpatchify(patches, layout.grid, self.config.patch)
            return einops.rearrange(y, "(b v) f h w c -> b v f h w c", v=layout.views)

        velocity = latents(whole(placement.replicate(self.head)(whole(x[:, first:last]), dense)))
        if not self.config.joint_motion:
            return Output(velocity, None, None)
        t = einops.repeat(tokens.time.motion, "b f d -> (b v) f d", v=layout.views)
        if t.shape[1] > 1:
            t = einops.repeat(t, "b f d -> b (f p) d", p=layout.dense // layout.grid[0])
        motion = whole(x[:, last : last + layout.dense])
        motion = latents(whole(placement.replicate(self.motion_head)(motion, t)))
        scale = x[:, : mjd_config.SCALE_TOKENS].astype(jnp.float32)
        scale = self.scale_head(self.scale_norm(scale))
        scale = einops.rearrange(scale, "(b v) two 1 -> b v two", v=layout.views)
        return Output(velocity, motion, scale)

    def tokens(
        self,
        latents: jax.Array,
        motion: jax.Array | None,
        feedback: jax.Array | None,
        *,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> tuple[jax.Array, token_layout.Layout]:
        """Embeds latents [b v f h w c]: tokens [(b v) s d] in the order extra, video, motion.

        Here and at the heads tokens are whole on each device of a sample: parts of uneven length
        are cut badly, and gathered with the whole batch.
        """
        fold = "b v f h w c -> (b v) f h w c"
        x, grid = self.embed(einops.rearrange(latents, fold), placement=placement)
        x = placement.constrain(x, "(b v) any d")
        layout = token_layout.Layout(latents.shape[1], grid, self.config.extra_tokens, 1)
        if motion is None:
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
        cos, sin = (einops.repeat(x, "b v p d -> (b f) (v m p) d", f=f, m=m) for x in joined)
        return cos, sin

    def _check(self, inputs: Inputs) -> None:
        latents, motion = inputs.latents, inputs.motion_latents
        if latents.ndim != 6:
            raise ValueError(f"mjd: wanted video latents [b v f h w c], got {latents.shape}")
        if self.config.joint_motion != (motion is not None):
            raise ValueError(
                f"mjd: joint_motion={self.config.joint_motion}, but motion latents are "
                f"{'given' if motion is not None else 'missing'}"
            )
        if motion is not None and motion.shape != latents.shape:
            raise ValueError(
                f"mjd: wanted motion latents like the video's {latents.shape}, got {motion.shape}"
            )
        if self.config.camera_embedding and inputs.extrinsics is None:
            raise ValueError("mjd: camera_embedding needs extrinsics [b v 3 4] or [b v n 3 4]")
        if inputs.hidden is not None and self.config.actions:
            raise ValueError("mjd: wanted a reference of every view beside actions, got `hidden`")
        rays = self.config.camera_embedding and self.config.camera_form == "rays"
        if rays and inputs.intrinsics is None:
            raise ValueError("mjd: rays of cameras need intrinsics [b v 3 3]")
        if self.config.actions:
            wanted = (latents.shape[0], 4 * (latents.shape[2] - 1) + 1, self.config.actions)
            got = None if inputs.actions is None else inputs.actions.shape
            if got != wanted:
                raise ValueError(f"mjd: wanted actions [b n a] {wanted}, got {got}")
