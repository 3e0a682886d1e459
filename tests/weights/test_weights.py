"""Converted weights: both layouts in, any sharding, diffusers out; damage leaves nothing."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import folders
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from syncmv4d_jax import models, tree
from syncmv4d_jax.weights import encoders, files, release, store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official") / "src"
    folders.write_official(folder)
    return folder


@pytest.fixture(scope="module")
def converted(official, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "weights"
    release.convert(official, out)
    return out


def same(wanted, got):
    wanted, got = tree.flatten(wanted), tree.flatten(got)
    assert wanted.keys() == got.keys()
    for path, leaf in wanted.items():
        np.testing.assert_array_equal(np.asarray(got[path]), leaf, err_msg=path)


@pytest.mark.parametrize("part", models.MODELS)
def test_official(converted, part):
    config, params = store.load(part, converted)
    wanted = folders.CONFIGS[part]
    if part == "umt5":
        wanted = dataclasses.replace(wanted, max_distance=128)
    assert config == wanted
    same(folders.params(part), params)
    same(params, store.load(part, converted / part)[1])


def test_index_tells_the_source(converted, official):
    index = json.loads((converted / "dit/index.json").read_text())
    assert index["source"]["layout"] == "official"
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert sorted(index["source"]["files"]) == names
    for name in names:
        assert index["source"]["files"][name]["sha256"] == files.sha256(official / name)


def test_diffusers_and_back(tmp_path):
    src = tmp_path / "src"
    folders.write_diffusers(src)
    release.convert(src, tmp_path / "w")
    release.convert(tmp_path / "w", tmp_path / "back", to="diffusers")
    for part in models.MODELS:
        same(folders.params(part), store.load(part, tmp_path / "w")[1])
        sub, stem = release.folders.SUBFOLDERS[part]
        ours = files.open_sharded(tmp_path / "back" / sub, stem).entries
        theirs = files.open_sharded(src / sub, stem).entries
        assert ours.keys() == theirs.keys()
        for key in theirs:
            np.testing.assert_array_equal(ours[key].read(), theirs[key].read())
        a, b = (json.loads((f / sub / "config.json").read_text()) for f in (src, tmp_path / "back"))
        assert a == b
    assert (tmp_path / "back/model_index.json").exists()


def test_official_to_diffusers_directly(official, tmp_path):
    release.convert(official, tmp_path / "d", to="diffusers", parts=["dit"])
    release.convert(tmp_path / "d", tmp_path / "w", parts=["dit"])
    same(folders.params("dit"), store.load("dit", tmp_path / "w")[1])


def test_dtype_and_parts(official, tmp_path):
    release.convert(official, tmp_path / "w", parts=["dit"], dtype="bfloat16")
    assert [p.name for p in (tmp_path / "w").iterdir()] == ["dit"]
    config, params = store.load("dit", tmp_path / "w")
    assert config.dtype == "bfloat16"
    same(jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), folders.params("dit")), params)
    release.convert(official, tmp_path / "w", parts=["umt5"])
    assert store.load("umt5", tmp_path / "w", dtype="bfloat16")[0].dtype == "bfloat16"
    tokenizer = encoders.load_tokenizer(tmp_path / "w", max_length=8)
    assert tokenizer.encode_batch(["a hand"])[0].shape == (1, 8)
    with pytest.raises(FileExistsError, match="umt5"):
        release.convert(official, tmp_path / "w", parts=["umt5"])


def test_shardings(converted):
    mesh = jax.make_mesh((4, 2), ("fsdp", "data"))
    spec = jax.sharding.PartitionSpec

    def place(leaf):
        axes = [
            "fsdp" if n % 4 == 0 and i == leaf.ndim - 1 else None for i, n in enumerate(leaf.shape)
        ]
        return jax.sharding.NamedSharding(mesh, spec(*axes))

    shardings = jax.tree.map(place, folders.params("dit"))
    _, params = store.load("dit", converted, shardings)
    same(folders.params("dit"), params)
    kernel = params["blocks"]["self_attn"]["q"]["kernel"]
    assert kernel.sharding.is_equivalent_to(shardings["blocks"]["self_attn"]["q"]["kernel"], 3)
    assert kernel.addressable_shards[0].data.shape == (2, 48, 12)
    replicated = jax.sharding.NamedSharding(mesh, spec())
    same(folders.params("umt5"), store.load("umt5", converted, replicated)[1])
    with pytest.raises(ValueError, match="differ in dit/blocks"):
        store.load("dit", converted, {"head": shardings["head"]})


def test_apply(converted):
    rng = np.random.default_rng(0)
    config, params = store.load("umt5", converted)
    ids = jnp.asarray(rng.integers(1, 300, (1, 5)), jnp.int32)
    context = models.apply("umt5", config, params, ids=ids, mask=jnp.ones((1, 5), bool))
    config, params = store.load("dit", converted)
    x = jnp.asarray(rng.standard_normal((1, 2, 4, 4, 4)), jnp.float32)
    t = jnp.array([500.0])
    v = models.apply("dit", config, params, latents=x, t=t, context=context)
    padded = jnp.pad(context, ((0, 0), (0, 2), (0, 0)), constant_values=3.0)
    lengths = jnp.array([5])
    again = models.apply(
        "dit", config, params, latents=x, t=t, context=padded, context_lengths=lengths
    )
    assert v.shape == x.shape and bool(jnp.isfinite(v).all())
    np.testing.assert_allclose(again, v, atol=1e-6)
    with pytest.raises(ValueError, match="dit: wanted"):
        models.apply("dit", config, params, latents=x)
    with pytest.raises(ValueError, match="wanted a part"):
        models.apply("clip", config, params)
    config, params = store.load("vae", converted)
    time, space = config.stride
    video = jnp.asarray(rng.uniform(-1, 1, (1, time + 1, 2 * space, space, 3)), jnp.float32)
    latents = models.apply("vae", config, params, encode=video)
    assert latents.shape == (1, 2, 2, 1, config.z_dim)
    assert models.apply("vae", config, params, decode=latents).shape == video.shape


def test_text_encoder(converted):
    encoder = encoders.TextEncoder(converted, max_length=32)
    features, lengths = encoder(["a hand pours water", "water"])
    assert features.shape == (2, 32, 16) and features.dtype == np.float32
    assert lengths[0] > lengths[1] > 1 and not features[1, lengths[1] :].any()
    assert np.abs(features[1, : lengths[1]]).max(axis=1).min() > 0


def fails(src, tmp_path, match, error=ValueError, parts=("dit", "vae", "umt5")):
    out = tmp_path / "out"
    with pytest.raises(error, match=match):
        release.convert(src, out, parts=parts)
    assert not out.exists() and not list(tmp_path.glob(".out*"))


@pytest.fixture
def copy(official, tmp_path):
    return Path(shutil.copytree(official, tmp_path / "src"))


def test_truncated_shard(copy, tmp_path):
    shard = copy / "diffusion_pytorch_model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    fails(copy, tmp_path, "00002-of-00002.safetensors: truncated")


def test_missing_shard(copy, tmp_path):
    (copy / "diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
    fails(copy, tmp_path, "missing: diffusion_pytorch_model-00001", FileNotFoundError)


def test_truncated_pth(copy, tmp_path):
    pth = copy / "Wan2.2_VAE.pth"
    pth.write_bytes(pth.read_bytes()[:-1000])
    fails(copy, tmp_path, "Wan2.2_VAE.pth: truncated")


def test_missing_part(copy, tmp_path):
    (copy / "Wan2.2_VAE.pth").unlink()
    fails(copy, tmp_path, "wanted Wan2.2_VAE.pth", FileNotFoundError)


def test_unknown_and_missing_keys(copy, tmp_path):
    stem = "diffusion_pytorch_model-00001-of-00002"
    entries = files.open_safetensors([copy / f"{stem}.safetensors"]).entries
    arrays = {key: files.entry_of(entry.read()) for key, entry in entries.items()}
    first = next(iter(arrays))
    arrays["surprise.weight"] = arrays.pop(first)
    files.write_safetensors(copy / f"{stem}.safetensors", arrays)
    (copy / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {k: f"{stem}.safetensors" for k in arrays}
                    | {"head.modulation": f"{stem.replace('00001-', '00002-')}.safetensors"}})
    )  # fmt: skip
    fails(copy, tmp_path, "unknown keys: surprise.weight")


def test_failure_half_way(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "copy_tokenizer", lambda *_: 1 / 0)
    fails(copy, tmp_path, "division", ZeroDivisionError)


@pytest.mark.parametrize(
    "name, release_name", [("Wan2.1_VAE.pth", "Wan2.1"), ("high_noise_model", "Wan2.2-A14B")]
)
def test_other_releases_by_name(copy, tmp_path, name, release_name):
    (copy / name).mkdir()
    fails(copy, tmp_path, f"checkpoint of {release_name}")


def test_other_releases_by_size(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"dim": 5120, "in_dim": 36}))
    fails(copy, tmp_path, "checkpoint of Wan2.1-14B or Wan2.2-A14B")
    (copy / "config.json").write_text("{")
    fails(copy, tmp_path, "config.json: not JSON")


def test_nothing_there(tmp_path):
    fails(tmp_path / "none", tmp_path, "no such folder", FileNotFoundError)
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", tmp_path, "wanted an official folder", FileNotFoundError)
    with pytest.raises(FileNotFoundError, match="wanted converted weights"):
        store.load("dit", tmp_path)


def test_command(copy, tmp_path):
    command = [sys.executable, ROOT / "data_prep/convert_weights.py", "--src", copy, "--out"]
    run = subprocess.run([*command, tmp_path / "w", "--parts", "umt5"], capture_output=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "w/umt5/index.json").exists()
    (copy / "config.json").unlink()
    run = subprocess.run([*command, tmp_path / "x"], capture_output=True, text=True)
    assert run.returncode == 1 and "config.json: not there" in run.stderr
    assert not (tmp_path / "x").exists()
