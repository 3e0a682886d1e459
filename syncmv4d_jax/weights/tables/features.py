"""Tables of the feature networks: published keys -> our paths (metrics/networks/features).

Every key of a published file has one fate: a rule, or IGNORED, which names what inference has no
use for. Layouts are those of the files that LAYOUTS lists for each network.
"""

import einops

from syncmv4d_jax.weights.engine import IDENTITY, TRANSPOSE, Rule, Transform


def _rearranged(theirs: str, ours: str) -> Transform:
    return Transform(
        lambda x: einops.rearrange(x, f"{theirs} -> {ours}"),
        lambda x: einops.rearrange(x, f"{ours} -> {theirs}"),
    )


IMAGE = _rearranged("o i h w", "h w i o")
CLIP = _rearranged("o i n h w", "n h w i o")
HEAD = _rearranged("1 c 1 1", "c 1")
FLAX_HEAD = _rearranged("1 1 c 1", "c 1")
TOKEN = _rearranged("1 1 d", "d")
TOKENS = _rearranged("1 s d", "s d")

# Convolutions of torchvision's `features`, in order.
ALEX_CONVS = (0, 3, 6, 8, 10)
VGG_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)

_COUNTERS = r".*\.num_batches_tracked"
_TEXT = (
    r"(text_model|text_projection|transformer|token_embedding|ln_final)\..*|.*\.position_ids"
    r"|logit_scale|positional_embedding|text_projection|input_resolution|context_length|vocab_size"
)
# What inference has no use for: counters, a tied second name, classifiers, CLIP's text tower,
# XFeat's refinement of semi-dense matches.
IGNORED = {
    "dino": r"pooler\..*|head\..*",
    "clip": _TEXT,
    "raft": rf"{_COUNTERS}|cnet\.layer\d\.0\.norm3\..*",
    "inception": rf"{_COUNTERS}|fc\..*",
    "i3d": _COUNTERS,
    "lpips": r"classifier\..*",
    "xfeat": rf"{_COUNTERS}|fine_matcher\..*",
}


def _affine(key: str, path: str, transform: Transform, *, bias: bool = True) -> list[Rule]:
    table = [Rule(f"{key}.weight", f"{path}/kernel", transform)]
    return [*table, Rule(f"{key}.bias", f"{path}/bias")] if bias else table


def _norm(key: str, path: str) -> list[Rule]:
    return [Rule(f"{key}.weight", f"{path}/scale"), Rule(f"{key}.bias", f"{path}/bias")]


def _batch_norm(key: str, path: str) -> list[Rule]:
    return [
        *_norm(key, path),
        Rule(f"{key}.running_mean", f"{path}/mean"),
        Rule(f"{key}.running_var", f"{path}/var"),
    ]


def _blocks(prefix: str, names: tuple[str, ...]) -> list[Rule]:
    """A transformer's blocks; names: norm1, qkv, proj, norm2, fc1, fc2."""
    norm1, qkv, proj, norm2, fc1, fc2 = (prefix + name for name in names)
    return [
        *_norm(norm1, "blocks/norm1"),
        *_affine(qkv, "blocks/attn/qkv", TRANSPOSE),
        *_affine(proj, "blocks/attn/proj", TRANSPOSE),
        *_norm(norm2, "blocks/norm2"),
        *_affine(fc1, "blocks/fc1", TRANSPOSE),
        *_affine(fc2, "blocks/fc2", TRANSPOSE),
    ]


# Keys of separate queries, keys and values, and the fused key that the tables below want.
FUSED = {
    ".attention.attention.query.": (".attention.attention.key.", ".attention.attention.value."),
    ".self_attn.q_proj.": (".self_attn.k_proj.", ".self_attn.v_proj."),
}
FUSED_NAME = {
    ".attention.attention.query.": ".attention.attention.qkv.",
    ".self_attn.q_proj.": ".self_attn.qkv.",
}


def dino(layout: str) -> list[Rule]:
    """DINO ViT-B/16, "official" (facebookresearch/dino) or "transformers"."""
    if layout == "official":
        names = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        cls, position, patch, norm = "cls_token", "pos_embed", "patch_embed.proj", "norm"
        blocks = _blocks("blocks.{n}.", names)
    else:
        names = (
            "layernorm_before", "attention.attention.qkv", "attention.output.dense",
            "layernorm_after", "intermediate.dense", "output.dense",
        )  # fmt: skip
        cls, position = "embeddings.cls_token", "embeddings.position_embeddings"
        patch, norm = "embeddings.patch_embeddings.projection", "layernorm"
        blocks = _blocks("encoder.layer.{n}.", names)
    return [
        Rule(cls, "cls_token", TOKEN),
        Rule(position, "pos_embed", TOKENS),
        *_affine(patch, "patch_embed", IMAGE),
        *blocks,
        *_norm(norm, "norm"),
    ]


def clip(layout: str) -> list[Rule]:
    """CLIP's image tower, "official" (openai/CLIP, open_clip) or "transformers"."""
    if layout == "official":
        names = ("ln_1", "attn.in_proj", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        blocks = [
            rule._replace(key=rule.key.replace("in_proj.", "in_proj_"))
            for rule in _blocks("visual.transformer.resblocks.{n}.", names)
        ]
        return [
            Rule("visual.class_embedding", "cls_token"),
            Rule("visual.positional_embedding", "pos_embed"),
            *_affine("visual.conv1", "patch_embed", IMAGE, bias=False),
            *_norm("visual.ln_pre", "pre_norm"),
            *blocks,
            *_norm("visual.ln_post", "norm"),
            Rule("visual.proj", "projection/kernel"),
        ]
    names = (
        "layer_norm1", "self_attn.qkv", "self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2",
    )  # fmt: skip
    return [
        Rule("vision_model.embeddings.class_embedding", "cls_token"),
        Rule("vision_model.embeddings.position_embedding.weight", "pos_embed"),
        *_affine("vision_model.embeddings.patch_embedding", "patch_embed", IMAGE, bias=False),
        *_norm("vision_model.pre_layrnorm", "pre_norm"),
        *_blocks("vision_model.encoder.layers.{n}.", names),
        *_norm("vision_model.post_layernorm", "norm"),
        Rule("visual_projection.weight", "projection/kernel", TRANSPOSE),
    ]


def raft(layout: str) -> list[Rule]:
    """RAFT-large, "official" (princeton-vl/RAFT) or "torchvision" (raft_large)."""
    official = layout == "official"
    table = []
    for ours in ("fnet", "cnet"):
        key = ours if official else {"fnet": "feature_encoder", "cnet": "context_encoder"}[ours]
        block, to = key + ".layer{i}.{j}.", ours + "/layer{i}_{j}/"
        convs = [
            (f"{key}.conv1", f"{key}.norm1", f"{ours}/conv1", f"{ours}/norm1"),
            (block + "conv1", block + "norm1", to + "conv1", to + "norm1"),
            (block + "conv2", block + "norm2", to + "conv2", to + "norm2"),
        ]
        if not official:
            names = [f"{key}.convnormrelu", f"{block}convnormrelu1", f"{block}convnormrelu2"]
            convs = [
                (f"{name}.0", f"{name}.1", *paths[2:])
                for name, paths in zip(names, convs, strict=True)
            ]
        convs.append(
            (block + "downsample.0", block + "downsample.1", to + "shortcut", to + "norm3")
        )
        for conv, norm, conv_path, norm_path in convs:
            table += _affine(conv, conv_path, IMAGE)
            table += _batch_norm(norm, norm_path) if ours == "cnet" else []
        table += _affine(f"{key}.conv2" if official else f"{key}.conv", f"{ours}/conv2", IMAGE)
    return table + _raft_update(official)


def _raft_update(official: bool) -> list[Rule]:
    table = _affine("update_block.flow_head.{c}", "flow_head/{c}", IMAGE)
    if official:
        for name in ("encoder", "gru"):
            table += _affine(f"update_block.{name}.{{c}}", f"{name}/{{c}}", IMAGE)
        for name, path in (("0", "conv1"), ("2", "conv2")):
            table += _affine(f"update_block.mask.{name}", f"mask/{path}", IMAGE)
        return table
    motion = "update_block.motion_encoder."
    names = {"convcorr1": "convc1", "convcorr2": "convc2", "convflow1": "convf1",
             "convflow2": "convf2", "conv": "conv"}  # fmt: skip
    for name, path in names.items():
        table += _affine(f"{motion}{name}.0", f"encoder/{path}", IMAGE)
    for number in "12":
        for gate in "zrq":
            key = f"update_block.recurrent_block.convgru{number}.conv{gate}"
            table += _affine(key, f"gru/conv{gate}{number}", IMAGE)
    return [
        *table,
        *_affine("mask_predictor.convrelu.0", "mask/conv1", IMAGE),
        *_affine("mask_predictor.conv", "mask/conv2", IMAGE),
    ]


def inception(layout: str) -> list[Rule]:
    """FID's Inception-v3, "official" (torch-fidelity, pytorch-fid)."""
    del layout
    table = []
    for key, path in (("{b}", "{b}"), ("{b}.{u}", "{b}/{u}")):
        table += _affine(f"{key}.conv", f"{path}/conv", IMAGE, bias=False)
        table += _batch_norm(f"{key}.bn", f"{path}/bn")
    return table


def i3d(layout: str) -> list[Rule]:
    """I3D of Kinetics-400, "official" (pytorch-i3d's names, as TATS and cd-fvd have them)."""
    del layout
    table = _affine("logits.conv3d", "logits", CLIP)
    for key, path in (("Conv3d_{b}", "Conv3d_{b}"), ("Mixed_{b}.{u}", "Mixed_{b}/{u}")):
        table += _affine(f"{key}.conv3d", f"{path}/conv3d", CLIP, bias=False)
        table += _batch_norm(f"{key}.bn", f"{path}/bn")
    return table


def lpips(layout: str) -> list[Rule]:
    """LPIPS, "alex" or "vgg" (torchvision's backbone and lpips' heads), "alex_flax", "vgg_flax"."""
    if layout in ("alex_flax", "vgg_flax"):
        net = {"alex_flax": "AlexNet_0", "vgg_flax": "VGG16_0"}[layout]
        return [
            Rule(f"{net}.Conv_{{i}}.kernel", "conv_{i}/kernel", IDENTITY),
            Rule(f"{net}.Conv_{{i}}.bias", "conv_{i}/bias"),
            Rule("NetLinLayer_{i}.Conv_0.kernel", "head_{i}/kernel", FLAX_HEAD),
        ]
    convs = {"alex": ALEX_CONVS, "vgg": VGG_CONVS}[layout]
    table = [Rule("lin{i}.model.1.weight", "head_{i}/kernel", HEAD)]
    for i, place in enumerate(convs):
        table += _affine(f"features.{place}", f"conv_{i}", IMAGE)
    return table


# Layers of XFeat's blocks, and those that end with a plain convolution.
XFEAT_LAYERS = {
    "block1": 4, "block2": 2, "block3": 3, "block4": 3, "block5": 4, "block_fusion": 2,
    "heatmap_head": 2, "keypoint_head": 3,
}  # fmt: skip
XFEAT_LAST = ("block_fusion", "heatmap_head", "keypoint_head")


def xfeat(layout: str) -> list[Rule]:
    """XFeat, "official" (verlab/accelerated_features)."""
    del layout
    table = _affine("skip1.1", "skip1", IMAGE)
    for block, count in XFEAT_LAYERS.items():
        for i in range(count):
            key, path = f"{block}.{i}.layer", f"{block}_{i}"
            table += _affine(f"{key}.0", f"{path}/conv", IMAGE, bias=False)
            table += [Rule(f"{key}.1.running_mean", f"{path}/bn/mean")]
            table += [Rule(f"{key}.1.running_var", f"{path}/bn/var")]
        if block in XFEAT_LAST:
            table += _affine(f"{block}.{count}", f"{block}_last", IMAGE)
    return table
