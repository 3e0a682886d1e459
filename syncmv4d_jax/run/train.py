"""The one training loop, in the order things happen.

    for each stage:   task -> mesh -> shapes -> shardings -> weights of earlier stages -> state
                      -> restore the latest checkpoint -> { batch -> update -> log -> save } ->
                      hand over

A stage is the configuration with a few entries replaced (`config.stages`, a list of dicts with a
`name`); without stages there is one. A stage that is finished is skipped when the command runs
again. Parameters are split once by `task.trainable`: only that half has gradients, moments,
averages and checkpoints. Everything random comes from (seed, step), so that a resumed run equals
an unbroken one bit for bit.
"""

import functools
import hashlib
import importlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from syncmv4d_jax import configuration, tree
from syncmv4d_jax.machines import mesh, preemption, watchdog
from syncmv4d_jax.run import assembly, checkpoint, optim, sections, update
from syncmv4d_jax.run import log as run_log
from syncmv4d_jax.tasks import base

log = logging.getLogger(__name__)
Tree = Any

# name of config.data -> "module:function"; a name with a colon is taken as such.
DATA = {"taco": "syncmv4d_jax.data.pipeline:train_iterator"}
PREEMPTED = watchdog.REQUEUE  # exit status after a save on SIGTERM: launchers start again


def run(config: ml_collections.ConfigDict, workdir: str | Path) -> None:
    """Trains every stage that is not finished; see the module docstring.

    Raises:
      SystemExit: status 143 after a save, when the scheduler takes the machine away.
      optim.Diverged: too many skipped steps in a row.
      ValueError, FileNotFoundError: bad configuration, data or checkpoint.
    """
    workdir, offset, given = Path(workdir), 0, dict(config.get("weights", {}))
    carried = {part: assembly.load_weights(part, path) for part, path in given.items() if path}
    plan = assembly.stages(config)
    silent = assembly.read(config).train.silence
    with watchdog.Watchdog(workdir / "heartbeats", silent=silent) as watch:
        for index, sections_ in enumerate(plan):
            stage = Stage(sections_, workdir, offset)
            if not stage.finished():
                stage.train(carried, watch)
            offset += stage.settings.steps
            if index + 1 < len(plan):
                trained = checkpoint.restore_params(stage.directory)
                carried = tree.unflatten(tree.flatten(carried) | tree.flatten(trained))


class Stage:
    """One stage of training: the story of the module docstring, a method a paragraph."""

    def __init__(self, own: sections.Sections, workdir: Path, offset: int) -> None:
        self.name, self.config, self.workdir, self.offset = own.name, own.source, workdir, offset
        self.own, self.settings, self.optim, self.seed = own, own.train, own.optim, own.seed
        self.directory = assembly.stage_directory(workdir, own.name)

    def finished(self) -> bool:
        """Whether the last step is on disk."""
        return (self.directory / str(self.settings.steps)).is_dir()

    def train(self, carried: Tree, watch: watchdog.Watchdog) -> None:
        """Trains from the latest checkpoint, or from `carried` (dict of parts) and fresh values.

        Raises:
          SystemExit: status 143 after a save, on preemption.
        """
        self.mesh = mesh.make_mesh(self.own.mesh)
        task = assembly.task(self.config, self.mesh if self.mesh.size > 1 else None)
        self.shard = mesh.data_shard(self.mesh, self.settings.batch_size)
        trainable, frozen = self._parameters(task, carried)
        self.frozen_hash = _hash(checkpoint.fingerprints(frozen)) if frozen else ""

        init = functools.partial(optim.init, self.optim)
        abstract = jax.eval_shape(init, trainable)
        placed = self._place(abstract)
        state = jax.jit(init, out_shardings=placed)(trainable)
        del trainable, carried

        settings = self.settings
        store = checkpoint.Store(self.directory, keep=settings.keep, keep_every=settings.keep_every)
        wanted = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, placed
        )
        start, state, data = self._resume(store, state, wanted)
        advance = jax.jit(
            update.make_update(task, self.optim), donate_argnums=0, out_shardings=(placed, None)
        )
        count = [tree.count(state["params"]) / 1e6, tree.count(frozen) / 1e6]
        log.info("%s: %.2fM trainable, %.2fM frozen, %s", self, *count, dict(self.mesh.shape))

        state, stopped = self._loop(task, store, data, advance, start, state, frozen, watch)
        store.close()
        if stopped:
            log.warning("%s: preempted, saved step %s", self, store.latest_on_disk())
            raise SystemExit(PREEMPTED)
        if settings.export:
            self._export(state)

    def __str__(self) -> str:
        return f"stage {self.name}" if self.name else "train"

    def _place(self, shapes: Tree) -> Tree:
        return mesh.shardings(shapes, self.mesh, self.own.sharding)

    def _parameters(self, task: base.Task, carried: Tree) -> tuple[Tree, Tree]:
        """Returns (trainable, frozen): `carried` where it has the part, else fresh values."""
        key = jax.random.fold_in(jax.random.key(self.seed), 0)
        shapes = jax.eval_shape(task.init, key)
        given = self._given(task, shapes, carried)
        flat, placed = tree.flatten(shapes), tree.flatten(self._place(shapes))
        chosen = tree.flatten(tree.split(shapes, task.trainable)[0]).keys()

        def dtype(name: str) -> jnp.dtype:
            floating = jnp.issubdtype(flat[name].dtype, jnp.floating)
            keep = name in chosen or not floating
            return flat[name].dtype if keep else jnp.dtype(self.settings.frozen_dtype)

        def fresh() -> dict[str, jax.Array]:
            made = tree.flatten(task.init(key))
            return {n: x.astype(dtype(n)) for n, x in made.items() if n not in given}

        made = jax.jit(fresh, out_shardings={n: s for n, s in placed.items() if n not in given})()
        loaded = {name: x.astype(dtype(name)) for name, x in given.items()}
        made |= mesh.put(loaded, {name: placed[name] for name in loaded})
        if 0 < len(given) < len(made):
            grow = lambda p: tree.flatten(task.grow(tree.unflatten(p), frozenset(given)))  # noqa: E731
            made = jax.jit(grow, donate_argnums=0, out_shardings=placed)(made)
        halves = [{n: x for n, x in made.items() if (n in chosen) == w} for w in (True, False)]
        return tree.unflatten(halves[0]), tree.unflatten(halves[1])

    def _given(self, task: base.Task, shapes: Tree, carried: Tree) -> dict[str, np.ndarray]:
        common = sorted(shapes.keys() & carried.keys())
        merged = checkpoint.merge(
            {part: shapes[part] for part in common},
            {part: carried[part] for part in common},
            new=self.settings.new,
        )
        given = {n: x for n, x in tree.flatten(merged).items() if isinstance(x, np.ndarray)}
        for part in () if self.settings.random_frozen else task.frozen_parts:
            names = [n for n in tree.flatten(shapes) if n.startswith(f"{part}/")]
            if lacking := [name for name in names if name not in given]:
                raise ValueError(
                    f"{self}: task {self.config.task.name!r} keeps {part!r} frozen, but "
                    f"{len(lacking)} of its parameters would be random, e.g. "
                    f"{tree.sample(lacking)}; give converted weights by config.weights.{part} or "
                    "train it in an earlier stage (config.train.random_frozen=True for a dry run)"
                )
        return given

    def _data(self) -> Iterator[dict[str, np.ndarray]]:
        function = configuration.load(self.config.data.name, DATA, "config.data.name")
        index, count = self.shard
        size = self.settings.batch_size // count
        return function(
            self.own.data,
            assembly.wanted(self.own),
            batch_size=size,
            seed=self.seed,
            shard_index=index,
            shard_count=count,
        )

    def _resume(
        self, store: checkpoint.Store, state: Tree, wanted: Tree
    ) -> tuple[int, Tree, Iterator]:
        data, found = self._data(), store.restore(wanted)
        if found is None:
            return 0, state, data
        step, state, meta = found
        if meta["frozen"] != self.frozen_hash:
            raise ValueError(
                f"{self.directory}/{step} was trained beside other frozen weights (hash "
                f"{meta['frozen'] or 'none'}, now {self.frozen_hash or 'none'}); give the same "
                "config.weights and seed, or use another --workdir"
            )
        index, count = self.shard
        if (meta["batch_size"], meta["shards"]) == (self.settings.batch_size, count):
            data.set_state(meta["data"][str(index)])
        else:  # another number of readers: walk the same global order
            for _ in range(step * meta["batch_size"] // self.settings.batch_size):
                next(data)
        log.info("%s: resumed from step %d", self, step)
        return step, state, data

    def _save(self, store: checkpoint.Store, data: Any, step: int, state: Tree) -> None:
        meta = {
            "stage": self.name,
            "seed": self.seed,
            "batch_size": self.settings.batch_size,
            "shards": self.shard[1],
            "data": _gather(self.shard[0], data.get_state()),
            "frozen": self.frozen_hash,
            "shapes": checkpoint.shapes(state),
        }
        store.save(step, state, meta)

    def _loop(
        self,
        task: base.Task,
        store: checkpoint.Store,
        data: Iterator,
        advance: Callable,
        start: int,
        state: Tree,
        frozen: Tree,
        watch: watchdog.Watchdog,
    ) -> tuple[Tree, bool]:
        settings, key = self.settings, jax.random.fold_in(jax.random.key(self.seed), 1)
        metrics = run_log.Metrics(
            self.workdir,
            stage=self.name,
            offset=self.offset,
            start=start,
            steps=settings.steps,
            wandb=settings.wandb,
        )
        draw = self._pictures(task, frozen) if settings.sample_every else None
        with preemption.Preemption() as notice, metrics:
            for step in range(start + 1, settings.steps + 1):
                watch.step(self.offset + step)
                local = next(data)
                batch = mesh.put_batch(local, self.mesh, settings.batch_size)
                state, scalars = advance(state, frozen, batch, key)
                last = step == settings.steps
                if step == 1 or last or step % settings.log_every == 0:
                    scalars = {k: x.item() for k, x in jax.device_get(scalars).items()}
                    scalars |= _counts(data)
                    metrics.write(step, scalars, _cost(task, batch))
                    optim.check(self.optim, scalars, step=step)
                metrics.tick(state["step"])
                if draw and (last or step % settings.sample_every == 0):
                    metrics.picture(step, draw(state["ema"] or state["params"]))
                stopping = notice.reached(step)
                if stopping or last or step % settings.checkpoint_every == 0:
                    self._save(store, data, step, state)
                if stopping and not last:
                    return state, True
        return state, False

    def _pictures(self, task: base.Task, frozen: Tree) -> Callable[[Tree], np.ndarray]:
        # Loaded when wanted: it stands on run/sample.py, which stands on this file.
        pictures = importlib.import_module("syncmv4d_jax.run.pictures")
        return pictures.Pictures(self.config, task, frozen, self.mesh)

    def _export(self, state: Tree) -> None:
        path = self.workdir / f"{self.name or 'weights'}.safetensors"
        metadata = {"config": self.config.to_json_best_effort(), "step": int(state["step"])}
        params = state["ema"] or state["params"]
        checkpoint.export(params, path, dtype=self.settings.export, metadata=metadata)


def _counts(data: Any) -> dict[str, float]:
    """What the data left out so far, over all processes; a collective. {} where it does not say."""
    if not hasattr(data, "scalars"):
        return {}
    found = data.scalars()
    if jax.process_count() == 1 or not found:
        return found
    values = multihost_utils.process_allgather(np.array(list(found.values()), np.float32))
    return dict(zip(found, np.sum(values, axis=0).tolist(), strict=True))


def _cost(task: base.Task, batch: Tree) -> dict[str, float]:
    return task.cost(batch) if isinstance(task, base.Priced) else {}


def _hash(marks: Mapping[str, int]) -> str:
    return hashlib.sha256(json.dumps(marks, sort_keys=True).encode()).hexdigest()[:16]


def _gather(index: int, state: Any) -> dict[str, Any]:
    """Returns {shard index: iterator state} of all processes; iterator states are JSON-able."""
    if jax.process_count() == 1:
        return {str(index): state}
    mine = np.frombuffer(json.dumps([index, state]).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.asarray(mine.size))))
    padded = np.pad(mine, (0, longest - mine.size), constant_values=ord(" "))
    rows = np.asarray(multihost_utils.process_allgather(padded))
    pairs = [json.loads(row.tobytes()) for row in rows]
    return {str(i): s for i, s in pairs}
