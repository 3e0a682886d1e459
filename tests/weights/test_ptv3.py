"""The table of Point Transformer V3 covers the default model with the reference's own names."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.ptv3 import unet
from syncmv4d_jax.weights import engine, torch_writer
from syncmv4d_jax.weights.tables import ptv3


def test_table_covers_the_default_model_in_both_directions():
    shapes = tree.flatten(module.shapes(unet.PTv3, unet.PTv3Config()))
    wanted = {name: tuple(leaf.shape) for name, leaf in shapes.items()}
    rules = ptv3.rules()
    given = engine.reference_slices(rules, wanted).shapes
    assert given["embedding.stem.conv.weight"] == (32, 5, 5, 5, 4)
    assert given["enc.enc3.block5.cpe.0.weight"] == (256, 3, 3, 3, 256)
    assert given["enc.enc1.block0.attn.qkv.weight"] == (192, 64)
    assert given["dec.dec0.up.proj_skip.1.running_mean"] == (64,)
    assert given["dec.dec3.block1.mlp.0.fc1.weight"] == (1024, 256)
    counters = {"enc.enc1.down.norm.0.num_batches_tracked": (), "seg_head.weight": (13, 64)}
    plan = engine.plan(rules, given | counters, wanted, source="PTv3", ignore=ptv3.IGNORED)
    assert plan.slices.keys() == wanted.keys()
    with pytest.raises(ValueError, match=r"enc\.enc0\.block0\.norm1\.0\.weight"):
        less = {k: v for k, v in given.items() if k != "enc.enc0.block0.norm1.0.weight"}
        engine.plan(rules, less, wanted, source="PTv3", ignore=ptv3.IGNORED)


def test_convolution_layout():
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3, 2))
    ours = ptv3.CONVOLUTION.forward(weight)
    np.testing.assert_array_equal(ours, weight.reshape(4, 27, 2).transpose(1, 2, 0))
    np.testing.assert_array_equal(ptv3.CONVOLUTION.backward(ours), weight)


def test_unknown_layout_is_refused():
    with pytest.raises(
        ValueError, match="wanted a layout of .*'official', 'segmentor'.*, got 'diffusers'"
    ):
        ptv3.rules("diffusers")


RELEASED = {
    "type": "PT-v3m1", "in_channels": 3, "order": ("z", "z-trans", "hilbert", "hilbert-trans"),
    "stride": (2, 2), "enc_depths": (1, 1, 1), "enc_channels": (16, 16, 32),
    "enc_num_head": (1, 1, 2), "enc_patch_size": (8, 4, 16), "dec_depths": (1, 1),
    "dec_channels": (16, 16), "dec_num_head": (1, 1), "dec_patch_size": (8, 4), "mlp_ratio": 2,
    "qkv_bias": True, "drop_path": 0.3, "shuffle_orders": True, "pre_norm": True,
    "enable_rpe": False, "enable_flash": False, "cls_mode": False, "pdnorm_bn": False,
    "pdnorm_conditions": ("ScanNet",),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_released_segmentor_loads_with_its_own_patch_of_each_stage(prefix, tmp_path):
    config = ptv3.config_of(RELEASED)
    assert config.patches == (8, 4, 16) and config.dec_heads == (1, 1) and config.mlp_ratio == 2
    rng = np.random.default_rng(0)
    model = module.shapes(unet.PTv3, config)
    shapes = {name: leaf.shape for name, leaf in tree.flatten(model).items()}
    ours = {k: rng.uniform(0.1, 1, s).astype(np.float32) for k, s in shapes.items()}
    theirs = engine.to_reference(ptv3.rules(), tree.unflatten(ours))
    extra = {"seg_head.weight": np.ones((2, 16), np.float32)}
    if prefix:
        assert "backbone.embedding.stem.conv.weight" in engine.to_reference(
            ptv3.rules("segmentor"), tree.unflatten(ours)
        )
    file = tmp_path / "model_best.pth"
    file.write_bytes(torch_writer.dumps({prefix + k: v for k, v in theirs.items()} | extra))
    params = ptv3.load(file, config)
    for name, leaf in tree.flatten(params).items():
        np.testing.assert_array_equal(leaf, ours[name])
    built = unet.PTv3(config, rngs=nnx.Rngs(0))
    sizes = [getattr(built, name).block0.patch for name in ("enc0", "enc1", "enc2", "dec0", "dec1")]
    assert sizes == [8, 4, 16, 8, 4]


def test_released_settings_that_differ_are_named():
    with pytest.raises(ValueError, match=r"dec_patch_size: wanted the encoder's \(8, 4\), got"):
        ptv3.config_of(RELEASED | {"dec_patch_size": (8, 8)})
    with pytest.raises(ValueError, match=r"(?s)stride: wanted .*2.*enable_rpe|enable_rpe.*stride"):
        ptv3.config_of(RELEASED | {"enable_rpe": True, "stride": (2, 4)})
    with pytest.raises(ValueError, match="no_such: unknown"):
        ptv3.config_of(RELEASED | {"no_such": 1})
    with pytest.raises(ValueError, match="a patch size for each of 3 stages"):
        unet.PTv3(dataclasses.replace(ptv3.config_of(RELEASED), patches=(8,)), rngs=nnx.Rngs(0))
