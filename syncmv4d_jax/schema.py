"""The contract between data, tasks and metrics: keys, shapes, dtypes and units of a batch.

Dimension key: b batch, v view, n video frame, f latent frame (n = 4 (f - 1) + 1), h w pixels, hl wl
latent cells, c channel, k tracked point, p point of a cloud, l text token, d width. World frame:
metres, z up, per recording date. Cameras: OpenCV axes (x right, y down, z forward), extrinsics are
world to camera [R|t]: x_cam = R x + t.

Version 2: crops are made from the first frame alone; occluders hide points and are not painted;
extrinsics have an axis for time, of size 1 where all cameras stand still (`cameras.poses` takes the
axis away there).
"""

import dataclasses

VERSION = 2


@dataclasses.dataclass(frozen=True)
class Field:
    """One key of a batch: its axes (`n?`: 1 or n), dtype, unit, and whether every batch has it."""

    axes: str
    dtype: str
    unit: str
    optional: bool = False

    @property
    def per_view(self) -> bool:
        """Whether its first axis after the batch is the view."""
        return self.axes.split()[1:2] == ["v"]


BATCH: dict[str, Field] = {
    "video": Field("b v n h w 3", "uint8", "RGB 0..255", optional=True),
    "motion": Field(
        "b v n h w 3", "uint8", "pseudo video (u0/W, v0/H, depth) 0..255", optional=True
    ),
    "video_latents": Field("b v f hl wl c", "float32", "normalised VAE latents", optional=True),
    "motion_latents": Field("b v f hl wl c", "float32", "normalised VAE latents", optional=True),
    "text": Field("b l d", "float32", "umT5 features, rows beyond text_lengths are zero"),
    "text_lengths": Field("b", "int32", "tokens"),
    "tracks": Field("b n k 3", "float32", "metres, world frame", optional=True),
    "visibility": Field("b v n k", "bool", "point seen by the view at that frame", optional=True),
    "anchors": Field("b v k 2", "float32", "pixels (x, y) of each point in frame 0", optional=True),
    "anchor_valid": Field(
        "b v k", "bool", "anchor is on the visible surface in frame 0", optional=True,
    ),
    "intrinsics": Field(
        "b v 3 3", "float32", "pixels of the cropped, resized image", optional=True,
    ),
    "extrinsics": Field("b v n? 3 4", "float32", "world to camera [R|t], metres", optional=True),
    "scale": Field(
        "b v 2", "float32", "metres: (min, max) camera depth over all n, k of the view",
        optional=True,
    ),
    "null_text": Field("b l0 d", "float32", "umT5 features of the empty text", optional=True),
    "null_text_lengths": Field("b", "int32", "tokens", optional=True),
    "frame_valid": Field("b n", "bool", "False for frames padded beyond the recording's end"),
    "latent_valid": Field("b f", "bool", "a latent frame is valid when all its frames are"),
    "view_index": Field("b v", "int32", "cluster index, the time slot of inter-view RoPE"),
    "hidden": Field("b v", "bool", "the view has no reference: it is generated", optional=True),
    "actions": Field("b n a", "float32", "standardised, commanded at each frame", optional=True),
    # Point clouds that control a video.
    "points": Field("b n p 3", "float32", "metres, world frame", optional=True),
    "point_valid": Field("b n p", "bool", "there is such a point", optional=True),
    "point_features": Field(
        "b n p 13", "float32", "normal 3, colour 3, has each of them and a velocity 3, label 4",
        optional=True,
    ),
    "point_ids": Field("b", "bool", "point i is one surface point in all frames", optional=True),
    "metric": Field("b", "bool", "lengths are metres, not up to a scale", optional=True),
    "hoi_mask": Field("b v f hl wl 1", "float32", "share of hands and objects", optional=True),
    "mask": Field("b v n h w", "bool", "hands and objects", optional=True),
    "tracking": Field("b v n h w 3", "uint8", "pseudo video with frame 0's depth", optional=True),
    "tracking_latents": Field("b v f hl wl c", "float32", "normalised VAE latents", optional=True),
    "black_latents": Field("b f hl wl c", "float32", "VAE latents of a black clip", optional=True),
    # Depth, and where every pixel of frame 0 goes.
    "depth0": Field("b v h w", "float32", "metres, camera z in frame 0, 0: unknown", optional=True),
    "flow": Field(
        "b v n h w 3", "float16", "way of frame 0's pixels: widths, heights, parts of their depth",
        optional=True,
    ),
    "flow_valid": Field("b v h w", "bool", "the pixel's flow is known", optional=True),
    "flow_latents": Field("b v f hl wl c", "float32", "normalised VAE latents", optional=True),
    "depth_latents": Field("b v 1 hl wl c", "float32", "normalised VAE latents", optional=True),
    "rgb0_latents": Field("b v 1 hl wl c", "float32", "normalised VAE latents", optional=True),
    "appearance": Field("b v 14 14 768", "float16", "patch features of frame 0", optional=True),
    "render": Field("b v n h w 3", "uint8", "points drawn along a camera path", optional=True),
    "render_latents": Field("b v f hl wl c", "float32", "normalised VAE latents", optional=True),
    "covered": Field("b v n h w", "bool", "where the render has points", optional=True),
    "sure": Field("b v n h w", "bool", "where a source sees all the way to them", optional=True),
    "hole_mask": Field("b v f hl wl 4", "float32", "trust in the render: 0 holes", optional=True),
    "render_same": Field("b v", "bool", "its points are of its own camera alone", optional=True),
}  # fmt: skip


# Keys of which a batch has all or none; what is tracked is tracked in metres, by cameras.
CAMERAS = ("intrinsics", "extrinsics")
TRACKED = ("tracks", "visibility", "anchors", "anchor_valid", "scale")


def check(batch: dict, *, where: str) -> dict[str, int]:
    """Checks a batch against `BATCH` and returns the sizes of the named axes.

    Videos alone, as robots' data sets have them, are a batch without TRACKED and CAMERAS.

    Args:
      batch: {key: array}.
      where: what made the batch, for the error message.

    Raises:
      ValueError: a missing or unknown key, a wrong rank or dtype, or two sizes for one axis.
    """
    problems: list[str] = []
    sizes: dict[str, int] = {}
    for key in sorted(batch.keys() - BATCH.keys()):
        problems.append(f"unknown key {key!r}")
    needed = set(CAMERAS if batch.keys() & {*CAMERAS, *TRACKED} else ())
    needed |= set(TRACKED if batch.keys() & set(TRACKED) else ())
    for key, field in BATCH.items():
        if key not in batch:
            if not field.optional or key in needed:
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
            if axis.endswith("?"):
                if size == 1:
                    continue
                axis = axis[:-1]
            wanted = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            if wanted != size:
                problems.append(f"{key}: axis {axis} wanted {wanted}, got {size}")
    if problems:
        raise ValueError(f"{where} does not follow schema.BATCH: " + "; ".join(problems))
    return sizes


# Keys whose first axis is the view; of these SMALL are no clips, all views have them.
SMALL = ("anchors", "anchor_valid", "visibility", "intrinsics", "extrinsics", "scale")
PER_VIEW = tuple(key for key, field in BATCH.items() if field.per_view)
# What sampling is conditioned on, beside the reference images.
CONDITIONS = (
    "text", "text_lengths", "null_text", "null_text_lengths", "intrinsics", "extrinsics",
    "view_index", "frame_valid", "anchors", "anchor_valid", "hidden", "actions",
)  # fmt: skip
# What a sample may be made to follow, for tasks that are controlled.
CONTROLS = ("points", "point_valid", "point_features", "point_ids", "metric", "tracking")
# What a sample may be given of a scene's geometry: a user has a file of it, or points drawn.
GEOMETRY = ("depth0", "appearance", "render", "hole_mask", "covered", "sure")
