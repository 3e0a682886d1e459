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

import functools
import json
import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from syncmv4d_jax import configuration, motion, parallel, sharded, train, tree, weights
from syncmv4d_jax.data import folder, image, pipeline, records
from syncmv4d_jax.tasks import syncmv4d
from syncmv4d_jax.viz import video

log = logging.getLogger(__name__)
CONTEXT = (
    "text", "text_lengths", "null_text", "null_text_lengths", "intrinsics", "extrinsics",
    "view_index", "frame_valid", "anchors", "anchor_valid",
)  # fmt: skip
AGREE = ("tracks_per_view", "confidence")


def run(config: Any, workdir: str | Path) -> None:
    """Samples everything that `config.sample` names and that is not on disk yet.

    Raises:
      FileNotFoundError: no trained weights, no inputs.
      ValueError: weights of another architecture, or inputs that do not fit.
    """
    workdir = Path(workdir)
    task = train.load_task(config)
    mesh = load_mesh(config)
    if mesh is not None and hasattr(task, "placement"):
        kernel, sequence = config.train.attention, config.train.sequence
        task.placement = sharded.Placement(mesh, kernel=kernel, sequence=sequence)
    params = load_params(task, config, workdir, mesh)
    target = workdir / "samples"
    target.mkdir(parents=True, exist_ok=True)
    encode, decode = jax.jit(task.encode_pixels), jax.jit(task.decode_pixels)
    done = made = 0
    inputs = _inputs(config, task)
    with tqdm(total=_steps(config, task, len(inputs)), unit="step", desc="sample") as bar:
        for name, seed, arrays in _jobs(config, inputs):
            if (target / name / "meta.json").is_file():
                done += 1
                bar.update(_steps(config, task, 1) // len(_seeds(config)))
                continue
            batch = {k: jnp.asarray(arrays[k])[None] for k in CONTEXT if k in arrays}
            if "anchors" in arrays:
                seen = arrays["anchors"], arrays["anchor_valid"]
                motion.check_anchors(*seen, size=task.options.size, where=f"sample {name}")
            if "images" in arrays:
                batch["first"] = encode(params, jnp.asarray(arrays["images"])[None, :, None])
            rng = jax.random.fold_in(jax.random.key(seed), _stable_hash(arrays.get("id", name)))
            result, chosen = _best(config, task, params, batch, rng, bar)
            result["video"] = decode(params, result["video"])
            if "motion" in result:
                result["motion"] = decode(params, result["motion"])
            result = {k: np.asarray(x)[0] for k, x in jax.device_get(result).items()}
            meta = _meta(config, task, name, arrays) | {"seed": seed} | chosen
            if "reused_steps" in result:
                meta["reused_steps"] = int(result["reused_steps"])
            write(target / name, result, arrays, meta)
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
        scores.append(disagreement(*map(np.asarray, map(result.get, AGREE))))
        if scores[-1] == min(scores):
            best = result
    chosen = {"best_of": count, "disagreement": [round(score, 6) for score in scores]}
    return best, chosen


def disagreement(tracks: np.ndarray, confidence: np.ndarray) -> float:
    """Mean distance of views' tracks from their confidence-weighted mean, metres.

    Args:
      tracks: [... v n k 3] metres, world frame.
      confidence: [... v n k]; points that one view or none is confident of do not count.

    Returns:
      The mean over views, frames and points, weighted by confidence; inf where nothing counts.
    """
    weight = np.where((confidence > 0).sum(-3, keepdims=True) > 1, confidence, 0.0)
    total = np.maximum(weight.sum(-3), 1e-9)[..., None]
    mean = (weight[..., None] * tracks).sum(-4) / total
    gap = np.linalg.norm(tracks - np.expand_dims(mean, -4), axis=-1)
    return float((weight * gap).sum() / weight.sum()) if weight.sum() > 0 else float("inf")


def load_mesh(config: Any) -> jax.sharding.Mesh | None:
    """Returns the mesh that a sample is cut over, None for one device; see the module docstring.

    Raises:
      ValueError: more devices wanted than this process has, or sizes that do not fit.
    """
    sizes = {axis: int(config.get("mesh", {}).get(axis, 1)) for axis in ("view", "sequence")}
    devices, ways = jax.local_devices(), math.prod(sizes.values())
    mesh = parallel.make_mesh(sizes, devices[:ways] if ways > 0 else devices)
    return mesh if mesh.size > 1 else None


def load_params(
    task: Any, config: Any, workdir: Path, mesh: jax.sharding.Mesh | None = None
) -> dict[str, Any]:
    """Returns all parts: trained in `workdir`, else from `config.weights`; placed on the devices.

    Raises:
      FileNotFoundError: a part is neither trained nor named in `config.weights`.
      ValueError: a part of another architecture; lists both differences.
    """
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    try:
        found = train.trained_params(config, workdir)
    except FileNotFoundError:
        found = {}
    for part, path in dict(config.get("weights", {})).items():
        if path and part not in found:
            found[part] = train.load_weights(part, path)
    there = _stages_there(config, workdir)
    if missing := sorted(shapes.keys() - found.keys()):
        raise FileNotFoundError(
            f"no weights for {missing}: {there or f'nothing was trained in {workdir}'} (run with "
            "--config.mode=train first) and config.weights names none"
        )
    found = {part: found[part] for part in shapes}
    origin = f"the checkpoint ({there})" if there else "the checkpoint"
    tree.check_same(shapes, found, wanted_from="the configured model", got_from=origin)
    if mesh is None:
        return jax.tree.map(lambda x, s: jnp.asarray(x, s.dtype), found, shapes)
    rules = tuple((str(p), tuple(axes)) for p, axes in config.get("sharding", ()))
    host = jax.tree.map(lambda x, s: np.asarray(x, s.dtype), found, shapes)
    return parallel.put(host, parallel.shardings(shapes, mesh, rules))


def _stages_there(config: Any, workdir: Path) -> str:
    """Says which stages have checkpoints, "" for a configuration without stages or without any."""
    names = [name for name, _ in configuration.stages(config) if name]
    there = [name for name in names if train.stage_directory(workdir, name).is_dir()]
    return f"{workdir} has stages {there} of {names}" if there else ""


def _inputs(config: Any, task: Any) -> Any:
    """Lists (sample id, unbatched arrays): images [v h w 3] uint8 and schema.BATCH's keys."""
    if config.sample.images or config.sample.prompt or config.sample.get("prompts", ""):
        return list(_from_user(config, task))
    found = pipeline.examples(config, config.sample.split)
    pictures = lambda pair: (pair[0], {**pair[1], "images": pair[1]["video"][:, 0]})  # noqa: E731
    return records.Listing(len(found), lambda: map(pictures, found))


def _from_user(config: Any, task: Any) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    path = Path(config.sample.images)
    prompts = _prompts(config)
    arrays = _images(config.sample.images, task)
    texts = weights.TextEncoder(config.text.weights, max_length=config.text.max_length)
    features, lengths = texts([*prompts, config.sample.negative_prompt])
    stem = config.sample.name or (path.stem if path.is_file() else path.name)
    for i, prompt in enumerate(prompts):
        name = stem or f"text_{_stable_hash(prompt):08x}"
        yield (
            f"{name}_{i}" if stem and len(prompts) > 1 else name,
            arrays
            | {
                "text": features[i],
                "text_lengths": lengths[i],
                "null_text": features[-1],
                "null_text_lengths": lengths[-1],
                "prompt": prompt,
            },
        )


def _prompts(config: Any) -> list[str]:
    """Returns the prompts of `config.sample.prompts`, a file, or the one of `config.sample.prompt`.

    Raises:
      ValueError: both, or a file without a prompt.
    """
    file = config.sample.get("prompts", "")
    if not file:
        return [config.sample.prompt]
    if config.sample.prompt:
        raise ValueError("wanted one of config.sample.prompt and config.sample.prompts, got both")
    lines = [line.strip() for line in Path(file).read_text().splitlines()]
    if not any(lines):
        raise ValueError(f"config.sample.prompts={file}: wanted a prompt a line, got none")
    return [line for line in lines if line]


def _images(path: str, task: Any) -> dict[str, np.ndarray]:
    """Reads a user's images: a folder with cameras, or one image or none for a task without."""
    options = task.options
    if not getattr(task, "cameras", True):
        if not path:
            return {}
        return {"images": np.stack([image.read(path, size=options.size)] * options.views)}
    views = folder.read(path, views=options.views, size=options.size)
    return {
        "images": views.images,
        "intrinsics": views.intrinsics,
        "extrinsics": views.extrinsics,
        "view_index": np.arange(options.views, dtype=np.int32),
        "frame_valid": np.ones(options.frames, bool),
    }


def _meta(config: Any, task: Any, name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    options = task.options
    return {
        "id": name,
        "prompt": str(arrays.get("prompt", "")),
        "anchors": "record" if "anchors" in arrays else "generated",
        "fps": float(config.data.fps),
        "size": list(options.size),
        "frames": options.frames,
        "sampler": options.sampler,
        "steps": options.sample_steps,
        "shift": options.sample_shift,
        "guidance": options.guidance,
        "prediction": getattr(options, "prediction", "velocity"),
    }


def write(
    path: Path, result: dict[str, np.ndarray], inputs: dict[str, Any], meta: dict[str, Any]
) -> None:
    """Writes one sample: videos, `tracks.npz` (schema in DESIGN: docs/data.md) and `meta.json`.

    Args:
      result: video and motion [v n h w 3] in [-1, 1]; tracks_per_view [v n k 3] metres, ...
      inputs: cameras [v ...] of the sample; without them there is no `tracks.npz`.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for kind, prefix in (("video", "view"), ("motion", "motion")):
        for v, clip in enumerate(result.get(kind, ())):
            video.write(partial / f"{prefix}_{v}.mp4", to_uint8(clip), fps=meta["fps"])
    arrays = {key: inputs[key] for key in ("intrinsics", "extrinsics") if key in inputs}
    if "scale" in result:
        arrays["scale"] = result["scale"]
    if "tracks_per_view" in result:
        confidence = result["confidence"]
        tracks = syncmv4d.fuse(result["tracks_per_view"], confidence)
        arrays |= {
            "tracks": np.asarray(tracks, np.float32),
            "tracks_per_view": result["tracks_per_view"],
            "confidence": confidence,
            "visibility": confidence > 0.5,
            "anchors": result["anchors"],
            "anchor_valid": result["anchor_valid"],
        }
        if not confidence.any():
            meta = meta | {"warning": "no foreground in the decoded pseudo video: confidence is 0"}
    if arrays:
        np.savez_compressed(partial / "tracks.npz", **arrays)
    (partial / "meta.json").write_text(json.dumps(meta, indent=1))
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def to_uint8(clip: np.ndarray) -> np.ndarray:
    """[-1, 1] float -> 0..255 uint8."""
    return np.clip(np.round((np.asarray(clip) + 1) * 127.5), 0, 255).astype(np.uint8)


@functools.cache
def _stable_hash(name: str) -> int:
    import zlib

    return zlib.crc32(name.encode())
