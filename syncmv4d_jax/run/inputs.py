"""What is sampled: records, a folder of images with cameras, prompts, single images."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax.data import pipeline, records, user
from syncmv4d_jax.run import assembly, sections
from syncmv4d_jax.weights import encoders

CONTEXT = (
    "text", "text_lengths", "null_text", "null_text_lengths", "intrinsics", "extrinsics",
    "view_index", "frame_valid", "anchors", "anchor_valid",
)  # fmt: skip


def examples(settings: sections.Sections, split: str) -> records.Listing:
    """Lists (id, unbatched example) of a split of the records, the first `config.sample.count`."""
    count, wanted = settings.sample.count, assembly.wanted(settings)
    return pipeline.examples(settings.data, wanted, split, count=count)


def of_config(config: Any, task: Any) -> Any:
    """Lists (sample id, unbatched arrays): images [v h w 3] uint8 and schema.BATCH's keys."""
    if config.sample.images or config.sample.prompt or config.sample.get("prompts", ""):
        return list(_from_user(config, task))
    found = examples(assembly.read(config), config.sample.split)
    pictures = lambda pair: (pair[0], {**pair[1], "images": pair[1]["video"][:, 0]})  # noqa: E731
    return records.Listing(len(found), lambda: map(pictures, found))


def _from_user(config: Any, task: Any) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    path = Path(config.sample.images)
    prompts = _prompts(config)
    arrays = _images(config.sample.images, task)
    texts = encoders.TextEncoder(config.text.weights, max_length=config.text.max_length)
    features, lengths = texts([*prompts, config.sample.negative_prompt])
    stem = config.sample.name or (path.stem if path.is_file() else path.name)
    for i, prompt in enumerate(prompts):
        name = stem or f"text_{stable_hash(prompt):08x}"
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
        return {"images": np.stack([user.read_image(path, size=options.size)] * options.views)}
    views = user.read(path, views=options.views, size=options.size)
    return {
        "images": views.images,
        "intrinsics": views.intrinsics,
        "extrinsics": views.extrinsics[:, None],
        "view_index": np.arange(options.views, dtype=np.int32),
        "frame_valid": np.ones(options.frames, bool),
    }


@functools.cache
def stable_hash(name: str) -> int:
    import zlib

    return zlib.crc32(name.encode())
