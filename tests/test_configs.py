"""Every configuration loads, builds its task, and one step of its tiny form traces."""

from pathlib import Path

import configurations
import jax
import numpy as np
import pytest

from configs import bases, hvg3d
from configs.ablations import equal_flops
from syncmv4d_jax import configuration, tree
from syncmv4d_jax.run import assembly, optim
from syncmv4d_jax.tasks.syncmv4d import cost as syncmv4d_cost

CONFIGS = Path(__file__).parent.parent / "configs"
MAIN = {
    "taco": ("full", "debug", "stages"),
    "demo": ("tune", "train", "ablation", "loop"),
    "demo_gpu": ("4,32",),
    "dpa": ("full", "demo", "debug"),
    "wan_ti2v": ("full", "lora", "debug"),
    "wan_vae": ("demo", "debug"),
    "distill": ("full", "lora", "mjd", "mjd_lora", "demo", "debug", "debug_wan"),
    "motion_codec": ("full", "demo", "debug"),
    "silhouette": ("full", "demo", "debug"),
    "hvg3d": hvg3d.VARIANTS,
    "flow_codec": ("full", "learned", "demo", "debug"),
    "strag": ("full", "lora", "demo", "debug"),
    "vism": ("full", "lora", "full_parameters", "demo", "debug"),
    "robots": ("full", "cameras", "rays", "actions", "debug", "demo"),
}
# Rows and readings of a system's own configurations: what they change of it.
OF_ONE = {
    "ablations.no_norm": ("strag", lambda t: t.maps.form == "extent"),
    "ablations.no_mpm": ("strag", lambda t: t.generator.perception_config is None),
    "ablations.cls_only": ("strag", lambda t: t.generator.perception_config.pooled),
    "ablations.no_depth": ("strag", lambda t: not t.options.depth),
    "readings.flow_gain_one": ("strag", lambda t: t.maps.gain == 1),
    "ablations.same_view_pairs": ("vism", lambda t: t.options.same_view == 1),
    "ablations.no_hole_mask": ("vism", lambda t: not t.options.mask),
}
STARTS = {"readings.fun_inp_start": "vism"}  # they change what a run starts from, not its task
SHARED = {"sections", "bases"}
EVERY = sorted(
    f"{path.parent.name}.{path.stem}"
    for folder in ("ablations", "readings")
    for path in (CONFIGS / folder).glob("*.py")
)
OVERRIDES = [name for name in EVERY if name not in {**OF_ONE, **STARTS}]


def test_every_file_is_listed():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(MAIN) | SHARED


@pytest.mark.parametrize("name", OF_ONE)
def test_rows_of_one_system_change_what_they_name(name):
    base, says = OF_ONE[name]
    for variant in MAIN[base]:
        assert says(assembly.task(configurations.load(name, variant))), variant
        assert not says(assembly.task(configurations.load(base, variant))), variant
    with pytest.raises(ValueError, match="wanted"):
        configurations.load(name, "no_such_variant")


def test_a_start_that_has_all_rows_leaves_nothing_new():
    assert set(EVERY) == {*OVERRIDES, *OF_ONE, *STARTS}
    for name, base in STARTS.items():
        config, plain = configurations.load(name, "full"), configurations.load(base, "full")
        assert config.train.new == "" != plain.train.new and config.task == plain.task


@pytest.mark.parametrize("name", MAIN)
def test_configurations_build_their_tasks(name):
    for variant in MAIN[name]:
        for _, own in configuration.stages(configurations.load(name, variant)):
            task = assembly.task(own)
            assert task.trainable and not own.stages
    with pytest.raises(ValueError, match="wanted"):
        configurations.load(name, "no_such_variant")


TRACED = [
    "distill",
    "dpa",
    "wan_ti2v",
    "wan_vae",
    "motion_codec",
    "silhouette",
    "hvg3d",
    "flow_codec",
    "strag",
    "vism",
    "robots",
]


@pytest.mark.parametrize("name", TRACED)
def test_tiny_forms_trace(name):
    assert "loss" in configurations.trace_update(configurations.load(name, "debug"))


SAME = {  # bases that have anyway what a reading says
    "readings.velocity": ("taco", "debug"),
    "readings.uniform_time": ("taco", "debug"),
    "readings.scale_about_centre": bases.DEMOS,
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_overrides_build_with_every_base(name):
    for base in bases.BASES:
        plain = bases.BASES[base]()
        config = configurations.load(name, base)
        assert config.is_locked
        differs = config.task.to_dict() != plain.task.to_dict()
        assert differs or base in SAME.get(name, ()), "changes nothing"
        for stage, own in configuration.stages(config):
            assert assembly.task(own), stage
    with pytest.raises(ValueError, match="wanted a base"):
        configurations.load(name, "full")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in OVERRIDES])
def test_overrides_trace(name):
    scalars = configurations.trace_update(configurations.load(name, "debug"))
    config = configurations.load(name, "debug")
    joint = config.task.cycle.get("joint_motion", True)
    aligned = config.task.cycle.get("dpa", True)
    assert ("loss_motion" in scalars) == joint and ("loss_dpa" in scalars) == aligned


def test_stages_of_the_paper():
    """4.1: 5 K steps of warm-up each on 10 % of the data, 30 K joint steps at two sizes."""
    plan = dict(configuration.stages(configurations.load("taco", "full")))
    assert [(own.task.name, own.train.steps) for own in plan.values()] == [
        ("dpa", 5000), ("wan_ti2v", 5000), ("syncmv4d", 20_000), ("syncmv4d", 10_000)
    ]  # fmt: skip
    assert [own.data.share for own in plan.values()] == [0.1, 0.1, 1.0, 1.0]
    assert plan["low"].task.size == (256, 384) and plan["high"].task.size == (480, 704)
    assert plan["high"].task.frames == 49 and plan["high"].task.points == 1600


# multi-view attention, joint motion, aligner, feedback (Table 3; the last row is Table 4's)
PARTS = {
    "ablations.single_view": (False, True, True, True),
    "ablations.single_view_motion": (False, True, False, False),
    "ablations.multi_view": (True, False, False, False),
    "ablations.joint_motion": (True, True, False, False),
    "ablations.aligner": (True, True, True, False),
    "ablations.tracking_video": (True, True, False, False),
}


@pytest.mark.parametrize("name", PARTS)
def test_rows_of_table_3_have_the_parts_that_they_name(name):
    task = assembly.task(configurations.load(name, "taco"))
    parts = task.settings
    have = (task.mjd_config.multi_view, parts.joint_motion, parts.dpa, parts.cycle)
    assert have == PARTS[name] and task.mjd_config.joint_motion == parts.joint_motion
    tracking = task.options.motion_repr == "das_tracking"
    assert tracking == (name == "ablations.tracking_video")


READINGS = {  # configs/readings/*.py: what it says of the task
    "literal": lambda t: (t.settings.cond, t.mjd_config.inject) == ("noisy", "literal_sum"),
    "noisy_condition": lambda t: t.settings.cond == "noisy",
    "simulated_condition": lambda t: t.settings.cond == "sim",
    "literal_sum": lambda t: t.mjd_config.inject == "literal_sum",
    "scale_gradient": lambda t: t.settings.grad == "scale",
    "camera_embedding": lambda t: t.mjd_config.camera_embedding,
    "framewise_aligner": lambda t: t.dpa_config.temporal == "none",
    "scale_about_centre": lambda t: t.options.scale_origin == "centre",
    "hidden_view": lambda t: t.options.view_drop == 0.3,
    "perceptual": lambda t: t.judges == ("lpips",),
    "every_step": lambda t: t.settings.refine_every == 1,
}


@pytest.mark.parametrize("name", READINGS)
def test_readings_change_what_they_name(name):
    says = READINGS[name]
    assert says(assembly.task(configurations.load(f"readings.{name}", "taco")))
    assert not says(assembly.task(configurations.load("taco", "full")))


@pytest.mark.slow
def test_rows_start_from_the_same_weights():
    """Parameters that two rows of Table 3 share have the same initial values."""
    full = assembly.task(configurations.load("taco", "debug")).init(jax.random.key(0))
    full = tree.flatten(full)
    for row in ("multi_view", "joint_motion", "aligner", "single_view"):
        own = assembly.task(configurations.load(f"ablations.{row}", "debug")).init(
            jax.random.key(0)
        )
        own = tree.flatten(own)
        assert own.keys() <= full.keys(), row
        wrong = [n for n, x in own.items() if not np.array_equal(x, full[n])]
        assert not wrong, (row, wrong[:5])


def training_flops(config):
    """Of all joint stages but the one that the rows share."""
    total = 0.0
    for name, own in configuration.stages(config):
        if own.task.name == "syncmv4d" and name != "video":
            task = assembly.task(own)
            total += own.train.steps * sum(
                syncmv4d_cost.training(task.loop, syncmv4d_cost.parts(task.loop)).values()
            )
    return total


@pytest.mark.slow
@pytest.mark.parametrize("base", bases.BASES)
def test_the_row_of_equal_flops_has_equal_flops(base):
    full, video_only = bases.BASES[base](), configurations.load("ablations.multi_view", base)
    factor = training_flops(full) / training_flops(video_only)
    np.testing.assert_allclose(equal_flops.FACTORS[base], factor, rtol=0.01)


ROWS = [name for name in OVERRIDES if name.startswith("ablations")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ROWS, "demo"])
def test_rows_start(name):
    """Learning rates name parameters that every stage of the row has."""
    for stage, own in configuration.stages(
        configurations.load(name, "loop" if name == "demo" else "ablation")
    ):
        task = assembly.task(own)
        params = tree.split(jax.eval_shape(task.init, jax.random.key(0)), task.trainable)[0]
        settings = assembly.read(own).optim
        state = jax.eval_shape(lambda p, s=settings: optim.init(s, p), params)
        assert tree.flatten(state["params"]), stage
