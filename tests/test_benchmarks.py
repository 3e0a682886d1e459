"""The benchmarks that no other test runs: what the runner names exists; the GPU script, tiny."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from demo import make as demo
from syncmv4d_jax.models.wan import umt5
from syncmv4d_jax.tasks import syncmv4d

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Loads a script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def one(name):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return one


def test_the_runner_names_scripts_that_exist_and_reads_their_lines(load, capsys, monkeypatch):
    run = load("run")
    assert all((FOLDER / f"{name}.py").is_file() for name in run.SCRIPTS)
    assert run.LINE.match("wan_dit_forward 0.254 0.537 0.47")
    assert run.LINE.match("block64_s 1e-05 inf 0.1")
    assert not run.LINE.match("block64_fwd_bwd_s 0.1 - -")
    assert not run.LINE.match("# of the FLOPs 0.5, reused 2.0")
    monkeypatch.setattr(sys, "argv", ["run.py", "--list", "--only", "mjd_cpu"])
    assert run.main() == 0
    assert capsys.readouterr().out == "python benchmarks/mjd_cpu.py --rounds 2\n"
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(run, "PEERS", ("torch_that_is_not_there",))
    with pytest.raises(SystemExit, match="torch_that_is_not_there.*not installed; `make bench`"):
        run.main()


def test_what_preparation_is_timed_by_is_there(load):
    missing = [name for _, owner, name in load("data").WATCHED if not hasattr(owner, name)]
    assert not missing


def test_the_parts_of_a_cycle_have_shapes(load):
    cycle = load("cycle")
    task = syncmv4d.make(cycle.load("configs/demo.py"))
    parts, params = cycle.functions(task.loop), jax.eval_shape(task.init, jax.random.key(0))
    found = {name: jax.eval_shape(run, params, *shapes) for name, (run, shapes) in parts.items()}
    assert found["mjd"].velocity.shape == (1, *task.loop.latent_shape)
    assert found["match"].shape == (1, 3, 13, 256, 3) == found["paint"].shape[:3] + (256, 3)


def test_interleaved_times_take_turns(load):
    calls = []
    functions = {name: (lambda n=name: calls.append(n)) for name in "ab"}
    times = load("timing").interleaved(functions, 2)
    assert "".join(calls) == "ab" + "abab"
    assert all(min(t) >= 0 for t in times.values())
    calls.clear()
    load("timing").interleaved(functions, 2, steady=True)
    assert "".join(calls) == "ab" + "aabbaabb"


def test_of_a_turn_of_two_runs_the_second_is_timed(load):
    naps = iter((0.0, 0.3, 0.0, 0.3, 0.0))
    run = {"a": lambda: time.sleep(next(naps))}
    [times] = load("timing").interleaved(run, 2, steady=True).values()
    assert times.best * (1 + times.spread) < 0.2  # the median of both turns


@pytest.mark.slow
def test_memory_of_twenty_calls_of_a_pipeline_does_not_grow(load, tmp_path, capsys):
    """A result has 0.5 MiB of arrays: one that stayed behind a call would be 9 MiB of them."""
    seconds, early, late = load("pipeline").measure(20, tmp_path)
    with capsys.disabled():
        print(f"\nfirst call {seconds[0]:.1f} s, second {seconds[1]:.1f} s; {early}, {late}")
    assert late.process <= 1.02 * early.process
    assert late.held - early.held < 1.0


def test_the_gpu_script_wants_a_gpu(load):
    with pytest.raises(SystemExit, match=r"wanted a GPU, JAX sees cpu; --rehearse runs"):
        load("gpu").main(["--child", "dpa"])


def test_the_gpu_script_ends_in_time_and_goes_on_after_a_failure(load, capsys, monkeypatch):
    gpu = load("gpu")
    assert sum(seconds for _, seconds in gpu.ENTRIES.values()) <= 300
    assert gpu.main(["--minutes", "0", "--only", "train", "dpa"]) == 0
    left = [x for x in capsys.readouterr().out.splitlines() if "left out" in x]
    assert [x.split(":")[0] for x in left] == ["# train", "# dpa"]
    measured = {
        "device": "a card", "seconds": 2.0, "spread": 0.1, "tflops": 300.0, "gb": 50.0,
        "product_tflops": 600.0, "peak_tflops": 989.0, "expected_s": 1.6, "planned_gb": 40.0,
        "blocks": 16,
    }  # fmt: skip
    found = {"train": "out of memory", "dit": measured, "torch:dit": {"seconds": 4.0}}
    monkeypatch.setattr(gpu, "child", lambda name, arguments, seconds: found[name])
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: True)
    assert gpu.main(["--only", "train", "dit"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "# train: out of memory" in lines
    assert [x for x in lines if x.startswith("gpu_")] == [
        "gpu_dit_tflops 300 600 0.5",
        "gpu_dit_s 2 1.6 1.25",
        "gpu_dit_gb 50 40 1.25",
        "gpu_dit_torch_s 2 4 0.5",
    ]
    assert "# dit: spread 10%, 30.3% of the data sheet's peak, 16 blocks" in lines
    found["train"] = "benchmarks/gpu.py: wanted a GPU, JAX sees cpu"
    with pytest.raises(SystemExit, match="wanted a GPU"):
        gpu.main(["--only", "train", "dit"])
    assert gpu.main(["--list"]) == 0
    assert "beside diffusers' WanTransformer3DModel" in capsys.readouterr().out


def test_the_gpu_script_trains_the_demo_after_all_others(load, capsys, monkeypatch):
    gpu, ran = load("gpu"), []

    def run(command, **_):
        ran.append([str(x) for x in command[1:]])
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    assert gpu.main(["--only", "demo"]) == 0 and not ran
    assert "# demo: left out, wanted --package FILE" in capsys.readouterr().out
    assert gpu.main(["--only", "demo", "--package", "/sent/p"]) == 1  # it failed
    assert gpu.main(["--only", "demo", "--rehearse"]) == 1
    assert ran == [["demo/train_gpu.py", "--package", "/sent/p", "--minutes", "5"],
                   ["demo/train_gpu.py", "--rehearse"]]  # fmt: skip
    capsys.readouterr()
    assert gpu.main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("demo: 300 s more, with --package")


def rehearsed(load, capsys, *names):
    assert load("gpu").main(["--rehearse", "--rounds", "1", "--only", *names]) == 0
    lines = [x.split() for x in capsys.readouterr().out.splitlines() if x.startswith("gpu_")]
    for line in lines:
        assert len(line) == 4 and all(float(x) > 0 for x in line[1:])
    return [line[0] for line in lines]


def rows_of(*names):
    return [f"gpu_{name}_{what}" for name in names for what in ("tflops", "s")]


@pytest.mark.slow
def test_the_gpu_script_in_rehearsal(load, capsys):
    names = ["vae_encode", "sample"]
    found = rehearsed(load, capsys, *names)
    assert [x for x in found if "torch" not in x] == rows_of(*names)


@pytest.mark.parity
def test_what_stands_beside_torch_in_rehearsal(load, capsys):
    names = ["dit", "attention", "vae_decode"]
    wanted = [(*rows_of(name), f"gpu_{name}_torch_s") for name in names]
    assert rehearsed(load, capsys, *names) == [row for rows in wanted for row in rows]


@pytest.mark.slow
def test_every_entry_of_the_gpu_script_in_rehearsal(load, capsys):
    names = ["train", "loop", "vae_decode", "dpa"]
    found = rehearsed(load, capsys, *names)
    assert [x for x in found if "torch" not in x] == [*rows_of(*names), "gpu_loop_over_train_s"]


def test_rows_that_did_not_look_tell_what_the_crop_tells(load):
    """Where the place of the foreground is the motion, the ridge finds it; else it helps nobody."""
    scenes, rng = load("scenes"), np.random.default_rng(0)

    def some(count, told):
        found = []
        for i in range(count):
            place, end = rng.normal(size=12), 0.1 * rng.normal(size=3)
            end = 0.03 * place[:3] if told else end
            way = np.linspace(0, 1, 5)[:, None, None] * end + np.zeros((5, 20, 3))
            triplet = ("stir", "spoon", f"target {i % 6}")
            found.append({"way": way, "seen": np.arange(20) < 15, "places": 10 * place,
                          "triplet": triplet})  # fmt: skip
        return found

    for told in (True, False):
        errors, r2 = scenes.evaluate(some(60, told), some(30, told))
        means = {row: np.mean(found) for row, found in errors.items()}
        assert len(errors["held"]) == 6 and means["one true translation"] < 1e-6
        assert means["constant velocity"] < 1e-6 and means["held"] > 20
        assert (r2 > 0.95).all() if told else (r2 < 0.2).all()
        assert (means["crop ridge"] < 0.2 * means["mean path"]) == told


def test_a_student_is_asked_beside_both_teachers(load):
    """Paired by scene: no worse than many steps, better than the same few."""
    few = load("few_steps")
    assert f"configs/{few.CONFIG}" == f"{demo.CONFIG}:demo"
    assert few.names([4, 2]) == {
        "teacher-16": ("teacher", 16), "teacher-4": ("teacher", 4), "teacher-2": ("teacher", 2),
        "student-4": ("student", 4), "student-2": ("student", 2),
    }  # fmt: skip
    scenes = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.0}

    def evaluation(error, slope=0.0):
        values = {s: error + x + slope * x for s, x in scenes.items()}
        cells = dict.fromkeys(("lpips_alex", "error_mm", "psnr_moving"), {"per_sample": values})
        return {"rows": {"model": cells}, "triplets": {s: s for s in scenes}}

    rows = {"teacher-16": evaluation(10.0), "teacher-4": evaluation(15.0),
            "student-4": evaluation(9.0, slope=0.5)}  # fmt: skip
    lines = few.tables(rows, [4]).splitlines()
    assert lines[0] == "| | lpips_alex | error_mm | psnr_moving |"
    (*_, of_network, near), (other_of_network, far) = lines[-4:-2], lines[-2:]
    assert "| lpips_alex | 0.25 ±" in of_network and "| lpips_alex | 5.25 ±" in other_of_network
    # Gains 1, 0.5, 0, -0.5 against 16 steps; 6, 5.5, 5, 4.5 against 4.
    assert near.startswith("| 4 steps | teacher-16 | error_mm | 0.25 ± 0.32 (n = 4) |")
    assert far.startswith("| 4 steps | teacher-4 | error_mm | 5.25 ± 0.32 (n = 4) |")
    assert near.endswith("| holds |") and far.endswith("| holds |")
    assert few.verdict({"value": -1.0, "se": 0.4}, beyond=False) == "does not hold"
    assert few.verdict({"value": 0.7, "se": 0.4}, beyond=True) == "does not hold"
    assert few.verdict({"value": 5.0, "se": None}, beyond=True) == "too few triplets"


def test_a_sample_is_asked_to_be_sharp_and_right_at_once(load):
    """Beside the autoencoder, two steps and the best blur, paired by scene over triplets."""
    sharp, scenes = load("sharpness"), {s: i / 100 for i, s in enumerate("abcd")}
    rows = {
        sharp.ONE: {"gradient_energy": 0.75, "lpips_alex": 0.1, "psnr_moving": 22.0},
        sharp.TWO: {"gradient_energy": 0.5, "lpips_alex": 0.2, "psnr_moving": 22.5},
        sharp.MEAN: {"gradient_energy": 0.5, "lpips_alex": 0.3, "psnr_moving": 23.5},
        sharp.CODED: {"gradient_energy": 0.9, "lpips_alex": 0.05, "psnr_moving": 28.0},
        sharp.BLURRED: {"psnr_moving": 20.4},
    }

    def made(**changed):
        own = {row: {**cells, **changed} if row == sharp.ONE else cells
               for row, cells in rows.items()}  # fmt: skip
        noisy = lambda row, cells, x: {m: v + x * (row == sharp.ONE) for m, v in cells.items()}  # noqa: E731
        return {s: {row: noisy(row, cells, x) for row, cells in own.items()}
                for s, x in scenes.items()}  # fmt: skip

    def answers(scores):
        lines = sharp.table(scores, {s: s for s in scenes}).splitlines()
        return [line.split("|")[-2].strip() for line in lines[-4:]], lines

    told, lines = answers(made())
    # 0.75 and more against 0.72; 0.2 - 0.1; 1.6 of 1.5 dB; 3.1 of 3 dB without any spread.
    assert told == ["holds"] * 4
    assert "| gradient_energy: one sample better than 0.8 x autoencoder | 0.045 ±" in lines[-4]
    assert "by 1.5 dB | 0.115 ± 0.0065 (n = 4) |" in lines[-2]
    assert lines[6] == "| frame_0_blurred | - | - | 20.4 ± nan |"
    for changed, failing in (({"gradient_energy": 0.7}, 0), ({"lpips_alex": 0.2}, 1),
                             ({"psnr_moving": 21.8}, 2)):  # fmt: skip
        found, _ = answers(made(**changed))
        assert [i for i, x in enumerate(found) if x == "does not hold"] == [failing]
    rows[sharp.MEAN]["psnr_moving"] = 23.3
    assert answers(made())[0][3] == "does not hold"
    rows[sharp.TWO].pop("lpips_alex")
    assert answers(made())[0][1] == "not shown"


def test_fewer_bits_are_compared_with_float32_of_the_same_scene(load):
    def evaluation(*values):
        cells = {"psnr_moving": {"per_sample": dict(zip("abcd", values, strict=True))}}
        return {"rows": {"model": cells}, "triplets": {"a": "x", "b": "x", "c": "y", "d": "z"}}

    rows = {
        "float32": evaluation(20.0, 22.0, 30.0, 25.0),
        "int8": evaluation(20.0, 21.0, 29.0, 24.4),
        "bfloat16": evaluation(20.1, 22.0, 29.9, 25.0),
    }
    int8, bfloat16 = load("few_bits").tables(rows).splitlines()[-2:]
    # Of triplets: -0.5, -1, -0.6 and 0.05, -0.1, 0.
    assert int8 == "| int8 | psnr_moving | -0.7 ± 0.2 (n = 3) | worse |"
    assert bfloat16 == "| bfloat16 | psnr_moving | -0.017 ± 0.04 (n = 3) | no |"


def test_errors_of_8_bits_are_drawn_anew_and_on_top_of_those_of_bfloat16(load):
    precision = load("precision")
    precision.SHARE = 0.3  # of a small kernel too some are large
    _, _, inputs, run = precision.text_block(8)
    config = dataclasses.replace(umt5.TINY, layers=1, dtype="float32")

    def found(large, draws=2):
        given = lambda key: (inputs(key)[0] % config.vocab,)  # noqa: E731
        return precision.errors(umt5.UMT5, config, given, run, large=large, draws=draws)

    even, large = found(False), found(True)
    assert set(even) == {"bfloat16", "int8", "float8"} and even["int8"].shape == (2, 2)
    assert not even["bfloat16"][:, 1].any() and (even["bfloat16"][:, 0] > 1e-4).all()
    assert (even["float8"][:, 1] > even["int8"][:, 1]).all()
    assert even["int8"][0, 0] != even["int8"][1, 0]
    # A row that is larger takes the integers of its columns with it.
    assert large["int8"][:, 1].mean() > even["int8"][:, 1].mean()


def test_seconds_of_a_step_leave_out_the_lines_that_compile(load, tmp_path):
    lines = ['{"step": 1}', '{"seconds_per_step": 60.0}', '{"seconds_per_step": 2.0}',
             '{"seconds_per_step": 4.0}']  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert load("few_steps").seconds(tmp_path / "metrics.jsonl") == 3.0
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines[:2]))
    assert load("few_steps").seconds(tmp_path / "metrics.jsonl") is None


def test_one_image_is_judged_against_true_views_and_plain_points(load, tmp_path, capsys):
    one = load("one_image")
    rng, names = np.random.default_rng(0), [str(i) for i in range(16)]
    values = {"given": (10.0, 25.0), "drawn": (14.0, 24.0), "points": (20.0, 21.0)}

    def write(name, pair, **recipe):
        cells = {}
        for metric, value in zip(("mv_rpe", "psnr_moving"), pair, strict=True):
            each = {s: float(value + rng.normal(0, 0.1)) for s in names}
            cells[metric] = {"value": value, "se": 0.1, "per_sample": each}
        told = {"triplets": {s: f"t{int(s) % 8}" for s in names}, "rows": {"model": cells}}
        told |= {"recipe": {"split": "test", "samples": name} | recipe}
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "eval.json").write_text(json.dumps(told))

    with pytest.raises(SystemExit, match="wanted an evaluation with references=drawn"):
        one.main(["--out", str(tmp_path)])
    for name, pair in values.items():
        write(name, pair)
    assert one.main(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(": met") == 4
    for pair, failing in (((15.5, 24.0), "below 1.5 x true"), ((14.0, 23.0), "1.5 dB worse"),
                          ((20.0, 24.0), "MV RPE: better than points"),
                          ((14.0, 21.0), "PSNR moving: better than points")):  # fmt: skip
        write("drawn", pair)
        assert one.main(["--out", str(tmp_path)]) == 1
        missed = [x for x in capsys.readouterr().out.splitlines() if x.endswith("not reached")]
        assert any(failing in line for line in missed)
    write("drawn", values["drawn"], split="val")
    with pytest.raises(SystemExit, match="was evaluated on other scenes"):
        one.main(["--out", str(tmp_path)])
