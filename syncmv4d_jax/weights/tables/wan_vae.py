"""Table of the Wan2.2 VAE: the official keys and those of diffusers' AutoencoderKLWan."""

import einops

from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.weights.engine import Rule, Transform


def _rearranged(theirs: str, ours: str) -> Transform:
    return Transform(
        lambda x: einops.rearrange(x, f"{theirs} -> {ours}"),
        lambda x: einops.rearrange(x, f"{ours} -> {theirs}"),
    )


CLIP = _rearranged("d c t h w", "t h w c d")
FRAME = _rearranged("d c h w", "h w c d")
GAMMA = _rearranged("c 1 1 1", "c")
FRAME_GAMMA = _rearranged("c 1 1", "c")

# Names inside of a residual block: ours, official, diffusers.
RESIDUAL = [
    ("norm1/gamma", "residual.0.gamma", "norm1.gamma"),
    ("conv1", "residual.2", "conv1"),
    ("norm2/gamma", "residual.3.gamma", "norm2.gamma"),
    ("conv2", "residual.6", "conv2"),
    ("shortcut", "shortcut", "conv_shortcut"),
]


def _conv(key: str, path: str, transform: Transform = CLIP) -> list[Rule]:
    return [
        Rule(f"{key}.weight", f"{path}/kernel", transform),
        Rule(f"{key}.bias", f"{path}/bias"),
    ]


def _residual(key: str, path: str, column: int) -> list[Rule]:
    table = []
    for names in RESIDUAL:
        if names[0].endswith("gamma"):
            table.append(Rule(f"{key}.{names[column]}", f"{path}/{names[0]}", GAMMA))
        else:
            table += _conv(f"{key}.{names[column]}", f"{path}/{names[0]}")
    return table


def _middle(side: str, column: int) -> list[Rule]:
    first, attention, second = (
        ("middle.0", "middle.1", "middle.2"),
        ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    )[column - 1]
    path = f"{side}/middle"
    return [
        *_residual(f"{side}.{first}", f"{path}/resnet_0", column),
        *_residual(f"{side}.{second}", f"{path}/resnet_1", column),
        Rule(f"{side}.{attention}.norm.gamma", f"{path}/attention/norm/gamma", FRAME_GAMMA),
        *_conv(f"{side}.{attention}.to_qkv", f"{path}/attention/to_qkv", FRAME),
        *_conv(f"{side}.{attention}.proj", f"{path}/attention/proj", FRAME),
    ]


def _side(side: str, blocks: int, column: int) -> list[Rule]:
    """Rules of the encoder or the decoder, whose stages have `blocks` residual blocks."""
    ours = {"encoder": "downsamples", "decoder": "upsamples"}[side]
    if column == 1:
        conv_in, norm, conv_out = "conv1", "head.0", "head.2"
        stage = f"{side}.{ours}.{{i}}.{ours}"
        resample = f"{stage}.{blocks}"
        resnets = [f"{stage}.{j}" for j in range(blocks)]
    else:
        conv_in, norm, conv_out = "conv_in", "norm_out", "conv_out"
        way = {"encoder": "down", "decoder": "up"}[side]
        stage = f"{side}.{way}_blocks.{{i}}"
        resample = f"{stage}.{way}sampler"
        resnets = [f"{stage}.resnets.{j}" for j in range(blocks)]
    path = f"{side}/{ours}_{{i}}"
    table = [
        *_conv(f"{side}.{conv_in}", f"{side}/conv1"),
        Rule(f"{side}.{norm}.gamma", f"{side}/head/norm/gamma", GAMMA),
        *_conv(f"{side}.{conv_out}", f"{side}/head/conv"),
        *_middle(side, column),
        *_conv(f"{resample}.resample.1", f"{path}/resample/conv", FRAME),
        *_conv(f"{resample}.time_conv", f"{path}/resample/time_conv"),
    ]
    for j, resnet in enumerate(resnets):
        table += _residual(resnet, f"{path}/resnet_{j}", column)
    return table


def rules(config: vae.VAEConfig, layout: str) -> list[Rule]:
    """Returns the table of a layout, "official" or "diffusers"."""
    column = {"official": 1, "diffusers": 2}[layout]
    moments, latents = (("conv1", "conv2"), ("quant_conv", "post_quant_conv"))[column - 1]
    return [
        *_conv(moments, "conv1"),
        *_conv(latents, "conv2"),
        *_side("encoder", config.num_res_blocks, column),
        *_side("decoder", config.num_res_blocks + 1, column),
    ]
