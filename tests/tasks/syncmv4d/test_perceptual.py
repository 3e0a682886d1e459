"""LPIPS of the decoded clean estimate: when, of what, and where its network comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import syncmv4d_tiny as tiny

from configs import taco
from syncmv4d_jax import tree
from syncmv4d_jax.run import assembly, initial
from syncmv4d_jax.tasks import base, perceptual
from syncmv4d_jax.tasks.syncmv4d import cycle
from syncmv4d_jax.weights import engine, exports, torch_writer
from syncmv4d_jax.weights.tables import features

OPEN = {"cycle__dpa": False, "cycle__cycle": False}
VALID = np.ones((1, 2), bool)


@pytest.fixture(scope="module")
def made():
    """The task, its parameters, true latents, and the term as a compiled function."""
    task = tiny.make(perceptual_weight=0.1, **OPEN)
    params = jax.jit(task.init)(jax.random.key(0))
    truth = jax.random.normal(jax.random.key(1), (1, *task.latent_shape))

    @jax.jit
    def term(error, t, key, valid=VALID):
        t = jnp.asarray(t).reshape(1)
        out = cycle.Diffused(truth, jnp.zeros_like(truth), error)  # clean estimate: truth - t error
        return task._perceptual(params, out, truth, t, valid, None, key)

    return task, params, truth, term


def due(term, error, t, count=40):
    """Values of steps, and the first key of one that has the term."""
    found = np.array([term(error, t, jax.random.key(i)) for i in range(count)])
    return found, jax.random.key(int(np.flatnonzero(found)[0])) if found.any() else None


def test_a_quarter_of_the_steps_below_half_of_the_time_has_the_term(made):
    _, _, truth, term = made
    error = jnp.ones_like(truth)
    assert not due(term, error, 0.5)[0].any()
    share = (due(term, error, 0.4)[0] != 0).mean()
    assert 0.08 <= share <= 0.45  # 10 of 40 are expected


def test_it_is_of_the_estimate_of_one_view_and_of_frames_that_count(made):
    task, params, truth, term = made
    late = jnp.zeros_like(truth).at[:, :, 1:].set(1.0)
    found, key = due(term, late, 0.4)
    pixels = [task.loop.vae.decode(params, x)[0] for x in (truth - 0.4 * late, truth)]
    each = perceptual.distance(params["lpips"], *pixels)
    values = found[found != 0]
    near = np.abs(values[:, None] / np.asarray(each)[None] - 1).min(1)
    assert near.max() < 1e-3 and len(set(np.round(values, 9))) > 1  # of any view
    first = jnp.ones_like(truth).at[:, :, 1:].set(0.0)  # given: it is put back
    assert abs(float(term(first, 0.4, key))) < 1e-9
    assert abs(float(term(late, 0.4, key, jnp.array([[True, False]])))) < 1e-9
    gradient = jax.grad(term)(late, 0.4, key)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    assert (np.abs(gradient).max((0, 2, 3, 4, 5)) > 0).sum() == 1


def test_the_term_has_its_weight_in_the_loss(made, monkeypatch):
    task, params, truth, _ = made
    monkeypatch.setattr(type(task), "_perceptual", lambda *_: jnp.float32(3.0))
    batch = {k: x for k, x in tiny.make_batch().items() if k not in ("video", "motion")}
    batch |= {f"{name}_latents": truth for name in ("video", "motion")}
    trainable, frozen = tree.split(params, task.trainable)
    total, terms = jax.jit(task.loss)(trainable, frozen, batch, jax.random.key(0))
    own = sum(float(terms[f"loss_{name}"]) for name in ("video", "motion", "scale"))
    assert float(total) == pytest.approx(own + 0.1 * 3.0, rel=1e-5)
    assert set(frozen) == {"vae", "lpips"} and task.frozen_parts == ("vae", "lpips")


def test_published_weights_are_read_for_training_and_not_for_sampling(made, tmp_path):
    task, params, _, _ = made
    assert isinstance(task, base.Judged) and task.judges == ("lpips",)
    arrays = jax.tree.map(np.asarray, params["lpips"])
    state = engine.to_reference(features.lpips("alex"), arrays)
    (tmp_path / "lpips").mkdir()
    for file, heads in (("alexnet-owt-7be5be79.pth", False), ("lpips/alex.pth", True)):
        own = {k: x for k, x in state.items() if k.startswith("lin") == heads}
        (tmp_path / file).write_bytes(torch_writer.dumps(own))
    source = initial.weights("lpips", str(tmp_path))
    wanted = {f"lpips/{k}": x for k, x in tree.flatten(params["lpips"]).items()}
    assert source.shapes == {k: x.shape for k, x in wanted.items()}
    for name, leaf in source.leaves.items():
        np.testing.assert_array_equal(leaf.read((slice(None),) * len(leaf.shape)), wanted[name])
    with pytest.raises(FileNotFoundError, match="no weights of lpips_alex"):
        initial.weights("lpips", str(tmp_path / "lpips"))
    config = taco.get_config("debug").unlock()
    config.task.perceptual_weight, config.task.cycle = 0.1, {"dpa": False, "cycle": False}
    exports.write({k: x for k, x in params.items() if k != "lpips"}, tmp_path / "all.safetensors")
    config.weights = dict.fromkeys(("dit", "vae"), str(tmp_path / "all.safetensors"))
    loaded = assembly.load_params(assembly.task(config), assembly.read(config), tmp_path / "run")
    assert set(loaded) == {"dit", "vae"}
