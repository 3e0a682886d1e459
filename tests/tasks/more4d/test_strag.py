"""STraG: its loss by its definition, what is held and weighed, sampling, its points."""

import dataclasses

import einops
import jax
import jax.numpy as jnp
import more4d_tiny as tiny
import numpy as np
import pytest

from syncmv4d_jax import flow, tree
from syncmv4d_jax.geometry import cameras, flow_map
from syncmv4d_jax.tasks import base


@pytest.fixture(scope="module")
def batch():
    return tiny.batch()


@pytest.fixture(scope="module")
def params():
    return tiny.shaken(tiny.make_strag().init(jax.random.key(0)))


@pytest.fixture(scope="module")
def cached(batch, params):
    """The batch with latents in place of pixels."""
    task = tiny.make_strag()

    def encode(params, batch):
        values = flow_map.compand(batch["flow"].astype(jnp.float32), task.maps.gain)
        return task.maps.vae.encode(params, values), *task._frame0(params, batch)

    found = jax.jit(encode)(params, batch)
    names = ("flow_latents", "rgb0_latents", "depth_latents")
    rest = {k: x for k, x in batch.items() if k not in ("video", "flow")}
    return rest | dict(zip(names, found, strict=True))


def loss(task, params, batch, seed=0):
    chosen, frozen = tree.split(params, task.trainable)
    return jax.jit(task.loss)(chosen, frozen, batch, jax.random.key(seed))


def test_the_loss_by_its_definition(params, cached):
    """Written down again: order of channels, frame 0 clean at t = 0, W, the weight of t."""
    task = tiny.make_strag()
    valid = cached["flow_valid"].at[:, :, :8, :8].set(False)
    got, scalars = loss(task, params, cached | {"flow_valid": valid}, seed=3)
    rng = jax.random.split(jax.random.key(3), 3)[2]
    time, noise_key = jax.random.split(rng)
    fold = lambda x: einops.rearrange(x, "b v ... -> (b v) ...")  # noqa: E731
    data = fold(task.maps.standardise(params, cached["flow_latents"]))
    t, w = flow.sample_table(time, (len(data),), shift=5.0)
    noise = jax.random.normal(noise_key, data.shape)
    s = t[:, None, None, None, None]
    x = ((1 - s) * data + s * noise).at[:, 0].set(data[:, 0])
    both = jnp.concatenate([fold(cached["rgb0_latents"]), fold(cached["depth_latents"])], -1)
    network = tiny.make_strag().generator
    text, lengths = jnp.repeat(cached["text"], 2, 0), jnp.repeat(cached["text_lengths"], 2)

    def forward(params, x):
        from syncmv4d_jax.models import conditioned
        from syncmv4d_jax.models.nn import module

        model = module.bind(conditioned.ConditionedDiT, network.dit_config, params["dit"])
        seen = network.perceived(params, fold(cached["rgb0_latents"])[:, 0])
        return model(
            jnp.concatenate([x, jnp.repeat(both, 2, 1)], -1), 1000 * t, text,
            context_lengths=lengths, first_frame=True, perceived=seen,
        )  # fmt: skip

    error = np.asarray(jax.jit(forward)(params, x) - (noise - data)) ** 2
    share = np.ones((2, 2, 3))
    share[:, 0, 0] = 0.0
    weight = np.maximum(share, 0.1)[:, None, :, :, None]
    each = (error[:, 1:] * weight).sum((1, 2, 3, 4)) / error[0, 1:].size
    np.testing.assert_allclose(got, np.mean(np.asarray(w) * each), rtol=1e-4)
    np.testing.assert_allclose(scalars["error"], each.mean(), rtol=1e-4)


@pytest.mark.slow
def test_latents_of_the_cache_are_those_made_from_pixels(params, batch, cached):
    task = tiny.make_strag()
    np.testing.assert_allclose(loss(task, params, batch)[0], loss(task, params, cached)[0],
                               rtol=1e-5)  # fmt: skip


@pytest.mark.slow
def test_data_prediction_counts_errors_of_the_data(params, cached):
    """The network gives x_0: at the same draw the loss is its squared error, without a weight."""
    task = tiny.make_strag(prediction="data", time_shift=8.0)
    got, _ = loss(task, params, cached, seed=1)
    time, noise_key = jax.random.split(jax.random.split(jax.random.key(1), 3)[2])
    data = task.maps.standardise(params, cached["flow_latents"])[0]
    t = flow.sample_uniform(time, (2,), shift=8.0)
    noise = jax.random.normal(noise_key, data.shape)
    s = t[:, None, None, None, None]
    x = ((1 - s) * data + s * noise).at[:, 0].set(data[:, 0])
    plain = dataclasses.replace(
        task.generator, options=dataclasses.replace(task.options, prediction="velocity")
    )
    rgb0, depth = (cached[k][0][:, 0] for k in ("rgb0_latents", "depth_latents"))
    from syncmv4d_jax.tasks.more4d import conditional

    condition = jnp.repeat(jnp.concatenate([rgb0, depth], -1)[:, None], 2, 1)
    text, lengths = (jnp.repeat(cached[k], 2, 0) for k in ("text", "text_lengths"))
    seen = jax.jit(plain.perceived)(params, rgb0)
    inputs = conditional.Inputs(condition, text, lengths, jnp.ones(2, bool), seen)
    clean = jax.jit(plain.velocity)(params, x, t, inputs)
    np.testing.assert_allclose(got, jnp.mean(jnp.square(clean - data)[:, 1:]), rtol=1e-3)


@pytest.mark.slow
def test_ablations_leave_out_what_they_name(params, cached):
    full = loss(tiny.make_strag(), params, cached)[0]
    no_depth = loss(tiny.make_strag(depth=False), params, cached)[0]
    zero = cached | {"depth_latents": jnp.zeros_like(cached["depth_latents"])}
    assert no_depth != full
    np.testing.assert_allclose(no_depth, loss(tiny.make_strag(), params, zero)[0], rtol=1e-6)
    without = {k: x for k, x in params.items() if k != "perception"}
    assert loss(tiny.make_strag(sees=None), without, cached)[0] != full


def inputs_of(task, params, batch):
    keys = ("depth0", "intrinsics", "extrinsics", "text", "text_lengths")
    given = {key: batch[key] for key in keys}
    return given | {"first": task.encode(params, batch["video"][:, :, :1])}


@pytest.mark.slow
def test_a_sample_has_flow_and_points_of_each_view(params, batch):
    task, reports = tiny.make_strag(), []
    inputs = inputs_of(task, params, batch)
    assert isinstance(task, base.Sampled) and isinstance(task, base.Deep)
    drawn = task.sample(params, inputs, jax.random.key(0), progress=lambda *x: reports.append(x))
    assert drawn.latents.shape == (1, 2, 2, 2, 3, 4) and reports[-1] == (2, 2)
    zero = task.maps.encode(params, jnp.zeros((1, 2, 1, *tiny.SIZE, 3)))
    np.testing.assert_allclose(drawn.latents[:, :, :1], zero, atol=1e-4)  # frame 0 is held
    assert (
        drawn.flow.shape == (1, 2, 5, *tiny.SIZE, 3) and not np.asarray(drawn.flow[:, :, 0]).any()
    )
    k = drawn.tracks_per_view.shape[3]
    assert k <= 40 and drawn.tracks_per_view.shape == (1, 2, 5, k, 3)
    np.testing.assert_array_equal(drawn.tracks_per_view[0, 0], drawn.tracks_per_view[0, 1])
    view = np.asarray(drawn.anchor_view[0])
    assert sorted(set(view.tolist())) == [0, 1]
    for v in range(2):  # the points start on their pixels, at their depth
        pixels, depth = cameras.project(
            drawn.tracks_per_view[0, v, 0], batch["intrinsics"][0, v], batch["extrinsics"][0, v, 0]
        )
        own = view == v
        at = np.asarray(drawn.anchors[0, v])[own]
        np.testing.assert_allclose(pixels[own], at, atol=1e-3)
        wanted = np.asarray(batch["depth0"][0, v])[at[:, 1].astype(int), at[:, 0].astype(int)]
        np.testing.assert_allclose(depth[own], wanted, rtol=1e-5)
        assert drawn.anchor_valid[0, v][own].all() and not drawn.anchor_valid[0, v][~own].any()
    shown = task.decode(params, drawn).pixels
    np.testing.assert_allclose(flow_map.expand(shown, 8.0), drawn.flow, atol=1e-4)


@pytest.mark.slow
def test_one_view_of_two_is_sampled_alone(params, batch):
    task = tiny.make_strag()
    inputs = inputs_of(task, params, batch)
    alone = {k: x[:, :1] if not k.startswith("text") else x for k, x in inputs.items()}
    drawn = task.sample(params, alone, jax.random.key(0))
    assert drawn.flow.shape[1] == 1 and drawn.tracks_per_view.shape[1] == 1


def test_refused_inputs(params, batch, cached):
    task = tiny.make_strag()
    inputs = inputs_of(task, params, batch)
    del inputs["depth0"]
    with pytest.raises(ValueError, match=r"wanted an image and its depth.*config.sample.depth"):
        task.sample(params, inputs, jax.random.key(0))
    with pytest.raises(ValueError, match=r"no \['flow_valid'\]: prepare the records with --with f"):
        loss(task, params, {k: x for k, x in cached.items() if k != "flow_valid"})
    appearance = dataclasses.replace(tiny.PERCEIVES, source="appearance", channels=8)
    with pytest.raises(ValueError, match="no appearance"):
        sees = tiny.make_strag(sees=appearance)
        loss(sees, tiny.shaken(sees.init(jax.random.key(0))), cached)
    short = cached | {"flow_latents": cached["flow_latents"][:, :, :1]}
    with pytest.raises(ValueError, match="wanted flow latents"):
        loss(task, params, short)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "noise"}, "task.prediction"),
        ({"frames": 6}, r"wanted 4 n \+ 1 frames"),
        ({"size": (20, 24)}, "height divisible by 8"),
        ({"text_drop": 2.0}, "wanted 0..1"),
        ({"views": 0}, "at least 1"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        tiny.make_strag(**options)


@pytest.mark.parametrize("form", ["depth", "extent"])
def test_the_truth_after_its_latents_is_decoded_as_samples_are(params, batch, form):
    task = tiny.make_strag(form=form)
    assert isinstance(task, base.Rebuilt) and set(task.rebuilt_by) == {"vae", "flow_stats", "codec"}
    own = {part: params[part] for part in task.rebuilt_by}
    found = task.rebuild(own, batch)
    own_flow = task.maps.own(batch)
    decoded = task.maps.decode(own, task.maps.encode(own, own_flow), batch["depth0"])
    camera = flow_map.Camera(batch["depth0"], batch["intrinsics"], batch["extrinsics"][:, :, 0])
    wanted = flow_map.inverse(decoded, camera, form=form)
    np.testing.assert_allclose(flow_map.inverse(found.flow, camera), wanted, atol=1e-3)
    with pytest.raises(ValueError, match=r"no \['depth0'\]"):
        task.rebuild(own, {k: x for k, x in batch.items() if k != "depth0"})
