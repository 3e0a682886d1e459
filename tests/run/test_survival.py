"""Real processes that die: who is blamed, how they leave, what is lost, how the run ends."""

import json
import random
import signal
import subprocess
import time

import gang
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from syncmv4d_jax import tree
from syncmv4d_jax.machines import watchdog
from syncmv4d_jax.results import curves
from syncmv4d_jax.run import assembly, checkpoint

TIMES = ("seconds_per_step", "tokens_per_second", "tflops_per_second", "mfu")
SMALL = ("--config.mesh.data=2", "--config.mesh.fsdp=1", "--config.train.silence=6.0")


def rows(workdir):
    """metrics.jsonl without the clock."""
    found = curves.read(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def weights(workdir, step):
    return tree.flatten(checkpoint.restore_params(assembly.stage_directory(workdir, ""), step=step))


def assert_ends_alike(one, other, step):
    a, b = weights(one, step), weights(other, step)
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    assert rows(one) == rows(other)
    assert [row["step"] for row in rows(one)] == list(range(1, step + 1))


def board_steps(workdir):
    """The steps TensorBoard shows for the loss, over all attempts' files."""
    board = event_accumulator.EventAccumulator(
        str(workdir / "tensorboard"), size_guidance={event_accumulator.TENSORS: 0}
    )
    board.Reload()
    return [event.step for event in board.Scalars("loss")]


def saved(workdir):
    return max((int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()), default=0)


# The watchdog alone.


def dogs(tmp_path, left, count=2, **options):
    options = {"beat": 0.05, "silent": 0.6, **options}
    return [
        watchdog.Watchdog(
            tmp_path,
            index=i,
            count=count,
            leave=lambda code, i=i: left.append((i, code)),
            **options,
        )
        for i in range(count)
    ]


def wait_until(condition, seconds=20):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.02)


def test_a_silent_process_is_named(tmp_path, caplog):
    left = []
    first, second = dogs(tmp_path, left)
    with first:
        second.__enter__()
        second.step(7)
        wait_until(lambda: json.loads((tmp_path / "1.json").read_text() or "{}").get("step") == 7)
        time.sleep(0.3)
        assert not left
        second._stop.set()  # as if it were killed: no last word
        wait_until(lambda: left)
    assert left == [(0, watchdog.REQUEUE)]
    assert "process 1 (host " in caplog.text and "step 7) stopped: no heartbeat" in caplog.text


def test_a_collective_that_fails_is_blamed_on_the_silent_one(tmp_path, caplog):
    """A killed peer breaks a collective at once: the error must not pass for one of our own."""
    left = []
    first, second = dogs(tmp_path, left)
    second.__enter__()
    with pytest.raises(ValueError, match="Gloo"), first:
        wait_until(lambda: first._peers[1].changed is not None)
        second._stop.set()
        raise ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
    assert left == [(0, watchdog.REQUEUE)]
    assert "process 1 (host " in caplog.text and "stopped: no heartbeat" in caplog.text


def test_an_error_of_another_ends_this_one_for_good(tmp_path, caplog):
    left = []
    first, second = dogs(tmp_path, left)
    with first:
        with pytest.raises(ValueError, match="bad record"), second:
            time.sleep(0.3)
            raise ValueError("bad record")
        wait_until(lambda: left)
    assert left == [(0, watchdog.FAILED)]
    assert "failed: ValueError: bad record; this process stops too" in caplog.text


def test_leaving_in_peace_and_files_of_an_earlier_attempt_alarm_nobody(tmp_path):
    left = []
    (tmp_path / "1.json").write_text(json.dumps({"state": "running", "step": 3, "beat": 9}))
    first, second = dogs(tmp_path, left)
    with first:
        time.sleep(1.0)  # longer than `silent`: the second has not come yet
        with second:
            time.sleep(0.3)
        time.sleep(1.0)
    assert not left


def test_a_stalled_run_names_who_is_behind(tmp_path, caplog):
    left = []
    first, second = dogs(tmp_path, left, silent=60.0, stalled=0.8)
    with first, second:
        first.step(5)
        second.step(4)
        wait_until(lambda: len(left) == 2)
    assert {code for _, code in left} == {watchdog.REQUEUE}
    assert "behind is process [1]" in caplog.text


def test_a_single_process_writes_no_heartbeat(tmp_path):
    with watchdog.Watchdog(tmp_path / "beats", index=0, count=1):
        pass
    assert not (tmp_path / "beats").exists()


# Processes.


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_survivor_names_the_killed_one_and_asks_to_start_again(tmp_path, victim):
    work = tmp_path / "run"
    processes = gang.gang(work, *SMALL, "--config.train.steps=400", devices=1)
    gang.wait_for(work / "checkpoints" / "3", processes)
    processes[victim].kill()
    assert processes[1 - victim].wait(timeout=120) == watchdog.REQUEUE
    said = gang.log(work, 1 - victim).read_text()
    assert f"process {victim} (host " in said and "stopped: no heartbeat" in said


@pytest.mark.slow
def test_short(tmp_path):
    """For `.ci/run`: one TERM, one KILL, then the rest on another mesh in one process."""
    work, steps = tmp_path / "run", "--config.train.steps=60"
    processes = gang.gang(work, *SMALL, steps, "--config.data.options.sleep=0.2", devices=1)
    gang.wait_for(work / "checkpoints" / "3", processes)
    processes[1].send_signal(signal.SIGTERM)
    gang.finish(work, processes, 143)
    stopped = saved(work)
    processes = gang.gang(work, *SMALL, steps, "--config.data.options.sleep=0.2", devices=1)
    gang.wait_for(work / "checkpoints" / str(3 * (stopped // 3) + 6), processes)
    processes[1].kill()
    assert processes[0].wait(timeout=120) == 143
    alone = ("--config.mesh.data=1", "--config.mesh.fsdp=4")
    gang.finish(work, [gang.start(work, *alone, steps, devices=4)])
    whole = tmp_path / "whole"
    gang.finish(whole, [gang.start(whole, *alone, steps, devices=4)])
    wanted = weights(whole, 60)
    for name, leaf in weights(work, 60).items():
        np.testing.assert_allclose(leaf, wanted[name], rtol=0, atol=1e-5, err_msg=name)
    assert [row["step"] for row in rows(work)] == list(range(1, 61)) == board_steps(work)


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path):
    """SIGKILL of one of two, 20 times: at most the interval is lost, and what a save takes."""
    work, whole, interval = tmp_path / "run", tmp_path / "whole", 20
    options = (*SMALL, "--config.train.steps=1200", f"--config.train.checkpoint_every={interval}")
    draw, lost, named, flying = random.Random(0), [], 0, 0
    gang.finish(whole, gang.gang(whole, *options, devices=1))
    for attempt in range(20):
        # Slowly, so that 20 kills come before the end on a fast machine too.
        processes = gang.gang(work, *options, "--config.data.options.sleep=0.03", devices=1)
        if attempt % 4:  # three in four while it trains, the others while it starts
            before = len(rows(work))
            while len(rows(work)) <= before:
                assert processes[0].poll() is None, gang.log(work).read_text()[-3000:]
                time.sleep(0.02)
            time.sleep(draw.uniform(0.0, 3.0))
        else:
            time.sleep(draw.uniform(0.0, 10.0))
        victim = draw.randrange(2)
        processes[victim].kill()
        named += left_by_itself(processes[1 - victim])
        reached = max((row["step"] for row in rows(work)), default=0)
        torn = any((work / "checkpoints").glob("*.orbax-checkpoint-tmp"))
        flying += torn
        lost.append(reached - saved(work))
        # Saves are written while training goes on. With one in flight the one before it counts: it
        # ended before this one began. Some steps pass before it has a folder.
        assert lost[-1] <= interval * (2 if torn else 1.5), (reached, saved(work), torn)
    gang.finish(work, gang.gang(work, *options, devices=1))
    print(f"lost {lost}, saves in flight {flying}, survivors that left by themselves {named}")
    assert_ends_alike(work, whole, 1200)
    assert board_steps(work) == board_steps(whole) == list(range(1, 1201))


def left_by_itself(process, seconds=40):
    """Waits as launch/local.sh does, then kills: before the gang has met, nobody is missed."""
    try:
        assert process.wait(timeout=seconds) != 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True
