"""Image to video on small random weights: our loop against diffusers' modules, step by step.

The schedule is the official one. diffusers' transformer and scheduler are driven as its pipeline
does with a clean first frame: its tokens get t = 0 and its latents are put back after every step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import wan_reference

from syncmv4d_jax import flow, models, tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit
from syncmv4d_jax.weights import engine, release

pytestmark = pytest.mark.parity

CONFIG = wan_config.DiTConfig(
    dim=48, ffn_dim=96, heads=2, layers=3, in_channels=8, out_channels=8, freq_dim=64, text_dim=32,
    text_len=12, dtype="float32",
)  # fmt: skip
GUIDANCE = 5.0


def params_of(theirs):
    shapes = module.shapes(dit.DiT, CONFIG)
    wanted = {path: leaf.shape for path, leaf in tree.flatten(shapes).items()}
    rules = release.TABLES["dit"](CONFIG, "diffusers")
    return engine.to_ours(rules, wan_reference.arrays(theirs), wanted, source="diffusers")


@pytest.mark.parametrize("kind", ["unipc", "dpmpp_2m"])
def test_image_to_video(kind):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    theirs = wan_reference.build(CONFIG, seed=3)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, 3, 4, 6, 8)).astype(np.float32)
    first = rng.standard_normal((1, 1, 4, 6, 8)).astype(np.float32)
    texts = rng.standard_normal((2, 12, 32)).astype(np.float32)
    texts[0, 7:], texts[1, 3:] = 0, 0
    schedule = flow.schedule(kind, 6, shift=5.0)

    def velocity(x, row):
        arrays = {
            "latents": jnp.concatenate([x, x]),
            "t": jnp.full((2,), row.timestep),
            "context": jnp.asarray(texts),
            "first_frame": jnp.ones((2,), bool),
        }
        both = models.apply("dit", CONFIG, params, **arrays)
        return flow.guide((both[:1], both[1:]), (GUIDANCE,))

    def body(carry, row):
        x, state = flow.step(carry[0], velocity(carry[0], row), carry[1], row)
        return (flow.hold_first(x, first), state), None

    params = jax.tree.map(jnp.asarray, params_of(theirs))
    x = flow.hold_first(jnp.asarray(noise), jnp.asarray(first))
    (ours, _), _ = jax.lax.scan(body, (x, flow.start(schedule, x)), schedule)

    cls = {
        "unipc": diffusers.UniPCMultistepScheduler,
        "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    }[kind]
    scheduler = cls(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, solver_order=2
    )
    scheduler.set_timesteps(6)
    scheduler.sigmas = torch.tensor([*schedule.sigma.tolist(), 0.0])
    scheduler.timesteps = torch.tensor(schedule.timestep.tolist()).long()
    latents = torch.from_numpy(np.array(x))
    frame, tokens = np.arange(3) > 0, 2 * 3
    for timestep in scheduler.timesteps:
        t = np.repeat(frame * timestep.item(), tokens)[None].repeat(2, 0).astype(np.float32)
        with torch.no_grad():
            v = wan_reference.run(theirs, latents.repeat(2, 1, 1, 1, 1).numpy(), t, texts)
        v = v[1:] + GUIDANCE * (v[:1] - v[1:])
        latents = scheduler.step(v, timestep, latents, return_dict=False)[0]
        latents[:, :1] = torch.from_numpy(first)
    np.testing.assert_allclose(ours, latents.numpy(), atol=1e-3, rtol=0)
    assert np.abs(np.asarray(ours)[:, 1:] - noise[:, 1:]).max() > 0.1
