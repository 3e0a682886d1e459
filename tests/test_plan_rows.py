"""The tables of docs/pods.md (benchmarks/plan_rows.py), from rows that were compiled."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines.planning import pods
from syncmv4d_jax.run import programs

FILE = Path(__file__).parent.parent / "benchmarks" / "plan_rows.py"
GIB = 2**30


@pytest.fixture(scope="module")
def rows():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("plan_rows", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["plan_rows"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["plan_rows"]


def found(row, *, used=10, limit=72, seconds=2.0, batch=8, **more):
    return {
        "kind": "memory", "mesh": dict(zip(meshes.AXES, row.mesh, strict=True)), "batch": batch,
        "peak_bytes": used * GIB, "limit_bytes": limit * GIB, "fits": used <= limit,
        "estimate_bytes": 11 * GIB, "largest": [[3 * GIB, "f32[4]", "add"]], "compile_s": 40.0,
        "paper": {"seconds": 0.6 * seconds}, "expected_s": seconds, "hidden": 0.5,
        "utilised": 0.4, "device_s_per_sample": 2.0, "device_hours": 44.0,
        "samples": "80,000 samples", "seconds": {"compute": 1.0, "link": 0.1, "network": 0.2},
        "collectives": {"all-gather": {"count": 1, "gigabytes": 20.0}}, **more,
    }  # fmt: skip


def cells(table):
    return [[x.strip() for x in line.strip("| ").split("|")] for line in table.splitlines()[2:]]


def test_every_row_names_a_step_and_a_mesh_of_its_machine(rows):
    names = [row.name for row in rows.GPUS + rows.TPUS]
    assert len(set(names)) == len(names)
    assert len(rows.GPUS) >= 12 and len(rows.TPUS) >= 12
    for table in (rows.GPUS, rows.TPUS):
        systems = {row.source.split(":")[0] for row in table}
        assert systems >= {"taco", "hvg3d", "strag", "vism", "wan_ti2v"}
    for row in rows.GPUS + rows.TPUS:
        axes = dict(zip(meshes.AXES, row.mesh, strict=True))
        assert meshes.sizes(axes, pods.find(row.machine).devices) == axes
    for source, entry in {(row.source, row.entry) for row in rows.GPUS + rows.TPUS}:
        row = rows.Row("h100-1", source, entry, (1, 1, 1, 1))
        assert programs.find(rows.configured(row), entry)
    changed = rows.configured(rows.bits("4090-1", "taco:full", "int8", rows.SMALL))
    assert changed.sample.precision == "int8" and changed.task.vae.dtype == "bfloat16"
    assert changed.train.steps == 10_000  # of the last stage


def test_the_table_says_what_fits_and_by_how_much_not(rows):
    near, over = rows.GPUS[0], rows.bits("4090-1", "taco:full", "int8", rows.SMALL)
    table = rows.memory({near: found(near), over: found(over, used=75, batch=1)})
    first, second = cells(table)
    assert first[:8] == ["h100-8", "taco mjd_step", "1,8,1,1", "8", "10.0", "72.0", "yes", "11.0"]
    assert first[8:] == ["f32[4] 3.0", "1.2", "2", "50%", "0.40", "2", "44, 80,000 samples", "40"]
    assert second[1] == "taco sample_step, small, int8"
    assert second[6] == "no, by 3.0" and second[11] == "-"  # one device sends nothing
    refused = {key: x for key, x in found(near, used=75).items() if key != "paper"}
    [line] = cells(rows.memory({near: refused | {"kind": "refused"}}))
    assert line[6] == "no, refused" and line[9] == "-"


def test_what_moves(rows):
    near, alone = rows.GPUS[0], rows.GPUS[2]
    table = rows.moved({near: found(near), alone: found(alone)})
    assert cells(table) == [
        ["h100-8", "taco mjd_step", "1,8,1,1", "20.0", "-", "-", "-", "-", "0.30", "1.00"]
    ]


def test_one_batch_on_more_devices(rows):
    """Four times the devices, three times as fast; a lone row of its batch is no comparison."""
    made = [rows.Row(f"h100-{8 * n}", "taco:full", "mjd_step", (1, 8, 1, n)) for n in (1, 4)]
    lone = rows.Row("h100-64", "taco:full", "mjd_step", (8, 8, 1, 1))
    each = {made[1]: found(made[1]), made[0]: found(made[0], seconds=6.0)}
    assert cells(rows.faster(each | {lone: found(lone, batch=64)})) == [
        ["h100", "taco mjd_step", "8", "8", "1,8,1,1", "10.0", "6.00", "1.00", "100%"],
        ["h100", "taco mjd_step", "8", "32", "1,8,1,4", "10.0", "2.00", "3.00", "75%"],
    ]
    row = rows.Row("h100-16", "taco:full", "mjd_step", (2, 8, 1, 1))
    scaled = [
        {"mesh": {**found(row)["mesh"], "data": n}, "batch": 8 * n, "expected_s": s, "hidden": 1.0}
        for n, s in ((1, 2.0), (128, 2.5))
    ]
    found_lines = cells(rows.copies({row: found(row, scaled=scaled)}))
    assert [line[2:] for line in found_lines] == [
        ["8", "1,8,1,1", "8", "2.00", "100%", "1.000"],
        ["1,024", "128,8,1,1", "1,024", "2.50", "100%", "0.800"],
    ]


def test_what_is_there_is_kept(rows, tmp_path, monkeypatch, capsys):
    """A stopped run goes on: a row is compiled once, and again where it is asked for."""
    asked = []

    def plan(config, settings, topology, devices, entry, known):
        asked.append((topology.name, len(known)))
        row = next(x for x in rows.GPUS if x.machine == topology.name and x.entry == entry)
        return [dict(known[0])] if known else [found(row, compile_s=float(len(asked)))]

    monkeypatch.setattr(rows.plan, "plan", plan)
    only = ["--of", "gpus", "--only", "a100-8", "--out", str(tmp_path)]
    assert rows.main([*only, "--most", "1"]) == 0 and capsys.readouterr().out == ""
    kept = json.loads((tmp_path / "rows.json").read_text())
    assert list(kept) == ["a100-8 taco:full mjd_step 1,8,1,1"]
    assert rows.main(only) == 0
    assert json.loads((tmp_path / "rows.json").read_text()) == kept
    assert "| a100-8 | taco mjd_step | 1,8,1,1 | 8 | 10.0 |" in capsys.readouterr().out
    assert rows.main([*only, "--again"]) == 0
    assert asked == [("a100-8", 0), ("a100-8", 1), ("a100-8", 0)]
    assert json.loads((tmp_path / "rows.json").read_text()) != kept
