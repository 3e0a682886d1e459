"""Point transformer and aligner: golden block, invariances, loss, and behaviour on bad input."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.models.dpa import aligner, fusion
from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.points import chamfer, serialization
from syncmv4d_jax.models.ptv3 import layers, unet

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/ptv3"
B, V, N, K = 1, 3, 4, 20
CONFIG = dpa_config.AlignerConfig(
    width=16, heads=2, depth=2, coarse_blocks=1, cpe_channels=8, patch=128, octaves=4
)


# -- point transformer ---------------------------------------------------------------------------


def golden_block():
    """The golden block as two padded clouds, our parameters and the reference's gradients."""
    golden = np.load(GOLDEN / "block.npz")
    bounds = [0, *golden["offset"]]
    rows = max(np.diff(bounds))

    def batch(x):
        clouds = [x[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
        return jnp.stack(
            [jnp.pad(c, ((0, rows - len(c)),) + ((0, 0),) * (c.ndim - 1)) for c in clouds]
        )

    def params(prefix):
        conv = golden[f"{prefix}:cpe.0.weight"].reshape(32, 27, 32).transpose(1, 2, 0)
        names = {
            "cpe/linear": "cpe.1", "cpe/norm": "cpe.2", "norm1": "norm1.0", "attn/qkv": "attn.qkv",
            "attn/proj": "attn.proj", "norm2": "norm2.0", "mlp/fc1": "mlp.0.fc1",
            "mlp/fc2": "mlp.0.fc2",
        }  # fmt: skip
        flat = {"cpe/conv/kernel": conv, "cpe/conv/bias": golden[f"{prefix}:cpe.0.bias"]}
        for ours, theirs in names.items():
            weight = golden[f"{prefix}:{theirs}.weight"]
            flat[f"{ours}/kernel" if weight.ndim == 2 else f"{ours}/scale"] = weight.T
            flat[f"{ours}/bias"] = golden[f"{prefix}:{theirs}.bias"]
        return tree.unflatten({name: jnp.asarray(x) for name, x in flat.items()})

    return golden, batch, params("param"), params("grad")


class GoldenBlock(layers.Block):
    """The block of the golden file, in the form that `module` wants."""

    def __init__(self, config, *, rngs):
        super().__init__(*config, patch=64, borrow=True, rngs=rngs)


def golden_order(golden):
    """Which of the four curves the golden block's order index names (the reference shuffles)."""
    depth = int(golden["serialized_depth"])
    code = golden["serialized_code"][int(golden["cfg_order_index"])] & ((1 << 3 * depth) - 1)
    for order in serialization.ORDERS:
        hi, lo = serialization.encode(golden["grid_coord"], depth=depth, order=order)
        if (np.asarray(serialization.join(hi, lo, depth=depth)) == code).all():
            return order, depth
    raise AssertionError("no curve has the golden codes")


def test_block_and_its_gradients_equal_the_reference():
    golden, batch, params, wanted = golden_block()
    order, depth = golden_order(golden)
    grid = batch(golden["grid_coord"])
    valid = batch(np.ones(len(golden["feat"]), bool))
    geometry = layers.build(grid, valid, depth=depth, orders=(order,)).along(0)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def run(params, x):
        y = module.bind(GoldenBlock, (32, 4), params)(x, geometry)
        return jnp.sum(jnp.where(valid[..., None], y * batch(golden["out_grad"]), 0)), y

    (_, out), (grads, x_grad) = run(params, batch(golden["feat"]))
    keep = np.asarray(valid)
    np.testing.assert_allclose(np.asarray(out)[keep], golden["out"], atol=1e-5)
    scale = np.abs(golden["feat_grad"]).max()
    np.testing.assert_allclose(np.asarray(x_grad)[keep], golden["feat_grad"], atol=1e-5 * scale)
    for name, got in tree.flatten(grads).items():
        reference = tree.flatten(wanted)[name]
        np.testing.assert_allclose(
            got, reference, atol=2e-5 * float(jnp.abs(reference).max()), err_msg=name
        )


@pytest.mark.slow
def test_borrowed_padding_equals_the_reference():
    golden = np.load(GOLDEN / "padding_rule.npz")
    patch, checked = int(golden["patch_size"]), 0
    for case in range(7):
        sizes = golden[f"{case}_sizes"]
        rows = max(int(sizes.max()), 1)
        place = np.concatenate([[0], np.cumsum(sizes)])
        valid = jnp.arange(rows)[None] < jnp.asarray(sizes)[:, None]
        iota = jnp.tile(jnp.arange(rows), (len(sizes), 1))
        empty = jnp.zeros(0)
        geometry = layers.Geometry(empty, empty, iota, iota, valid)
        index = (iota + jnp.asarray(place[:-1])[:, None]).astype(jnp.float32)[..., None]
        for borrow in (True, False):
            rows_of = layers.to_patches(index, geometry, patch=patch, borrow=borrow)
            mask = layers.patch_mask(valid, geometry, patch=patch, borrow=borrow)
            back = layers.from_patches(rows_of, geometry)
            np.testing.assert_array_equal(back[valid], index[valid])
            if borrow:
                got = np.asarray(rows_of[..., 0])[np.asarray(mask)]
                np.testing.assert_array_equal(got, golden[f"{case}_pad"])
                checked += 1
            else:
                assert int(mask.sum()) == sizes.sum()
    assert checked == 7


def test_default_ptv3_has_the_published_size_and_names():
    flat = tree.flatten(module.shapes(unet.PTv3, unet.PTv3Config()))
    statistics = [name for name in flat if name.endswith(("norm/mean", "norm/var"))]
    trained = sum(leaf.size for name, leaf in flat.items() if name not in statistics)
    assert trained == 46_158_272
    convolutions = sum(x.size for name, x in flat.items() if name.endswith("conv/kernel"))
    assert round(convolutions / 1e6, 2) in (30.82, 30.81, 30.83)
    assert flat["embedding/conv/kernel"].shape == (125, 4, 32)
    assert flat["enc3/block5/attn/qkv/kernel"].shape == (256, 768)
    assert flat["dec0/block1/cpe/conv/kernel"].shape == (27, 64, 64)


SMALL = unet.PTv3Config(
    in_channels=3, enc_depths=(1, 1, 1), enc_channels=(8, 16, 16), enc_heads=(1, 2, 2),
    dec_depths=(1, 1), dec_channels=(8, 16), dec_heads=(1, 2), patches=(16,) * 3, depth=5,
    stale_skip=False,
)  # fmt: skip


@pytest.mark.slow
def test_unet_is_equivariant_to_points_and_blind_to_padding():
    rng = np.random.default_rng(0)
    cells = rng.choice(32**3, 60, replace=False)
    grid = np.stack(np.unravel_index(cells, (32, 32, 32)), -1).astype(np.int32)[None]
    x = rng.normal(size=(1, 60, 3)).astype(np.float32)
    params = fill(unet.PTv3, SMALL, 0.2)

    @functools.partial(jax.jit, static_argnums=3)
    def run(x, grid, valid, config=SMALL):
        return module.bind(unet.PTv3, config, params)(x, grid, valid)

    out = run(x, grid, np.ones((1, 60), bool))
    order = rng.permutation(60)
    moved = run(x[:, order], grid[:, order], np.ones((1, 60), bool))
    np.testing.assert_allclose(moved, out[:, order], atol=2e-5)
    pad = ((0, 0), (0, 20), (0, 0))
    wide = run(np.pad(x, pad, constant_values=9.0), np.pad(grid, pad), np.arange(80)[None] < 60)
    np.testing.assert_allclose(wide[:, :60], out, atol=2e-5)
    assert (np.asarray(wide[:, 60:]) == 0).all()
    stale = run(x, grid, np.ones((1, 60), bool), dataclasses.replace(SMALL, stale_skip=True))
    assert float(jnp.abs(stale - out).max()) > 1e-2


# -- aligner -------------------------------------------------------------------------------------


def fill(model, config, scale=0.1):
    """Random parameters, zero-initialised layers included; scales and variances near one."""
    rng = np.random.default_rng(7)

    def one(name, leaf):
        x = scale * rng.normal(size=leaf.shape)
        return jnp.asarray(1 + abs(x) if name.endswith(("scale", "var")) else x, jnp.float32)

    return tree.map_named(one, module.shapes(model, config))


def inputs(seed=0, batch=B, views=V, frames=N, points=K):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(batch, 1, 1, points, 3)) * 0.4
    truth = truth + rng.normal(size=(batch, 1, frames, 1, 3)) * 0.05
    truth = np.broadcast_to(truth, (batch, views, frames, points, 3))
    t = rng.uniform(0.2, 0.8, batch)
    noisy = (1 - t[:, None, None, None, None]) * truth
    noisy = noisy + t[:, None, None, None, None] * rng.normal(size=truth.shape)
    coarse = truth + rng.normal(size=truth.shape) * 0.02
    origin = rng.normal(size=(batch, views, 1, 1, 3)) + np.array([0, 0, -8.0])
    ray = coarse - origin
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    moment = np.cross(np.broadcast_to(origin, ray.shape), ray)
    arrays = {
        "tracks_t": noisy,
        "coarse": coarse,
        "t": t,
        "confidence": rng.choice([0.0, 0.5, 1.0], truth.shape[:-1], p=[0.2, 0.3, 0.5]),
        "rays": np.concatenate([ray, moment], -1),
    }
    arrays = {key: jnp.asarray(x, jnp.float32) for key, x in arrays.items()}
    return arrays | {"valid": jnp.ones(truth.shape[:-1], bool)}


@functools.cache
def parameters(config=CONFIG):
    return fill(aligner.Aligner, config)


@functools.partial(jax.jit, static_argnames="config")
def velocity(params, tracks_t, coarse, t, confidence, valid, rays, config=CONFIG):
    model = module.bind(aligner.Aligner, config, params)
    return model(tracks_t, coarse, t, confidence=confidence, valid=valid, rays=rays)


def run(given, config=CONFIG):
    return np.asarray(velocity(parameters(config), **given, config=config))


def reorder(given, axis, order):
    return {key: x if key == "t" else jnp.take(x, order, axis) for key, x in given.items()}


def test_size_of_the_full_aligner():
    assert 18e6 < tree.count(module.shapes(aligner.Aligner, dpa_config.BASE)) < 27e6


@pytest.mark.slow
def test_views_and_points_permute_and_a_padded_row_is_a_sample():
    given = inputs(batch=2)
    out = run(given)
    assert out.shape == (2, V, N, K, 3) and np.isfinite(out).all()
    order = jnp.asarray(np.random.default_rng(0).permutation(K))
    np.testing.assert_allclose(run(reorder(given, 3, order)), out[:, :, :, order], atol=3e-5)
    order = jnp.asarray([2, 0, 1])
    np.testing.assert_allclose(run(reorder(given, 1, order)), out[:, order], atol=3e-5)

    def row(key, x):
        if key == "t":
            return x[1:]
        width = ((0, 0), (0, 0), (0, 1), (0, 12)) + ((0, 0),) * (x.ndim - 4)
        return jnp.pad(x[1:], width, constant_values=False if key == "valid" else 0.7)

    wide = run({key: row(key, x) for key, x in given.items()})
    np.testing.assert_allclose(wide[0, :, :N, :K], out[1], atol=3e-5)


ALONE = dataclasses.replace(CONFIG, temporal="none", patch=16, sigma_coarse=None)


@pytest.mark.slow
def test_frames_permute_without_track_attention_and_points_with_small_patches(monkeypatch):
    """In float64: rounding would move points over the edges of cells, and so to other patches."""
    config, params = dataclasses.replace(ALONE, dtype="float64"), parameters(ALONE)
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    with jax.enable_x64(True):
        given = inputs(seed=2)
        given["confidence"] = jnp.ones_like(given["confidence"])  # no two points in one cell
        params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        go = lambda x: np.asarray(velocity(params, **x, config=config))  # noqa: E731
        out = go(given)
        assert out.dtype == np.float64
        order = jnp.asarray([3, 1, 0, 2])
        moved = go(reorder(given, 2, order))
        np.testing.assert_allclose(moved, out[:, :, order], atol=1e-9)
        order = jnp.asarray(np.random.default_rng(1).permutation(K))
        moved = go(reorder(given, 3, order))
        np.testing.assert_allclose(moved, out[:, :, :, order], atol=1e-9)


def test_zero_head_gives_zero_or_the_bayes_estimate():
    given = inputs(batch=2)
    zero = jax.tree.map(jnp.zeros_like, parameters(ALONE)["head"])
    out = velocity(parameters(ALONE) | {"head": zero}, **inputs(), config=ALONE)
    assert not out.any()
    out = velocity(parameters() | {"head": zero}, **given)
    fused = fusion.fuse(given["coarse"], given["confidence"], given["rays"]).points
    t, s = given["t"][:, None, None, None, None], CONFIG.sigma_coarse
    # Bayes: data ~ N(c, s^2), M_t = (1 - t) data + t noise
    mean = fused[:, None] + s**2 * (1 - t) / (s**2 * (1 - t) ** 2 + t**2) * (
        given["tracks_t"] - (1 - t) * fused[:, None]
    )
    np.testing.assert_allclose(given["tracks_t"] - t * out, mean, atol=1e-5)


def head_part(given, **changes):
    """What the network adds to the Bayes estimate, of a head that is not zero."""
    given = given | changes
    zero = jax.tree.map(jnp.zeros_like, parameters()["head"])
    alone = velocity(parameters() | {"head": zero}, **given)
    return np.asarray(velocity(parameters(), **given) - alone)


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_without_its_network_the_aligner_is_its_closed_form(t):
    """Whatever noise there is in M_t, which would be a draw: tracks that jitter."""
    given = inputs()
    given["t"] = jnp.full_like(given["t"], t)
    model = module.bind(aligner.Aligner, CONFIG, parameters())
    fused = fusion.fuse(given["coarse"], given["confidence"], given["rays"]).points[:, None]
    for tracks_t in (given["tracks_t"], given["tracks_t"] + 1.0):
        out = model(**given | {"tracks_t": tracks_t}, network=False)
        np.testing.assert_allclose(tracks_t - t * out, fused + 0 * out, atol=1e-5)
    with pytest.raises(ValueError, match="is all network"):
        module.bind(aligner.Aligner, ALONE, parameters(ALONE))(**given, network=False)


def test_the_network_does_not_answer_the_noise_where_tracks_are_noise():
    given, noise = inputs(), jax.random.normal(jax.random.key(9), inputs()["tracks_t"].shape)
    ones = jnp.ones_like(given["t"])
    one, other = (head_part(given, t=ones, tracks_t=x) for x in (given["tracks_t"], noise))
    np.testing.assert_allclose(one, other, atol=1e-5)
    early = [head_part(given, t=0.3 * ones, tracks_t=x) for x in (given["tracks_t"], noise)]
    assert np.abs(early[0] - early[1]).max() > 1e-2  # and reads them where they say something


@jax.jit
@jax.value_and_grad
def squares(params, given):
    return jnp.sum(velocity(params, **given) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["nothing measured", "nothing valid", "not finite", "far", "one voxel", "one point"]
)
def test_bad_clouds_stay_finite(case):
    given = inputs()
    if case == "nothing measured":
        given["confidence"] = jnp.zeros_like(given["confidence"])
    elif case == "nothing valid":
        given["valid"] = jnp.zeros_like(given["valid"])
    elif case == "not finite":
        given["coarse"] = given["coarse"].at[0, 0].set(jnp.nan).at[0, 1, 0, 0, 0].set(jnp.inf)
        given["tracks_t"] = given["tracks_t"].at[0, 2, 0, 0].set(jnp.nan)
        given["rays"] = given["rays"].at[0, 0, 0, 0].set(jnp.nan)
    elif case == "far":
        given["coarse"] = given["coarse"].at[0, 0].set(1e8)
    elif case == "one voxel":
        given["coarse"] = jnp.zeros_like(given["coarse"])
        given["tracks_t"] = jnp.zeros_like(given["tracks_t"])
    elif case == "one point":
        given["valid"] = jnp.zeros_like(given["valid"]).at[0, 0, 0, 0].set(True)
    value, grads = squares(parameters(), given)
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_shapes_and_switches_are_checked():
    given = inputs()
    with pytest.raises(ValueError, match=r"rays \[b v n k 6\]; got"):
        run(given | {"rays": given["rays"][..., :3]})
    with pytest.raises(ValueError, match="temporal: wanted one of"):
        dpa_config.AlignerConfig(temporal="frame")
    with pytest.raises(ValueError, match="width 30"):
        dpa_config.AlignerConfig(width=30)


# -- normalisation, loss -----------------------------------------------------------------


def test_normalisation_and_rays():
    rng = np.random.default_rng(0)
    tracks = jnp.asarray(rng.normal(size=(2, 3, 4, 5, 3)), jnp.float32)
    centre = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
    units = world_tracks.normalise(tracks, centre)
    np.testing.assert_allclose(world_tracks.denormalise(units, centre), tracks, atol=1e-5)
    np.testing.assert_allclose(
        units[1, 2, 3, 4], (tracks[1, 2, 3, 4] - centre[1]) / 0.25, atol=1e-5
    )
    pose = jnp.concatenate([jnp.eye(3), jnp.asarray([[0.0], [0.0], [2.0]])], -1)
    rays = world_tracks.point_rays(units, jnp.tile(pose, (2, 3, 1, 1)), centre)
    origin = (jnp.asarray([[0.0, 0.0, -2.0]]) - centre) / 0.25
    toward = units[0, 0, 0, 0] - origin[0]
    np.testing.assert_allclose(rays[0, 0, 0, 0, :3], toward / jnp.linalg.norm(toward), atol=1e-5)
    np.testing.assert_allclose(
        rays[0, 0, 0, 0, 3:], jnp.cross(units[0, 0, 0, 0], rays[0, 0, 0, 0, :3]), atol=1e-4
    )


def test_chamfer_equals_brute_force_and_its_gradient_is_that_of_the_pairs():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(3, n, 3)), jnp.float32) for n in (40, 30))
    a_valid, b_valid = (
        jnp.asarray(rng.random((3, 40)) < 0.7),
        jnp.asarray(rng.random((3, 30)) < 0.7),
    )

    def brute(a, b):
        square = jnp.sum((a[:, :, None] - b[:, None]) ** 2, -1)
        square = jnp.where(a_valid[:, :, None] & b_valid[:, None], square, jnp.inf)
        one = jnp.sum(jnp.where(a_valid, square.min(2), 0), 1) / a_valid.sum(1)
        return one + jnp.sum(jnp.where(b_valid, square.min(1), 0), 1) / b_valid.sum(1)

    def distance(a, b, a_valid=a_valid, b_valid=b_valid):
        return jax.lax.map(chamfer.frame, (a, b, a_valid, b_valid))

    np.testing.assert_allclose(distance(a, b), brute(a, b), atol=1e-5)
    for i in range(2):
        got, wanted = (
            jax.grad(lambda *x, f=f: f(*x).sum(), argnums=i)(a, b) for f in (distance, brute)
        )
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    same = distance(a, a, a_valid=a_valid, b_valid=a_valid)
    assert (np.asarray(same) == 0).all()
    none = distance(a, b, a_valid=a_valid, b_valid=jnp.zeros_like(b_valid))
    assert (np.asarray(none) == 0).all()


def test_loss_is_zero_at_the_truth_and_masks():
    given = inputs()
    t, tracks_t = given["t"], given["tracks_t"]
    truth = jnp.asarray(np.random.default_rng(3).normal(size=(B, N, K, 3)), jnp.float32)
    target = (tracks_t - truth[:, None]) / t[0]
    valid = given["valid"].at[:, :, -1].set(False)
    arrays = dict(target=target, tracks_t=tracks_t, tracks=truth, t=t, valid=valid)
    total, scalars = aligner.loss(target, **arrays)
    assert float(total) < 1e-6 and float(scalars["distance"]) < 1e-4
    wrong = target.at[:, :, -1].add(5.0)
    assert float(aligner.loss(wrong, **arrays)[0]) < 1e-6
    assert float(aligner.loss(target + 1.0, **arrays)[1]["velocity"]) == pytest.approx(
        1.0, abs=1e-4
    )
