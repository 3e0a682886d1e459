"""Hand-over between stages: new parts grow from Wan, stages of other tasks, all four stages."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import syncmv4d_tiny as tiny

from configs import taco
from syncmv4d_jax import configuration, tree
from syncmv4d_jax.models.mjd import warm_start
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit
from syncmv4d_jax.run import assembly, embedded, train


def test_new_parts_grow_from_wans_weights():
    task = tiny.make()
    fresh = warm_start.init(task.mjd_config, jax.random.key(0))
    names = wan_config.DiTConfig.__dataclass_fields__
    config = wan_config.DiTConfig(**{name: getattr(task.mjd_config, name) for name in names})
    wan = jax.tree.map(lambda x: x + 0.5, module.init(dit.DiT, config, jax.random.key(1)))
    given = {f"dit/{name}" for name in tree.flatten(wan)}
    params = {"dit": warm_start.dit_paths(fresh, wan)}
    grown = task.grow(params, frozenset(given))["dit"]
    blocks = grown["blocks"]
    same = np.testing.assert_array_equal
    same(blocks["inter_view_attn"]["q"]["kernel"], wan["blocks"]["self_attn"]["q"]["kernel"])
    same(blocks["inter_view_attn"]["o"]["kernel"], 0)
    same(blocks["motion_modulation"][:, :, :6], wan["blocks"]["modulation"])
    same(grown["motion_patch_embedding"]["kernel"], wan["patch_embedding"]["kernel"])
    same(grown["motion_head"]["head"]["kernel"], wan["head"]["head"]["kernel"])
    # What an earlier stage has trained stays: here motion's head.
    kept = {name for name in tree.flatten(fresh) if name.startswith("motion_head")}
    grown = task.grow(params, frozenset(given | {f"dit/{name}" for name in kept}))["dit"]
    same(grown["motion_head"]["head"]["kernel"], params["dit"]["motion_head"]["head"]["kernel"])
    assert task.grow(params, frozenset({"vae/x"})) is params


def test_a_stage_of_another_task_replaces_the_section():
    config = taco.get_config("stages")
    plan = dict(configuration.stages(config))
    assert set(plan["aligner"].task.keys()) == {"name", "size", "dpa"}
    assert "multipliers" in plan["aligner"].optim and not plan["aligner"].optim.multipliers
    assert plan["high"].task.to_dict() == config.task.to_dict()
    assert plan["low"].optim.multipliers
    unnamed = ml_collections.ConfigDict({"task": {"a": 1}, "stages": ({"name": "x"},)})
    assert configuration.stages(unnamed)[0][1].task.a == 1


@pytest.mark.slow
def test_all_stages_hand_over(tmp_path):
    config = taco.get_config("stages").copy_and_resolve_references()
    config.train.batch_size = jax.device_count()  # fsdp takes all devices
    embedded.ensure(config, tmp_path)
    train.run(config, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "aligner", "high", "low", "single_view",
    ]  # fmt: skip
    trained = assembly.trained_params(config, tmp_path)
    assert set(trained) == {"dit", "dpa"}
    before = (tmp_path / "metrics.jsonl").read_text()
    train.run(config, tmp_path)  # everything is finished
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert jnp.isfinite(sum(jnp.sum(x) for x in jax.tree.leaves(trained)))
