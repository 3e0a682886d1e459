"""A small task and a data source for tests of the training loop
(`config.task.name="fakes:make"`)."""

import os
import signal
import time

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from syncmv4d_jax.models.nn import protocol


class Numbers:
    """Random-access source: example i is a function of i alone."""

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        x = np.random.default_rng(int(i)).standard_normal(16).astype(np.float32)
        return {"x": x, "y": x[::-1].copy(), "id": np.int32(i)}


def numbers(config, wanted, *, batch_size, seed, shard_index, shard_count):
    """A grain iterator; `config.data.options` may poison a batch, send a signal, or slow down."""
    data = grain.MapDataset.source(Numbers()).shuffle(seed=seed).repeat(None)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    # Batches before slices: a global batch has the same order for any number of readers.
    mine = data.batch(batch_size)[shard_index::shard_count]
    steady = iter(mine.to_iter_dataset(options))
    return Trouble(steady, config.options)


class Trouble:
    """An iterator that makes trouble at given batches (counted from 1, saved in its state)."""

    def __init__(self, inner, options):
        self.inner, self.options, self.count = inner, options, 0

    def __next__(self):
        batch = next(self.inner)
        self.count += 1
        time.sleep(self.options.get("sleep", 0.0))
        if self.count in self.options.get("nan_at", ()):
            batch["x"] = np.full_like(batch["x"], np.nan)
        if self.count in self.options.get("spike_at", ()):
            batch["y"] = batch["y"] * 1e4
        if self.count == self.options.get("terminate_at", -1):
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    def scalars(self):
        return {"batches": float(self.count)} if self.options.get("counts") else {}

    def get_state(self):
        return {"count": self.count, "inner": self.inner.get_state()}

    def set_state(self, state):
        self.count = state["count"]
        self.inner.set_state(state["inner"])


class Fake:
    """Two parts: `net` (trainable) after `eye` (frozen in the second stage of the test)."""

    name, frozen_parts, placement = "fakes:make", (), protocol.LOCAL

    def __init__(self, trainable, noise):
        self.trainable, self.noise = trainable, noise

    def grow(self, params, given):
        return params

    def init(self, rng):
        a, b = jax.random.split(rng)
        return {
            "eye": {"in": {"kernel": jax.random.normal(a, (16, 32)) * 0.2}},
            "net": {
                "blocks": {"kernel": jax.random.normal(b, (2, 32, 32)) * 0.2},
                "out": {"kernel": jnp.zeros((32, 16)), "bias": jnp.zeros((16,))},
            },
        }

    def loss(self, trainable, frozen, batch, rng):
        params = {**frozen, **trainable}
        x = batch["x"] + self.noise * jax.random.normal(rng, batch["x"].shape)
        x = jnp.tanh(x @ params["eye"]["in"]["kernel"])
        x, _ = jax.lax.scan(
            lambda x, k: (jnp.tanh(x @ k), None), x, params["net"]["blocks"]["kernel"]
        )
        y = x @ params["net"]["out"]["kernel"] + params["net"]["out"]["bias"][None]
        loss = jnp.mean(jnp.square(y - batch["y"]))
        return loss, {"error": jnp.sqrt(loss)}

    def cost(self, batch):
        return {"tokens": batch["x"].shape[0], "flops": 1e6}

    def sample(self, params, inputs, rng):
        return {"latents": inputs["x"]}


def make(config, *, placement=protocol.LOCAL):
    del placement
    return Fake(config.task.get("trainable", ""), config.task.get("noise", 0.1))


def config(**train):
    """A configuration of the fake task; `train` replaces entries of `config.train`."""
    settings = {"steps": 6, "batch_size": 8, "log_every": 1, "checkpoint_every": 3}
    settings |= {"silence": 20.0} | train
    return ml_collections.ConfigDict(
        {
            "mode": "train",
            "seed": 3,
            "task": {"name": "fakes:make", "trainable": "", "noise": 0.1},
            "data": {"name": "fakes:numbers", "options": {"sleep": 0.0, "terminate_at": -1}},
            "train": settings,
            "sharding": ((r"kernel$", (("fsdp", "view", "sequence"), None)),),
            "optim": {"learning_rate": 1e-2, "weight_decay": 0.01, "ema": 0.9},
            "mesh": {"fsdp": 2, "data": 4},
            "stages": (),
        }
    )


def get_config():
    """For `--config=tests/support/fakes.py`."""
    return config()
