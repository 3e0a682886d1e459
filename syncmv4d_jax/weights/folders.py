"""Where the parts of Wan2.2-TI2V-5B lie in a release folder, and the sizes it states.

Official folder: config.json and diffusion_pytorch_model*.safetensors of the DiT, Wan2.2_VAE.pth,
models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl/spiece.model. The VAE and the encoder come without
a config: their sizes are read off the shapes of their tensors (safetensors in place of .pth do).

Diffusers folder: transformer/, vae/, text_encoder/, each with config.json and safetensors, and
tokenizer/.

Repackaged: one file a part, anywhere in a folder or by itself, by the names of REPACKAGED (ComfyUI:
wan2.2_ti2v_5B_fp16.safetensors, wan2.2_vae.safetensors, umt5_xxl_fp16.safetensors); the names of
its tensors are the official ones or, of the text encoder, transformers', below a prefix or not.
"""

import fnmatch
import re
from pathlib import Path
from typing import Any, NamedTuple

from syncmv4d_jax.weights import files, stated

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
# Names, in lower case, of files that hold a part each.
REPACKAGED = {"dit": "*wan2?2*ti2v*5b*", "vae": "*wan2?2*vae*", "umt5": "*umt5*xxl*"}
REPACKAGED_SUFFIXES = (".safetensors", ".gguf", ".pth")
# What may stand before all names of a part's tensors.
BEFORE = {
    "dit": ("model.diffusion_model.", "diffusion_model.", "model.", "module."),
    "vae": ("first_stage_model.", "vae.", "model.", "module."),
    "umt5": ("text_encoders.umt5xxl.transformer.", "umt5xxl.transformer.", "model.", "module."),
}
# A tensor that tells part and layout.
MARKS = {
    ("dit", "official"): "blocks.0.self_attn.q.weight",
    ("dit", "diffusers"): "blocks.0.attn1.to_q.weight",
    ("vae", "official"): "encoder.conv1.weight",
    ("vae", "diffusers"): "encoder.conv_in.weight",
    ("umt5", "official"): "blocks.0.pos_embedding.embedding.weight",
    ("umt5", "diffusers"): "encoder.block.0.layer.0.SelfAttention.q.weight",
}
SPIECE = "spiece_model"  # ComfyUI keeps the tokenizer among the encoder's tensors
SCALES = r"(^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale|input_scale|absmax|quant_map)\b"


class Found(NamedTuple):
    """A part of a release: layout, sizes (arguments of our config), tensors, tokenizer files.

    spiece: the tokenizer itself, b"" where it is in `tokenizer` or nowhere.
    """

    layout: str
    sizes: dict[str, Any]
    tensors: files.Tensors
    tokenizer: list[Path]
    spiece: bytes = b""


def layout_of(src: Path) -> str:
    """Returns "official", "diffusers" or "repackaged" of a folder or file.

    Raises:
      FileNotFoundError: no such folder, or nothing in it that either layout has.
      ValueError: a checkpoint of Wan2.1 or Wan2.2-A14B.
    """
    if src.is_file():
        return "repackaged"
    if not src.is_dir():
        raise FileNotFoundError(f"{src}: no such folder or file")
    for name, release in OTHER_RELEASES.items():
        if (src / name).exists():
            raise ValueError(f"{src} holds {name}: a checkpoint of {release}; {stated.WANTED}")
    if (src / "model_index.json").exists():
        index = stated.read_json(src / "model_index.json")
        if index.get("boundary_ratio") is not None:
            raise ValueError(f"{src}: boundary_ratio in its model_index.json: a checkpoint of "
                             f"Wan2.2-A14B; {stated.WANTED}")  # fmt: skip
    if any((src / folder / "config.json").exists() for folder, _ in SUBFOLDERS.values()):
        return "diffusers"
    if (src / "config.json").exists() or any(_official_files(src, p) for p in ("vae", "umt5")):
        return "official"
    if any(_repackaged_files(src, part) for part in PARTS):
        return "repackaged"
    raise FileNotFoundError(
        f"{src}: wanted an official folder (config.json, Wan2.2_VAE.pth, ...), a diffusers one "
        "(transformer/config.json, ...) or repackaged files (wan2.2_ti2v_5B_*.safetensors, ...), "
        f"found {sorted(p.name for p in src.iterdir())[:10]}"
    )


def find(src: Path, part: str) -> Found:
    """Opens one part of a release folder.

    Raises:
      FileNotFoundError, ValueError: as `layout_of` and `files.open_sharded`; another model.
    """
    layout = layout_of(src)
    if layout == "repackaged":
        return _single(_repackaged_file(src, part), part)
    if layout == "diffusers":
        folder, stem = SUBFOLDERS[part]
        config = stated.read_json(src / folder / "config.json")
        tensors = _aliased(files.open_sharded(src / folder, stem))
        sizes = stated.FROM_DIFFUSERS[part](config, src / folder / "config.json")
        tokenizer = sorted((src / "tokenizer").glob("*")) if part == "umt5" else []
    elif part == "dit":
        config = stated.read_json(src / "config.json")
        tensors = files.open_sharded(src, "diffusion_pytorch_model")
        stated.check_moge4d(tensors.shapes, src)
        sizes, tokenizer = stated.dit_from_official(config, tensors.shapes, src / "config.json"), []
    else:
        found = _official_files(src, part)
        if not found:
            raise FileNotFoundError(
                f"{src}: wanted {OFFICIAL_FILES[part]}.pth or .safetensors, found neither"
            )
        is_pth = found[0].suffix == ".pth"
        tensors = files.open_pth(found[0]) if is_pth else files.open_safetensors(found[:1])
        sizes = {"vae": stated.vae_from_shapes, "umt5": stated.umt5_from_shapes}[part](
            tensors.shapes, found[0]
        )
        tokenizer = sorted((src / "google/umt5-xxl").glob("*")) if part == "umt5" else []
    _check_numbers(tensors, src)
    tensors, sizes = _conditions_apart(tensors, sizes)
    return Found(layout, sizes, tensors, [p for p in tokenizer if p.is_file()])


def _conditions_apart(
    tensors: files.Tensors, sizes: dict[str, Any]
) -> tuple[files.Tensors, dict[str, Any]]:
    """A transformer that reads conditions beside the noisy latents (Wan2.2-Fun-5B-InP: a mask of 4
    channels, a picture of 48): their rows of the patch embedding as a tensor of their own."""
    c, name = sizes.get("out_channels"), "patch_embedding.weight"
    if sizes.get("in_channels") == c or name not in tensors.entries:
        return tensors, sizes
    whole = tensors.entries[name]

    def part(channels: slice) -> files.Entry:
        shape = (whole.shape[0], len(range(*channels.indices(whole.shape[1]))), *whole.shape[2:])
        return files.Entry(shape, whole.dtype, lambda: whole.read()[:, channels])

    entries = tensors.entries | {
        name: part(slice(c)), "condition_embedding.weight": part(slice(c, None))
    }  # fmt: skip
    own = sizes | {"in_channels": c, "condition_channels": sizes["in_channels"] - c}
    return tensors._replace(entries=entries), own


def _aliased(tensors: files.Tensors) -> files.Tensors:
    """The text encoder's table by the first of its two names (they are tied)."""
    entries = dict(tensors.entries)
    if "shared.weight" not in entries and "encoder.embed_tokens.weight" in entries:
        entries["shared.weight"] = entries.pop("encoder.embed_tokens.weight")
    return tensors._replace(entries=entries)


def _check_numbers(tensors: files.Tensors, src: Path) -> None:
    """Refuses quantised weights: whole numbers, and what is to be multiplied by scales beside it.

    Raises:
      ValueError: such tensors, named.
    """
    entries = tensors.entries
    scales = [key for key in entries if re.search(SCALES, key)]
    whole = [key for key, entry in entries.items() if entry.dtype.kind in "iub"]
    if scales or whole:
        some = (scales or whole)[0]
        raise ValueError(
            f"{src}: quantised weights ({len(scales)} scales, {len(whole)} tensors of whole "
            f"numbers, e.g. {some}); take the fp16, bf16 or float32 files"
        )


def part_in(path: Path) -> str:
    """The part that one file holds.

    Raises:
      ValueError: none of PARTS, or several.
    """
    tensors = files.open_any(path)
    stated.check_moge4d(tensors.shapes, path)
    found = [part for part in PARTS if _layout_in(_stripped(tensors, part), part)]
    if len(found) != 1:
        raise ValueError(
            f"{path}: wanted one part of {PARTS}, found {found}; its tensors are e.g. "
            f"{sorted(tensors.entries)[:3]}; {stated.WANTED}"
        )
    return found[0]


def _layout_in(tensors: files.Tensors, part: str) -> str | None:
    layouts = [way for (p, way), key in MARKS.items() if p == part and key in tensors.entries]
    return layouts[0] if layouts else None


def _stripped(tensors: files.Tensors, part: str) -> files.Tensors:
    """Without what stands before the names of the part; of a checkpoint of all parts, the part."""
    for before in BEFORE[part]:
        inside = {k[len(before) :]: v for k, v in tensors.entries.items() if k.startswith(before)}
        if any(mark in inside for (own, _), mark in MARKS.items() if own == part):
            others = tuple(b for p in PARTS if p != part for b in BEFORE[p][:1])
            rest = {
                k: v
                for k, v in tensors.entries.items()
                if not k.startswith((before, *others, "text_encoders.", "vae."))
            }
            return tensors._replace(entries=inside | rest)
    return tensors


def _single(path: Path, part: str) -> Found:
    tensors = _aliased(_stripped(files.open_any(path), part))
    layout = _layout_in(tensors, part)
    if layout is None:
        raise ValueError(f"{path}: wanted the {part}, it holds {part_in(path)}")
    entries = dict(tensors.entries)
    spiece = entries.pop(SPIECE).read().tobytes() if SPIECE in entries else b""
    tensors, beside = tensors._replace(entries=entries), path.parent / "config.json"
    _check_numbers(tensors, path)
    shapes = tensors.shapes
    stated.check_moge4d(shapes, path)
    if layout == "diffusers" and beside.is_file():
        sizes = stated.FROM_DIFFUSERS[part](stated.read_json(beside), beside)
    elif part == "umt5":
        sizes = stated.umt5_from_shapes(shapes, path, layout)
    elif layout == "diffusers":
        raise ValueError(f"{path}: diffusers' names without sizes: put its config.json beside it")
    elif part == "vae":
        sizes = stated.vae_from_shapes(shapes, path)
    else:
        config = stated.read_json(beside) if beside.is_file() else stated.dit_config(shapes, path)
        sizes = stated.dit_from_official(config, shapes, path)
    tensors, sizes = _conditions_apart(tensors, sizes)
    return Found(layout, sizes, tensors, [], spiece)


def _repackaged_files(src: Path, part: str) -> list[Path]:
    return [
        path
        for path in sorted(src.rglob("*"))
        if path.suffix.lower() in REPACKAGED_SUFFIXES
        and path.name[0] != "."
        and fnmatch.fnmatch(path.name.lower(), REPACKAGED[part])
        and ("vae" in path.name.lower()) == (part == "vae")
    ]


def _repackaged_file(src: Path, part: str) -> Path:
    if src.is_file():
        return src
    found = _repackaged_files(src, part)
    if len(found) > 1:
        names = [str(path.relative_to(src)) for path in found]
        raise ValueError(f"{src}: several files of the {part}: {names}; name one")
    if not found:
        raise FileNotFoundError(f"{src}: wanted {REPACKAGED[part]}, found none; see docs/wan.md")
    return found[0]


def _official_files(src: Path, part: str) -> list[Path]:
    stem = OFFICIAL_FILES[part]
    return [*sorted(src.glob(f"{stem}.safetensors")), *sorted(src.glob(f"{stem}.pth"))]


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
