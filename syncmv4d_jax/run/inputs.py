"""What is sampled: records, a folder of images with cameras, prompts, single images."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import recipe, schema
from syncmv4d_jax.data import depth, pipeline, reading, records, user
from syncmv4d_jax.metrics.networks.features import appearance, matcher
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import assembly, controlled, drawn, matched, sections, viewpoints
from syncmv4d_jax.tasks import base
from syncmv4d_jax.weights import encoders, store

# Of an example of records; the first frames of its videos and its prompt besides.
POINTS = ("anchors", "anchor_valid")  # true correspondences: only where they are asked for
DEPTH = ("depth0", "appearance")  # of frame 0, where `config.data.fields` asks for it
TEXT = ("text", "text_lengths", "null_text", "null_text_lengths")
GIVEN = tuple(key for key in schema.CONDITIONS if key not in (*POINTS, "frame_valid"))


def examples(settings: sections.Sections, split: str) -> records.Listing:
    """Lists (id, unbatched example) of a split of the records, the first `config.sample.count`."""
    count, wanted = settings.sample.count, assembly.wanted(settings)
    return pipeline.examples(settings.data, wanted, split, count=count)


def of_config(
    settings: sections.Sections, task: base.Sampled, *, texts: encoders.TextEncoder | None = None
) -> Any:
    """Lists (sample id, unbatched arrays): images [v h w 3] uint8 and schema.BATCH's keys.

    Args:
      texts: encodes a user's prompts; None: loaded for this from `config.text`.
    """
    own = settings.sample
    if own.drop_view < 0:
        return _of_config(settings, task, texts)
    able = base.serves(task, base.Hiding, "config.sample.drop_view").hides_views
    if not able or own.drop_view >= task.clip.views:
        raise ValueError(
            f"config.sample.drop_view={own.drop_view}: wanted one of {task.clip.views} views that "
            "attend to each other, -1 for none"
        )
    if own.sources or own.anchors != "own":
        raise ValueError(
            "config.sample.drop_view: wanted config.sample.anchors='own', as others look at the "
            f"first frame, and no sources, got {own.anchors!r} and {own.sources!r}"
        )
    found = _of_config(settings, task, texts)
    return records.Listing(
        len(found), lambda: (_hiding(name, x, own.drop_view) for name, x in found)
    )


def _hiding(name: str, arrays: dict[str, Any], view: int) -> tuple[str, dict[str, Any]]:
    """The same without the first frame of one view."""
    if "images" not in arrays:
        raise ValueError(f"config.sample.drop_view: wanted first frames of {name}, got none")
    hidden = np.arange(len(arrays["images"])) == view
    images = np.where(hidden[:, None, None, None], np.uint8(0), arrays["images"])
    return name, arrays | {"images": images, "hidden": hidden}


def _of_config(
    settings: sections.Sections, task: base.Sampled, texts: encoders.TextEncoder | None
) -> Any:
    """`of_config`, all views with their first frames."""
    own = settings.sample
    if own.sources:
        return _finished(own.sources)
    if own.images or own.prompt or own.prompts or own.recording:
        return list(_from_user(settings, task, texts))
    found, match = examples(settings, own.split), matched.load(own)
    if isinstance(task, base.Synthesis):
        return records.Listing(len(found), lambda: (_across(pair, task) for pair in found))
    how = dict(anchors=own.anchors, match=match, count=settings.task.get("points", 0))
    off = {"noise": own.point_noise, "drop": own.point_drop}

    def make(pair: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        name, arrays = pair[0], given(pair[1], **how)
        return name, disturbed(name, arrays, **off) if any(off.values()) else arrays

    if own.references != "given":
        draws = viewpoints.load(settings) if own.references == "drawn" else None
        return records.Listing(
            len(found), lambda: (_of_one(*make(pair), own, draws) for pair in found)
        )
    if own.controls == "other":
        return records.Listing(len(found), lambda: swapped([make(pair) for pair in found]))
    return records.Listing(len(found), lambda: map(make, found))


def _of_one(
    name: str,
    arrays: dict[str, Any],
    own: sections.SampleConfig,
    draws: viewpoints.Viewer | None,
) -> tuple[str, dict[str, Any]]:
    """The same, of whose first frames one view's is given, with its depth; draws: the others."""
    posed = drawn.posed(arrays["images"], arrays, f"record {name}")
    if draws is None:
        images = drawn.plain_references(posed)
    else:
        text = {key: jnp.asarray(arrays[key])[None] for key in TEXT if key in arrays}
        key = jax.random.fold_in(jax.random.key(own.seed), stable_hash(name))
        images = draws.references(posed, text, key)
    return name, arrays | {"images": images, "references": own.references}


def _across(pair: tuple[str, dict[str, Any]], task: base.Sampled) -> tuple[str, dict[str, Any]]:
    """(id, arrays) of a record whose points are drawn, by their true flow, for its other cameras.

    Its own points are more than a user has: this measures a synthesis alone.
    """
    name, example = pair
    arrays = {key: example[key] for key in TEXT if key in example}
    arrays |= drawn.across(example, task, f"record {name}")
    frames = np.ones(len(example["frame_valid"]), bool)
    return name, arrays | {"prompt": example.get("prompt", ""), "frame_valid": frames}


def swapped(
    pairs: list[tuple[str, dict[str, Any]]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields examples with the control, and the cameras that it is seen by, of the next example
    whose first frames are others.

    Raises:
      ValueError: all begin alike.
    """
    keys = (*schema.CONTROLS, "intrinsics", "extrinsics")
    for i, (name, arrays) in enumerate(pairs):
        rest = [other for _, other in (*pairs[i + 1 :], *pairs[:i])]
        others = (x for x in rest if not np.array_equal(x["images"], arrays["images"]))
        if (other := next(others, None)) is None:
            raise ValueError(
                'config.sample.controls="other": wanted examples of several first frames, got '
                f"{len(pairs)} that begin alike"
            )
        yield name, arrays | {key: other[key] for key in keys if key in other}


def disturbed(name: str, arrays: dict[str, Any], *, noise: float, drop: float) -> dict[str, Any]:
    """An example whose clouds are worse than they are, always in the same way.

    Args:
      noise: standard deviation along each axis, of each point in each frame by itself, in the
        cloud's unit (metres where it is metric).
      drop: share of the points that are left out, the same ones in all frames.

    Raises:
      ValueError: it has no points.
    """
    if "points" not in arrays:
        raise ValueError(
            f"config.sample.point_noise, point_drop: wanted examples with points, {name} has none"
        )
    points, rng = arrays["points"], np.random.default_rng(stable_hash(name))
    moved = points + noise * rng.normal(size=points.shape)
    left = rng.permutation(points.shape[1]) >= round(drop * points.shape[1])
    valid = arrays["point_valid"] & left
    return arrays | {"points": moved.astype(points.dtype), "point_valid": valid}


def _finished(folder: str) -> records.Listing:
    """Lists (id, folder) of finished samples, to be seen from elsewhere; those that are seen along
    a path themselves are left out.

    Raises:
      FileNotFoundError: there are none.
    """
    found = {
        name: path
        for name, path in samples.find(folder).items()
        if "camera_path" not in (recipe.read(path / "meta.json") or {})
    }
    if not found:
        raise FileNotFoundError(f"config.sample.sources={folder}: no finished samples in it")
    return records.Listing(len(found), lambda: iter((k, {"folder": x}) for k, x in found.items()))


def given(
    example: dict[str, Any],
    *,
    anchors: str,
    match: matcher.Matcher | None = None,
    count: int = 0,
) -> dict[str, Any]:
    """What a sample is given of an example of records: what a user has, and nothing later.

    Args:
      example: unbatched, of schema.BATCH, with video.
      anchors: `config.sample.anchors`: "given" adds the record's own correspondences.
      match, count: for "matched": the matcher, and the number of points.
    """
    arrays = {key: example[key] for key in (*GIVEN, *schema.CONTROLS) if key in example}
    arrays |= {key: example[key] for key in DEPTH if key in example}
    arrays |= {"images": example["video"][:, 0], "prompt": example.get("prompt", "")}
    arrays["frame_valid"] = np.ones(len(example["frame_valid"]), bool)  # the model's own length
    if anchors == "given":
        return arrays | {key: example[key] for key in POINTS}
    if anchors == "matched":
        assert match is not None  # `matched.load` made it
        return arrays | matched.anchors(arrays["images"], match, count=count)
    return arrays


def _from_user(
    settings: sections.Sections, task: base.Sampled, texts: encoders.TextEncoder | None
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    own, text = settings.sample, settings.text
    path = Path(own.images or own.recording)
    posed: depth.Posed | None = None
    if own.recording:
        if own.images:
            raise ValueError("config.sample: a recording has its pictures, wanted no images beside")
        example = controlled.read(own.recording, settings, task)
        arrays = given(example, anchors="own")
        prompts = _prompts(own) if own.prompt or own.prompts else [str(arrays["prompt"])]
    else:
        prompts, posed = _prompts(own), _posed(own, task)
        arrays = (
            _images(own.images, task) if posed is None else _of_posed(posed, task, own.features)
        )
    draws = None
    if posed is not None and not isinstance(task, base.Deep):
        draws = viewpoints.load(settings)  # the other reference views
    texts = texts or encoders.TextEncoder(
        text.weights, max_length=text.max_length, precision=text.precision
    )
    features, lengths = texts([*prompts, own.negative_prompt])
    stem = own.name or (path.stem if path.is_file() else path.name)
    for i, prompt in enumerate(prompts):
        name = stem or f"text_{stable_hash(prompt):08x}"
        if draws is not None and posed is not None:
            key = jax.random.fold_in(jax.random.key(own.seed), stable_hash(name))
            arrays["images"] = draws.references(posed, draws.text(prompt), key)
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


def made_from(settings: sections.Sections, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What of a sample's inputs decides it, for its recipe: marks by key.

    Features of a user's texts are made here, and differ in a bit from machine to machine: what they
    are made from counts.
    """
    own, text = settings.sample, settings.text
    known = ("images", *schema.CONDITIONS, *schema.CONTROLS, *schema.GEOMETRY)
    keys = [key for key in known if key in arrays]
    marks: dict[str, Any] = {key: recipe.plain(np.asarray(arrays[key])) for key in keys}
    if not (own.images or own.prompt or own.prompts or own.recording):
        return marks
    marks = {key: mark for key, mark in marks.items() if "text" not in key}
    return marks | {
        "negative_prompt": own.negative_prompt,
        "max_length": text.max_length,
        "umt5": store.weights_mark(text.weights, "umt5"),
    }


def _prompts(own: sections.SampleConfig) -> list[str]:
    """Returns the prompts of `config.sample.prompts`, a file, or the one of `config.sample.prompt`.

    Raises:
      ValueError: both, or a file without a prompt.
    """
    file = own.prompts
    if not file:
        return [reading.prompt(own.prompt, where="config.sample.prompt")]
    if own.prompt:
        raise ValueError("wanted one of config.sample.prompt and config.sample.prompts, got both")
    try:
        return reading.prompts(file)
    except (ValueError, OSError) as error:
        raise type(error)(f"config.sample.prompts={error}") from error


def _images(path: str, task: base.Sampled) -> dict[str, Any]:
    """Reads a user's images: a folder with cameras, whose names are `views`, a line each; or for a
    task that needs none a folder with an image a view, one image for all, or nothing."""
    frames, size, count = task.clip
    order = {
        "view_index": np.arange(count, dtype=np.int32),
        "frame_valid": np.ones(frames, bool),
    }
    if not task.cameras:
        if not path:
            return {}
        if not Path(path).is_dir():
            return {"images": np.stack([user.read_image(path, size=size)] * count)}
        if not (Path(path) / "cameras.json").is_file():
            return {"images": user.read_alone(path, views=count, size=size)} | order
    views = user.read(path, views=count, size=size)
    if views.extrinsics.shape[1] not in (1, frames):
        raise ValueError(
            f"{path}/cameras.json: cameras move for {views.extrinsics.shape[1]} frames, a sample "
            f"has {frames}: wanted a pose a frame"
        )
    return {
        "images": views.images,
        "intrinsics": views.intrinsics,
        "extrinsics": views.extrinsics,
        "views": "\n".join(views.names),
    } | order


def _posed(own: sections.SampleConfig, task: base.Sampled) -> depth.Posed | None:
    """One image with its depth and a rig, where the run is to begin with it.

    Raises:
      ValueError: one image without depth, for a task that needs more than it.
      As `depth.read`.
    """
    deep = isinstance(task, base.Deep)
    if not own.depth:
        if deep or (task.cameras and own.images and Path(own.images).is_file()):
            wanted = "its depth" if deep else "a folder of views with cameras.json, or its depth"
            raise ValueError(
                f"config.sample.images={own.images!r}: one image without depth: wanted {wanted} "
                f"(config.sample.depth=FILE). {depth.TOOLS}"
            )
        return None
    frames, size, views = task.clip
    return depth.read(own.images, own.depth, rig=own.rig, views=1 if deep else views, size=size)


def _of_posed(posed: depth.Posed, task: base.Sampled, features: str = "") -> dict[str, np.ndarray]:
    """What a task reads of an image with its depth; other views' images are drawn later.

    features: `config.sample.features`.
    """
    count = len(posed.extrinsics)
    known = {"depth0": posed.depth[None]} if isinstance(task, base.Deep) else {}
    if features and isinstance(task, base.Deep) and task.reads_appearance:
        known["appearance"] = appearance.encoder(features)[0](posed.image)[None]
    return known | {
        "images": np.repeat(posed.image[None], count, 0),
        "intrinsics": posed.intrinsics,
        "extrinsics": posed.extrinsics[:, None],
        "view_index": np.arange(count, dtype=np.int32),
        "frame_valid": np.ones(task.clip.frames, bool),
    }


@functools.cache
def stable_hash(name: str) -> int:
    import zlib

    return zlib.crc32(name.encode())
