"""A trainable branch beside a frozen transformer: copies of its blocks that read conditions too.

    c = patches [z_t, Z_points, Z_tracking] W + b
    for every group j of `stride` blocks of the backbone:
        x = block_{j stride}(x);   c = copy_j(c);   x += scale zero_j(c)
        x = the group's other blocks (x)

copy_j starts as block_{j stride}, zero_j at zero, W with the backbone's rows for z_t and zero rows
for the conditions: an untrained branch changes nothing, and the copies start on what they know
(Zhang et al. 2023, arXiv:2302.05543). Gradients reach the zero maps in the first update, then the
rows, then what made the conditions. c is passed on as the copies leave it. Times, text embedding
and rope are the backbone's.

A branch that copies (`ControlConfig.copies`, a reading of our own) also answers for itself, with
g, r = patches of Linear(LN(c)), zero at first:

    x_0 = x_0 of the backbone + scale (g (Z_tracking - x_0 of the backbone) + r)

The backbone is Wan's transformer or MJD. Of MJD the branch sees the video tokens of each view by
themselves and adds to these; views meet in the backbone's blocks. All groups are one scan over
stacked leaves, rematerialised group by group.
"""

import dataclasses
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import layers, module, protocol
from syncmv4d_jax.models.wan import block as dit_block
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit, embeddings

Array = jax.Array
PARTS = 3  # noisy latents, points, tracking


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """A branch of a backbone.

    Attributes:
      stride: backbone blocks for each copy.
      copies: whether the branch answers for itself, what to copy of the tracking video's latents
        and what to add (`ControlBranch.answer`).
    """

    backbone: wan_config.DiTConfig = wan_config.TI2V_5B
    stride: int = 1
    copies: bool = False

    def __post_init__(self):
        if self.stride < 1 or self.backbone.layers % self.stride:
            raise ValueError(
                f"control stride: wanted one that divides the backbone's {self.backbone.layers} "
                f"blocks, got {self.stride}"
            )

    @property
    def blocks(self) -> int:
        """Copies."""
        return self.backbone.layers // self.stride


class Answer(NamedTuple):
    """Shares of the tracking video's latents that are copied, and what is added."""

    share: Array
    added: Array

    def apply(self, clean: Array, tracking: Array, scale: Array | float) -> Array:
        """Returns clean latents with the answer; all of one shape."""
        return clean + scale * (self.share * (tracking - clean) + self.added)


class ControlBlock(dit_block.Block):
    """A copy of a backbone's block, and the map of what it adds."""

    def __init__(self, config: wan_config.DiTConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.zero = layers.Linear(config.dim, config.dim, kernel_init=layers.ZEROS_INIT, rngs=rngs)


class ControlBranch(nnx.Module):
    """The trainable branch."""

    def __init__(self, config: ControlConfig, *, rngs: nnx.Rngs):
        own = config.backbone
        self.config = config
        self.patch_embedding = layers.Linear(
            own.patch_size * PARTS * own.in_channels, own.dim, rngs=rngs
        )
        self.blocks = nnx.vmap(lambda r: ControlBlock(own, rngs=r))(rngs.split(config.blocks))
        if config.copies:
            self.answer_norm = layers.LayerNorm(own.dim, rngs=rngs)
            self.answer_head = layers.Linear(
                own.dim, 2 * own.patch_size * own.in_channels, kernel_init=layers.ZEROS_INIT,
                rngs=rngs,
            )  # fmt: skip

    def text_keys(
        self, text: Array, *, placement: protocol.Placement = protocol.LOCAL
    ) -> dit_block.Keys:
        """What the copies read of a text that the backbone has embedded [b l d], see
        `DiT.text_keys`: [blocks b l heads k].
        """

        def step(_, block):
            return None, placement.gather(block, self.config.backbone.dtype).cross_attn.keys(text)

        return jax.lax.scan(step, None, self.blocks)[1]

    def answer(
        self,
        c: Array,
        grid: tuple[int, int, int],
        *,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> Answer:
        """Reads what is copied and added off the branch's tokens c [b s d] of a grid (f, h, w).

        Returns:
          latents [b f' h' w' c] float32, both.
        """
        head = placement.replicate(self.answer_head)
        patches = head(self.answer_norm(c)).astype(jnp.float32)
        both = embeddings.unpatchify(patches, grid, self.config.backbone.patch)
        return Answer(*jnp.split(both, 2, axis=-1))


class Stream(NamedTuple):
    """What a stack of blocks is given.

    x: [b s d] residual dtype. text: embedded [b l d], or its keys in all blocks. inputs: the other
    arguments of a block.
    """

    x: Array
    text: Array | dit_block.Keys
    inputs: dict[str, Any]


def run(
    model: dit.DiT,
    branch: ControlBranch,
    own: Stream,
    control: Stream,
    *,
    scale: Array | float = 1.0,
    first: int = 0,
    placement: protocol.Placement = protocol.LOCAL,
) -> tuple[Array, Array]:
    """Runs the backbone's blocks with the branch beside them, in place of `DiT.run_blocks`.

    Args:
      model: Wan's transformer or MJD.
      own: of the backbone.
      control: of the branch; its x are as many tokens as it adds to.
      scale: of what is added.
      first: the backbone's token that the branch's first one is added to.

    Returns:
      Both streams [b s d], the backbone's and the branch's, residual dtype.
    """
    config, stride = branch.config.backbone, branch.config.stride
    rest = own.x.shape[1] - first - control.x.shape[1]

    def step(carry, group):
        # Named, and behind a barrier, as in `DiT.run_blocks`.
        carry = tuple(checkpoint_name(part, dit.BLOCK_INPUT_NAME) for part in carry)
        x, c = jax.lax.optimization_barrier(carry)
        blocks, keys, copy, copy_keys = group
        for i in range(stride):
            block, key = jax.tree.map(lambda leaf, i=i: leaf[i], (blocks, keys))
            block = placement.gather(block, config.dtype)
            text = own.text if key is None else key
            x = placement.constrain(
                block(x, text, placement=placement, **own.inputs), model.token_axes
            )
            if i:
                continue
            copy = placement.gather(copy, config.dtype)
            text = control.text if copy_keys is None else copy_keys
            c = copy(c, text, placement=placement, **control.inputs)
            c = placement.constrain(c, model.token_axes)
            added = scale * copy.zero(c.astype(config.dtype)).astype(jnp.float32)
            added = jnp.pad(added, ((0, 0), (first, rest), (0, 0)))
            x = (x.astype(jnp.float32) + added).astype(config.residual_dtype)
        return (x, c), None

    grouped = lambda leaf: einops.rearrange(leaf, "(g j) ... -> g j ...", j=stride)  # noqa: E731
    groups = (
        jax.tree.map(grouped, model.blocks),
        jax.tree.map(grouped, _keys(own)),
        branch.blocks,
        _keys(control),
    )
    step = dit.rematerialise(step, config.remat)
    return jax.lax.scan(step, (own.x, control.x), groups)[0]


def _keys(stream: Stream) -> dit_block.Keys | None:
    return stream.text if isinstance(stream.text, dit_block.Keys) else None


def init(config: ControlConfig, key: Array, backbone: module.Params) -> module.Params:
    """Returns the parameters of a branch that changes nothing of the backbone with these."""
    return copied(config, module.init(ControlBranch, config, key), backbone)


def copied(config: ControlConfig, params: module.Params, backbone: module.Params) -> module.Params:
    """Returns a branch's parameters with all that is a copy taken from the backbone's.

    Args:
      params: of the branch; the zero maps and what answers are kept.
      backbone: of Wan's transformer or of MJD, whose other parts are left out.
    """
    theirs, found = tree.flatten(backbone["blocks"]), {}
    for name, x in tree.flatten(params["blocks"]).items():
        found[name] = x if name.startswith("zero/") else theirs[name][:: config.stride]
    own = config.backbone
    rows = backbone["patch_embedding"]["kernel"]
    rows = einops.rearrange(rows, "(p c) d -> p c d", p=own.patch_size)
    rows = jnp.pad(rows, ((0, 0), (0, (PARTS - 1) * own.in_channels), (0, 0)))
    return params | {
        "patch_embedding": {
            "kernel": einops.rearrange(rows, "p c d -> (p c) d"),
            "bias": backbone["patch_embedding"]["bias"],
        },
        "blocks": tree.unflatten(found),
    }
