"""The one training loop, in the order things happen.

    for each stage:   mesh, task -> initial parameters in their shards -> state, fresh or of the
                      latest checkpoint -> data, from its start or where that stopped
                      -> { batch -> update -> log, picture, save } -> hand over

A stage is the configuration with a few entries replaced (`config.stages`, a list of dicts with a
`name`); without stages there is one. A stage that is finished is skipped when the command runs
again. Parameters are split once by `task.trainable`: only that half has gradients, moments,
averages and checkpoints. Everything random comes from (seed, step), so that a resumed run equals
an unbroken one bit for bit.
"""

import functools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from syncmv4d_jax import configuration, recipe, tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines import preemption, watchdog
from syncmv4d_jax.run import (
    assembly,
    checkpoint,
    initial,
    optim,
    pictures,
    resume,
    sections,
    update,
)
from syncmv4d_jax.run import limit as limits
from syncmv4d_jax.run import log as run_log
from syncmv4d_jax.tasks import base
from syncmv4d_jax.weights import exports

log = logging.getLogger(__name__)
Tree = Any
Draw = Callable[[Tree], np.ndarray]  # trainable half -> picture [h w 3] uint8

# name of config.data -> "module:function"; a name with a colon is taken as such.
DATA = {"taco": "syncmv4d_jax.data.pipeline:train_iterator"}
PREEMPTED = watchdog.REQUEUE  # exit status after a save on SIGTERM: launchers start again


class Reader(Protocol):
    """An iterator of this process's part of every batch, as `config.data.name` names it."""

    def __next__(self) -> dict[str, np.ndarray]: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


@runtime_checkable
class Counting(Protocol):
    """A reader that counts, what it left out for instance; its counts are logged."""

    def scalars(self) -> dict[str, float]: ...


def run(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    picture: Callable[..., Draw] = pictures.Pictures,
) -> None:
    """Trains every stage that is not finished; see the module docstring.

    Args:
      picture: (config, task, frozen, mesh) -> what draws the picture of `train.sample_every`.

    Raises:
      SystemExit: status 143 after a save, when the scheduler takes the machine away.
      optim.Diverged: too many skipped steps in a row.
      ValueError, FileNotFoundError: bad configuration, data or checkpoint.
    """
    workdir, stages = Path(workdir), assembly.stages(config)
    silent, done = assembly.read(config).train.silence, 0
    with watchdog.Watchdog(workdir / "heartbeats", silent=silent) as watch:
        for index, stage in enumerate(stages):
            last = resume.last(stage, assembly.stage_directory(workdir, stage.name))
            if last is not None:
                resume.finished(last, resume.recipe_of(stage))
                done += int(last.name)
            else:
                earlier = [assembly.stage_directory(workdir, s.name) for s in stages[:index]]
                done += train(stage, workdir, earlier, done=done, watch=watch, picture=picture)


def train(
    stage: sections.Sections,
    workdir: Path,
    earlier: Sequence[Path],
    *,
    done: int,
    watch: watchdog.Watchdog,
    picture: Callable[..., Draw],
) -> int:
    """Trains one stage, from its latest checkpoint where there is one; returns its last step.

    Args:
      stage: its sections.
      workdir: of the run.
      earlier: folders of the earlier stages' checkpoints.
      done: steps of the earlier stages.

    Raises:
      As `run`.
    """
    limit = limits.Limit(stage.train.minutes, steps=stage.train.steps)
    settings, called = stage.train, f"stage {stage.name}" if stage.name else "train"
    made_from = resume.recipe_of(stage)  # now: the records may be made anew meanwhile

    # Mesh, task, and which part of every batch this process reads.
    mesh = meshes.make_mesh(stage.mesh)
    task = assembly.task(stage.source, mesh)
    shard = meshes.data_shard(mesh, settings.batch_size)

    # Parameters; the trainable half is not loaded where a checkpoint has it.
    store = checkpoint.Store(
        assembly.stage_directory(workdir, stage.name),
        keep=settings.keep,
        keep_every=settings.keep_every,
    )
    parameters = initial.Parameters(task, stage, mesh, earlier)
    resumes = store.latest() is not None
    made = parameters.make(parameters.frozen if resumes else parameters.leaves)
    frozen = _half(made, parameters.frozen)
    frozen_mark = checkpoint.mark(frozen)
    beside = initial.check_beside(
        task, parameters.sources, functools.partial(checkpoint.part_marks, frozen)
    )

    # The state: restored, or fresh moments on the initial parameters.
    init = functools.partial(optim.init, stage.optim)
    abstract = jax.eval_shape(init, parameters.abstract(parameters.trainable))
    placed = optim.placed(stage.optim, meshes.shardings(abstract, mesh, stage.sharding))
    start, meta = 0, None
    if resumes:
        wanted = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, placed
        )
        found = store.restore(wanted)
        assert found is not None  # there is a checkpoint, and a damaged one raises
        start, state, meta = found
        resume.check(store.directory / str(start), meta, made_from)
        _check_frozen(store, start, meta["frozen"], frozen_mark)
        if start > settings.steps:
            raise recipe.Other(
                f"{store.directory} has a checkpoint of step {start}, config.train.steps is "
                f"{settings.steps}: nothing to train; give more steps, or another --workdir"
            )
        log.info("%s: resumed from step %d", called, start)
    else:
        state = jax.jit(init, out_shardings=placed)(_half(made, parameters.trainable))
    del made
    count = [tree.count(state["params"]) / 1e6, tree.count(frozen) / 1e6]
    log.info("%s: %.2fM trainable, %.2fM frozen, %s", called, *count, dict(mesh.shape))

    # Data from its start, or from where the checkpoint left it.
    data = _reader(stage, shard)
    seen = 0
    if meta is not None:
        seen = resume.seen(meta, start)
        _wind(data, meta, seen, settings.batch_size, shard)

    # The step.
    advance = jax.jit(
        update.make_update(task, stage.optim), donate_argnums=0, out_shardings=(placed, None)
    )
    key = jax.random.fold_in(jax.random.key(stage.seed), 1)
    draw = picture(stage.source, task, frozen, mesh) if settings.sample_every else None
    metrics = run_log.Metrics(
        workdir,
        stage=stage.name,
        offset=done,
        start=start,
        steps=settings.steps,
        wandb=settings.wandb,
    )

    # The loop.
    step, last = start, start == settings.steps
    cost = task.cost if isinstance(task, base.Priced) else lambda _: {}
    with preemption.Preemption() as notice, metrics:
        for step in range(start + 1, settings.steps + 1):
            watch.step(done + step)
            batch = meshes.put_batch(next(data), mesh, settings.batch_size)
            state, scalars = advance(state, frozen, batch, key, limit.length)
            last = limit.reached(step)
            if step == 1 or last or step % settings.log_every == 0:
                scalars = {name: x.item() for name, x in jax.device_get(scalars).items()}
                scalars |= _counts(data)
                metrics.write(step, scalars, cost(batch))
                optim.check(stage.optim, scalars, step=step)
                limit.plan(step)
                metrics.until(limit.last)
            metrics.tick(state["step"])
            if draw and (last or step % settings.sample_every == 0):
                metrics.picture(step, draw(_averages(state)))
            stopping = notice.reached(step)
            if stopping or last or step % settings.checkpoint_every == 0:
                examples = seen + (step - start) * settings.batch_size
                told = _meta(stage, shard, data, state, examples)
                marks: dict[str, Any] = {"frozen": frozen_mark, "recipe": made_from}
                marks |= {"beside": beside} if beside else {}
                marks |= {"ended": True} if last and settings.minutes else {}
                store.save(step, state, told | marks)
            if stopping or last:
                break

    # Hand over.
    if not last:
        store.close()
        log.warning("%s: preempted, saved step %s", called, store.latest_on_disk())
        raise SystemExit(PREEMPTED)
    store.promise(step)
    if settings.export:
        metadata = {
            "recipe": made_from,
            "config": stage.source.to_json_best_effort(),
            "step": int(state["step"]),
        }
        metadata |= {"beside": beside} if beside else {}
        path = workdir / f"{stage.name or 'weights'}.safetensors"
        exports.write(_averages(state), path, dtype=settings.export, metadata=metadata)
    return step


def _half(params: Tree, names: Sequence[str]) -> Tree:
    flat = tree.flatten(params)
    return tree.unflatten({name: flat[name] for name in names})


def _averages(state: Tree) -> Tree:
    return optim.near(state["ema"]) or state["params"]


def _check_frozen(store: checkpoint.Store, step: int, saved: str, now: str) -> None:
    if saved != now:
        raise ValueError(
            f"{store.directory}/{step} was trained beside other frozen weights (hash "
            f"{saved or 'none'}, now {now or 'none'}); give the same config.weights and seed, or "
            "use another --workdir"
        )


def _meta(
    stage: sections.Sections,
    shard: tuple[int, int],
    data: Reader,
    state: Tree,
    examples: int,
) -> dict[str, Any]:
    """What a checkpoint has beside the state, its recipe and the frozen half's mark."""
    return {
        "stage": stage.name,
        "seed": stage.seed,
        "batch_size": stage.train.batch_size,
        "shards": shard[1],
        "data": _gather(shard[0], data.get_state()),
        "examples": examples,
        "shapes": checkpoint.shapes(state),
    }


# The data.


def _reader(stage: sections.Sections, shard: tuple[int, int]) -> Reader:
    index, count = shard
    return configuration.load(stage.data.name, DATA, "config.data.name")(
        stage.data,
        assembly.wanted(stage),
        batch_size=stage.train.batch_size // count,
        seed=stage.seed,
        shard_index=index,
        shard_count=count,
    )


def _wind(
    data: Reader, meta: dict[str, Any], seen: int, batch_size: int, shard: tuple[int, int]
) -> None:
    """Moves a fresh reader to where it was at a checkpoint."""
    index, count = shard
    if (meta["batch_size"], meta["shards"]) == (batch_size, count):
        data.set_state(meta["data"][str(index)])
        return
    # Other batches, or another number of readers: walk the same global order.
    for _ in range(resume.batches(seen, batch_size, was=meta["batch_size"])):
        next(data)


def _counts(data: Reader) -> dict[str, float]:
    """What the data counted so far, over all processes; a collective. {} where it does not."""
    found = data.scalars() if isinstance(data, Counting) else {}
    if jax.process_count() == 1 or not found:
        return found
    values = multihost_utils.process_allgather(np.array(list(found.values()), np.float32))
    return dict(zip(found, np.sum(values, axis=0).tolist(), strict=True))


def _gather(index: int, state: Any) -> dict[str, Any]:
    """Returns {shard index: reader's state} of all processes; a collective."""
    if jax.process_count() == 1:
        return {str(index): state}
    mine = np.frombuffer(json.dumps([index, state]).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.asarray(mine.size))))
    padded = np.pad(mine, (0, longest - mine.size), constant_values=ord(" "))
    rows = np.asarray(multihost_utils.process_allgather(padded))
    pairs = [json.loads(row.tobytes()) for row in rows]
    return {str(i): s for i, s in pairs}
