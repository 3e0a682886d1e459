"""Ahead-of-time compilation of the real steps for a named pod: does it fit, and what does it cost.

    for each topology: meshes -> estimate, best first -> compile with shapes only -> report

No weights are made and no accelerator is needed for TPU types: libtpu compiles for machines that
are not there (`pip install 'syncmv4d_jax[tpu]'`; one process of a machine may load it at a time),
XLA does so for GPUs (`machines.planning.gpus`). "local" compiles for the devices of this machine.
Entries are the steps that the task names (`tasks.base.Planned`): its training step, or several with
some of their parts switched off, and where it samples the largest program of sampling.

`until="memory"` stops once the compiler has assigned the memory (`plan_memory`): a minute for ten.
Rows of kind "memory" give all bytes that a program is assigned, a little more than its peak.

Written are `plan.json` and `plan.md`. What is on disk is not compiled again, as long as task,
optimiser, sharding and jax are the same: rows of another configuration stay in the file, and out of
the table.
"""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from syncmv4d_jax import configuration, disk, recipe, tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines.planning import bounds, compiler, gpus, hlo, pods, schedule
from syncmv4d_jax.machines.planning import report as plan_report
from syncmv4d_jax.run import assembly, programs, sections
from syncmv4d_jax.tasks import base

log = logging.getLogger(__name__)
Tree = Any
# Keeps libtpu from asking the cloud's metadata server who it is.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5e-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def run(config: ml_collections.ConfigDict, workdir: str | Path) -> None:
    """Plans everything that `config.plan` names; writes plan.json and plan.md, prints the table.

    Raises:
      ValueError: unknown topology or entry, or a mesh that does not fit the devices.
      ModuleNotFoundError: no libtpu.
    """
    settings = assembly.read(config).plan
    check(settings)
    path = Path(workdir) / "plan.json"
    report = json.loads(path.read_text()) if path.is_file() else {"entries": []}
    devices: list[Any]
    _, config = configuration.stages(config)[-1]  # the last stage is the largest
    entries = programs.named(assembly.task(config), settings.entries)
    for name in settings.topologies:
        if settings.until == "memory":  # another process loads libtpu
            topology, devices = pods.find(name), []
        else:
            topology, devices = load_devices(name)
        for entry in entries:
            for row in plan(config, settings, topology, devices, entry, report["entries"]):
                report["entries"] = [x for x in report["entries"] if key(x) != key(row)] + [row]
                _write(path, json.dumps(report, indent=1))
                _write(path.with_suffix(".md"), _table(config, report) + "\n")
    print(_table(config, report))


def _write(path: Path, text: str) -> None:
    with disk.whole(path) as partial:
        partial.write_text(text)


def _table(config: ml_collections.ConfigDict, report: Mapping[str, Any]) -> str:
    """The rows of this configuration."""
    recipe_of = _recipe(config)
    mine = [row for row in report["entries"] if row.get("recipe") == recipe_of]
    return "\n\n".join([plan_report.show(mine), *plan_report.scaling(mine)])


def _recipe(config: ml_collections.ConfigDict) -> str:
    """A mark of what decides a program, beside its entry, machine, mesh and batch."""
    own = assembly.read(config)
    train = {key: getattr(own.train, key) for key in ("frozen_dtype", "attention", "sequence")}
    optim = own.optim.decisive
    if own.optim.ema_memory != "device":
        optim["ema_memory"] = own.optim.ema_memory
    made = {"task": own.task, "optim": optim, "sharding": own.sharding, "train": train}
    if own.sample.precision:
        made["precision"] = own.sample.precision
    return recipe.mark(recipe.of(**made, jax=jax.__version__))


def check(settings: sections.PlanConfig) -> None:
    """Raises ValueError where nothing is to be planned, or a topology or mesh cannot be."""
    if not settings.topologies:
        raise ValueError(f"config.plan.topologies is empty; give some of {pods.NAMES}")
    for name in settings.topologies:
        topology = pods.find(name) if name != pods.LOCAL else None
        if topology and settings.mesh:
            _given(settings.mesh, topology)
    if settings.until == "memory" and pods.LOCAL in settings.topologies:
        raise ValueError('config.plan.until="memory" is not for "local"')


def _given(mesh: Sequence[int], topology: pods.Topology) -> dict[str, int]:
    """The sizes of `config.plan.mesh` on a machine."""
    try:
        return meshes.sizes(dict(zip(meshes.AXES, mesh, strict=True)), topology.devices)
    except ValueError as error:
        raise ValueError(f"config.plan.mesh on {topology.name}: {error}") from None


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns what identifies a planned program: topology, entry, mesh, batch, configuration."""
    mesh = pods.show(row["mesh"])
    return row["topology"], row["entry"], mesh, row["batch"], row.get("recipe")


def load_devices(name: str) -> tuple[pods.Topology, list[Any]]:
    """Returns a topology and its devices; those of a TPU type or of GPUs are descriptions.

    Raises:
      ValueError: unknown name.
      ModuleNotFoundError: no libtpu, no CUDA plugin.
      RuntimeError: another process has loaded libtpu.
    """
    if name == pods.LOCAL:
        devices = jax.devices()
        kind = devices[0].device_kind
        return pods.Topology(name, kind, "", len(devices)), list(devices)
    from jax.experimental import topologies

    topology = pods.find(name)
    if topology.chip in gpus.SPECS:
        return topology, gpus.devices(topology)
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f"planning for {name} needs libtpu: pip install 'syncmv4d_jax[tpu]'"
        ) from error
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=topology.shape, num_slices=topology.slices
    )
    return topology, list(described.devices)


def plan(
    config: ml_collections.ConfigDict,
    settings: sections.PlanConfig,
    topology: pods.Topology,
    devices: Sequence[Any],
    entry: str,
    known: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Returns rows of one entry on one topology: compiled ones first, best first, then estimates.

    Args:
      known: rows of earlier runs; those of the same recipe are not compiled again.
    """
    own = programs.find(config, entry)
    work = own.work()
    candidates = (
        [_given(settings.mesh, topology)]
        if settings.mesh
        else pods.meshes(
            topology.devices,
            slices=topology.slices,
            hosts=topology.hosts,
            views=work.views,
            heads=work.heads,
            training=own.step is None,
        )
    )
    chip = pods.chip_of(topology.chip)
    rows, made_from = [], _recipe(config)
    for axes in candidates:
        batch = settings.samples * axes["data"] * axes["fsdp"]
        row = {"topology": topology.name, "entry": entry, "mesh": axes, "batch": batch}
        row["recipe"] = made_from
        each = _bounded(config, own, work, batch)
        rows.append(row | bounds.estimate(each, chip, axes, near=topology.near))
    rows.sort(key=lambda row: (not row["likely"], row["bound_s_per_sample"]))
    partly = {"memory"} if settings.until == "whole" else set()
    done = {key(row): row for row in known if "compile_s" in row and row.get("kind") not in partly}
    for i, row in enumerate(rows[: settings.compiled]):
        known_row = done.get(key(row))
        if known_row is not None:
            rows[i] = dict(known_row)
        elif settings.until == "memory":
            rows[i] = _assigned(config, topology, chip, row)
        else:
            rows[i] = _compiled(config, topology, devices, chip, row)
        if rows[i]["fits"]:
            break
    return rows


def _bounded(
    config: ml_collections.ConfigDict, own: base.Program, work: base.Work, batch: int
) -> bounds.Work:
    """What a step does, with its parameters and what the optimiser keeps of them."""
    trainable, frozen = programs.split(config, own)
    settings, training = assembly.read(config).optim, own.step is None
    return bounds.Work(
        flops=work.flops,
        parameters=tree.count(trainable),
        frozen=tree.count(frozen),
        state=12 + 4 * (settings.ema > 0 and settings.ema_memory == "device") if training else 4,
        batch=batch,
        views=work.views,
        tokens=work.tokens,
        width=work.width,
        layers=work.layers,
        residual=work.residual,
        passes=(3 if work.remat else 2) if training else 1,
        clip=work.clip,
    )


def _compiled(
    config: ml_collections.ConfigDict,
    topology: pods.Topology,
    devices: Sequence[Any],
    chip: pods.Chip,
    row: dict[str, Any],
) -> dict[str, Any]:
    """Compiles one candidate; returns its row with what the compiler said."""
    mesh = meshes.make_mesh(row["mesh"], devices)
    log.info("plan: %s %s on mesh %s ...", row["topology"], row["entry"], pods.show(row["mesh"]))
    start = time.perf_counter()
    own = programs.find(config, row["entry"])
    function, arguments = programs.program(config, mesh, row["entry"], row["batch"])
    try:
        compiled = function.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        refused = hlo.shortage(str(error))
        if refused is None:
            raise
        row |= {"kind": "refused", "fits": False, "compile_s": _since(start)}
        return row | {
            "limit_bytes": int(refused.available),
            "peak_bytes": int(refused.used),
            "largest": [list(x) for x in refused.largest],
            "findings": [str(error).splitlines()[0][:300]],
            "advice": _advice(config, topology, row, own),
        }
    memory, text = compiled.memory_analysis(), compiled.as_text()
    gpu = topology.chip in gpus.SPECS  # no program is refused there
    used = gpus.need(memory) if gpu else memory.peak_memory_in_bytes
    used -= gpu * programs.hosted(config, own, row["mesh"])  # all memory is one there
    row |= {"fits": not gpu or used <= chip.hbm, "compile_s": _since(start)}
    return _described(config, topology, chip, row, text) | {
        "kind": "whole",
        "peak_bytes": used,
        "limit_bytes": int(chip.hbm),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
    }


def _assigned(
    config: ml_collections.ConfigDict,
    topology: pods.Topology,
    chip: pods.Chip,
    row: dict[str, Any],
) -> dict[str, Any]:
    """As `_compiled`, in a process that is stopped when the memory is assigned."""
    start = time.perf_counter()
    found = compiler.run(_apart, config.to_dict(), topology.name, row, names=programs.NAMES)
    if not isinstance(found, compiler.Assigned):
        return found  # refused, or done before it was noticed
    own, gpu = programs.find(config, row["entry"]), topology.chip in gpus.SPECS
    used = found.used - gpu * programs.hosted(config, own, row["mesh"])
    row |= {"fits": used <= chip.hbm, "compile_s": _since(start)}
    return _described(config, topology, chip, row, found.text) | {
        "kind": "memory",
        "peak_bytes": used,
        "limit_bytes": int(chip.hbm),
    }


def _apart(config: Mapping[str, Any], name: str, row: dict[str, Any]) -> dict[str, Any]:
    topology, devices = load_devices(name)
    config = ml_collections.ConfigDict(config)
    return _compiled(config, topology, devices, pods.chip_of(topology.chip), row)


def _described(
    config: ml_collections.ConfigDict,
    topology: pods.Topology,
    chip: pods.Chip,
    row: dict[str, Any],
    text: str,
) -> dict[str, Any]:
    """Returns the row with what a program's text tells: bytes sent, times on paper, findings."""
    found = hlo.collectives(text, slice_devices=topology.near)
    fast = sum(x.sent * x.times for x in found if not x.across or x.local > 1)
    slow = sum(x.sent * x.times / x.local for x in found if x.across)
    own = programs.find(config, row["entry"])
    work = _bounded(config, own, own.work(), row["batch"])
    row = row | bounds.estimate(work, chip, row["mesh"], sent=(fast, slow))
    row |= _times(config, topology, chip, own, row, text)
    shapes = [x.shape for x in jax.tree.leaves(programs.split(config, own)[0])]
    return row | {
        "flops": work.flops,
        "largest": [list(x) for x in hlo.largest(text)],
        "collectives": hlo.summary(found),
        "asynchronous": hlo.asynchronous(text),
        "kernels": text.count("tpu_custom_call") + text.count("__cudnn$fmha"),
        "findings": plan_report.findings(hlo.whole_weights(found, shapes)),
        "advice": [] if row["fits"] else _advice(config, topology, row, own),
        "not_counted": list(gpus.NOT_COUNTED) if topology.chip in gpus.SPECS else [],
    }


def _times(
    config: ml_collections.ConfigDict,
    topology: pods.Topology,
    chip: pods.Chip,
    own: base.Program,
    row: Mapping[str, Any],
    text: str,
) -> dict[str, Any]:
    """Returns the seconds that a program takes on paper, and what they cost.

    `device_hours` are of all samples of training, or of one sample where a task samples.
    """
    program = schedule.Program(text)
    paper, expected = (
        program.on(figures, slice_devices=topology.near) for figures in (chip, pods.reached(chip))
    )
    each = expected.seconds * topology.devices / row["batch"]
    flops = sum(own.work().flops.values())
    times = 1
    if own.step is None:
        train = assembly.read(config).train
        times = train.steps * train.batch_size
    elif isinstance(own.task, base.Sampled):
        times = own.task.sampling.steps
    return {
        "paper": dataclasses.asdict(paper),
        "expected_s": round(expected.seconds, 4),
        "hidden": round(expected.hidden, 3),
        "utilised": round(flops / (each * chip.flops), 3),
        "device_s_per_sample": round(each, 3),
        "device_hours": round(times * each / 3600, 3),
        "scaled": _scaled(topology, chip, row, program) if own.step is None else [],
    }


def _scaled(
    topology: pods.Topology, chip: pods.Chip, row: Mapping[str, Any], program: schedule.Program
) -> list[dict[str, Any]]:
    """Returns what the step takes with other numbers of copies of the model (`schedule.Copies`).

    None where the program has one copy, or where the links between more of them would be others.
    """
    made = row["mesh"]["data"]
    devices = topology.devices // made
    found: list[dict[str, Any]] = []
    gpus_of_one_host = topology.chip in pods.CARDS and topology.hosts == 1
    if made == 1 or topology.slices > 1 or gpus_of_one_host or devices % (topology.near or 1):
        return []
    for power in range((pods.most(topology.chip) // devices).bit_length()):
        copies = schedule.Copies(devices, made, 2**power)
        time = program.on(pods.reached(chip), slice_devices=topology.near, copies=copies)
        batch = row["batch"] // made * copies.wanted
        mesh = row["mesh"] | {"data": copies.wanted}
        one = {"mesh": mesh, "batch": batch, "expected_s": round(time.seconds, 4)}
        found.append(one | {"hidden": round(time.hidden, 3)})
    return found


def _advice(
    config: ml_collections.ConfigDict,
    topology: pods.Topology,
    row: Mapping[str, Any],
    own: base.Program,
) -> list[str]:
    training, codec = own.step is None, own.work().clip > 0
    return plan_report.advice(config, topology, row, training=training, codec=codec)


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 1)
