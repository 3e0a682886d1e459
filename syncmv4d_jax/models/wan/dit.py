"""Wan2.2-TI2V-5B's diffusion transformer.

    x = patches(latents) W_p,  e = MLP(sincos(t)),  e0 = Linear(SiLU(e)) [6 d],
    c = MLP(text padded with zeros to 512 rows)
    per block, with (shift, scale, gate) x 2 = modulation + e0:
        x += gate * SelfAttention(LN(x) (1 + scale) + shift)        `dit_block.Block.attend`, rope
        x += CrossAttention(LN_affine(x), c)                        `cross`, no gate, no mask
        x += gate * FFN(LN(x) (1 + scale) + shift)                  `feed`
    velocity = unpatch(Linear(LN(x) (1 + scale) + shift)), (shift, scale) = head.modulation + e

Layout: latents [b f h w c], channels last; tokens [b s d] with s = (f h w), w fastest. Parameter
names are the reference's (wan/modules/model.py); a numbered layer `x.0` is `x/linear_0`; kernels
are [d_in d_out]; patches are flattened (pf ph pw c) on both sides; blocks are stacked on a leading
layer axis.

The time MLP runs once per distinct t (one, two with a clean first frame, or one per latent frame)
and its vectors are spread over the tokens where they are used; the reference computes it per token.
NOTE(parity): float32 islands are the reference's under autocast (time MLPs, modulation, layer norm,
head, residual stream); `residual_dtype` can lower the stream to the activation dtype, as diffusers
does.
"""

import functools
from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from syncmv4d_jax.models.nn import attention, cpu, layers, protocol, rope
from syncmv4d_jax.models.wan import block as dit_block
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import embeddings

BLOCK_INPUT_NAME = "block_input"


def spread_frames(vectors: jax.Array, grid: tuple[int, int, int]) -> jax.Array:
    """vectors: [b f d] of latent frames -> [b (f h w) d] of tokens."""
    return einops.repeat(vectors, "b f d -> b (f p) d", p=grid[1] * grid[2])


def pad_tokens(x: jax.Array, pad_to: int | None) -> jax.Array:
    """x: [b s d] -> [b pad_to d], zeros at the end; axes of size one are left alone."""
    if pad_to is None or x.shape[1] in (1, pad_to):
        return x
    return jnp.pad(x, ((0, 0), (0, pad_to - x.shape[1]), (0, 0)))


def _choose(chosen: jax.Array, vectors: jax.Array) -> jax.Array:
    """chosen: [b s] bool, vectors: [b 2 d] -> the first of them or the second, [b s d]."""
    if cpu.alone(vectors):
        return cpu.choose(chosen, vectors)
    return jnp.where(chosen[..., None], vectors[:, :1], vectors[:, 1:])


def rematerialise(step: Callable, policy: str) -> Callable:
    """Wraps a block step for the scan with a policy of REMAT.

    "full" keeps only the input of every block; "save_attention" also the attention outputs;
    "offload" moves both to the host (pinned_host) until the backward pass.
    """
    policies = jax.checkpoint_policies
    names = (BLOCK_INPUT_NAME, attention.OUTPUT_NAME)
    if policy == "none":
        return step
    if policy == "full":
        chosen = policies.nothing_saveable
    elif policy == "save_attention":
        chosen = policies.save_only_these_names(attention.OUTPUT_NAME)
    elif policy == "offload":
        chosen = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=list(names),
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        raise ValueError(f"remat: wanted one of {wan_config.REMAT}, got {policy!r}")
    return jax.checkpoint(step, policy=chosen, prevent_cse=False)


class DiT(nnx.Module):
    """The whole network; `block` is the class of its stacked blocks."""

    token_axes = "b s d"  # of the residual stream, for the placement

    def __init__(
        self,
        config: wan_config.DiTConfig,
        block: type[dit_block.Block] = dit_block.Block,
        *,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.patch_embedding = layers.Linear(
            config.patch_size * config.in_channels, config.dim, rngs=rngs
        )
        self.text_embedding = embeddings.TextEmbedding(config, rngs=rngs)
        self.time_embedding = embeddings.TimeEmbedding(config, rngs=rngs)
        self.time_projection = embeddings.TimeProjection(config, rngs=rngs)
        self.blocks = nnx.vmap(lambda r: block(config, rngs=r))(rngs.split(config.layers))
        self.head = embeddings.Head(config, rngs=rngs)

    def __call__(
        self,
        latents: jax.Array,
        t: jax.Array,
        context: jax.Array | dit_block.Keys,
        *,
        context_lengths: jax.Array | None = None,
        first_frame: bool | jax.Array = False,
        pad_to: int | None = None,
        placement: protocol.Placement | None = None,
        blocks: Callable[..., jax.Array] | None = None,
    ) -> jax.Array:
        """Predicts the velocity (noise - data).

        Args:
          latents: [b f h w c_in], f h w multiples of the patch.
          t: [b], or [b f] one per latent frame (after patching in time), in 0..1000, int or float.
          context: [b l d_text], l <= text_len; or what `text_keys` makes of it.
          context_lengths: [b] int; text rows at and beyond it count as zeros (they are attended).
          first_frame: latent frame 0 is a clean image: its tokens get t = 0. True, or [b] bool.
            Needs t [b].
          pad_to: pads the sequence to this many tokens; padding is masked (for even sharding).
          placement: sharding constraints and attention; None = one device.
          blocks: runs in place of `run_blocks`, with the same arguments (models/control.py).

        Returns:
          velocity [b f h w c_out] float32.

        Raises:
          ValueError: shapes that do not fit.
        """
        placement = protocol.LOCAL if placement is None else placement
        x, grid = self.embed(latents, placement=placement)
        tokens = x.shape[1]
        if pad_to is not None and pad_to < tokens:
            raise ValueError(f"dit: {tokens} tokens (grid {grid}) do not fit in pad_to={pad_to}")
        times, spread = self.timing(t, grid, first_frame=first_frame, pad_to=pad_to)
        e = self.time_embedding(times)
        lengths = None
        if pad_to not in (None, tokens):
            lengths = jnp.full((x.shape[0],), tokens, jnp.int32)
        text = context
        if not isinstance(text, dit_block.Keys):
            text = self.text_embedding(text, context_lengths)
        x = (blocks or self.run_blocks)(
            placement.constrain(pad_tokens(x, pad_to), "b s d"),
            text,
            time=self.time_projection(e),
            spread=spread,
            rotation=self.rotation(grid, pad_to=pad_to),
            lengths=lengths,
            placement=placement,
        )
        patches = placement.replicate(self.head)(x, spread(e))[:, :tokens]
        return embeddings.unpatchify(patches, grid, self.config.patch)

    def embed(
        self, latents: jax.Array, *, placement: protocol.Placement = protocol.LOCAL
    ) -> tuple[jax.Array, tuple[int, int, int]]:
        """latents: [b f h w c] -> tokens [b s d] residual dtype and their grid (f, h, w).

        Raises:
          ValueError: wrong channels, or sizes that the patch does not divide.
        """
        config = self.config
        if latents.ndim != 5 or latents.shape[-1] != config.in_channels:
            raise ValueError(
                f"dit: wanted latents [b f h w {config.in_channels}], got {latents.shape}"
            )
        f, h, w = (n // p for n, p in zip(latents.shape[1:4], config.patch, strict=True))
        return self.embed_patches(latents, self.patch_embedding, placement), (f, h, w)

    def embed_patches(
        self, latents: jax.Array, linear: layers.Linear, placement: protocol.Placement
    ) -> jax.Array:
        """latents: [b f h w c] -> their patches through `linear`, [b s d] residual dtype."""
        patches = embeddings.patchify(latents, self.config.patch).astype(self.config.dtype)
        return placement.replicate(linear)(patches).astype(self.config.residual_dtype)

    def rotation(self, grid: tuple[int, int, int], *, pad_to: int | None = None) -> rope.Rotation:
        """Rope tables of a token grid, each [s d_head/2] float32."""
        return rope.rotations(rope.grid_positions(grid, pad_to=pad_to), d_head=self.config.d_head)

    def timing(
        self,
        t: jax.Array,
        grid: tuple[int, int, int],
        *,
        first_frame: bool | jax.Array = False,
        pad_to: int | None = None,
    ) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
        """Returns the distinct timesteps [b j] and `spread`, from [b j d] to tokens [b 1|s d].

        Args:
          t: [b] or [b f]. first_frame, pad_to: see __call__.

        Raises:
          ValueError: t has another shape, or first_frame is given with t [b f].
        """
        flagged = first_frame is not False
        if t.ndim == 2 and t.shape[1] == grid[0] and not flagged:
            return t, lambda vectors: pad_tokens(spread_frames(vectors, grid), pad_to)
        if t.ndim != 1:
            rule = "[b], as first_frame is given" if flagged else f"[b] or [b {grid[0]}]"
            raise ValueError(f"dit: wanted t {rule}, got {t.shape}")
        if not flagged:
            return t[:, None], lambda vectors: vectors
        clean = jnp.broadcast_to(jnp.asarray(first_frame, bool), t.shape)
        total = grid[0] * grid[1] * grid[2] if pad_to is None else pad_to
        in_first = jnp.arange(total) < grid[1] * grid[2]
        chosen = clean[:, None] & in_first[None]
        times = jnp.stack([jnp.zeros_like(t), t], axis=1)
        return times, functools.partial(_choose, chosen)

    def text_keys(
        self,
        context: jax.Array,
        context_lengths: jax.Array | None = None,
        *,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> dit_block.Keys:
        """Returns what all blocks read of a text, [layers b l heads k]: it depends on nothing else.

        Computed once a sample it serves every sampling step, in place of `context`.
        """
        text = self.text_embedding(context, context_lengths)

        def step(_, block):
            return None, placement.gather(block, self.config.dtype).cross_attn.keys(text)

        return jax.lax.scan(step, None, self.blocks)[1]

    def run_blocks(
        self,
        x: jax.Array,
        context: jax.Array | dit_block.Keys,
        *,
        placement,
        each: dict[str, jax.Array] | None = None,
        **inputs: Any,
    ) -> jax.Array:
        """Scans the stacked blocks over x [b s d]; the other inputs are those of a block.

        each: inputs of which every block has its own, [layers ...].
        """
        keys = context if isinstance(context, dit_block.Keys) else None

        def step(x, layer):
            block, keys, own = layer
            # Behind a barrier: else a GPU's backward pass holds a transposed copy of all of them.
            x = jax.lax.optimization_barrier(checkpoint_name(x, BLOCK_INPUT_NAME))
            block = placement.gather(block, self.config.dtype)
            text = context if keys is None else keys
            x = block(x, text, placement=placement, **inputs, **own)
            return placement.constrain(x, self.token_axes), None

        x, _ = jax.lax.scan(
            rematerialise(step, self.config.remat),
            x,
            (self.blocks, keys, each or {}),
            unroll=self.config.unroll,
        )
        return x
