"""Twenty kills, and between any two runs whatever may change: each example once, the same end."""

import json
import random
import re
import subprocess
import sys
import time

import gang
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.run import checkpoint

SIZES = (2, 4, 8, 16)


def options(size, rate, steps, **train_):
    """What one run is told: config keys and values."""
    told = {"train.batch_size": size, "optim.learning_rate": rate, "train.steps": steps}
    return told | {f"train.{key}": value for key, value in train_.items()}


def saved(work):
    """(step, examples) of the last checkpoint that is whole, (0, 0) before the first."""
    steps = [int(p.name) for p in (work / "checkpoints").glob("*") if p.name.isdigit()]
    if not steps:
        return 0, 0
    return max(steps), checkpoint.meta(work / "checkpoints" / str(max(steps)))["examples"]


def flags(told):
    return [f"--config.{key}={value}" for key, value in told.items()]


REPLAY = """import json, sys
import sequenced
from syncmv4d_jax.run import train
for told in json.loads(sys.argv[1]):
    config = sequenced.get_config()
    for key, value in told.items():
        section, name = key.split(".")
        config[section][name] = value
    train.run(config, sys.argv[2])
"""


def replay(segments, whole, file):
    """Trains the same segments without a kill, in one process of the same compiler's options."""
    told = [
        segment["told"] | {"train.steps": segment["until"]}
        for segment in segments
        if segment["until"] > segment["from"]
    ]
    variables = gang.environment(8)
    variables["PYTHONPATH"] += f":{file.parent}"
    command = [sys.executable, "-c", REPLAY, json.dumps(told), str(whole)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def sequence_mesh(tmp_path):
    """The fake configuration with a sequence axis, which the command line cannot add."""
    path = tmp_path / "sequenced.py"
    path.write_text(
        "import fakes\n\ndef get_config():\n    config = fakes.config()\n"
        "    config.mesh = {'data': 2, 'fsdp': 1, 'sequence': 4}\n    return config\n"
    )
    return path


@pytest.mark.slow
def test_twenty_kills_with_changes_between(tmp_path):
    """Batches, rates, how often is saved: each example once, the end as of no kills at all."""
    work, draw, segments = tmp_path / "run", random.Random(0), []
    file = sequence_mesh(tmp_path)
    for attempt in range(21):
        step, examples = saved(work)
        if segments:
            segments[-1]["until"] = step
        fitting = [size for size in SIZES if examples % size == 0]
        told = options(
            draw.choice(fitting), draw.choice((1e-2, 3e-3)), 10**6,
            checkpoint_every=draw.choice((2, 3, 5)), log_every=draw.choice((1, 4)),
        )  # fmt: skip
        if attempt == 20:
            told["train.steps"] = step + 7
        process = gang.start(
            work, *flags(told), "--config.data.options.sleep=0.01", devices=8, config=file
        )
        segments.append({"told": told, "from": step, "until": step + 7, "seen": examples})
        if attempt == 20:
            gang.finish(work, [process])
            break
        if attempt % 4:  # three in four while it trains, the others while it starts
            end = time.time() + 600
            while saved(work)[0] == step:
                assert time.time() < end and process.poll() is None, gang.log(work).read_text()
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 0.4))
        else:
            time.sleep(draw.uniform(0.0, 4.0))
        process.kill()
        process.wait()
    said = gang.log(work).read_text()
    resumed = [int(step) for step in re.findall(r"resumed from step (\d+)", said)]
    assert set(resumed) <= {segment["from"] for segment in segments} and len(resumed) >= 12
    assert "taken over from process" in said and "goes on with other settings" in said

    # The same segments without a kill: every one ends where the next began.
    whole, seen = tmp_path / "whole", 0
    for segment in segments:
        assert segment["seen"] == seen
        seen += (segment["until"] - segment["from"]) * segment["told"]["train.batch_size"]
    replay(segments, whole, file)
    last = segments[-1]["until"]
    assert saved(work) == saved(whole) == (last, seen)
    one, other = (
        tree.flatten(checkpoint.restore_params(p / "checkpoints", step=last)) for p in (work, whole)
    )
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
