"""Table of Wan's diffusion transformer: the official keys and those of diffusers.

diffusers swaps names: the official `norm3` (affine, before cross-attention) is its `norm2`.
"""

import functools

import einops

from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.weights.engine import IDENTITY, TRANSPOSE, Rule, Transform

# Module names: ours, official, diffusers. {n} is the layer.
LINEAR = [
    ("text_embedding/linear_0", "text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding/linear_2", "text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding/linear_0", "time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding/linear_2", "time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection/linear_1", "time_projection.1", "condition_embedder.time_proj"),
    ("head/head", "head.head", "proj_out"),
    ("blocks/ffn/linear_0", "blocks.{n}.ffn.0", "blocks.{n}.ffn.net.0.proj"),
    ("blocks/ffn/linear_2", "blocks.{n}.ffn.2", "blocks.{n}.ffn.net.2"),
]
PLAIN = [
    ("head/modulation", "head.modulation", "scale_shift_table"),
    ("blocks/modulation", "blocks.{n}.modulation", "blocks.{n}.scale_shift_table"),
    ("blocks/norm3/scale", "blocks.{n}.norm3.weight", "blocks.{n}.norm2.weight"),
    ("blocks/norm3/bias", "blocks.{n}.norm3.bias", "blocks.{n}.norm2.bias"),
]
for _ours, _theirs in (("self_attn", "attn1"), ("cross_attn", "attn2")):
    for _letter in "qkv":
        LINEAR.append(
            (
                f"blocks/{_ours}/{_letter}",
                f"blocks.{{n}}.{_ours}.{_letter}",
                f"blocks.{{n}}.{_theirs}.to_{_letter}",
            )
        )
    LINEAR.append(
        (f"blocks/{_ours}/o", f"blocks.{{n}}.{_ours}.o", f"blocks.{{n}}.{_theirs}.to_out.0")
    )
    for _letter in "qk":
        PLAIN.append(
            (
                f"blocks/{_ours}/norm_{_letter}/scale",
                f"blocks.{{n}}.{_ours}.norm_{_letter}.weight",
                f"blocks.{{n}}.{_theirs}.norm_{_letter}.weight",
            )
        )


@functools.lru_cache
def patch_kernel(patch: tuple[int, int, int]) -> Transform:
    """Conv3d [d c pf ph pw] <-> our matrix [(pf ph pw c) d]."""
    sizes = dict(zip(("pf", "ph", "pw"), patch, strict=True))
    conv, matrix = "d c pf ph pw", "(pf ph pw c) d"
    return Transform(
        lambda x: einops.rearrange(x, f"{conv} -> {matrix}", **sizes),
        lambda x: einops.rearrange(x, f"{matrix} -> {conv}", **sizes),
    )


def rules(config: wan_config.DiTConfig, layout: str) -> list[Rule]:
    """Returns the table of a layout, "official" or "diffusers"."""
    column = {"official": 1, "diffusers": 2}[layout]
    table = [
        Rule("patch_embedding.weight", "patch_embedding/kernel", patch_kernel(config.patch)),
        Rule("patch_embedding.bias", "patch_embedding/bias"),
    ]
    if getattr(config, "condition_channels", 0):
        table.append(
            Rule(
                "condition_embedding.weight",
                "condition_embedding/kernel",
                patch_kernel(config.patch),
            )
        )
    for names in LINEAR:
        table.append(Rule(f"{names[column]}.weight", f"{names[0]}/kernel", TRANSPOSE))
        table.append(Rule(f"{names[column]}.bias", f"{names[0]}/bias"))
    table += [Rule(names[column], names[0], IDENTITY) for names in PLAIN]
    return table
