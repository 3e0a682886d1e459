"""Planning without libtpu: names, candidates, estimates, the reader of compiled programs, a run."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs import dpa as dpa_config
from configs import (
    flow_codec,
    hvg3d,
    motion_codec,
    silhouette,
    strag,
    taco,
    vism,
    wan_ti2v,
    wan_vae,
)
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines.planning import bounds, hlo, pods, report, schedule
from syncmv4d_jax.run import assembly, plan, programs, sections
from syncmv4d_jax.tasks.syncmv4d import cost as syncmv4d_cost

FAKE = pods.Chip(8 * 2**30, 1e12, 1e11, 1e10)
REFUSED = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 23.40G of 15.75G hbm. \
Exceeded hbm capacity by 7.65G.

  Largest program allocations in hbm:

  1. Size: 2.20G
     Operator: op_name="jit(update)/while/body/dot_general"
     Shape: bf16[1,8588,14336]{2,1,0:T(8,128)(2,1)}
     Unpadded size: 2.20G
     ==========================
"""


def test_unknown_topology_lists_the_names():
    with pytest.raises(ValueError, match=r"'v9-3' is unknown; the names are .*v5e-8.*v5p-128"):
        plan.check(sections.PlanConfig(topologies=("v9-3",)))
    with pytest.raises(ValueError, match=r"config.plan.topologies is empty; give some of .*v6e"):
        plan.check(sections.PlanConfig())
    with pytest.raises(ValueError, match=r"'dpa' has no \['step'\]; wanted some of \['train_step'"):
        programs.find(dpa_config.get_config("debug"), "step")
    with pytest.raises(ValueError, match=r"until: wanted one of .*'whole', 'memory'.*got 'soon'"):
        sections.PlanConfig(topologies=("v5e-8",), until="soon")
    named = sections.PlanConfig(topologies=("h100-8, 4090-1", "v5e-8"), entries=("a,b",))
    assert named.topologies == ("h100-8", "4090-1", "v5e-8") and named.entries == ("a", "b")
    with pytest.raises(ValueError, match=r"mesh on h100-8: mesh .*wants 3 devices, there are 8"):
        plan.check(sections.PlanConfig(topologies=("h100-8",), mesh=(1, 3, 1, 1)))
    plan.check(sections.PlanConfig(topologies=("v5e-8", "h100-8"), mesh=(1, 8, 1, 1)))
    with pytest.raises(ValueError, match=r'"memory" is not for "local"'):
        plan.check(sections.PlanConfig(topologies=("local",), until="memory"))
    with pytest.raises(ValueError, match=r"no figures for a 'abacus'; there are some for v5e"):
        pods.chip_of("abacus")
    assert pods.chip_of("NVIDIA H200") == pods.CHIPS["h200"]
    assert (
        pods.known("TPU v5 lite") == pods.CHIPS["v5e"] and pods.known("TPU v5") == pods.CHIPS["v5p"]
    )
    assert pods.chip_of("v5e") == pods.CHIPS["v5e"] and pods.known("cpu") is None
    assert pods.known("NVIDIA L40S") is None and pods.known("NVIDIA L4") == pods.CHIPS["l4"]


@pytest.mark.parametrize("name", pods.TOPOLOGIES)
def test_candidate_meshes_use_every_device(name):
    topology = pods.find(name)
    sizes = {"slices": topology.slices, "views": 3, "heads": 24}
    for training in (True, False):
        found = pods.meshes(topology.devices, training=training, **sizes)
        assert found and len({pods.show(mesh) for mesh in found}) == len(found)
        for mesh in found:
            product = mesh["data"] * mesh["fsdp"] * mesh["view"] * mesh["sequence"]
            assert product == topology.devices and 24 % (mesh["view"] * mesh["sequence"]) == 0
            assert mesh["data"] % topology.slices == 0
    with_views = [mesh for mesh in found if mesh["view"] == 3]
    assert bool(with_views) == (topology.devices % 3 == 0)


def compiled(function, *arrays, **options):
    return jax.jit(function, **options).lower(*arrays).compile().as_text()


def test_collectives_in_a_loop_count_as_often_as_they_run():
    mesh = meshes.make_mesh({"fsdp": 8})
    weights = jax.ShapeDtypeStruct((5, 64, 32), jnp.float32, sharding=NamedSharding(mesh, P()))
    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=meshes.batch_sharding(mesh))

    def mean(x, w):
        y = jax.lax.psum(jnp.mean(jnp.tanh(x @ w), 0), "fsdp")
        return jnp.concatenate([x[:, :32] + y[None], x[:, 32:]], 1), None

    def run(x, weights):
        return jax.lax.scan(mean, x, weights)[0]

    specs = {"in_specs": (P("fsdp"), P()), "out_specs": P("fsdp"), "check_vma": False}
    found = hlo.collectives(compiled(jax.shard_map(run, mesh=mesh, **specs), x, weights))
    assert [(one.kind, one.times, one.group) for one in found] == [("all-reduce", 5, 8)]
    assert found[0].sent == 2 * 32 * 4 * 7 / 8
    assert hlo.summary(found) == {
        "all-reduce": {"count": 1, "runs": 5, "gigabytes": pytest.approx(5 * 224 / 1e9)}
    }
    halves = hlo.collectives(
        compiled(jax.shard_map(run, mesh=mesh, **specs), x, weights), slice_devices=4
    )
    assert halves[0].across and halves[0].local == 4 and found[0].local == 8


def test_gradients_summed_whole_are_a_finding():
    mesh = meshes.make_mesh({"data": 8})
    placed = NamedSharding(mesh, P())
    weight = jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=placed)
    x = jax.ShapeDtypeStruct((16, 1024), jnp.float32, sharding=meshes.batch_sharding(mesh))
    gradient = jax.grad(lambda w, x: jnp.mean(jnp.square(x @ w)))
    found = hlo.collectives(compiled(gradient, weight, x, out_shardings=placed))
    whole = hlo.whole_weights(found, [(30, 1024, 1024)])
    assert report.findings(whole) == ["all-reduce of a whole weight: f32[1024, 1024], 1 a step"]
    assert not hlo.whole_weights(found, [(30, 1024, 512)])
    shape = hlo.largest(compiled(gradient, weight, x, out_shardings=placed))[0]
    assert shape[:2] == (2**22, "f32[1024,1024]")


def test_reader_of_collectives_by_their_text():
    text = """HloModule m
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}
ENTRY %main (p: bf16[4,8]) -> bf16[8,8] {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %g = (bf16[4,8]{1,0}, bf16[8,8]{1,0:T(8,128)(2,1)}) all-gather-start(%p), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
  %r = f32[4,8]{1,0} reduce-scatter(%p), replica_groups={{0,1},{2,3}}, to_apply=%add
  %c = bf16[4,8]{1,0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
  ROOT %d = bf16[8,8]{1,0} all-gather-done(%g)
}
"""  # noqa: E501
    found = hlo.collectives(text, slice_devices=4)
    assert [one.kind for one in found] == ["all-gather", "reduce-scatter", "collective-permute"]
    assert [one.sent for one in found] == [8 * 8 * 2 / 2, 4 * 8 * 4, 4 * 8 * 2]
    assert [one.across for one in found] == [True, False, False]
    with pytest.raises(ValueError, match="found no ENTRY computation"):
        hlo.collectives("nothing")


def test_reader_of_a_gpus_joined_collectives():
    """Operands come before results, many of them together; what is not split runs at once."""
    text = """HloModule m
ENTRY %main (p: bf16[4,8]) -> bf16[8,8] {
  %g = ((bf16[4,8]{1,0}, f32[2]{0}), (bf16[8,8]{1,0}, /*index=5*/f32[4]{0})) all-gather-start(%p, %q), replica_groups={{0,1}}, dimensions={0}, backend_config={"is_sync":true}
  %s = ((bf16[64,8]{1,0}, f32[16]{0}), (bf16[32,8]{1,0}, f32[8]{0})) reduce-scatter-start(%a, %b), replica_groups={{0,1}}, to_apply=%add, backend_config={"is_sync":false}
  %o = ((f32[64,8]{1,0}), f32[32,8]{1,0}) reduce-scatter-start(%a), replica_groups={{0,1}}, to_apply=%add, backend_config={"is_sync":false}
  %r = (f32[3]{0}, f32[5]{0}) all-reduce-start(%c, %d), replica_groups={{0,1}}, to_apply=%add, backend_config={"is_sync":false}
  %t = ((f32[1,6]{1,0}), f32[1,6]{1,0}) all-to-all-start(%e), replica_groups={{0,1}}, backend_config={"is_sync":true}
  ROOT %d = bf16[8,8]{1,0} all-gather-done(%g)
}
"""  # noqa: E501
    sent = [(one.kind, one.sent) for one in hlo.collectives(text)]
    assert sent == [
        ("all-gather", (8 * 8 * 2 + 4 * 4) / 2),
        ("reduce-scatter", 32 * 8 * 2 + 8 * 4),
        ("reduce-scatter", 32 * 8 * 4),
        ("all-reduce", (3 + 5) * 4),
        ("all-to-all", 6 * 4 / 2),
    ]
    assert hlo.asynchronous(text) == {"reduce-scatter": 2, "all-reduce": 1}


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
    ],
)
def test_reader_of_groups(groups, devices):
    assert hlo._groups(f"%p), channel_id=1, replica_groups={groups}, to_apply=%add") == devices


def test_what_slices_send_each_other():
    """As libtpu prints it for two slices: each one's program hands its part to the host."""
    text = """HloModule m, num_partitions=4
ENTRY %main (p: bf16[4,8]) -> bf16[4,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  %s = (bf16[4,8]{1,0}, u32[], token[]) send(%p), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %t = (bf16[4,8]{1,0}, u32[], token[]) send(%p), channel_id=3, is_host_transfer=true
}
"""  # noqa: E501
    (found,) = hlo.collectives(text, slice_devices=4)
    assert (found.kind, found.across, found.group, found.sent) == ("all-reduce", True, 2, 64)


def test_groups_that_cannot_be_read():
    with pytest.raises(ValueError, match="cannot read the groups of devices in .*new form"):
        hlo._groups("%p), replica_groups=new form, to_apply=%add")


def test_a_collective_that_fusions_carry_on_counts_once():
    """As libtpu prints it for v5e: begun, gone on with beside a computation, and ended."""
    gather = "%g = bf16[8,8]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4]"
    parts = {
        "start": 'ROOT %c = (bf16[8,8]) custom-call(%g), custom_call_target="AsyncCollectiveStart"',
        "beside": "ROOT %t = (bf16[8,8]) tuple(%g)",
        "done": 'ROOT %c = bf16[8,8] custom-call(%g), custom_call_target="AsyncCollectiveDone"',
    }
    lines = ["HloModule m", ""]
    for name, last in parts.items():
        lines += [f"%{name} (p: bf16[2,8]) -> bf16[8,8] {{", f"  {gather}", f"  {last}", "}", ""]
    lines += ["ENTRY %main (p: bf16[2,8]) -> bf16[8,8] {"]
    lines += [f"  %f{n} = bf16[8,8] fusion(%p), kind=kLoop, calls=%{n}" for n in parts]
    lines += [f"  {gather.replace('%g', '%other').replace('=7', '=8')}", "}"]
    found = hlo.collectives("\n".join(lines))
    assert [one.sent for one in found] == [96.0, 96.0]


def test_reader_of_asynchronous_collectives():
    text = """
%async_collective_fusion.3 (p: f32[4]) -> f32[4] {
  %c = f32[4]{0} collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}
}
ENTRY %main (p: f32[4]) -> f32[4] {
  %copy = f32[4]{0} copy-start(%p)
  %a = f32[4]{0} all-gather(%p), replica_groups={{0,1}}
  %b = f32[4]{0} all-reduce-start(%p), replica_groups={{0,1}}
}
"""
    assert hlo.asynchronous(text) == {"collective-permute": 1, "all-reduce": 1, "fused": 1}
    assert hlo.asynchronous("ENTRY %main (p: f32[4]) -> f32[4] {") == {}


def test_reader_of_a_refusal():
    found = hlo.shortage(REFUSED)
    assert (found.used, found.available) == (23.40 * 2**30, 15.75 * 2**30)
    assert found.largest[0][1] == "bf16[1,8588,14336]"
    assert "dot_general" in found.largest[0][2]
    assert hlo.shortage("INVALID_ARGUMENT: no") is None


OTHERS = {"wan_ti2v": wan_ti2v, "wan_vae": wan_vae, "dpa": dpa_config, "motion_codec": motion_codec,
          "silhouette": silhouette, "hvg3d": hvg3d, "strag": strag, "vism": vism,
          "flow_codec": flow_codec}  # fmt: skip
SAMPLED = ("wan_ti2v", "hvg3d", "strag", "vism")


@pytest.mark.parametrize("name", OTHERS)
def test_every_task_is_planned_by_what_it_says_of_its_steps(name):
    """The steps trace, their estimates are numbers, and every part that they read is there."""
    config = OTHERS[name].get_config("debug")
    if name == "vism":  # of its transformer some parameters are trained and some are not
        with config.unlocked():
            strag.adapters(config)
            config.task.lora.ranks = ((strag.LINEAR, 4),)
    mesh = meshes.make_mesh({"fsdp": 4, "sequence": 2})
    found = programs.named(assembly.task(config), ())
    assert set(found) == {"train_step"} | ({"sample_step"} if name in SAMPLED else set())
    for entry, own in found.items():
        work = plan._bounded(config, own, own.work(), 4)
        row = bounds.estimate(work, FAKE, dict(mesh.shape))
        assert sum(work.flops.values()) > 0 and row["estimate_bytes"] > 0
        function, arguments = programs.program(config, mesh, entry, 4)
        assert function.trace(*arguments).jaxpr.eqns
        assert work.parameters > 0 or entry == "sample_step"


def settings(**values):
    config = taco.get_config("debug")
    config.plan.topologies = ("local",)
    with config.unlocked():
        config.plan.update(values)
    return config


def test_mesh_that_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setitem(pods.CHIPS, "cpu", FAKE)
    with pytest.raises(ValueError, match=r"wants 3 devices, there are 8.*fsdp=8 would fit"):
        plan.run(settings(mesh=(1, 3, 1, 1), entries=("mjd_step",)), tmp_path)


@pytest.mark.parametrize("entry", ["mjd_step", "sample_step"])
def test_programs_have_the_names_that_until_memory_waits_for(entry):
    mesh = meshes.make_mesh({"fsdp": 4, "sequence": 2})
    function, arguments = programs.program(settings(), mesh, entry, 4)
    name = re.match(r"module @jit_(\w+)", function.lower(*arguments).as_text()).group(1)
    assert name in programs.NAMES


@pytest.mark.slow
def test_plan_of_this_machine(tmp_path, monkeypatch, capsys):
    """All three entries compile here; a second run reads them from disk."""
    monkeypatch.setitem(pods.CHIPS, "cpu", FAKE)
    config = settings(mesh=(1, 4, 1, 2), compiled=1)
    plan.run(config, tmp_path)
    assert "closed_loop_step" in capsys.readouterr().out
    rows = json.loads((tmp_path / "plan.json").read_text())["entries"]
    assert [row["entry"] for row in rows] == ["mjd_step", "closed_loop_step", "sample_step"]
    for row in rows:
        assert row["fits"] and row["peak_bytes"] > row["argument_bytes"] > 0
        assert row["collectives"] and row["seconds"]["compute"] >= 0
        assert row["largest"][0][0] > 0
    assert "dpa" not in rows[0]["flops"] and rows[1]["flops"]["dpa"] > 0
    monkeypatch.setattr(programs, "program", None)  # compiling again would call it
    plan.run(config, tmp_path)


def test_what_was_compiled_for_another_configuration_is_not_taken(tmp_path, monkeypatch, capsys):
    """The compiler stands aside: rows say which configuration they are of."""
    monkeypatch.setitem(pods.CHIPS, "cpu", FAKE)
    made = []

    def compiled(config, topology, devices, chip, row):
        made.append(row["entry"])
        return row | {"kind": "whole", "fits": True, "compile_s": 1.0, "peak_bytes": len(made)}

    monkeypatch.setattr(plan, "_compiled", compiled)
    monkeypatch.setattr(plan.plan_report, "show", lambda rows: str(len(rows)))
    config = settings(mesh=(1, 4, 1, 2), compiled=1, entries=("mjd_step",))
    for _ in range(2):
        plan.run(config, tmp_path)
    assert made == ["mjd_step"]
    config.optim.ema = 0.0
    plan.run(config, tmp_path)
    assert made == ["mjd_step"] * 2
    rows = json.loads((tmp_path / "plan.json").read_text())["entries"]
    assert len(rows) == 2 and len({row["recipe"] for row in rows}) == 2
    assert (tmp_path / "plan.md").read_text() == "1\n" and capsys.readouterr().out == "1\n" * 3
    low = config.copy_and_resolve_references()
    low.sample.precision = "int8"  # sampling steps read other weights
    assert plan._recipe(low) != plan._recipe(config)
    rows[1]["kind"] = "memory"  # of a run that stopped there: not what is asked for now
    (tmp_path / "plan.json").write_text(json.dumps({"entries": rows}))
    plan.run(config, tmp_path)
    assert len(made) == 3


SUMMED = """HloModule m, is_scheduled=true
ENTRY %main (p: f32[2500000000]) -> f32[2500000000] {
  %p = f32[2500000000]{0} parameter(0)
  %r = f32[2500000000]{0} all-reduce(%p), replica_groups=[8,2]<=[2,8]T(1,0), to_apply=%add
}
"""


def scaled(topology, *sizes):
    found = pods.find(topology)
    row = {"mesh": dict(zip(pods.AXES, sizes, strict=True)), "batch": sizes[0] * sizes[1]}
    program = schedule.Program(SUMMED)
    return row, plan._scaled(found, pods.chip_of(found.chip), row, program)


def test_a_compiled_step_is_timed_with_other_numbers_of_copies():
    """A sum over two hosts of eight: with one copy nothing is sent, with many twice the bytes."""
    _, found = scaled("h100-16", 2, 8, 1, 1)
    assert [one["mesh"]["data"] for one in found] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert [one["batch"] for one in found] == [8 * one["mesh"]["data"] for one in found]
    one, two, *_, most = (one["expected_s"] for one in found)
    # With one copy its operand and result are read and written, 20 GB at 0.8 of 3.35 TB/s.
    assert one == pytest.approx(2e10 / (0.8 * 3.35e12), rel=0.01)
    assert two == pytest.approx(1e10 / (0.75 * 50e9), rel=0.01)
    assert most == pytest.approx(two * 2 * 127 / 128, rel=0.01)
    assert len(scaled("v5p-32", 2, 8, 1, 1)[1]) == 8  # of 1,024 chips
    assert scaled("v5e-64", 2, 4, 1, 8)[1][-1]["mesh"]["data"] == 8  # of 256
    for none in (("h100-8", 2, 4, 1, 1), ("h100-16", 1, 16, 1, 1), ("h100-16", 4, 4, 1, 1),
                 ("2xv5e-64", 2, 8, 1, 8)):  # fmt: skip
        assert scaled(*none)[1] == []


def test_scaling_is_shown_by_devices_and_by_batch():
    rows = []
    compiled_ones = (
        ("h100-16", (2, 8, 1, 1), 4.0),
        ("h100-32", (2, 16, 1, 1), 4.4),
        ("h100-32", (2, 8, 1, 2), 2.5),
    )
    for topology, sizes, seconds in compiled_ones:
        row, found = scaled(topology, *sizes)
        for one in found:
            one["expected_s"] = seconds
        rows.append(row | {"topology": topology, "entry": "mjd_step", "scaled": found})
    more, faster = (table.splitlines() for table in report.scaling(rows))
    assert more[0].startswith("| chip | entry | devices |") and len(more) == 2 + 8 + 7 + 7
    assert "| h100 | mjd_step | 8 | 8 | 1,8,1,1 | 4.00 |" in more[2] and more[2].endswith("4.00 |")
    # 16 devices: 4.0 s and 4.4 s of 16 samples, 2.5 s of 8.
    meshes_of_16 = [line.split(" | ")[4] for line in more[3:6]]
    assert meshes_of_16 == ["2,8,1,1", "1,16,1,1", "1,8,1,2"] and more[5].endswith("5.00 |")
    cells = [line.strip("| ").split(" | ")[2:] for line in faster[2:]]
    assert cells[0] == ["8", "8", "1,8,1,1", "4.00", "1.00", "100%"]
    assert cells[1] == ["8", "16", "1,8,1,2", "2.50", "1.60", "80%"]
    [fastest] = [one for one in cells if one[:2] == ["32", "32"]]
    assert fastest[2:4] == ["4,8,1,1", "4.00"]
    assert report.scaling([{"topology": "h100-8", "entry": "mjd_step"}]) == []


def test_refused_programs_say_what_to_change(monkeypatch):
    monkeypatch.setitem(pods.CHIPS, "cpu", FAKE)
    config = taco.get_config("full")
    row = {"entry": "closed_loop_step", "mesh": dict.fromkeys(pods.AXES, 1), "batch": 1}
    found = report.advice(config, pods.find("v5e-8"), row, training=True, codec=True)
    assert any("vae_chunk" in line for line in found)
    assert not any("sample.precision" in line for line in found)
    row["entry"] = "sample_step"
    for given, wanted in (("", '="bfloat16"'), ("bfloat16", '="int8"'), ("int8", None)):
        config.sample.precision = given
        first = report.advice(config, pods.find("4090-1"), row, training=False, codec=True)[0]
        assert first.startswith(f"config.sample.precision{wanted}") == (wanted is not None)
    assert found[-1] == "more devices: v5e-64, v5e-256, 2xv5e-64"


def test_estimates_follow_the_mesh():
    """At the paper's size: cutting the sequence saves activations, idle clips cost compute."""
    work = bounds.Work(
        flops={"mjd": 1.5e15, "decode": 9e14}, parameters=6_190_000_000, frozen=0, state=12,
        batch=8, views=3, tokens=25764, width=3072, layers=30, residual=4, passes=3, clip=0.0,
    )  # fmt: skip
    chip = pods.CHIPS["v5p"]
    mesh = lambda *sizes: dict(zip(pods.AXES, sizes, strict=True))  # noqa: E731
    whole = bounds.estimate(work, chip, mesh(1, 8, 1, 1))
    assert whole["seconds"]["compute"] == pytest.approx(2.4e15 / 459e12, rel=1e-3)
    assert 30 < whole["estimate_bytes"] / 2**30 < 35 and whole["likely"]
    cut = bounds.estimate(work, chip, mesh(1, 8, 1, 4))
    assert cut["estimate_bytes"] < whole["estimate_bytes"] / 2
    assert cut["seconds"]["compute"] == pytest.approx((1.5e15 + 4 / 3 * 9e14) / 4 / 459e12, 1e-3)
    known = bounds.estimate(work, chip, mesh(1, 8, 1, 1), sent=(600e9, 0.0))
    assert known["seconds"]["link"] == 1.0
    small = bounds.estimate(work, pods.CHIPS["v5e"], mesh(1, 8, 1, 1))
    assert not small["likely"]


def test_what_crosses_hosts_in_an_estimate():
    """Weights gathered over all hosts are shared by a host's devices, sums over data are not."""
    work = bounds.Work(
        flops={"mjd": 1e15}, parameters=1_000_000_000, frozen=0, state=12, batch=64, views=3,
        tokens=25764, width=3072, layers=30, residual=4, passes=3, clip=0.0,
    )  # fmt: skip
    chip = pods.CHIPS["h100"]

    def seconds(*sizes, near=8):
        mesh = dict(zip(pods.AXES, sizes, strict=True))
        return bounds.estimate(work, chip, mesh, near=near)["seconds"]

    moved = 10e9 * 63 / 64  # three gathers, and gradients summed and scattered
    over = seconds(1, 64, 1, 1)
    assert over["link"] == pytest.approx(moved / chip.link, rel=1e-2)
    assert over["network"] == pytest.approx(moved / 8 / chip.network, rel=1e-2)
    within = seconds(8, 8, 1, 1)
    assert within["link"] == pytest.approx(10e9 * 7 / 8 / chip.link, rel=1e-2)
    assert within["network"] == pytest.approx(1e9 * 7 / 8 / chip.network, rel=1e-2)
    assert "network" not in seconds(1, 64, 1, 1, near=0)
    halves = seconds(16, 4, 1, 1)  # two groups of a host share its network
    assert halves["network"] == pytest.approx(2e9 * 15 / 16 / 2 / chip.network, rel=1e-2)
    wide = pods.meshes(64, hosts=8, views=1, heads=24, training=True)
    assert [pods.show(mesh) for mesh in wide][:2] == ["1,64,1,1", "8,8,1,1"]
    few = pods.meshes(64, hosts=8, views=1, heads=24, training=False)
    assert [pods.show(mesh) for mesh in few][0] == "64,1,1,1"


# GiB that libtpu assigned at full size, from docs/pods.md.
ASSIGNED = [
    ("mjd_step", (1, 4, 1, 1), 50.1),
    ("mjd_step", (1, 8, 1, 1), 34.3),
    ("mjd_step", (1, 4, 1, 4), 13.5),
    ("mjd_step", (4, 16, 3, 1), 8.8),
    ("mjd_step", (1, 8, 1, 8), 5.2),
    ("mjd_step", (2, 8, 1, 8), 5.3),
    ("mjd_step", (1, 32, 1, 8), 4.1),
    ("closed_loop_step", (1, 8, 1, 1), 64.8),
    ("closed_loop_step", (1, 16, 1, 1), 58.2),
    ("closed_loop_step", (1, 64, 1, 1), 48.2),
    ("closed_loop_step", (4, 16, 1, 1), 58.2),
    ("sample_step", (1, 1, 1, 8), 45.7),
]


@functools.cache
def full_size_work(entry):
    config = taco.get_config("full")
    own = programs.find(config, entry)
    return plan._bounded(config, own, own.work(), 1)


@pytest.mark.parametrize("entry, sizes, assigned", ASSIGNED)
def test_estimates_are_near_what_the_compiler_assigned(entry, sizes, assigned):
    mesh = dict(zip(pods.AXES, sizes, strict=True))
    work = dataclasses.replace(full_size_work(entry), batch=mesh["data"] * mesh["fsdp"])
    found = bounds.estimate(work, pods.CHIPS["v5p"], mesh)["estimate_bytes"] / 2**30
    assert found == pytest.approx(assigned, rel=0.19)


def test_a_sampling_step_encodes_no_video():
    config = taco.get_config("debug").copy_and_resolve_references()
    config.task.guidance = 5.0
    own = programs.find(config, "sample_step")
    each, parts = own.work().flops, syncmv4d_cost.parts(own.task.loop)
    assert each == {k: x * (1 + (k == "mjd")) for k, x in parts.items() if k != "pixels"}
