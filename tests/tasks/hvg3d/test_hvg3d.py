"""HVG-3D: control that starts at nothing, its loss by number, what is trained, sampling, inputs."""

import dataclasses
import functools

import exactly
import hvg3d_tiny
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hvg3d as hvg3d_config
from syncmv4d_jax import flow, tree
from syncmv4d_jax.geometry import pseudo_video
from syncmv4d_jax.models import flops
from syncmv4d_jax.run import assembly, optim, update
from syncmv4d_jax.tasks import base
from syncmv4d_jax.tasks.hvg3d import backbone, conditions, cost, sampling

KINDS = {"wan": hvg3d_tiny.make, "mjd": hvg3d_tiny.mjd}
QUIET = {"text_drop": 0.0, "point_drop": 0.0, "tracking_drop": 0.0, "detail_drop": 0.0}


@functools.cache
def made(kind, **changes):
    """(task, initial parameters whose backbone says something, batch)."""
    task = KINDS[kind](**{**QUIET, **changes})
    return task, hvg3d_tiny.parameters(task, 1), hvg3d_tiny.make_batch(task)


@functools.cache
def compiled(kind, **changes):
    """(params, batch, drop) -> Z, and (params, batch, z, scale[, noisy, t]) -> velocities."""
    task = made(kind, **changes)[0]

    @exactly.jit
    def program(params, batch, z, scale, noisy, t):
        text = backbone.Text(batch["text"], batch["text_lengths"])
        views, first = task.network.views(batch), batch["video_latents"][:, :, :1]
        return task.network.velocity(params, noisy, t, text, views, z, first, scale=scale)

    def velocity(params, batch, z, scale, noisy=None, t=0.6):
        if noisy is None:
            names = ("video", *["motion"] * task.network.joint_motion)
            noisy = {name: batch[f"{name}_latents"] for name in names}
        return program(params, batch, z, scale, noisy, jnp.broadcast_to(jnp.float32(t), (1,)))

    return jax.jit(task.network.control_latents), velocity


HEAVY = ["wan", pytest.param("mjd", marks=pytest.mark.slow)]
COPIES = {"copies": True, "tracking": pseudo_video.WARPED}


@pytest.mark.parametrize("changes", [{}, COPIES], ids=["", "copies"])
@pytest.mark.parametrize("kind", HEAVY)
def test_an_untrained_branch_and_scale_0_are_the_backbone(kind, changes):
    task, params, batch = made(kind, **changes)
    _, velocity = compiled(kind, **changes)
    v, f, h, w, c = task.network.latent_shape
    z = jnp.asarray(np.random.default_rng(3).normal(size=(1, v, f, h, w, 2 * c)), jnp.float32)
    alone = velocity(params, batch, None, 1.0)
    assert float(jnp.std(alone["video"])) > 1e-2
    same = velocity(params, batch, z, 1.0)
    branch = {**params, "control": hvg3d_tiny.drawn(params["control"], 2)}
    off, on = velocity(branch, batch, z, 0.0), velocity(branch, batch, z, 1.0)
    for name in alone:
        np.testing.assert_array_equal(same[name], alone[name])
        np.testing.assert_array_equal(off[name], alone[name])
    assert float(jnp.abs(on["video"] - alone["video"]).max()) > 1e-3


def test_a_new_head_answers_nothing():
    task, *_ = made("wan", **COPIES)
    params = jax.jit(task.init)(jax.random.key(0))
    head = params["control"]["answer_head"]
    assert head["kernel"].shape == (48, 2 * 8) and not np.any(head["kernel"])


@pytest.mark.parametrize("prediction", ["velocity", "data"])
@pytest.mark.parametrize("kind", HEAVY)
def test_a_branch_that_copies_answers_past_the_transformer(kind, prediction):
    """x_0 is the tracking video's where all of it is copied; what is added is added to x_0."""
    changes = {**COPIES, "prediction": prediction}
    task, params, batch = made(kind, **changes)
    _, velocity = compiled(kind, **changes)
    v, f, h, w, c = task.network.latent_shape
    z = jnp.asarray(np.random.default_rng(3).normal(size=(1, v, f, h, w, 2 * c)), jnp.float32)
    x, t = batch["video_latents"], 0.6

    def clean(share, added, scale=1.0):
        bias = np.zeros(params["control"]["answer_head"]["bias"].shape, np.float32)
        bias.reshape(-1, 2, c)[:] = np.array([share, added])[:, None]
        head = {**params["control"]["answer_head"], "bias": bias}
        own = {**params, "control": {**params["control"], "answer_head": head}}
        return x - t * velocity(own, batch, z, scale, t=t)["video"]

    alone, copied = clean(0, 0), z[..., c:]
    assert float(jnp.abs(alone - copied).max()) > 0.1
    np.testing.assert_allclose(clean(1, 0), copied, atol=1e-5)
    np.testing.assert_allclose(clean(0, 0.5), alone + 0.5, atol=1e-5)
    np.testing.assert_allclose(clean(0.5, 0, 0.5), 0.75 * alone + 0.25 * copied, atol=1e-5)


def test_control_of_mjd_is_added_to_the_video_of_each_view():
    """What one view is to follow changes that view first; others through the backbone alone."""
    task, params, batch = made("mjd", stride=2)  # a copy before the last inter-view attention
    assert task.network.control_config.blocks == 1
    _, velocity = compiled("mjd", stride=2)
    branch = {**params, "control": hvg3d_tiny.drawn(params["control"], 2, 0.2)}
    v, f, h, w, c = task.network.latent_shape
    z = jnp.asarray(np.random.default_rng(3).normal(size=(1, v, f, h, w, 2 * c)), jnp.float32)
    before = velocity(branch, batch, z, 1.0)
    after = velocity(branch, batch, z.at[:, 1, ..., c:].add(1.0), 1.0)
    change = jnp.abs(after["video"] - before["video"]).mean((0, 2, 3, 4, 5))
    assert float(change[1]) > 3 * float(change[0]) > 0
    assert float(jnp.abs(after["motion"] - before["motion"]).mean()) > 0


def steps(task, params, batch, count):
    """Trainable halves before and after each of `count` updates, and the frozen half."""
    settings = optim_settings()
    trainable, frozen = tree.split(params, task.trainable)
    state = optim.init(settings, trainable)
    run, found = jax.jit(update.make_update(task, settings)), [tree.flatten(trainable)]
    for _ in range(count):
        state, scalars = run(state, frozen, batch, jax.random.key(3))
        found.append(tree.flatten(state["params"]))
        assert np.isfinite(scalars["loss"]) and np.isfinite(scalars["hoi_loss"])
    return found, frozen


def optim_settings():
    """Without decay, which moves what has no gradient, and at full rate from the first update."""
    own = assembly.read(hvg3d_config.get_config("debug")).optim
    return dataclasses.replace(own, weight_decay=0.0, warmup=0)


def moved(before, after):
    return {name for name, x in after.items() if not np.array_equal(x, before[name])}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, COPIES], ids=["", "copies"])
def test_zero_maps_move_first_and_all_after_three_updates(changes):
    task, params, batch = made("wan", **changes)
    before = jax.tree.map(np.asarray, params)
    found, frozen = steps(task, params, batch, 3)
    zero = {n for n in found[0] if n.startswith(("control/blocks/zero/", "control/answer_head/"))}
    assert moved(found[0], found[1]) == zero
    second = moved(found[0], found[2])
    assert "control/patch_embedding/kernel" in second and "points/fold/kernel" not in second
    still = set(found[0]) - moved(found[0], found[3])
    # With ids, normals and no colour the flags' columns have gradients; what no point has has none.
    assert not still, still
    assert {n.split("/")[0] for n in found[0]} == {"control", "points"}
    jax.tree.map(np.testing.assert_array_equal, frozen, {k: before[k] for k in frozen})


def test_the_loss_by_its_definition():
    """Weight 4 inside the mask, 2 with the other reading, 1 without."""
    task, params, batch = made("wan")
    mask = np.zeros(batch["hoi_mask"].shape, np.float32)
    mask[:, :, :, :2] = 1
    batch = {**batch, "hoi_mask": jnp.asarray(mask)}
    trainable, frozen = tree.split(params, task.trainable)
    rng = jax.random.key(5)
    got = jax.device_get(jax.jit(task.loss)(trainable, frozen, batch, rng))
    keys = jax.random.split(rng, 4)
    t, weight = flow.sample_table(keys[0], (1,), shift=5.0)
    data = batch["video_latents"]
    noise = jax.random.normal(jax.random.fold_in(keys[1], 0), data.shape)
    noisy = flow.hold_first(flow.interpolate(data, noise, t), data[:, :, :1])
    z, velocity = compiled("wan")
    v = velocity(params, batch, z(params, batch), 1.0, {"video": noisy}, t[0])["video"]
    error = v - (noise - data)
    square = np.square(np.asarray(error))[:, :, 1:]
    for changes, factor in (({}, 4), ({"mask_power": 1}, 2), ({"mask_gain": 0.0}, 1)):
        own = hvg3d_tiny.options(task, **changes)
        loss, terms = own._weighed(error, weight, batch)
        wanted = float(weight[0]) * np.mean(square * (1 + (factor - 1) * mask[:, :, 1:]))
        np.testing.assert_allclose(loss, wanted, rtol=1e-4, err_msg=str(factor))
        if factor == 4:
            np.testing.assert_allclose(got[0], wanted, rtol=1e-3)
        np.testing.assert_allclose(terms["hoi_loss"], square[:, :, :, :2].mean(), rtol=1e-4)
        outside = square[:, :, :, 2:].mean()
        np.testing.assert_allclose(terms["background_loss"], outside, rtol=1e-4)


def test_conditions_are_dropped_apart():
    drop = conditions.Drop.draw(jax.random.key(0), 400, (0.5, 0.5, 0.0))
    pairs = np.stack([drop.points, drop.tracking], 1)
    _, counts = np.unique(pairs, axis=0, return_counts=True)
    assert len(counts) == 4 and min(counts) > 60 and not np.any(drop.details)


def test_what_is_dropped_is_as_if_it_were_not_there():
    task, params, batch = made("wan")
    params = {**params, "points": hvg3d_tiny.drawn(params["points"], 4)}
    yes, no = jnp.ones(1, bool), jnp.zeros(1, bool)
    z = lambda *given: compiled("wan")[0](params, *given)  # noqa: E731
    c = batch["video_latents"].shape[-1]
    whole = z(batch, conditions.Drop(no, no, no))
    bare = z({k: x for k, x in batch.items() if k not in (*conditions.CLOUD, "tracking_latents")})
    dropped = z(batch, conditions.Drop(yes, yes, no))
    np.testing.assert_allclose(dropped, bare, atol=1e-6)
    np.testing.assert_array_equal(dropped[:, 0, ..., c:], batch["black_latents"])
    points = z(batch, conditions.Drop(no, yes, no))
    np.testing.assert_allclose(points[..., :c], whole[..., :c], atol=1e-6)
    assert float(jnp.abs(points[..., :c] - bare[..., :c]).max()) > 1e-3
    told = batch["point_features"].at[..., :9].set(0)
    plain = z({**batch, "point_features": told, "point_ids": no}, conditions.Drop(no, no, no))
    np.testing.assert_allclose(z(batch, conditions.Drop(no, no, yes)), plain, atol=1e-6)
    assert float(jnp.abs(plain - whole).max()) > 1e-3
    only = hvg3d_tiny.options(task, controls=("tracking",)).network.control_latents(params, batch)
    np.testing.assert_allclose(only[..., :c], bare[..., :c], atol=1e-6)
    np.testing.assert_array_equal(only[..., c:], whole[..., c:])


# Sampling.


def inputs(batch):
    own = {k: x for k, x in batch.items() if k not in ("video_latents", "motion_latents")}
    return own | {"first": batch["video_latents"][:, :, :1]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_sampling_follows_and_until_ends_it(kind):
    task, params, batch = made(kind)
    params = {**params, "control": hvg3d_tiny.drawn(params["control"], 2)}
    reports = []
    with_guidance = hvg3d_tiny.options(task, guidance=2.0, control_until=0.5)
    assert sampling.runs(with_guidance.network) == [(0, 2, True), (2, 4, False)]
    out = with_guidance.sample(
        params, inputs(batch), jax.random.key(0), progress=lambda *x: reports.append(x)
    )
    assert reports == [(2, 4), (4, 4)]
    assert out.latents.shape == batch["video_latents"].shape
    np.testing.assert_array_equal(out.latents[:, :, :1], batch["video_latents"][:, :, :1])
    assert (out.motion_latents is not None) and np.isfinite(out.motion_latents).all()
    off = hvg3d_tiny.options(task, controls=(), guidance=2.0)
    alone = off.sample(params, inputs(batch), jax.random.key(0)).latents
    assert float(jnp.abs(out.latents - alone).max()) > 1e-3
    scaled = hvg3d_tiny.options(task, control_scale=0.0, guidance=2.0)
    zero = scaled.sample(params, inputs(batch), jax.random.key(0)).latents
    np.testing.assert_allclose(zero, alone, atol=1e-5)


@pytest.mark.slow
def test_pixels_of_the_tracking_video_are_encoded():
    task, params, batch = made("wan")
    given = {
        k: x for k, x in inputs(batch).items() if k not in ("tracking_latents", "black_latents")
    }
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (1, 1, 5, *task.options.size, 3)).astype(np.uint8)
    own = hvg3d_tiny.options(task, sample_steps=1)
    encoded = task.encode(params, jnp.asarray(pixels))
    black = task.encode(params, jnp.zeros_like(pixels))[:, 0]
    first = own.sample(params, given | {"tracking": jnp.asarray(pixels)}, jax.random.key(0))
    ready = given | {"tracking_latents": encoded, "black_latents": black}
    second = own.sample(params, ready, jax.random.key(0))
    np.testing.assert_allclose(first.latents, second.latents, atol=1e-4)
    shown = task.decode(params, first)
    assert shown.pixels.shape == shown.motion_pixels.shape == pixels.shape


def test_details_are_those_of_the_tracking_video_that_is_followed():
    task, _, batch = made("wan", **COPIES, details=0.1)
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 255, (1, 1, 5, 8, 8, 3)), jnp.uint8)

    def taken(given, **options):
        return sampling.details(dataclasses.replace(task.options, **options), given)

    found = taken({"tracking": pixels})
    np.testing.assert_allclose(found["given"], pixels / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(found["given_share"], np.ones(pixels.shape[:-1]))
    assert taken({"tracking": pixels}, control_scale=0.5)["given_share"].max() == 0.5
    for nothing in (
        {"details": 0.0}, {"control_scale": 0.0}, {"controls": ("points",)}, {"controls": ()}
    ):  # fmt: skip
        assert taken({"tracking": pixels}, **nothing) == {}
    assert taken({}) == {}
    with pytest.raises(ValueError, match="wanted the pixels of the tracking video"):
        taken({"tracking_latents": batch["tracking_latents"]})


@pytest.mark.slow
def test_a_sample_that_is_the_tracking_video_has_its_details():
    task, params, batch = made("wan", **COPIES, details=0.1)
    rng = np.random.default_rng(0)
    pixels = jnp.asarray(rng.integers(0, 255, (1, 1, 5, *task.options.size, 3)), jnp.uint8)
    given = {k: x for k, x in inputs(batch).items() if k != "tracking_latents"}
    run = hvg3d_tiny.options(task, sample_steps=1)
    out = run.sample(params, given | {"tracking": pixels}, jax.random.key(0))
    shown = run.decode(params, dataclasses.replace(out, latents=task.encode(params, pixels)))
    assert shown.given is None and shown.given_share is None
    np.testing.assert_allclose(shown.pixels, pixels / 127.5 - 1, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": lambda x: x.at[0, 3, 5].set(jnp.nan)}, "1 of the points are not finite .* 3"),
        ({"points": lambda x: x + 50.0}, "of 32 points in frame 0 of sample 0 view 0 sees 0"),
        ({"points": lambda x: x * 1000}, "m wide, .* millimetres"),
        ({"points": lambda x: x[:, :3]}, r"points wanted \[b n p 3\]"),
        ({"point_valid": lambda x: x & False}, "names no point"),
        ({"tracking_latents": lambda x: x[:, :, :, :2]}, "tracking_latents wanted"),
        ({"metric": None}, r"points need \['metric'\] too"),
        ({"points": None, "tracking_latents": None}, "wanted points or tracking to follow"),
        ({"first": None}, "wanted reference images"),
    ],
)
def test_refused_inputs(change, message):
    task, params, batch = made("wan")
    given = inputs(batch)
    for key, how in change.items():
        given[key] = how(given[key]) if how else None
    given = {key: x for key, x in given.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        task.sample(params, given, jax.random.key(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 8}, r"wanted 4 n \+ 1 frames"),
        ({"size": (30, 48)}, "wanted multiples of"),
        ({"stride": 4}, "divides the backbone's 2 blocks"),
        ({"controls": ("flow",)}, "wanted some of"),
        ({"mask_power": 3}, "task.mask_power: wanted one of"),
        ({"copies": True}, "task.copies: wanted a tracking video of frame 0's colours"),
        ({"details": 0.1}, "task.details: wanted a tracking video of frame 0's colours"),
        ({**COPIES, "details": -0.1}, "task.details: wanted 0 or more"),
        ({"point_drop": 1.5}, "task.point_drop: wanted 0..1"),
        ({"encoder__stride": 4}, "follow from the autoencoder"),
        ({"encoder__reading": "voxels"}, "wanted a reading of"),
        ({"dit__in_channels": 4}, "wanted 8 channels"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        hvg3d_tiny.make(**options)


def test_a_batch_without_a_mask_is_refused():
    task, params, batch = made("wan")
    trainable, frozen = tree.split(params, task.trainable)
    without = {key: x for key, x in batch.items() if key != "hoi_mask"}
    with pytest.raises(ValueError, match="wanted hoi_mask or mask"):
        jax.eval_shape(task.loss, trainable, frozen, without, jax.random.key(0))


# Sizes and cost.

FULL = {"taco": 30, "half": 15, "third": 10}


@pytest.mark.parametrize("variant", FULL)
def test_full_size(variant):
    """Parameters of the parts, and FLOPs against the closed formulas of the design."""
    task = assembly.task(hvg3d_config.get_config(variant))
    assert isinstance(task, base.Task) and isinstance(task, base.Sampled)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    copies = FULL[variant]
    trained, frozen = tree.split(shapes, task.trainable)
    assert set(trained) == {"control", "points"} and set(frozen) == {"dit", "vae"}
    assert tree.count(shapes["control"]) == copies * 173_096_960 + 1_772_544
    assert tree.count(shapes["points"]) == 3_867_520
    each = cost.parts(task.network)
    np.testing.assert_allclose(each["control"], copies * 1.595e12, rtol=0.02)
    np.testing.assert_allclose(each["dit"], 46.0e12, rtol=0.02)
    np.testing.assert_allclose(each["points"], 0.87e12, rtol=0.02)
    whole = {30: 333e12, 15: 237e12, 10: 205e12}[copies]
    np.testing.assert_allclose(sum(cost.training(each).values()), whole, rtol=0.02)
    sampled = {30: 9.39e15, 15: 6.99e15, 10: 6.20e15}[copies]
    steps = 2 * task.options.sample_steps  # with guidance
    got = steps * (each["dit"] + each["control"]) + each["points"]
    np.testing.assert_allclose(got, sampled, rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_formulas_count_what_the_programs_compute(kind):
    """Products of the traced programs at full size: forward passes of sampling."""
    config = hvg3d_config.get_config("third").unlock()
    if kind == "mjd":
        config.task.backbone, config.task.views = "mjd", 3
        config.task.copies, config.task.tracking = True, pseudo_video.WARPED
    task = assembly.task(config)
    program = task.programs()["sample_step"]
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    params = {part: shapes[part] for part in program.parts}
    counted = flops.count(program.step, params, *program.inputs(1))
    np.testing.assert_allclose(counted, sum(program.work().flops.values()), rtol=0.02)


def test_programs_trace():
    task = hvg3d_tiny.make()
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    for program in task.programs().values():
        params = {part: shapes[part] for part in program.parts}
        arguments = program.inputs(2)
        if program.step is None:
            trained, frozen = tree.split(params, task.trainable)
            loss, _ = jax.eval_shape(
                program.task.loss, trained, frozen, *arguments, jax.random.key(0)
            )
            assert loss.shape == ()
        else:
            state = jax.eval_shape(program.step, params, *arguments)
            assert state.latents["video"].shape == (2, *task.network.latent_shape)
        assert all(x > 0 for x in program.work().flops.values())


@pytest.mark.slow
def test_data_prediction_has_the_prior_of_its_backbone():
    task = hvg3d_tiny.make(prediction="data", **QUIET)
    params = jax.jit(task.init)(jax.random.key(0))
    assert task.frozen_parts == ("dit", "vae", "prior")
    batch = hvg3d_tiny.make_batch(task)
    trainable, frozen = tree.split(params, task.trainable)
    loss, _ = jax.jit(task.loss)(trainable, frozen, batch, jax.random.key(1))
    # The transformer's head starts at zero: the answer is the still clip of frame 0.
    data = np.asarray(batch["video_latents"])
    error = np.square(data[:, :, :1] - data[:, :, 1:])
    weight = (1 + np.asarray(batch["hoi_mask"])[:, :, 1:]) ** 2
    np.testing.assert_allclose(loss, np.mean(error * weight), rtol=1e-3)
    assert dataclasses.is_dataclass(task)
