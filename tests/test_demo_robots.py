"""The stages of `make robots` name what is there; its table joins the evaluations."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from demo import robots as demo
from syncmv4d_jax import configuration, tree
from syncmv4d_jax.metrics import scene
from syncmv4d_jax.run import evaluate
from syncmv4d_jax.weights import exports


@pytest.mark.parametrize("flags", [[], ["--short"]])
def test_every_stage_has_flags_and_keys_that_there_are(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "scales", lambda folder: ((0.5, 1.5), (0.1, 0.1)))
    monkeypatch.setattr(demo, "without_inter_view", lambda path, target: target)
    found = list(demo.stages(demo.parse([*flags, "--out", str(tmp_path)])))
    assert len({title for title, *_ in found}) == len(found)
    for _, program, (script, *words) in found:
        assert script == "-m" or (demo.ROOT / script).is_file()
        if program == demo.SIMULATOR or not script.startswith("data_prep/"):
            continue  # its environment is not here
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        if hasattr(module, "parse"):
            assert module.parse([str(word) for word in words])
    runs = [[str(x) for x in command] for _, _, command in found if command[0] == "-m"]
    assert len(runs) == 12 and not [x for run in runs for x in configuration.unknown_keys(run)]
    made = [command[command.index("--out") + 1] for _, program, command in found
            if program == demo.SIMULATOR]  # fmt: skip
    seeds = [c[c.index("--seed") + 1] if "--seed" in c else 0 for _, p, c in found
             if p == demo.SIMULATOR]  # fmt: skip
    assert len(set(made)) == len(set(seeds)) == 3  # no episode is trained on and judged


def test_the_simulator_plays_in_several_processes_and_none_may_fail(tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\ntouch "$1/${3%/*}"\nexit "${3%/*}"\n')  # of --shard i/n: i
    fake.chmod(0o755)
    monkeypatch.setattr(demo, "SIMULATOR", fake)
    assert demo.executed(fake, [tmp_path]) == demo.PROCESSES - 1 > 0
    assert {x.name for x in tmp_path.iterdir()} == {"python", *map(str, range(demo.PROCESSES))}
    assert demo.executed("/bin/sh", ["-c", "exit $#", "sh"]) == 0  # others run once, as they are


def evaluation(folder, errors, **more):
    """An eval.json of four episodes of two tasks; errors: {row: mm}."""
    rng = np.random.default_rng(0)
    scores = {f"e{i}": {row: {"error_mm": mm + rng.normal(0, 0.1)} for row, mm in errors.items()}
              for i in range(4)}  # fmt: skip
    for i, one in enumerate(scores.values()):
        one["model"] |= {key: value + 0.01 * i for key, value in more.items()}
    triplets = {name: f"task {int(name[1]) % 2}" for name in scores}
    made = evaluate.assemble(scores, triplets) | {"triplets": triplets}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval.json").write_text(json.dumps(made))


def test_the_table_pairs_the_model_with_every_rival(tmp_path):
    assert set(demo.RIVALS) <= set(scene.ROWS)
    evaluation(tmp_path, {"model": 10.0, **dict.fromkeys(demo.RIVALS, 15.0)})
    evaluation(tmp_path / "tasks", {"model": 12.0, "held": 11.0})
    evaluation(tmp_path / "untuned", {"model": 30.0})
    evaluation(tmp_path / "apart", {"model": 9.0})
    evaluation(tmp_path / "actions", {"model": 10.0}, swap_margin=0.25)
    text = demo.result(tmp_path).read_text()
    found = json.loads((tmp_path / "robots.json").read_text())
    held = found["held-out episodes"]
    assert set(held) == {"model", *demo.RIVALS, *demo.OTHERS.values()}
    gains = {row: cells["error_mm"].get("gain") for row, cells in held.items()}
    assert gains["model"] is None and gains["held"] == pytest.approx(5, abs=0.5)
    assert gains["the weights before"] == pytest.approx(20, abs=0.5)
    assert gains["inter-view attention off"] == pytest.approx(-1, abs=0.5)
    assert found["a held-out task"]["held"]["error_mm"]["gain"] == pytest.approx(-1, abs=0.5)
    assert found["swap_margin"]["value"] == pytest.approx(0.265)
    assert "4 held-out episodes of 2 tasks" in text and "| the weights before |" in text


def test_a_number_that_is_missing_is_a_dash(tmp_path):
    cell = {"value": None, "per_sample": {"e": None}}
    table = demo.compared({"model": {"error_mm": cell}, "held": {"error_mm": cell}}, {"e": "t"})
    assert "| held | - | - | - | - | - |" in demo.markdown(table)


def test_only_what_joins_the_views_is_taken_away(tmp_path):
    names = ("inter_view_attn/o/kernel", "inter_view_attn/o/bias", "inter_view_attn/q/kernel",
             "self_attn/o/kernel")  # fmt: skip
    flat = {f"dit/blocks/0/{name}": np.ones((2, 2), np.float32) for name in names}
    exports.write(tree.unflatten(flat), tmp_path / "a.safetensors", metadata={"step": 1})
    target = demo.without_inter_view(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    zero = {name for name, x in tree.flatten(exports.read(target)).items() if not x.any()}
    assert zero == {name for name in flat if "inter_view_attn/o" in name}
    assert exports.metadata(target) == {"step": 1}
    shipped = tree.flatten(exports.read(demo.SHIPPED / "model.safetensors", "dit"))
    assert any("inter_view_attn/o/" in name for name in shipped)
    flat = {"dit/blocks/0/self_attn/o/kernel": np.ones(2, np.float32)}
    exports.write(tree.unflatten(flat), tmp_path / "c.safetensors", metadata={"step": 1})
    with pytest.raises(ValueError, match="no inter-view attention"):
        demo.without_inter_view(tmp_path / "c.safetensors", tmp_path / "d.safetensors")


def test_without_the_simulator_the_command_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SIMULATOR", tmp_path / "python")
    assert demo.main(["--out", str(tmp_path)]) == 1 and "make robots" in capsys.readouterr().err


def test_a_stage_that_fails_stops_the_others(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(demo, "SIMULATOR", Path(sys.executable))
    monkeypatch.setattr(demo, "executed", lambda *stage: ran.append(stage) or 3)
    assert demo.main(["--out", str(tmp_path), "--short"]) == 3 and len(ran) == 1
