"""What a job may be told, checked before it is taken, with the sentences of the command line."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from syncmv4d_jax.data import depth as depths
from syncmv4d_jax.data import reading, rigs, surfaces, user
from syncmv4d_jax.data.sources import mesh_sequences
from syncmv4d_jax.geometry import cameras as geometry
from syncmv4d_jax.geometry import paths
from syncmv4d_jax.serve.errors import Refused

WORDS = 2000  # characters of a prompt
STEPS, GUIDANCE, SEED = 200, 30.0, 2**31 - 1  # the most of each
VIDEOS, DRAWS = 16, 16  # of a request: seeds, and draws of each
FIELDS = (
    "prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "seed", "num_videos",
    "best_of", "switches", "preview", "cameras", "inputs_of",
)  # fmt: skip
MESHES = ("fps", "unit", "up", "labels")  # fields of a task that follows meshes
DEPTH = ("field_of_view", "camera_path")  # of one that reads the depth of its image
INPUTS = ("cameras", "unit", "up", "field_of_view")  # say how files are read, and nothing later
RATE, UNIT, WIDE = (1.0, 240.0), (1e-6, 1e3), (5.0, 150.0)  # of fps, unit, field_of_view


@dataclasses.dataclass(frozen=True)
class Wants:
    """What the task that is served takes, and what it does where nothing is said.

    Attributes:
      views, size, frames, fps: of a sample; size is (height, width) in pixels.
      cameras: whether it needs a camera a view; without, it takes an image, or none.
      steps, guidance, negative_prompt: of the configuration.
      switches: rows of name, least, most, value, text (`tasks.base.Switch`).
      previews: whether it shows clean estimates on the way.
      compares: whether the best of several draws can be told.
      meshes: whether it follows meshes.  depth: whether it reads its image's depth; then it takes
        one image, and no cameras.
      paths: the named camera paths that its sample can be seen along, rows of name, amount, most,
        unit; () where it can be seen along none.
    """

    views: int
    size: tuple[int, int]
    frames: int
    fps: float
    cameras: bool
    steps: int
    guidance: float
    negative_prompt: str = ""
    switches: tuple[Mapping[str, Any], ...] = ()
    previews: bool = False
    compares: bool = False
    meshes: bool = False
    depth: bool = False
    paths: tuple[Mapping[str, Any], ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that a form may have."""
        return FIELDS + MESHES * self.meshes + DEPTH * self.depth

    @property
    def files(self) -> tuple[str, ...]:
        """Names of those that are files."""
        return ("images", *["meshes"] * self.meshes, *["depth"] * self.depth)


def parameters(fields: Mapping[str, str], wants: Wants) -> dict[str, Any]:
    """Returns the parameters of a job, all that there are.

    Raises:
      Refused: an unknown field, or a value that cannot be; `where` is the field.
    """
    for name in fields:
        if name not in wants.fields:
            there = [*wants.fields, *wants.files]
            raise Refused("bad_input", f"no field {name[:40]!r}, there are {there}")
    try:
        prompt = reading.prompt(fields.get("prompt", ""), where="prompt")
    except ValueError as error:
        raise Refused("bad_input", str(error), "prompt") from error
    negative = " ".join(fields.get("negative_prompt", wants.negative_prompt).split())
    for name, words in (("prompt", prompt), ("negative_prompt", negative)):
        if len(words) > WORDS:
            raise Refused(
                "bad_input", f"{name}: wanted at most {WORDS} characters, got {len(words)}", name
            )
    draws = _whole(fields, "best_of", 1, 1, DRAWS)
    if draws > 1 and not wants.compares:
        words = f"best_of: wanted 1, got {draws}: this task makes no tracks of several views"
        raise Refused("bad_input", words, "best_of")
    return {
        "prompt": prompt,
        "negative_prompt": negative,
        "num_inference_steps": _whole(fields, "num_inference_steps", wants.steps, 1, STEPS),
        "guidance_scale": _number(fields, "guidance_scale", wants.guidance, 0.0, GUIDANCE),
        "seed": _whole(fields, "seed", 0, 0, SEED),
        "best_of": draws,
        "switches": _switches(fields.get("switches", "{}"), wants),
        "preview": _truth(fields, "preview", wants.previews),
        **shapes(fields, wants),
    }


def shapes(fields: Mapping[str, str], wants: Wants) -> dict[str, Any]:
    """The parameters that say of meshes and depth what a sample is made with.

    Raises:
      Refused: as `parameters`.
    """
    found: dict[str, Any] = {}
    if wants.meshes:
        found["fps"] = _number(fields, "fps", 30.0, *RATE)
        found["labels"] = _labels(fields.get("labels", "") or "{}")
    if wants.depth:
        found["camera_path"] = _path(fields.get("camera_path", ""), wants)
    return found


def told(fields: Mapping[str, str], wants: Wants) -> dict[str, Any]:
    """What says how files of meshes and depth are read.

    Raises:
      Refused: as `parameters`.
    """
    found: dict[str, Any] = {}
    if wants.meshes:
        up = fields.get("up", "").strip()
        if up not in ("", *mesh_sequences.UPS):
            words = f"up: wanted one of {mesh_sequences.UPS}, or nothing, got {up[:40]!r}"
            raise Refused("bad_input", words, "up")
        found = {"unit": _number(fields, "unit", 1.0, *UNIT), "up": up}
    if wants.depth and fields.get("field_of_view", "").strip():
        found["field_of_view"] = _number(fields, "field_of_view", WIDE[0], *WIDE)
    return found


def _labels(text: str) -> dict[str, str]:
    found = _json(text, "labels")
    if not isinstance(found, dict) or not set(map(str, found.values())) <= set(surfaces.LABELS):
        words = f"labels: wanted a JSON object of meshes, each one of {surfaces.LABELS}"
        raise Refused("bad_input", words, "labels")
    return found


def _path(text: str, wants: Wants) -> str:
    """The text of a camera path, checked: a name with its amount, or JSON."""
    text = text.strip()
    if not text:
        return ""
    if not wants.paths:
        words = (
            "camera_path: wanted none, this server has no weights that draw other views "
            "(config.sample.synthesis)"
        )
        raise Refused("bad_input", words, "camera_path")
    try:
        if text[0] != "{":
            name, _ = paths.parse_name(text if len(text) <= 40 else f"{text[:40]}...")
            if name not in (there := [row["name"] for row in wants.paths]):
                raise ValueError(f"camera_path: wanted one of {there}, got {text[:40]!r}")
        else:
            content = _json(text, "camera_path")
            paths.of_file(content, frames=wants.frames, size=wants.size, where="camera_path")
    except Refused:
        raise
    except ValueError as error:
        raise Refused("bad_input", str(error), "camera_path") from error
    return text


def named_paths() -> tuple[dict[str, Any], ...]:
    """Named camera paths of a sample of one view."""
    rows = []
    for name, amount in paths.AMOUNTS.items():
        most, unit = paths.bound(name)
        if np.isfinite(most):  # else it leads to another view
            rows.append({"name": name, "amount": amount, "most": most, "unit": unit})
    return tuple(rows)


def eyes(text: str, pivot: str, wants: Wants) -> list[list[float]]:
    """Where a named path leads a level camera that stands in the origin and looks along +y:
    [n 3] metres.

    Args:
      pivot: three numbers with commas between them, metres: what the path turns about.

    Raises:
      Refused: another path, or no such point.
    """
    try:
        point = np.array([float(x) for x in pivot.split(",")])
    except ValueError:
        point = np.zeros(0)
    if point.shape != (3,) or not np.isfinite(point).all() or point[1] <= 0:
        words = f"pivot: wanted x,y,z in metres, y above 0, got {pivot[:40]!r}"
        raise Refused("bad_input", words, "pivot")
    name = _path(text, wants)
    if not name or name[0] == "{":
        raise Refused("bad_input", "camera_path: wanted the name of one", "camera_path")
    pose = np.concatenate([depths.UPRIGHT, np.zeros((3, 1))], axis=1)[None]
    try:
        path = paths.named(name, wants.frames, np.eye(3)[None], pose, point)
    except ValueError as error:
        raise Refused("bad_input", str(error), "camera_path") from error
    return [geometry.camera_centre(x).round(4).tolist() for x in path.extrinsics]


def seeds(fields: Mapping[str, str], first: int) -> list[int]:
    """The seeds of a request: `num_videos` from the first one on, a job each.

    Raises:
      Refused: another number than of 1..VIDEOS, or seeds beyond SEED.
    """
    count = _whole(fields, "num_videos", 1, 1, VIDEOS)
    if first + count - 1 > SEED:
        words = f"num_videos: seeds {first}..{first + count - 1}: wanted them up to {SEED}"
        raise Refused("bad_input", words, "num_videos")
    return list(range(first, first + count))


def _number(
    fields: Mapping[str, str], name: str, default: float, least: float, most: float
) -> float:
    text = fields.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise Refused(
            "bad_input", f"{name}: wanted a number {least:g}..{most:g}, got {text[:40]!r}", name
        )
    return value


def _whole(fields: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = fields.get(name, "").strip()
    if text and not (text.isascii() and text.isdigit() and len(text) < 12):
        raise Refused(
            "bad_input",
            f"{name}: wanted a whole number {least}..{most}, got {text[:40]!r}",
            name,
        )
    return int(_number(fields, name, default, least, most))


def _truth(fields: Mapping[str, str], name: str, default: bool) -> bool:
    text = fields.get(name, "").strip().lower()
    if text not in ("", "true", "false"):
        raise Refused("bad_input", f"{name}: wanted true or false, got {text[:40]!r}", name)
    return default if not text else text == "true"


def _switches(text: str, wants: Wants) -> dict[str, Any]:
    found = _json(text, "switches")
    if not isinstance(found, dict):
        raise Refused("bad_input", "switches: wanted a JSON object of names and values", "switches")
    known = {row["name"]: row for row in wants.switches}
    for name, value in found.items():
        if (row := known.get(name)) is None:
            words = f"switches: no {name[:40]!r}, this task has {sorted(known)}"
            raise Refused("bad_input", words, "switches")
        truth = isinstance(row["least"], bool)
        whole = isinstance(value, bool) if truth else type(value) is int
        if not whole or not row["least"] <= value <= row["most"]:
            wanted = "true or false" if truth else f"a whole number {row['least']}..{row['most']}"
            words = f"switches, {name}: wanted {wanted}, got {str(value)[:40]!r}"
            raise Refused("bad_input", words, "switches")
    return found


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused("bad_input", f"{where}: not JSON ({str(error)[:80]})", where) from error


def cameras(text: str, wants: Wants) -> dict[str, rigs.Camera]:
    """Reads cameras.json, the first `wants.views` of it.

    Raises:
      Refused: not JSON, fewer cameras than views, or what `data.rigs` refuses.
    """
    raw = _json(text, "cameras")
    if not isinstance(raw, dict) or not raw:
        words = "cameras.json: wanted {camera: {K, R, T, imgSize}} of at least one camera"
        raise Refused("bad_input", words, "cameras")
    if len(raw) < wants.views:
        names = [name[:40] for name in raw]
        words = f"cameras.json: wanted {wants.views} cameras, got {len(raw)}: {names}"
        raise Refused("bad_input", words, "cameras")
    chosen = dict(list(raw.items())[: wants.views])
    try:
        rig = {
            name: rigs.parse(name, value, where=f"cameras.json, camera {name[:40]!r}")
            for name, value in chosen.items()
        }
        rigs.check(rig, where="cameras.json")
        lengths = {len(c.path) for c in rig.values() if c.path is not None} - {wants.frames}
        if lengths:
            raise ValueError(
                f"cameras.json: cameras move for {max(lengths)} frames, a sample has "
                f"{wants.frames}: wanted a pose a frame"
            )
    except ValueError as error:
        raise Refused("bad_input", str(error), "cameras") from error
    return rig


def plain(rig: Mapping[str, rigs.Camera]) -> dict[str, Any]:
    """Cameras as cameras.json holds them, each by the number of its view."""
    return {f"{view:03d}": rigs.stated(camera) for view, camera in enumerate(rig.values())}


def order(names: list[str], rig: Mapping[str, rigs.Camera]) -> list[int]:
    """Which image is of which camera: by the names of the files, else in their order.

    Args:
      names: of the files, without their suffixes.

    Raises:
      Refused: another number of images than of cameras.
    """
    wanted = list(rig)
    if set(wanted) <= set(names) and len(set(names)) == len(names):
        return [names.index(name) for name in wanted]
    if len(names) != len(wanted):
        shown = [name[:40] for name in wanted]
        words = f"images: wanted {len(wanted)}, one a camera ({shown}), got {len(names)}"
        raise Refused("bad_input", words, "images")
    return list(range(len(wanted)))


def fit(rig: Mapping[str, rigs.Camera], sizes: list[tuple[int, int]]) -> None:
    """Checks that each camera is of its image.

    Args:
      sizes: (h, w) of the images, in the order of the cameras.

    Raises:
      Refused: an image of another size than its camera's imgSize.
    """
    for camera, size in zip(rig.values(), sizes, strict=True):
        try:
            user.check_size(camera, size, where="cameras.json")
        except ValueError as error:
            raise Refused("bad_input", str(error), "cameras") from error
