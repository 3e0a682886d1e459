"""Where the parts of Wan2.2-TI2V-5B lie in a release folder, and the sizes it states.

Official folder: config.json and diffusion_pytorch_model*.safetensors of the DiT, Wan2.2_VAE.pth,
models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl/spiece.model. The VAE and the encoder come without
a config: their sizes are read off the shapes of their tensors (safetensors in place of .pth do).

Diffusers folder: transformer/, vae/, text_encoder/, each with config.json and safetensors, and
tokenizer/.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from syncmv4d_jax.weights import files

PARTS = ("dit", "vae", "umt5")
# Diffusers folder of each part and the stem of its weight files.
SUBFOLDERS = {
    "dit": ("transformer", "diffusion_pytorch_model"),
    "vae": ("vae", "diffusion_pytorch_model"),
    "umt5": ("text_encoder", "model"),
}
OFFICIAL_FILES = {"vae": "Wan2.2_VAE", "umt5": "models_t5_umt5-xxl-enc-*"}
OTHER_RELEASES = {
    "Wan2.1_VAE.pth": "Wan2.1 or Wan2.2-A14B",
    "high_noise_model": "Wan2.2-A14B",
    "low_noise_model": "Wan2.2-A14B",
    "transformer_2": "Wan2.2-A14B",
}
WANTED = "only Wan2.2-TI2V-5B and models of its layout are supported"


class Found(NamedTuple):
    """A part of a release: layout, sizes (arguments of our config), tensors and tokenizer files."""

    layout: str
    sizes: dict[str, Any]
    tensors: files.Tensors
    tokenizer: list[Path]


def layout_of(src: Path) -> str:
    """Returns "official" or "diffusers".

    Raises:
      FileNotFoundError: no such folder, or nothing in it that either layout has.
      ValueError: a checkpoint of Wan2.1 or Wan2.2-A14B.
    """
    if not src.is_dir():
        raise FileNotFoundError(f"{src}: no such folder")
    for name, release in OTHER_RELEASES.items():
        if (src / name).exists():
            raise ValueError(f"{src} holds {name}: a checkpoint of {release}; {WANTED}")
    if (src / "model_index.json").exists():
        index = json.loads((src / "model_index.json").read_text())
        if index.get("boundary_ratio") is not None:
            raise ValueError(f"{src}: boundary_ratio in its model_index.json: a checkpoint of "
                             f"Wan2.2-A14B; {WANTED}")  # fmt: skip
    if any((src / folder / "config.json").exists() for folder, _ in SUBFOLDERS.values()):
        return "diffusers"
    if (src / "config.json").exists() or any(_official_files(src, p) for p in ("vae", "umt5")):
        return "official"
    raise FileNotFoundError(
        f"{src}: wanted an official folder (config.json, Wan2.2_VAE.pth, ...) or a diffusers one "
        f"(transformer/config.json, ...), found {sorted(p.name for p in src.iterdir())[:10]}"
    )


def find(src: Path, part: str) -> Found:
    """Opens one part of a release folder.

    Raises:
      FileNotFoundError, ValueError: as `layout_of` and `files.open_sharded`; another model.
    """
    layout = layout_of(src)
    if layout == "diffusers":
        folder, stem = SUBFOLDERS[part]
        config = _read_json(src / folder / "config.json")
        tensors = files.open_sharded(src / folder, stem)
        sizes = _FROM_DIFFUSERS[part](config, src / folder / "config.json")
        tokenizer = sorted((src / "tokenizer").glob("*")) if part == "umt5" else []
    elif part == "dit":
        config = _read_json(src / "config.json")
        tensors = files.open_sharded(src, "diffusion_pytorch_model")
        sizes, tokenizer = _dit_from_official(config, tensors.shapes, src / "config.json"), []
    else:
        found = _official_files(src, part)
        if not found:
            raise FileNotFoundError(
                f"{src}: wanted {OFFICIAL_FILES[part]}.pth or .safetensors, found neither"
            )
        is_pth = found[0].suffix == ".pth"
        tensors = files.open_pth(found[0]) if is_pth else files.open_safetensors(found[:1])
        sizes = {"vae": _vae_from_shapes, "umt5": _umt5_from_shapes}[part](tensors.shapes, found[0])
        tokenizer = sorted((src / "google/umt5-xxl").glob("*")) if part == "umt5" else []
    return Found(layout, sizes, tensors, [p for p in tokenizer if p.is_file()])


def _official_files(src: Path, part: str) -> list[Path]:
    stem = OFFICIAL_FILES[part]
    return [*sorted(src.glob(f"{stem}.safetensors")), *sorted(src.glob(f"{stem}.pth"))]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error


def _pick(config: dict[str, Any], names: dict[str, str], where: Path) -> dict[str, Any]:
    """Returns {our name: value} by {our name: their name}."""
    if missing := [theirs for theirs in names.values() if theirs not in config]:
        raise ValueError(f"{where}: lacks {', '.join(missing)}")
    picked = {ours: config[theirs] for ours, theirs in names.items()}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in picked.items()}


def _check_dit(sizes: dict[str, Any], where: Path) -> dict[str, Any]:
    other = {1536: "Wan2.1-1.3B", 5120: "Wan2.1-14B or Wan2.2-A14B"}.get(sizes["dim"])
    if other or sizes["in_channels"] != sizes["out_channels"]:
        other = other or "an image-to-video model of Wan2.1 or Wan2.2-A14B"
        raise ValueError(
            f"{where}: width {sizes['dim']}, {sizes['in_channels']} channels in and "
            f"{sizes['out_channels']} out: a checkpoint of {other}; {WANTED}"
        )
    return sizes


def _dit_from_official(
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
        "cross_attn_norm": "cross_attn_norm",
    }  # fmt: skip
    sizes = _pick(config, names, where)
    sizes["dim"] = sizes["heads"] * config["attention_head_dim"]
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


def _vae_from_shapes(shapes: dict[str, tuple[int, ...]], where: Path) -> dict[str, Any]:
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


def _umt5_from_shapes(shapes: dict[str, tuple[int, ...]], where: Path) -> dict[str, Any]:
    try:
        buckets, heads = shapes["blocks.0.pos_embedding.embedding.weight"]
        vocab, dim = shapes["token_embedding.weight"]
        layers = {m[1] for key in shapes if (m := re.match(r"blocks\.(\d+)\.", key))}
        return {
            "vocab": vocab,
            "dim": dim,
            "heads": heads,
            "d_head": shapes["blocks.0.attn.q.weight"][0] // heads,
            "ffn_dim": shapes["blocks.0.ffn.fc1.weight"][0],
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


_FROM_DIFFUSERS = {
    "dit": _dit_from_diffusers, "vae": _vae_from_diffusers, "umt5": _umt5_from_diffusers,
}  # fmt: skip


def diffusers_config(part: str, config: Any) -> dict[str, Any]:
    """Returns the config.json that diffusers or transformers reads for one of our configs."""
    if part == "dit":
        return {
            "_class_name": "WanTransformer3DModel",
            "attention_head_dim": config.dim // config.heads,
            "num_attention_heads": config.heads, "num_layers": config.layers,
            "ffn_dim": config.ffn_dim, "in_channels": config.in_channels,
            "out_channels": config.out_channels, "freq_dim": config.freq_dim,
            "text_dim": config.text_dim, "patch_size": list(config.patch), "eps": config.eps,
            "cross_attn_norm": config.cross_attn_norm, "rope_max_seq_len": 1024,
            "qk_norm": "rms_norm_across_heads" if config.qk_norm else None,
            "added_kv_proj_dim": None, "image_dim": None, "pos_embed_seq_len": None,
        }  # fmt: skip
    if part == "vae":
        frames, pixels = config.stride
        return {
            "_class_name": "AutoencoderKLWan", "base_dim": config.dim,
            "decoder_base_dim": config.dec_dim, "z_dim": config.z_dim,
            "dim_mult": list(config.dim_mult), "num_res_blocks": config.num_res_blocks,
            "attn_scales": [], "temperal_downsample": list(config.temporal_downsample),
            "dropout": 0.0, "is_residual": True, "patch_size": config.patch,
            "in_channels": 3 * config.patch**2, "out_channels": 3 * config.patch**2,
            "latents_mean": list(config.latents_mean or (0.0,) * config.z_dim),
            "latents_std": list(config.latents_std or (1.0,) * config.z_dim),
            "scale_factor_temporal": frames, "scale_factor_spatial": pixels,
        }  # fmt: skip
    return {
        "architectures": ["UMT5EncoderModel"], "model_type": "umt5", "vocab_size": config.vocab,
        "d_model": config.dim, "num_heads": config.heads, "d_kv": config.d_head,
        "d_ff": config.ffn_dim, "num_layers": config.layers, "num_decoder_layers": config.layers,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.max_distance,
        "layer_norm_epsilon": config.eps, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0,
        "is_encoder_decoder": True, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0, "tie_word_embeddings": False,
    }  # fmt: skip


# What makes a folder a diffusers pipeline beside its parts.
PIPELINE = {
    "model_index.json": {
        "_class_name": "WanPipeline",
        "boundary_ratio": None,
        "expand_timesteps": True,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "UniPCMultistepScheduler",
        "flow_shift": 5.0,
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "solver_order": 2,
        "solver_type": "bh2",
        "use_flow_sigmas": True,
        "final_sigmas_type": "zero",
    },
}
