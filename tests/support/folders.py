"""Tiny release folders without torch, for the conversion tests."""

import json

import numpy as np

from syncmv4d_jax import models, tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import umt5, vae
from syncmv4d_jax.weights import engine, files, release, torch_writer
from syncmv4d_jax.weights import folders as layouts

CONFIGS = {
    "dit": wan_config.TINY,
    "vae": vae.TINY,
    "umt5": umt5.TINY,
}


def params(part, seed=0):
    """Random parameters with nothing trivial in them, float32."""
    rng = np.random.default_rng(seed)
    shapes = module.shapes(models.MODELS[part], CONFIGS[part])
    return tree.map_named(
        lambda _, leaf: (0.5 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes
    )


def reference(part, layout):
    state = engine.to_reference(release.TABLES[part](CONFIGS[part], layout), params(part))
    return {key: np.ascontiguousarray(value) for key, value in state.items()}


def write_official(folder, parts=tuple(CONFIGS)):
    """Writes an official folder; the DiT in two shards, the VAE as .pth, umT5 as safetensors."""
    folder.mkdir()
    if "dit" in parts:
        c = CONFIGS["dit"]
        config = {
            "dim": c.dim, "eps": c.eps, "ffn_dim": c.ffn_dim, "freq_dim": c.freq_dim,
            "in_dim": c.in_channels, "model_type": "ti2v", "num_heads": c.heads,
            "num_layers": c.layers, "out_dim": c.out_channels, "text_len": c.text_len,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        entries = {k: files.entry_of(v) for k, v in reference("dit", "official").items()}
        half = sum(v.nbytes for v in reference("dit", "official").values()) * 6 // 10
        files.write_sharded(
            folder, "diffusion_pytorch_model", entries, shard_bytes=half, progress=lambda n: None
        )
    if "vae" in parts:
        (folder / "Wan2.2_VAE.pth").write_bytes(torch_writer.dumps(reference("vae", "official")))
    if "umt5" in parts:
        entries = {k: files.entry_of(v) for k, v in reference("umt5", "official").items()}
        files.write_safetensors(folder / "models_t5_umt5-xxl-enc-bf16.safetensors", entries)
        (folder / "google/umt5-xxl").mkdir(parents=True)
        (folder / "google/umt5-xxl/spiece.model").write_bytes(tokenizer_bytes())


def write_diffusers(folder, parts=tuple(CONFIGS)):
    """Writes a diffusers folder."""
    for part in parts:
        sub, stem = layouts.SUBFOLDERS[part]
        (folder / sub).mkdir(parents=True)
        config = layouts.diffusers_config(part, CONFIGS[part])
        (folder / sub / "config.json").write_text(json.dumps(config))
        entries = {k: files.entry_of(v) for k, v in reference(part, "diffusers").items()}
        files.write_safetensors(folder / sub / f"{stem}.safetensors", entries)
    (folder / "model_index.json").write_text(json.dumps(layouts.PIPELINE["model_index.json"]))


def tokenizer_bytes():
    from syncmv4d_jax.weights import tokenizer

    return tokenizer.train_sentencepiece(["a hand pours water into a bowl"] * 4, vocab=40)
