"""Folders that diffusers and transformers save: converted, loaded, run and compared, and back."""

import json
from pathlib import Path

import einops
import folders
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import models
from syncmv4d_jax.weights import files, release, store
from syncmv4d_jax.weights import folders as layouts

pytestmark = pytest.mark.parity

TEXT = 512


def randomise(torch, model):
    """Nothing trivial: norm scales, biases, modulations and zero-initialised layers are random."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "gamma" in name or ("norm" in name and name.endswith("weight")):
                p.copy_(1 + 0.2 * noise)
            else:
                p.copy_(noise * (0.2 if p.ndim == 1 else p[0].numel() ** -0.5))
    return model.eval()


@pytest.fixture(scope="module")
def theirs():
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    dit = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=24, in_channels=8,
        out_channels=8, text_dim=32, freq_dim=64, ffn_dim=96, num_layers=3,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLWan(
        base_dim=8, decoder_base_dim=12, z_dim=8, dim_mult=[1, 2, 4, 4], num_res_blocks=2,
        temperal_downsample=[False, True, True], is_residual=True, in_channels=12, out_channels=12,
        patch_size=2, scale_factor_spatial=16, scale_factor_temporal=4,
        latents_mean=[0.1 * i for i in range(8)], latents_std=[1 + 0.1 * i for i in range(8)],
    )  # fmt: skip
    umt5 = transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=200, d_model=32, d_kv=12, d_ff=48, num_layers=3, num_heads=4,
            feed_forward_proj="gated-gelu", dropout_rate=0.0,
        )
    )  # fmt: skip
    found = {"dit": dit, "vae": vae, "umt5": umt5}
    return {part: randomise(torch, model) for part, model in found.items()}


def save_diffusers(theirs, folder):
    for part, model in theirs.items():
        # A small shard size makes an index and several files.
        size = "100KB" if part == "dit" else "5GB"
        model.save_pretrained(folder / layouts.SUBFOLDERS[part][0], max_shard_size=size)


def save_official(theirs, folder):
    """The same weights in the official layout; the .pth files by torch.save."""
    import torch

    folder.mkdir()
    mapping = json.loads((Path(__file__).parents[1] / "golden/wan_keys/key_map.json").read_text())
    for part, model in theirs.items():
        state = model.state_dict()
        state = {
            official: state[diffusers].clone()
            for official, diffusers in mapping[part].items()
            if diffusers in state
        }
        if part == "dit":
            entries = {k: files.entry_of(v.numpy()) for k, v in state.items()}
            files.write_safetensors(folder / "diffusion_pytorch_model.safetensors", entries)
            config = {
                "_class_name": "WanModel", "dim": 48, "eps": 1e-6, "ffn_dim": 96, "freq_dim": 64,
                "in_dim": 8, "model_type": "ti2v", "num_heads": 2, "num_layers": 3, "out_dim": 8,
                "text_len": TEXT,
            }  # fmt: skip
            (folder / "config.json").write_text(json.dumps(config))
        else:
            name = {"vae": "Wan2.2_VAE.pth", "umt5": "models_t5_umt5-xxl-enc-bf16.pth"}[part]
            torch.save(state, folder / name)


@pytest.fixture(scope="module", params=["diffusers", "official"])
def converted(request, theirs, tmp_path_factory):
    base = tmp_path_factory.mktemp(request.param)
    {"diffusers": save_diffusers, "official": save_official}[request.param](theirs, base / "src")
    release.convert(base / "src", base / "weights")
    return base / "weights"


def test_dit(converted, theirs):
    import torch

    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 3, 4, 6)).astype(np.float32)
    context = np.zeros((2, TEXT, 32), np.float32)
    lengths = [7, 3]
    for row, length in enumerate(lengths):
        context[row, :length] = rng.standard_normal((length, 32))
    t = np.array([937, 20])
    with torch.no_grad():
        wanted = theirs["dit"](
            torch.from_numpy(x), torch.from_numpy(t), torch.from_numpy(context), return_dict=False
        )[0].numpy()
    config, params = store.load("dit", converted)
    latents = einops.rearrange(x, "b c f h w -> b f h w c")
    got = models.apply("dit", config, params, latents=latents, t=t, context=context[:, :9])
    np.testing.assert_allclose(
        einops.rearrange(got, "b f h w c -> b c f h w"), wanted, atol=1e-4, rtol=0
    )


def test_vae(converted, theirs):
    import torch

    video = np.random.default_rng(1).uniform(-1, 1, (1, 3, 9, 32, 48)).astype(np.float32)
    config, params = store.load("vae", converted)
    with torch.no_grad():
        mean = theirs["vae"].encode(torch.from_numpy(video)).latent_dist.mean.numpy()
        wanted = theirs["vae"].decode(torch.from_numpy(mean)).sample.numpy()
    if config.latents_mean:
        shift, scale = np.array(config.latents_mean), np.array(config.latents_std)
    else:  # the official checkpoint has no statistics, the code knows those of 48 channels
        shift, scale = 0.0, 1.0
    got = models.apply(
        "vae", config, params, encode=einops.rearrange(video, "b c n h w -> b n h w c")
    )
    mean = einops.rearrange(mean, "b c f h w -> b f h w c")
    np.testing.assert_allclose(np.asarray(got) * scale + shift, mean, atol=1e-4, rtol=0)
    got = models.apply("vae", config, params, decode=jnp.asarray((mean - shift) / scale, "float32"))
    got = np.clip(einops.rearrange(got, "b n h w c -> b c n h w"), -1, 1)  # diffusers clamps
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)


def test_umt5(converted, theirs):
    import torch

    rng = np.random.default_rng(2)
    mask = np.arange(20)[None] < np.array([[20], [6]])
    ids = np.where(mask, rng.integers(2, 200, (2, 20)), 0)
    with torch.no_grad():
        wanted = theirs["umt5"](torch.from_numpy(ids), torch.from_numpy(mask).long())
    config, params = store.load("umt5", converted)
    got = models.apply("umt5", config, params, ids=ids.astype(np.int32), mask=mask)
    wanted = np.where(mask[..., None], wanted.last_hidden_state.numpy(), 0)
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)


def test_back_to_diffusers(converted, theirs, tmp_path):
    import diffusers
    import transformers

    release.convert(converted, tmp_path / "out", to="diffusers")
    classes = {
        "dit": diffusers.WanTransformer3DModel,
        "vae": diffusers.AutoencoderKLWan,
        "umt5": transformers.UMT5EncoderModel,
    }
    for part, cls in classes.items():
        model = cls.from_pretrained(tmp_path / "out" / layouts.SUBFOLDERS[part][0])
        state, wanted = model.state_dict(), theirs[part].state_dict()
        assert state.keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_array_equal(state[key].numpy(), value.numpy(), err_msg=key)


def test_bfloat16_round_trip(theirs, tmp_path):
    import diffusers
    import torch

    model = diffusers.WanTransformer3DModel.from_config(theirs["dit"].config)
    model = randomise(torch, model).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "src/transformer")
    release.convert(tmp_path / "src", tmp_path / "w", parts=["dit"])
    release.convert(tmp_path / "w", tmp_path / "out", to="diffusers", parts=["dit"])
    before = files.open_sharded(tmp_path / "src/transformer", "diffusion_pytorch_model").entries
    after = files.open_sharded(tmp_path / "out/transformer", "diffusion_pytorch_model").entries
    assert before.keys() == after.keys()
    for key, entry in before.items():
        assert entry.dtype == after[key].dtype
        np.testing.assert_array_equal(
            entry.read().view(np.uint16), after[key].read().view(np.uint16)
        )


def test_official_folder_by_torch_equals_ours(tmp_path):
    """The fixtures of the torch-free tests are files that torch reads."""
    import torch

    folders.write_official(tmp_path / "src", parts=("vae",))
    state = torch.load(tmp_path / "src/Wan2.2_VAE.pth", weights_only=True)
    for key, value in folders.reference("vae", "official").items():
        np.testing.assert_array_equal(state[key].numpy(), value)
