"""What frame 0 looks like: patches in the transformer's order, a cache of them, weights by file."""

import dataclasses

import jax
import numpy as np
import pytest

from syncmv4d_jax.metrics.networks import weights
from syncmv4d_jax.metrics.networks.features import appearance, vit
from syncmv4d_jax.models.nn import module

TINY = vit.ViTConfig(dim=8, layers=1, heads=2)


@pytest.fixture
def encode(monkeypatch, tmp_path):
    """The encoder of a small network whose patches see nothing but themselves."""
    params = module.init(vit.ViT, TINY, jax.random.key(0))
    params["blocks"]["attn"]["proj"]["kernel"] *= 0
    own = dataclasses.replace(weights.NETWORKS["dino"], config=TINY)
    loaded = weights.Loaded(own, params, {"a.pth": "0123456789abcdef0123"}, "official")
    monkeypatch.setattr(weights, "load", lambda name, folder: loaded)
    return appearance.encoder(str(tmp_path))


def test_a_patch_is_where_its_pixels_are(encode):
    run, mark = encode
    image = np.random.default_rng(0).integers(0, 255, (28, 56, 3), np.uint8)
    found = run(image)
    assert found.shape == (14, 14, 8) and found.dtype == np.float16
    assert mark == "0123456789abcdef"
    image[20:22, 40:44] = 255 - image[20:22, 40:44]  # of 14 x 14 patches row 10, column 10
    changed = np.abs(run(image).astype(float) - found).max(-1) > 1e-2
    rows, columns = np.nonzero(changed)
    assert changed[10, 10] and set(rows) <= {9, 10, 11} and set(columns) <= {9, 10, 11}


def test_a_folder_without_dino_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        appearance.encoder(str(tmp_path / "none"))
    with pytest.raises(
        FileNotFoundError, match=r"no weights of dino \(dino_vitbase16_pretrain.pth"
    ):
        appearance.encoder(str(tmp_path))
