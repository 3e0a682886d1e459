"""Published keys of the feature networks: all consumed, wrong ones listed, each layout whole."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.metrics.networks import weights
from syncmv4d_jax.metrics.networks.features import vit
from syncmv4d_jax.models import lpips
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.weights import engine, files, torch_writer
from syncmv4d_jax.weights.tables import features

GOLDEN = Path(__file__).parents[2] / "golden/net"
KEYS = json.loads((GOLDEN / "net_keys_shapes.json").read_text())
NAMES = {"dino": "dino_vitb16", "raft": "raft_large", "inception": "inception_v3_fid",
         "i3d": "i3d_400"}  # fmt: skip
LAYOUTS = [
    ("dino", "official"), ("dino", "transformers"), ("clip", "official"), ("clip", "transformers"),
    ("raft", "official"), ("raft", "torchvision"), ("inception", "official"), ("i3d", "official"),
    ("lpips_alex", "alex"), ("lpips_vgg", "vgg"), ("lpips_alex", "alex_flax"),
    ("lpips_vgg", "vgg_flax"), ("xfeat", "official"),
]  # fmt: skip


def shapes(name):
    network = weights.NETWORKS[name]
    flat = tree.flatten(module.shapes(network.model, network.config))
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def rules(name, layout):
    return getattr(features, weights.NETWORKS[name].table)(layout)


@pytest.mark.parametrize("name", NAMES)
def test_every_published_key_is_consumed(name):
    given = {key: tuple(shape) for key, shape in KEYS[NAMES[name]].items()}
    ignore = features.IGNORED[name]
    planned = engine.plan(rules(name, "official"), given, shapes(name), source=name, ignore=ignore)
    read = {s.key for slices in planned.slices.values() for s in slices}
    left = given.keys() - read
    assert all(re.fullmatch(ignore, key) for key in left)
    kinds = {re.sub(r".*(num_batches_tracked|\.norm3\.|^fc\.).*", r"\1", key) for key in left}
    wanted = {"dino": set(), "i3d": {"num_batches_tracked"},
              "raft": {"num_batches_tracked", ".norm3."},
              "inception": {"num_batches_tracked", "fc."}}[name]  # fmt: skip
    assert kinds == wanted and set(planned.slices) == set(shapes(name))


@pytest.mark.parametrize("name, layout", LAYOUTS)
def test_each_layout_covers_the_model_once(name, layout):
    planned = engine.reference_slices(rules(name, layout), shapes(name))
    assert len({s.key for x in planned.slices.values() for s in x}) == len(planned.shapes)
    again = engine.plan(rules(name, layout), planned.shapes, shapes(name), source=name)
    assert again.slices.keys() == planned.slices.keys()


def test_torchvision_and_official_names_meet():
    keys = engine.reference_slices(rules("raft", "torchvision"), shapes("raft")).shapes
    assert keys["update_block.motion_encoder.convcorr1.0.weight"] == (256, 324, 1, 1)
    assert keys["update_block.recurrent_block.convgru2.convq.weight"] == (128, 384, 5, 1)
    assert keys["feature_encoder.convnormrelu.0.weight"] == (64, 3, 7, 7)
    assert keys["context_encoder.layer2.0.downsample.1.running_var"] == (96,)
    assert keys["mask_predictor.conv.weight"] == (576, 256, 1, 1)


@pytest.fixture(scope="module")
def small():
    """A tiny CLIP with parameters, in the place of the true one."""
    config = vit.ViTConfig(dim=8, layers=2, heads=2, patch=4, image=8, clip=True, projection=6)
    network = weights.NETWORKS["clip"]
    shapes = tree.flatten(module.shapes(vit.ViT, config))
    rng = np.random.default_rng(0)
    flat = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    fields = {"model": vit.ViT, "config": config, "table": "clip", "source": network.source}
    return weights.Network(**fields, candidates=network.candidates), tree.unflatten(flat)


def published(network, params, layout):
    """The state dict that a table's layout would hold, q, k, v apart as transformers has them."""
    found = engine.to_reference(getattr(features, network.table)(layout), params)
    for key in [key for key in found if ".self_attn.qkv." in key]:
        parts = np.split(found.pop(key), 3)
        names = [key.replace(".qkv.", f".{x}_proj.") for x in "qkv"]
        found |= dict(zip(names, parts, strict=True))
    return {key: np.ascontiguousarray(x) for key, x in found.items()}


def test_files_of_every_kind_load_and_are_hashed(tmp_path, small, monkeypatch):
    network, params = small
    monkeypatch.setitem(weights.NETWORKS, "clip", network)
    hf, official = (published(network, params, x) for x in ("transformers", "official"))
    assert "vision_model.encoder.layers.1.self_attn.k_proj.bias" in hf
    text = {"text_model.final_layer_norm.weight": np.ones(3, np.float32),
            "logit_scale": np.ones((), np.float32)}  # fmt: skip
    writes = {
        "clip-vit-base-patch32/model.safetensors": lambda path: files.write_safetensors(
            path, {k: files.entry_of(x.reshape(x.shape or (1,))) for k, x in (hf | text).items()}
        ),
        "vit_base_patch32_clip_224.openai/open_clip_pytorch_model.bin": lambda path: (
            path.write_bytes(torch_writer.dumps({f"module.{k}": x for k, x in official.items()}))
        ),
    }
    for number, (name, write) in enumerate(writes.items()):
        folder = tmp_path / str(number)
        (folder / name).parent.mkdir(parents=True)
        write(folder / name)
        loaded = weights.load("clip", folder)
        assert loaded.files == {name: files.sha256(folder / name)}
        tree.check_same(params, loaded.params, wanted_from="a", got_from="b")
        for path, leaf in tree.flatten(loaded.params).items():
            np.testing.assert_array_equal(leaf, tree.flatten(params)[path])


def test_missing_and_extra_keys_are_both_listed(small, monkeypatch):
    network, params = small
    monkeypatch.setitem(weights.NETWORKS, "clip", network)
    state = published(network, params, "transformers")
    gone = (
        "vision_model.post_layernorm.bias",
        "vision_model.encoder.layers.0.self_attn.k_proj.bias",
    )
    for key in gone:
        del state[key]
    state["vision_model.stranger"] = np.ones(2, np.float32)
    state["visual_projection.weight"] = np.ones((6, 9), np.float32)
    entries = {key: files.entry_of(x) for key, x in state.items()}
    with pytest.raises(ValueError) as error:
        weights.convert("clip", entries, "transformers", source="file.safetensors")
    text = str(error.value)
    assert text.startswith("file.safetensors does not fit")
    assert "vision_model.stranger" in text.split("missing keys")[0]
    assert "post_layernorm.bias" in text.split("missing keys")[1]
    assert "layers.0.self_attn.qkv.bias" in text.split("missing keys")[1]
    assert "visual_projection.weight: wanted (6, 8), got (6, 9)" in text


def test_what_is_not_there_says_where_to_get_it(tmp_path):
    for name in weights.NETWORKS:
        with pytest.raises(FileNotFoundError) as error:
            weights.load(name, tmp_path)
        assert f"no weights of {name}" in str(error.value) and "get " in str(error.value)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        weights.existing(tmp_path / "nothing")
    (tmp_path / "raft-things.pth").write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match="raft-things.pth"):
        weights.load("raft", tmp_path)
    (tmp_path / "alexnet.ckpt").write_bytes(b"\x80\x03N.")
    with pytest.raises(ValueError, match="wanted a dict of arrays, got NoneType"):
        weights.load("lpips_alex", tmp_path)


def test_lpips_counts_the_smallest_image():
    assert (lpips.ALEX.smallest, lpips.VGG.smallest) == (31, 16)
    assert lpips.ALEX.widths == (64, 192, 384, 256, 256)
    assert lpips.VGG.widths == (64, 128, 256, 512, 512)
