"""Checkpoint and inputs -> synchronized videos and world tracks on disk.

Inputs are records (`config.sample.split`) or a user's folder of images and cameras with a prompt
(`config.sample.images`). Text encoding, reference encoding, sampling and final decoding are jitted
apart; each sample is written under a temporary name and renamed when it is whole, so that a second
run continues where the first stopped:

    DIR/samples/<id>/view_<v>.mp4  motion_<v>.mp4  tracks.npz  meta.json

`sample.prompts` is a file with a prompt a line, for one folder of images; `sample.seeds` makes one
sample a seed. With `sample.best_of` = n > 1 each sample is the one of n draws whose views agree
best about the tracks (`disagreement`).

Sampling takes the axes view and sequence of `config.mesh`, on that many devices: parameters and the
tokens of a sample are cut over them. data and fsdp, which cut a batch, are training's.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from syncmv4d_jax.geometry import anchors
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import assembly
from syncmv4d_jax.run import inputs as run_inputs

log = logging.getLogger(__name__)
AGREE = ("tracks_per_view", "confidence")


def run(config: Any, workdir: str | Path) -> None:
    """Samples everything that `config.sample` names and that is not on disk yet.

    Raises:
      FileNotFoundError: no trained weights, no inputs.
      ValueError: weights of another architecture, or inputs that do not fit.
    """
    workdir = Path(workdir)
    mesh = assembly.load_mesh(config)
    task = assembly.task(config, mesh)
    params = assembly.load_params(task, config, workdir, mesh)
    target = workdir / "samples"
    target.mkdir(parents=True, exist_ok=True)
    encode, decode = jax.jit(task.encode_pixels), jax.jit(task.decode_pixels)
    done = made = 0
    inputs = run_inputs.of_config(config, task)
    with tqdm(total=_steps(config, task, len(inputs)), unit="step", desc="sample") as bar:
        for name, seed, arrays in _jobs(config, inputs):
            if (target / name / "meta.json").is_file():
                done += 1
                bar.update(_steps(config, task, 1) // len(_seeds(config)))
                continue
            batch = {k: jnp.asarray(arrays[k])[None] for k in run_inputs.CONTEXT if k in arrays}
            if "anchors" in arrays:
                seen = arrays["anchors"], arrays["anchor_valid"]
                anchors.check_anchors(*seen, size=task.options.size, where=f"sample {name}")
            if "images" in arrays:
                batch["first"] = encode(params, jnp.asarray(arrays["images"])[None, :, None])
            rng = jax.random.fold_in(
                jax.random.key(seed), run_inputs.stable_hash(arrays.get("id", name))
            )
            result, chosen = _best(config, task, params, batch, rng, bar)
            result["video"] = decode(params, result["video"])
            if "motion" in result:
                result["motion"] = decode(params, result["motion"])
            result = {k: np.asarray(x)[0] for k, x in jax.device_get(result).items()}
            meta = _meta(config, task, name, arrays) | {"seed": seed} | chosen
            if "reused_steps" in result:
                meta["reused_steps"] = int(result["reused_steps"])
            samples.write(target / name, result, arrays, meta)
            made += 1
    log.info("sampling: %d made, %d done before", made, done)


def _seeds(config: Any) -> list[int]:
    return [int(seed) for seed in config.sample.get("seeds", ())] or [int(config.sample.seed)]


def _steps(config: Any, task: Any, inputs: int) -> int:
    """Sampling steps of so many inputs, all seeds and draws."""
    draws = int(config.sample.get("best_of", 1))
    return inputs * len(_seeds(config)) * draws * task.options.sample_steps


def _jobs(config: Any, inputs: Any) -> Iterator[tuple[str, int, dict[str, np.ndarray]]]:
    """Yields (sample id, seed, unbatched arrays), one for every input and seed."""
    seeds = _seeds(config)
    for name, arrays in inputs:
        for seed in seeds:
            own = f"{name}_seed{seed}" if len(seeds) > 1 else name
            yield own, seed, {**arrays, "id": name}


def _best(config, task, params, batch, rng, bar) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Returns the sample and, with `sample.best_of` > 1, what was chosen by, for meta.json.

    Raises:
      ValueError: draws are to be compared, but the task makes no tracks.
    """
    count = int(config.sample.get("best_of", 1))
    best, scores = None, []
    for draw in range(count):
        before = bar.n
        report = lambda done, _: bar.update(before + done - bar.n)  # noqa: B023, E731
        key = rng if draw == 0 else jax.random.fold_in(rng, draw)
        result = task.sample(params, batch, key, progress=report)
        if count == 1:
            return result, {}
        if "tracks_per_view" not in result:
            raise ValueError(f"sample.best_of={count} compares tracks, but this task makes none")
        scores.append(world_tracks.disagreement(*map(np.asarray, map(result.get, AGREE))))
        if scores[-1] == min(scores):
            best = result
    chosen = {"best_of": count, "disagreement": [round(score, 6) for score in scores]}
    return best, chosen


def _meta(config: Any, task: Any, name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    options = task.options
    return {
        "id": name,
        "prompt": str(arrays.get("prompt", "")),
        "anchors": "given" if "anchors" in arrays else "own",
        "fps": float(config.data.fps),
        "size": list(options.size),
        "frames": options.frames,
        "sampler": options.sampler,
        "steps": options.sample_steps,
        "shift": options.sample_shift,
        "guidance": options.guidance,
        "prediction": getattr(options, "prediction", "velocity"),
    }
