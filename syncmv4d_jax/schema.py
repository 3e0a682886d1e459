"""The contract between data, tasks and metrics: keys, shapes, dtypes and units of a batch.

Dimension key: b batch, v view, n video frame, f latent frame (n = 4 (f - 1) + 1), h w pixels, hl wl
latent cells, c channel, k tracked point, l text token, d width. World frame: metres, z up, per
recording date. Cameras: OpenCV axes (x right, y down, z forward), extrinsics are world to camera
[R|t]: x_cam = R x + t.
"""

import dataclasses

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Field:
    """One key of a batch: its axes, dtype, unit, and whether every batch has it."""

    axes: str
    dtype: str
    unit: str
    optional: bool = False


BATCH: dict[str, Field] = {
    "video": Field("b v n h w 3", "uint8", "RGB 0..255", optional=True),
    "motion": Field(
        "b v n h w 3", "uint8", "pseudo video (u0/W, v0/H, depth) 0..255", optional=True
    ),
    "video_latents": Field("b v f hl wl c", "float32", "normalised VAE latents", optional=True),
    "motion_latents": Field("b v f hl wl c", "float32", "normalised VAE latents", optional=True),
    "text": Field("b l d", "float32", "umT5 features, rows beyond text_lengths are zero"),
    "text_lengths": Field("b", "int32", "tokens"),
    "tracks": Field("b n k 3", "float32", "metres, world frame"),
    "visibility": Field("b v n k", "bool", "point seen by the view at that frame"),
    "anchors": Field("b v k 2", "float32", "pixels (x, y) of each point in frame 0"),
    "anchor_valid": Field("b v k", "bool", "anchor is on the visible surface in frame 0"),
    "intrinsics": Field("b v 3 3", "float32", "pixels of the cropped, resized image"),
    "extrinsics": Field("b v 3 4", "float32", "world to camera [R|t], metres"),
    "scale": Field("b v 2", "float32", "metres: (min, max) camera depth over all n, k of the view"),
    "null_text": Field("b l0 d", "float32", "umT5 features of the empty text", optional=True),
    "null_text_lengths": Field("b", "int32", "tokens", optional=True),
    "frame_valid": Field("b n", "bool", "False for frames padded beyond the recording's end"),
    "latent_valid": Field("b f", "bool", "a latent frame is valid when all its frames are"),
    "view_index": Field("b v", "int32", "cluster index, the time slot of inter-view RoPE"),
}


def check(batch: dict, *, where: str) -> dict[str, int]:
    """Checks a batch against `BATCH` and returns the sizes of the named axes.

    Args:
      batch: {key: array}.
      where: what made the batch, for the error message.

    Raises:
      ValueError: a missing or unknown key, a wrong rank or dtype, or two sizes for one axis.
    """
    problems, sizes = [], {}
    for key in sorted(batch.keys() - BATCH.keys()):
        problems.append(f"unknown key {key!r}")
    for key, field in BATCH.items():
        if key not in batch:
            if not field.optional:
                problems.append(f"missing key {key!r} [{field.axes}]")
            continue
        shape, axes = batch[key].shape, field.axes.split()
        if len(shape) != len(axes):
            problems.append(f"{key}: wanted [{field.axes}], got shape {tuple(shape)}")
            continue
        floats = ("float32", "bfloat16") if field.dtype == "float32" else (field.dtype,)
        if str(batch[key].dtype) not in floats:
            problems.append(f"{key}: wanted {field.dtype}, got {batch[key].dtype}")
        for axis, size in zip(axes, shape, strict=True):
            wanted = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            if wanted != size:
                problems.append(f"{key}: axis {axis} wanted {wanted}, got {size}")
    if problems:
        raise ValueError(f"{where} does not follow schema.BATCH: " + "; ".join(problems))
    return sizes


# Keys whose first axis is the view; SMALL are those that are no clips and go into a cache.
SMALL = ("anchors", "anchor_valid", "visibility", "intrinsics", "extrinsics", "scale")
PER_VIEW = ("video", "motion", "video_latents", "motion_latents", "view_index", *SMALL)
