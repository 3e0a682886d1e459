"""Every configuration in every mode: it works, or one sentence says what its task lacks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import distill, dpa, hvg3d, motion_codec, silhouette, taco, wan_ti2v, wan_vae
from syncmv4d_jax import main, schema
from syncmv4d_jax.machines.planning import pods
from syncmv4d_jax.run import assembly, programs
from syncmv4d_jax.tasks import base
from syncmv4d_jax.weights import exports

CONFIGS = {"dpa": dpa, "motion_codec": motion_codec, "silhouette": silhouette, "taco": taco,
           "wan_ti2v": wan_ti2v, "wan_vae": wan_vae, "hvg3d": hvg3d,
           "distill": distill}  # fmt: skip
SAMPLED = ("taco", "wan_ti2v", "hvg3d", "distill")
MODES = ("train", "sample", "plan")
REFUSED = r"mode=sample: task '\w+' does not serve it, .*Sampled is missing; tasks that do: "


@pytest.mark.parametrize("name", CONFIGS)
def test_modes_by_shape(name):
    """Steps to plan are named; samples have the sizes that the task says, and are finite words."""
    task = assembly.task(CONFIGS[name].get_config("debug"))
    assert programs.named(task, ())
    if name not in SAMPLED:
        with pytest.raises(ValueError, match=REFUSED):
            base.serves(task, base.Sampled, "mode=sample")
        return
    frames, (height, width), views = task.clip
    sizes = dict(b=1, v=views, n=frames, h=height, w=width, l=6, l0=2, k=32, a=2)
    sizes["d"] = task.embedded().text[0]
    wanted = (*schema.CONDITIONS, *schema.CONTROLS) if name == "hvg3d" else schema.CONDITIONS
    wanted = [key for key in wanted if key != "hidden"]  # all views have their first frame
    inputs = base.shapes(wanted, **sizes, p=task.embedded().cloud)
    params = jax.eval_shape(task.init, jax.random.key(0))

    def run(params, inputs, pixels, key):
        first = task.encode(params, pixels)
        return task.decode(params, task.sample(params, inputs | {"first": first}, key))

    pixels = jax.ShapeDtypeStruct((1, views, 1, height, width, 3), jnp.uint8)
    made = jax.eval_shape(run, params, inputs, pixels, jax.random.key(0))
    assert made.pixels.shape == (1, views, frames, height, width, 3)
    assert (made.motion_pixels is None) == (name == "wan_ti2v")
    assert (made.tracks_per_view is None) == (name not in ("taco", "distill"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_modes(name, tmp_path, monkeypatch):
    """The same from the command's own entry, two steps of training first."""
    monkeypatch.setitem(pods.CHIPS, "cpu", pods.Chip(8 * 2**30, 1e12, 1e11, 1e10))
    done = {}
    for mode in MODES:
        config = CONFIGS[name].get_config("debug").copy_and_resolve_references().unlock()
        config.mode, config.train.steps = mode, 2
        config.train.batch_size = jax.device_count()
        config.train.checkpoint_every = config.train.log_every = 2
        config.plan.topologies, config.plan.mesh = ("local",), (1, jax.device_count(), 1, 1)
        if name == "distill" and mode == "sample":  # what is not taught is not saved
            config.weights.dpa = str(tmp_path / "dpa.safetensors")
            task = assembly.task(config)
            exports.write({"dpa": task.init(jax.random.key(0))["dpa"]}, config.weights.dpa)
        try:
            main.run(config, tmp_path)
            done[mode] = "works"
        except ValueError as error:
            done[mode] = str(error)
    assert done["train"] == done["plan"] == "works", done
    assert np.isfinite(json.loads((tmp_path / "metrics.jsonl").read_text().split("\n")[0])["loss"])
    if name in SAMPLED:
        assert done["sample"] == "works" and list(tmp_path.glob("samples/*/view_0.mp4")), done
    else:
        assert "tasks that do: distill, hvg3d, " in done["sample"], done
