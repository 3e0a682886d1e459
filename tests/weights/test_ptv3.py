"""The table of Point Transformer V3 covers the default model with the reference's own names."""

import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.ptv3 import unet
from syncmv4d_jax.weights import engine
from syncmv4d_jax.weights.tables import ptv3


def test_table_covers_the_default_model_in_both_directions():
    shapes = tree.flatten(module.shapes(unet.PTv3, unet.PTv3Config()))
    wanted = {name: tuple(leaf.shape) for name, leaf in shapes.items()}
    rules = ptv3.rules(None)
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
    with pytest.raises(ValueError, match="wanted the layout 'official', got 'diffusers'"):
        ptv3.rules(None, "diffusers")
