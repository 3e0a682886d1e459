"""The sizes of a release's parts: as its config.json states them, or by its tensors' shapes."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WANTED = "only Wan2.2-TI2V-5B and models of its layout are supported"
FLOATS = ("eps", "latents_mean", "latents_std")  # all other sizes are whole numbers or switches
LISTS = ("dim_mult", "temporal_downsample", "latents_mean", "latents_std")
LARGEST = 2**24  # of any size; vocabularies have a quarter of a million
HEAD = 128  # width of a head in all of Wan's transformers
MASK = 4  # channels of the mask of models that complete pictures
# Names of tensors that only MoGe4D's generators have (formerly called MoRe4D).
MOGE4D = re.compile(
    r"blocks\.\d+\.spatial_guidance_|^(feature_adapter|omnimae_extractor|ref_conv)\.|^lora_unet_"
)


def check_moge4d(shapes: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """Refuses MoGe4D's weights by name.

    Raises:
      ValueError: they are; says what they are and why they cannot load.
    """
    found = [key for key in shapes if MOGE4D.search(key)]
    if found:
        raise ValueError(
            f"{where}: weights of MoGe4D (MoRe4D), e.g. {found[0]}: 4D-STraG and 4D-ViSM on the 14 "
            "B Wan2.1-Fun, width 5120, latents of 16 channels at 4 x 8 x 8. They cannot load here: "
            "the transformer is Wan2.2's of 5 B, width 3072, with latents of 48 channels at 4 x 16 "
            "x 16, and no layer has their shape. Train configs/strag.py and configs/vism.py from "
            "Wan2.2-TI2V-5B (or ViSM from Wan2.2-Fun-5B-InP)"
        )


def read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there")
    try:
        found = json.loads(
            path.read_bytes(), object_pairs_hook=once
        )  # in UTF-8 or 16, with a mark or without
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: wanted an object, got {type(found).__name__}")
    return found


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of JSON.

    Raises:
      ValueError: it says a key twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} twice")
    return found


def check(sizes: dict[str, Any], where: Path) -> dict[str, Any]:
    """Returns the sizes of a network.

    Raises:
      ValueError: one that no network has: not whole, below one, not finite, a list where one
        number is wanted or a number where a list is; names it.
    """
    for name, value in sizes.items():
        many = value if isinstance(value, tuple) else (value,)
        if name in FLOATS:
            good = all(type(x) in (int, float) and math.isfinite(x) for x in many)
        else:
            good = all(type(x) is bool or (type(x) is int and 0 < x < LARGEST) for x in many)
        if isinstance(value, tuple):  # of a list, where the network has one
            good = good and (len(value) == 3 if name == "patch" else name in LISTS and value != ())
        elif name in LISTS:
            good = False
        if not good:
            raise ValueError(f"{where}: no network has {name} = {value!r:.60}")
    return sizes


def _pick(config: dict[str, Any], names: dict[str, str], where: Path) -> dict[str, Any]:
    """Returns {our name: value} by {our name: their name}."""
    if missing := [theirs for theirs in names.values() if theirs not in config]:
        raise ValueError(f"{where}: lacks {', '.join(missing)}")
    picked = {ours: config[theirs] for ours, theirs in names.items()}
    return check({k: tuple(v) if isinstance(v, list) else v for k, v in picked.items()}, where)


def _check_dit(sizes: dict[str, Any], where: Path) -> dict[str, Any]:
    other = {1536: "Wan2.1-1.3B", 5120: "Wan2.1-14B or Wan2.2-A14B"}.get(sizes["dim"])
    # Wan2.2-Fun-5B-InP: noisy latents, four channels of a mask, latents of a picture.
    inpaints = sizes["in_channels"] == 2 * sizes["out_channels"] + MASK
    if other or not (inpaints or sizes["in_channels"] == sizes["out_channels"]):
        other = other or "an image-to-video model of Wan2.1 or Wan2.2-A14B"
        raise ValueError(
            f"{where}: width {sizes['dim']}, {sizes['in_channels']} channels in and "
            f"{sizes['out_channels']} out: a checkpoint of {other}; {WANTED}"
        )
    return sizes


def dit_from_official(
    config: dict[str, Any], shapes: dict[str, tuple[int, ...]], where: Path
) -> dict[str, Any]:
    names = {
        "dim": "dim", "ffn_dim": "ffn_dim", "heads": "num_heads", "layers": "num_layers",
        "in_channels": "in_dim", "out_channels": "out_dim", "freq_dim": "freq_dim",
    }  # fmt: skip
    optional = {"eps": "eps", "text_len": "text_len"}
    names |= {ours: theirs for ours, theirs in optional.items() if theirs in config}
    sizes = _check_dit(_pick(config, names, where), where)
    # The release's config does not have these; its tensors do.
    if "text_embedding.0.weight" in shapes:
        sizes["text_dim"] = shapes["text_embedding.0.weight"][1]
    if len(shapes.get("patch_embedding.weight", ())) == 5:
        sizes["patch"] = shapes["patch_embedding.weight"][2:]
    sizes["qk_norm"] = "blocks.0.self_attn.norm_q.weight" in shapes
    sizes["cross_attn_norm"] = "blocks.0.norm3.weight" in shapes
    return sizes


def _dit_from_diffusers(config: dict[str, Any], where: Path) -> dict[str, Any]:
    names = {
        "ffn_dim": "ffn_dim", "heads": "num_attention_heads", "layers": "num_layers",
        "in_channels": "in_channels", "out_channels": "out_channels", "freq_dim": "freq_dim",
        "eps": "eps", "text_dim": "text_dim", "patch": "patch_size",
        "cross_attn_norm": "cross_attn_norm", "dim": "attention_head_dim",
    }  # fmt: skip
    sizes = _pick(config, names, where)
    sizes["dim"] *= sizes["heads"]
    sizes["qk_norm"] = config.get("qk_norm") is not None
    return _check_dit(sizes, where)


def _vae_from_diffusers(config: dict[str, Any], where: Path) -> dict[str, Any]:
    if not config.get("is_residual"):
        raise ValueError(f"{where}: not residual: a VAE of Wan2.1 or Wan2.2-A14B; {WANTED}")
    names = {
        "dim": "base_dim", "dec_dim": "decoder_base_dim", "z_dim": "z_dim", "dim_mult": "dim_mult",
        "num_res_blocks": "num_res_blocks", "temporal_downsample": "temperal_downsample",
        "patch": "patch_size", "latents_mean": "latents_mean", "latents_std": "latents_std",
    }  # fmt: skip
    return _pick(config, names, where)


def vae_from_shapes(shapes: dict[str, tuple[int, ...]], where: Path) -> dict[str, Any]:
    stage = "encoder.downsamples.{}.downsamples.{}."
    if "encoder.downsamples.0.residual.2.weight" in shapes:
        raise ValueError(f"{where}: a VAE of Wan2.1 or Wan2.2-A14B; {WANTED}")
    try:
        dim = shapes["encoder.conv1.weight"][0]
        widths: list[int] = []
        times: list[bool] = []
        while (key := stage.format(len(widths), 0) + "residual.6.weight") in shapes:
            widths.append(shapes[key][0] // dim)
        blocks = 0
        while stage.format(0, blocks) + "residual.6.weight" in shapes:
            blocks += 1
        for i in range(len(widths) - 1):
            times.append(stage.format(i, blocks) + "time_conv.weight" in shapes)
        return {
            "dim": dim,
            "dec_dim": shapes["decoder.head.0.gamma"][0] // widths[0],
            "z_dim": shapes["conv2.weight"][0],
            "dim_mult": tuple(widths),
            "num_res_blocks": blocks,
            "temporal_downsample": tuple(times),
            "patch": math.isqrt(shapes["encoder.conv1.weight"][1] // 3),
        }
    except (KeyError, IndexError) as error:
        raise ValueError(f"{where}: not a Wan2.2 VAE: no {error}") from error


def umt5_from_shapes(
    shapes: dict[str, tuple[int, ...]], where: Path, layout: str = "official"
) -> dict[str, Any]:
    block, table, biases, q, fc1 = {
        "official": (
            "blocks", "token_embedding.weight", "pos_embedding.embedding.weight", "attn.q.weight",
            "ffn.fc1.weight",
        ),
        "diffusers": (
            "encoder.block", "shared.weight",
            "layer.0.SelfAttention.relative_attention_bias.weight",
            "layer.0.SelfAttention.q.weight", "layer.1.DenseReluDense.wi_1.weight",
        ),
    }[layout]  # fmt: skip
    try:
        buckets, heads = shapes[f"{block}.0.{biases}"]
        vocab, dim = shapes[table]
        layers = {m[1] for key in shapes if (m := re.match(rf"{re.escape(block)}\.(\d+)\.", key))}
        return {
            "vocab": vocab,
            "dim": dim,
            "heads": heads,
            "d_head": shapes[f"{block}.0.{q}"][0] // heads,
            "ffn_dim": shapes[f"{block}.0.{fc1}"][0],
            "layers": len(layers),
            "buckets": buckets,
        }
    except KeyError as error:
        raise ValueError(f"{where}: not a umT5 encoder: no {error}") from error


def _umt5_from_diffusers(config: dict[str, Any], where: Path) -> dict[str, Any]:
    names = {
        "vocab": "vocab_size", "dim": "d_model", "heads": "num_heads", "d_head": "d_kv",
        "ffn_dim": "d_ff", "layers": "num_layers", "eps": "layer_norm_epsilon",
        "buckets": "relative_attention_num_buckets",
        "max_distance": "relative_attention_max_distance",
    }  # fmt: skip
    return _pick(config, names, where)


FROM_DIFFUSERS = {
    "dit": _dit_from_diffusers, "vae": _vae_from_diffusers, "umt5": _umt5_from_diffusers,
}  # fmt: skip


def dit_config(shapes: dict[str, tuple[int, ...]], where: Path) -> dict[str, Any]:
    """What the official config.json would say, read off the shapes of the tensors."""
    try:
        dim, channels, *patch = shapes["patch_embedding.weight"]
        layers = {m[1] for key in shapes if (m := re.match(r"blocks\.(\d+)\.", key))}
        if dim % HEAD:
            raise ValueError(
                f"{where}: width {dim} is not of heads of {HEAD}: put its config.json beside it"
            )
        return {
            "dim": dim,
            "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
            "num_heads": dim // HEAD,
            "num_layers": len(layers),
            "in_dim": channels,
            "out_dim": shapes["head.head.weight"][0] // math.prod(patch),
            "freq_dim": shapes["time_embedding.0.weight"][1],
        }
    except KeyError as error:
        raise ValueError(f"{where}: not a transformer of Wan: no {error}") from error
