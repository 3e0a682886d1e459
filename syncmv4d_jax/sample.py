"""Checkpoint and inputs -> synchronized videos and world tracks on disk.

Inputs are records (`config.sample.split`) or a user's folder of images and cameras with a prompt
(`config.sample.images`). Text encoding, reference encoding, sampling and final decoding are jitted
apart; each sample is written under a temporary name and renamed when it is whole, so that a second
run continues where the first stopped:

    DIR/samples/<id>/view_<v>.mp4  motion_<v>.mp4  tracks.npz  meta.json
"""

import functools
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from syncmv4d_jax import train, tree, weights
from syncmv4d_jax.data import folder, image, pipeline
from syncmv4d_jax.tasks import syncmv4d
from syncmv4d_jax.viz import video

log = logging.getLogger(__name__)
CONTEXT = (
    "text", "text_lengths", "null_text", "null_text_lengths", "intrinsics", "extrinsics",
    "view_index", "frame_valid", "anchors", "anchor_valid",
)  # fmt: skip


def run(config: Any, workdir: str | Path) -> None:
    """Samples everything that `config.sample` names and that is not on disk yet.

    Raises:
      FileNotFoundError: no trained weights, no inputs.
      ValueError: weights of another architecture, or inputs that do not fit.
    """
    workdir = Path(workdir)
    task = train.load_task(config)
    params = load_params(task, config, workdir)
    target = workdir / "samples"
    target.mkdir(parents=True, exist_ok=True)
    inputs = list(_inputs(config, task))
    todo = [(name, x) for name, x in inputs if not (target / name / "meta.json").is_file()]
    log.info("sampling: %d inputs, %d done before", len(inputs), len(inputs) - len(todo))
    encode, decode = jax.jit(task.encode_pixels), jax.jit(task.decode_pixels)
    seed = int(config.sample.seed)
    with tqdm(total=len(todo) * task.options.sample_steps, unit="step", desc="sample") as bar:
        for name, arrays in todo:
            rng = jax.random.fold_in(jax.random.key(seed), _stable_hash(name))
            batch = {k: jnp.asarray(arrays[k])[None] for k in CONTEXT if k in arrays}
            if "images" in arrays:
                batch["first"] = encode(params, jnp.asarray(arrays["images"])[None, :, None])
            before = bar.n
            report = lambda done, _: bar.update(before + done - bar.n)  # noqa: B023, E731
            result = task.sample(params, batch, rng, progress=report)
            result["video"] = decode(params, result["video"])
            if "motion" in result:
                result["motion"] = decode(params, result["motion"])
            result = {k: np.asarray(x)[0] for k, x in jax.device_get(result).items()}
            write(target / name, result, arrays, _meta(config, task, name, arrays))


def load_params(task: Any, config: Any, workdir: Path) -> dict[str, Any]:
    """Returns all parts: trained in `workdir`, else from `config.weights`; placed on the device.

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
    if missing := sorted(shapes.keys() - found.keys()):
        raise FileNotFoundError(
            f"no weights for {missing}: nothing was trained in {workdir} (run with "
            "--config.mode=train first) and config.weights names none"
        )
    found = {part: found[part] for part in shapes}
    tree.check_same(shapes, found, wanted_from="the configured model", got_from="the checkpoint")
    return jax.tree.map(lambda x, s: jnp.asarray(x, s.dtype), found, shapes)


def _inputs(config: Any, task: Any) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields (sample id, unbatched arrays): images [v h w 3] uint8 and schema.BATCH's keys."""
    if config.sample.images or config.sample.prompt:
        yield _from_user(config, task)
        return
    for name, example in pipeline.examples(config, config.sample.split):
        yield name, {**example, "images": example["video"][:, 0]}


def _from_user(config: Any, task: Any) -> tuple[str, dict[str, np.ndarray]]:
    prompt, path = config.sample.prompt, Path(config.sample.images)
    arrays = _images(config.sample.images, task)
    texts = weights.TextEncoder(config.text.weights, max_length=config.text.max_length)
    features, lengths = texts([prompt, config.sample.negative_prompt])
    arrays |= {
        "text": features[0],
        "text_lengths": lengths[0],
        "null_text": features[1],
        "null_text_lengths": lengths[1],
        "prompt": prompt,
    }
    name = (path.stem if path.is_file() else path.name) or f"text_{_stable_hash(prompt):08x}"
    return config.sample.name or name, arrays


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
        "seed": int(config.sample.seed),
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
