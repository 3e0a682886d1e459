"""The ViT against transformers' CLIP and ViT, live, at a small size with random weights."""

import jax
import numpy as np
import pytest

from syncmv4d_jax.metrics.networks import weights
from syncmv4d_jax.metrics.networks.features import vit
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.weights import files

pytestmark = pytest.mark.parity
SIZES = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3,
         "num_attention_heads": 4, "image_size": 32}  # fmt: skip


def randomised(peer, seed=0):
    """Gives every parameter of a torch module random values; returns its state dict."""
    rng = np.random.default_rng(seed)
    state = {}
    for key, tensor in peer.state_dict().items():
        if tensor.is_floating_point():
            scale = 0.3 / max(1, np.sqrt(np.prod(tensor.shape[1:])) / 4)
            tensor.copy_(tensor.new_tensor(rng.normal(0.02, scale, tensor.shape)))
        state[key] = tensor.numpy()
    return state


def ours(name, config, state, images, monkeypatch):
    network = weights.NETWORKS[name]
    own = weights.Network(vit.ViT, config, network.table, network.candidates, "")
    monkeypatch.setitem(weights.NETWORKS, name, own)
    entries = {key: files.entry_of(x) for key, x in state.items()}
    params = weights.convert(name, entries, "transformers", source=name)
    run = jax.jit(lambda params, x: module.bind(vit.ViT, config, params)(x))
    return np.asarray(run(params, np.moveaxis(images, 1, -1)))


def test_clip_image_embedding(monkeypatch):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peer = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            **SIZES, patch_size=8, projection_dim=24, hidden_act="quick_gelu"
        )
    ).eval()
    images = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        state = randomised(peer)
        wanted = peer(torch.from_numpy(images)).image_embeds.numpy()
    config = vit.ViTConfig(
        dim=48, layers=3, heads=4, patch=8, image=32, eps=1e-5, clip=True, projection=24
    )
    found = ours("clip", config, state, images, monkeypatch)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_dino_in_transformers_files(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peer = transformers.ViTModel(
        transformers.ViTConfig(**SIZES, patch_size=8, layer_norm_eps=1e-6, hidden_act="gelu")
    ).eval()
    images = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        randomised(peer)
        wanted = peer(torch.from_numpy(images)).last_hidden_state[:, 0].numpy()
    peer.save_pretrained(tmp_path)
    entries = files.open_safetensors([tmp_path / "model.safetensors"]).entries
    state = {key: entry.read() for key, entry in entries.items()}
    config = vit.ViTConfig(dim=48, layers=3, heads=4, patch=8, image=32)
    found = ours("dino", config, state, images, monkeypatch)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("size", [(12, 20), (50, 33), (7, 7)])
def test_resizes_against_torch(size):
    torch = pytest.importorskip("torch")
    from syncmv4d_jax.models.nn import image_layers as layers

    x = np.random.default_rng(0).normal(size=(2, 3, 17, 23)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(x), size=size, mode="bilinear", align_corners=False, antialias=False
    ).numpy()
    found = layers.resize(np.moveaxis(x, 1, -1), size)
    np.testing.assert_allclose(np.moveaxis(np.asarray(found), -1, 1), wanted, atol=1e-5)


def test_clip_pixels_against_transformers():
    transformers = pytest.importorskip("transformers")
    from syncmv4d_jax.metrics.networks import evaluators

    rng = np.random.default_rng(0)
    names = ("CLIPImageProcessorPil", "CLIPImageProcessor")
    peer = next(getattr(transformers, n) for n in names if hasattr(transformers, n))()
    for shape in ((48, 70, 3), (90, 42, 3), (224, 224, 3)):
        frame = rng.integers(0, 255, shape, np.uint8)
        wanted = np.asarray(peer(frame, return_tensors="np")["pixel_values"][0])
        mean, std = (np.array(x) for x in vit.CLIP_PIXELS)
        found = (evaluators.clip_pixels(frame, 224) / 255 - mean) / std
        # A level of 255 more or less. Odd margins differ: OpenAI's crop rounds, this peer cuts.
        assert np.abs(np.moveaxis(found, -1, 0) - wanted).max() < 2.1 / 255 / std.min()
