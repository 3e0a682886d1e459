"""The layout of checkpoints: runs begun with the first version go on."""

import json
import shutil
from pathlib import Path

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.run import checkpoint, optim, sections, train

GOLDEN = Path(__file__).parents[1] / "golden/train_state"
META = {"fingerprints", "stage", "seed", "batch_size", "shards", "data", "frozen", "shapes"}


def params():
    return {
        "net": {
            "blocks": {"kernel": jnp.arange(32.0).reshape(2, 4, 4) / 7},
            "out": {"kernel": jnp.arange(8.0).reshape(4, 2) / 3, "bias": jnp.zeros((2,))},
        }
    }


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_names_of_the_state(name):
    config = sections.OptimConfig(
        name=name, ema=0.9, warmup=2, steps=4, schedule="cosine", multipliers=(("out", 0.5),)
    )
    state = tree.flatten(jax.eval_shape(lambda: optim.init(config, params())))
    lines = [f"{name} {path} {x.dtype} {list(x.shape)}" for path, x in state.items()]
    wanted = (GOLDEN / "names.txt").read_text().splitlines()
    assert lines == [line for line in wanted if line.startswith(name)]


@pytest.mark.parametrize("axes", [{"fsdp": 1}, {"fsdp": 2, "data": 4}])
def test_a_checkpoint_of_the_first_version_is_read(tmp_path, axes):
    shutil.copytree(GOLDEN / "checkpoint", tmp_path / "c")
    devices = jax.devices()[: 8 if "data" in axes else 1]
    config = sections.OptimConfig(ema=0.9)
    abstract = jax.eval_shape(lambda: optim.init(config, params()))
    mesh = meshes.make_mesh(axes, devices)
    placed = meshes.shardings(abstract, mesh, ((r"kernel$", ("fsdp", None)),))
    wanted = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, placed
    )
    step, state, meta = checkpoint.Store(tmp_path / "c").restore(wanted)
    assert step == 2 and int(state["step"]) == 2 and meta["data"] == {"0": {"count": 2}}
    for name, x in tree.flatten(params()).items():
        for half in ("params", "ema"):
            np.testing.assert_array_equal(tree.flatten(state[half])[name], x)
    left = tree.flatten(checkpoint.Trained(tmp_path / "c").numpy())
    for name, x in tree.flatten(params()).items():
        np.testing.assert_array_equal(left[name], x)


def test_what_is_saved_beside_the_state(tmp_path):
    """The keys of a checkpoint of the first version are there, and what it was made from."""
    train.run(fakes.config(steps=1), tmp_path)
    now = tmp_path / "checkpoints/1"
    old = GOLDEN / "checkpoint/2"
    for folder, added in ((now, {"examples", "recipe"}), (old, set())):
        assert {"state", "meta"} <= {path.name for path in folder.iterdir()}
        assert json.loads((folder / "meta/metadata").read_text()).keys() == META | added
