"""Wan2.2-Fun-5B-InP's layout as a start of view synthesis; MoGe4D's weights are refused by name."""

import dataclasses
import json

import numpy as np
import pytest

from syncmv4d_jax import models, tree
from syncmv4d_jax.models import conditioned
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.weights import engine, files, release, store
from syncmv4d_jax.weights.tables import wan_dit

SIZES = dataclasses.asdict(wan_config.TINY)
CONFIG = conditioned.ConditionedConfig(**SIZES, condition_channels=8)  # mask 4, picture 4


def write(folder, channels=12):
    """An official folder whose patch embedding reads `channels`; returns our parameters."""
    rng = np.random.default_rng(0)
    shapes = module.shapes(conditioned.ConditionedDiT, CONFIG)
    params = tree.map_named(
        lambda _, x: (0.5 * rng.standard_normal(x.shape)).astype(np.float32), shapes
    )
    state = engine.to_reference(wan_dit.rules(CONFIG, "official"), params)
    rest = state.pop("condition_embedding.weight")
    state["patch_embedding.weight"] = np.concatenate([state["patch_embedding.weight"], rest], 1)
    folder.mkdir()
    c = CONFIG
    about = {
        "dim": c.dim, "eps": c.eps, "ffn_dim": c.ffn_dim, "freq_dim": c.freq_dim,
        "in_dim": channels, "num_heads": c.heads, "num_layers": c.layers,
        "out_dim": c.out_channels, "text_len": c.text_len,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    entries = {k: files.entry_of(np.ascontiguousarray(x)) for k, x in state.items()}
    files.write_safetensors(folder / "diffusion_pytorch_model.safetensors", entries)
    return params, state


def test_the_patch_embedding_comes_apart_in_the_order_of_its_channels(tmp_path):
    """z_t first, then mask and picture, as the release concatenates them."""
    params, state = write(tmp_path / "fun")
    release.convert(tmp_path / "fun", tmp_path / "out", parts=["dit"])
    config, found = store.load("dit", tmp_path / "out")
    assert isinstance(config, conditioned.ConditionedConfig) and config.condition_channels == 8
    assert models.network("dit", config) is conditioned.ConditionedDiT
    for name, leaf in tree.flatten(found).items():
        np.testing.assert_array_equal(leaf, tree.flatten(params)[name], err_msg=name)
    whole = state["patch_embedding.weight"]  # [d 12 1 2 2]
    kernel = np.asarray(found["condition_embedding"]["kernel"])  # [(pf ph pw c) d]
    np.testing.assert_array_equal(kernel[:8].T, whole[:, 4:, 0, 0, 0])


def test_true_size():
    """Of the release: [3072, 100, 1, 2, 2]."""
    config = conditioned.ConditionedConfig(condition_channels=52)
    shapes = module.shapes(conditioned.ConditionedDiT, config)
    assert shapes["patch_embedding"]["kernel"].shape == (192, 3072)
    assert shapes["condition_embedding"]["kernel"].shape == (208, 3072)
    assert config.all_channels == 100


def test_other_channels_are_of_another_release(tmp_path):
    write(tmp_path / "other", channels=9)
    with pytest.raises(ValueError, match="9 channels in and 4 out"):
        release.convert(tmp_path / "other", tmp_path / "out", parts=["dit"])


@pytest.mark.parametrize(
    "key",
    ["blocks.0.spatial_guidance_self.gate", "feature_adapter.0.weight",
     "lora_unet_blocks_0_ffn_0.lora_down.weight"],
)  # fmt: skip
def test_moge4d_is_refused_by_name(tmp_path, key):
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    files.write_safetensors(file, {key: files.entry_of(np.zeros((5120, 4), np.float32))})
    with pytest.raises(ValueError, match=r"weights of MoGe4D.*14 B.*cannot load here.*strag.py"):
        release.convert(file, tmp_path / "out")
