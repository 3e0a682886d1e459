"""Meshes, rules, and sharded == unsharded on eight fake devices."""

import re

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from syncmv4d_jax import tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines import placement as placements
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import mjd
from syncmv4d_jax.models.nn import module, protocol

MESHES = {
    "data": ({"data": 8}, "ulysses"),
    "fsdp": ({"fsdp": 8}, "ulysses"),
    "view": ({"fsdp": 2, "view": 2}, "ulysses"),
    "view3": ({"fsdp": 2, "view": 3}, "ulysses"),
    "ulysses": ({"fsdp": 2, "sequence": 4}, "ulysses"),
    "ring": ({"fsdp": 2, "sequence": 4}, "ring"),
    "view-ulysses": ({"fsdp": 2, "view": 2, "sequence": 2}, "ulysses"),
    "view-ring": ({"data": 2, "view": 2, "sequence": 2}, "ring"),
    "data-fsdp": ({"data": 2, "fsdp": 4}, "ulysses"),
    "ring8": ({"sequence": 8}, "ring"),
}
HEADS, WIDTH, TEXT = 12, 24, 5


def devices(axes):
    return jax.devices()[: int(np.prod(list(axes.values())))]


def parameters(key):
    shape = {"kernel": jax.random.normal(key, (2, WIDTH, 4 * WIDTH)) * 0.2}
    return {"blocks": {"qkvo": shape}, "scale": jnp.ones((WIDTH,))}


def model(params, x, text, placement, mask):
    """Intra, inter and cross attention as MJD has them. x: [b v f s d] -> [b v f s d]."""
    b, v, f, s, _ = x.shape

    def block(x, kernel):
        q, k, value, o = jnp.split(kernel, 4, axis=1)
        head = lambda y: einops.rearrange(y, "b s (h k) -> b s h k", h=HEADS)  # noqa: E731

        def attend(x, context, **options):
            y = placement.attend(head(x @ q), head(context @ k), head(context @ value), **options)
            return einops.rearrange(y, "b s h k -> b s (h k)") @ o

        x = placement.constrain(einops.rearrange(x, "b v f s d -> (b v) (f s) d"), "(b v) s d")
        x = x + attend(x, x, mask=mask)
        x = einops.rearrange(x, "(b v) (f s) d -> (b f) (v s) d", v=v, f=f)
        x = x + attend(x, x, kind="inter")
        x = einops.rearrange(x, "(b f) (v s) d -> (b v) (f s) d", b=b, v=v)
        lengths = jnp.full((b * v,), TEXT - 1, jnp.int32)
        x = x + attend(x, jnp.repeat(text, v, 0), lengths=lengths, kind="cross")
        return einops.rearrange(x, "(b v) (f s) d -> b v f s d", v=v, f=f), None

    x, _ = jax.lax.scan(block, x, params["blocks"]["qkvo"]["kernel"])
    return x * params["scale"][None, None, None, None]


def inputs(views, frames=3):
    key = jax.random.split(jax.random.key(1), 3)
    x = jax.random.normal(key[0], (8, views, frames, 5, WIDTH))  # 15 tokens: uneven on purpose
    text = jax.random.normal(key[1], (8, TEXT, WIDTH))
    mask = jnp.arange(15)[None, None, None] != 7
    return parameters(key[2]), x, text, mask


def value_and_grad(params, x, text, mask, placement):
    def loss(params):
        return jnp.mean(jnp.square(model(params, x, text, placement, mask)))

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize("name", MESHES)
def test_sharded_equals_unsharded(name):
    axes, sequence = MESHES[name]
    views = 3 if axes.get("view") == 3 else 2
    params, x, text, mask = inputs(views)
    wanted = jax.jit(value_and_grad, static_argnums=4)(params, x, text, mask, protocol.LOCAL)
    mesh = meshes.make_mesh(axes, devices(axes))
    placement = placements.Placement(mesh, sequence=sequence)
    placed = jax.device_put(params, meshes.shardings(params, mesh, minimum=16))
    batch = meshes.put_batch({"x": np.asarray(x), "text": np.asarray(text)}, mesh, 8)
    step = jax.jit(value_and_grad, static_argnums=4)
    got = step(placed, batch["x"], batch["text"], mask, placement)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-6)
    for path, leaf in tree.flatten(wanted[1]).items():
        error = np.max(np.abs(leaf - tree.flatten(got[1])[path])) / np.max(np.abs(leaf))
        assert error <= 1e-5, (path, error)


@pytest.mark.parametrize("name", ["ulysses", "ring"])
def test_no_gather_of_queries_keys_values(name):
    """Ulysses is all-to-all, ring is collective-permute; neither gathers tokens."""
    axes, sequence = MESHES[name]
    mesh = meshes.make_mesh(axes)
    placement = placements.Placement(mesh, sequence=sequence)
    q = jax.ShapeDtypeStruct(
        (4, 64, HEADS, 16),
        jnp.float32,
        sharding=jax.NamedSharding(mesh, P(meshes.BATCH, "sequence")),
    )
    text = jax.jit(placement.attend).lower(q, q, q).compile().as_text()
    wanted = {"ulysses": "all-to-all", "ring": "collective-permute"}[name]
    assert re.search(rf"\b{wanted}", text)
    assert "all-gather" not in text


def test_mesh_errors_name_the_axis_and_what_fits():
    with pytest.raises(ValueError, match=r"wants 6 devices.*there are 8.*data=4 would fit"):
        meshes.make_mesh({"data": 3, "fsdp": 2})
    with pytest.raises(ValueError, match=r"unknown axes \['model'\]"):
        meshes.make_mesh({"model": 8})
    with pytest.raises(ValueError, match=r"view may be one of \[1, 2, 4, 8\]"):
        meshes.make_mesh({"view": 3, "fsdp": -1})
    assert meshes.make_mesh({"fsdp": -1, "data": 2}).shape["fsdp"] == 4


def test_heads_that_do_not_divide():
    placement = placements.Placement(meshes.make_mesh({"sequence": 8}))
    q = jnp.zeros((1, 16, HEADS, 4))
    with pytest.raises(ValueError, match=r"heads of intra attention: 12 does not divide.*ring"):
        placement.attend(q, q, q)


def test_views_that_do_not_divide():
    placement = placements.Placement(meshes.make_mesh({"view": 2, "fsdp": 4}))
    with pytest.raises(ValueError, match=r"axis v of 'b v d': 3 does not divide over view=2"):
        placement.constrain(jnp.zeros((4, 3, 2)), "b v d")


def test_a_constraint_cuts_the_axes_it_names():
    mesh = meshes.make_mesh({"fsdp": 2, "view": 2, "sequence": 2})
    placement = placements.Placement(mesh)
    x = jnp.zeros((4, 8, 3))
    for axes, spec in (
        ("(b v) s d", P(("data", "fsdp", "view"), "sequence")),
        ("b any d", P(("data", "fsdp"))),
        ("b n k", P(("data", "fsdp"), ("view", "sequence"))),
    ):
        got = jax.jit(lambda x, axes=axes: placement.constrain(x, axes))(x).sharding
        assert got.is_equivalent_to(jax.NamedSharding(mesh, spec), x.ndim), axes
    odd = jax.jit(lambda x: placement.constrain(x, "b s d"))(jnp.zeros((4, 5, 3))).sharding
    assert odd.is_equivalent_to(jax.NamedSharding(mesh, P(("data", "fsdp"))), 3)


def test_rules_cover_moments_and_stacks():
    mesh = meshes.make_mesh({"fsdp": 4, "data": 2})
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    state = {
        "params": {"blocks": {"q": {"kernel": shape(30, 64, 32)}}, "out": {"bias": shape(7)}},
        "opt": {"mu": {"blocks": {"q": {"kernel": shape(30, 64, 32)}}}},
    }
    rules = [(r"q/kernel$", (None, "fsdp"))]
    specs = tree.flatten(meshes.shardings(state, mesh, rules, minimum=1))
    assert specs["params/blocks/q/kernel"].spec == P(None, None, "fsdp")
    assert specs["opt/mu/blocks/q/kernel"].spec == P(None, None, "fsdp")
    assert specs["params/out/bias"].spec == P()
    default = tree.flatten(meshes.shardings(state, mesh, minimum=1))
    assert default["params/blocks/q/kernel"].spec == P(None, ("fsdp", "view", "sequence"), None)
    # Only the layers of this stack would divide: it stays whole, as one leaf it is cut.
    odd = {"blocks": {"bias": shape(8, 7)}, "bias": shape(8, 7)}
    odd = tree.flatten(meshes.shardings(odd, mesh, minimum=1))
    assert odd["blocks/bias"].spec == P() and odd["bias"].spec[0] == ("fsdp", "view", "sequence")
    with pytest.raises(ValueError, match=r"30 % 4 = 2; \[1, 2, 3\] would divide"):
        meshes.shardings(state, mesh, [(r"q/kernel$", ("fsdp", None, None))])


def test_batch_that_does_not_divide():
    mesh = meshes.make_mesh({"fsdp": 4, "data": 2})
    assert meshes.data_shard(mesh, 16) == (0, 1)
    with pytest.raises(ValueError, match=r"batch_size 12 does not divide.*8 or 16 would"):
        meshes.data_shard(mesh, 12)


def mjd_loss(model_config, params, inputs, placement):
    *latents, t, text = inputs
    model = module.bind(mjd.MJD, model_config, params)
    out = model(mjd.Inputs(*latents, t), mjd.Text(text), placement=placement)
    total = jnp.mean(jnp.square(out.velocity)) + jnp.mean(jnp.square(out.motion_velocity))
    return total + jnp.mean(jnp.square(out.scale))


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_mjd_sharded_equals_unsharded(name):
    """The whole joint denoiser: loss 1e-6, gradients 1e-5 of the leaf's largest value."""
    axes, sequence = MESHES[name]
    views = 3 if axes.get("view") == 3 else 2
    model_config = mjd_config.MJDConfig(
        dim=48, ffn_dim=96, heads=12, layers=2, in_channels=4, out_channels=4, freq_dim=32,
        text_dim=16, text_len=8, dtype=jnp.float32, patch=(1, 2, 2),
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(2), 5)
    params = module.init(mjd.MJD, model_config, keys[0])
    # Zero-initialised gates and heads would hide errors: everything gets noise.
    noise = lambda path, x: x + 0.05 * jax.random.normal(keys[1], x.shape)  # noqa: E731
    params = tree.map_named(noise, params)
    latents = jax.random.normal(keys[2], (2, 8, views, 3, 4, 6, 4))
    context, t = jax.random.normal(keys[3], (8, 8, 16)), jnp.linspace(100.0, 900.0, 8)
    values = {"video": latents[0], "motion": latents[1], "t": t, "context": context}
    step = jax.jit(jax.value_and_grad(mjd_loss, argnums=1), static_argnums=(0, 3))
    wanted = step(model_config, params, tuple(values.values()), protocol.LOCAL)
    mesh = meshes.make_mesh(axes, devices(axes))
    placed = jax.device_put(params, meshes.shardings(params, mesh, minimum=64))
    batch = meshes.put_batch({k: np.asarray(x) for k, x in values.items()}, mesh, 8)
    placement = placements.Placement(mesh, sequence=sequence)
    got = step(model_config, placed, tuple(batch[k] for k in values), placement)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-6)
    for path, leaf in tree.flatten(wanted[1]).items():
        largest = np.max(np.abs(leaf))
        error = np.max(np.abs(leaf - tree.flatten(got[1])[path]))
        assert error <= 1e-5 * largest + 1e-9, (path, error, largest)


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"fsdp": 2, "sequence": 4}, {"view": 3, "fsdp": 2}])
def test_each_view_on_its_own_device(axes):
    """Views map to devices; those that do not divide are padded, gradients do not see the pads."""
    mesh = meshes.make_mesh(axes, devices(axes))
    key = jax.random.split(jax.random.key(3))
    x, weight = jax.random.normal(key[0], (8, 3, 4, 5)), jax.random.normal(key[1], (5, 2))

    def loss(weight, x, placement):
        y = placement.each(lambda w, a: {"y": jnp.tanh(a["x"] @ w)}, weight, {"x": x})["y"]
        return jnp.sum(y * jnp.arange(24.0).reshape(8, 3, 1, 1)), y

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    (wanted, y), gradients = step(weight, x, protocol.LOCAL)
    (got, z), others = step(weight, x, placements.Placement(mesh))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    np.testing.assert_allclose(z, y, rtol=1e-6)
    for a, b in zip(gradients, others, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-4)


def test_views_of_an_uneven_batch():
    placement = placements.Placement(meshes.make_mesh({"fsdp": 8}))
    with pytest.raises(ValueError, match=r"batch of mapped views: 4 does not divide.*fsdp=8"):
        placement.each(lambda _, x: x, None, jnp.zeros((4, 3, 2)))
