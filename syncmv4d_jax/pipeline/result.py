"""What a call of a pipeline gives."""

import dataclasses
import html
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from syncmv4d_jax.geometry import cameras as rigs
from syncmv4d_jax.results import export, samples
from syncmv4d_jax.results.web import report
from syncmv4d_jax.run import sample


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """One sample.

    Attributes:
      made: as results/samples.py writes it.  inputs: what it was given.
      meta: its settings, `id` its name.
      along: the same scene along a camera path, where one was asked for.
    """

    made: Mapping[str, np.ndarray]
    inputs: Mapping[str, Any]
    meta: Mapping[str, Any]
    along: "Result | None" = None

    @property
    def videos(self) -> np.ndarray:
        """[v n h w 3] uint8."""
        return samples.to_uint8(self.made["video"])

    @property
    def pseudo_videos(self) -> np.ndarray | None:
        """Motion as pictures, [v n h w 3] uint8; None without motion, as all below."""
        return samples.to_uint8(self.made["motion"]) if "motion" in self.made else None

    @property
    def tracks(self) -> np.ndarray | None:
        """[n k 3] float32, metres, world frame: all views' one copy."""
        return samples.points(self.made).get("tracks")

    @property
    def confidence(self) -> np.ndarray | None:
        """[v n k] float32, 0..1."""
        return self.made.get("confidence")

    @property
    def flow(self) -> np.ndarray | None:
        """[v n h w 3] float32: where every pixel of frame 0 goes (geometry/flow_map.py)."""
        return self.made.get("flow")

    @property
    def views(self) -> tuple[str, ...]:
        """What the camera of each view is called; () where cameras have no names."""
        return tuple(self.meta.get("views", ()))

    @property
    def cameras(self) -> dict[str, np.ndarray] | None:
        """intrinsics [v 3 3] pixels of the videos, extrinsics [v 3 4] world to camera, metres, or
        [v n 3 4] where a camera moves; along a path both have a frame each."""
        if "path_intrinsics" in self.made:
            keys = ("intrinsics", "extrinsics")
            return {key: np.asarray(self.made[f"path_{key}"]) for key in keys}
        if "intrinsics" not in self.inputs:
            return None
        poses = rigs.poses(np.asarray(self.inputs["extrinsics"]))
        return {"intrinsics": np.asarray(self.inputs["intrinsics"]), "extrinsics": poses}

    def save(self, folder: str | Path) -> Path:
        """Writes FOLDER/<id>, as sampling from the command line does, and returns it.

        What was seen along a path becomes FOLDER/<id>_path beside it.
        """
        target = Path(folder) / str(self.meta["id"])
        target.parent.mkdir(parents=True, exist_ok=True)
        samples.write(target, self.made, self.inputs, self.meta)
        if self.along is not None:
            place = target.with_name(str(self.along.meta["id"]))
            sample.write_path(place, self.along.made, self.along.meta, target)
        return target

    def export(self, path: str | Path) -> Path:
        """Writes the tracks for other programs, by the suffix: .glb, .usda, .rrd, or a folder .ply.

        Raises:
          ValueError: another suffix, or a sample without tracks.
        """
        path = Path(path)
        kind = path.suffix.lstrip(".").lower()
        if kind not in export.KINDS:
            wanted = ", ".join(f".{kind}" for kind in export.KINDS)
            raise ValueError(f"{path}: wanted a suffix of {wanted}, got {path.suffix!r}")
        with tempfile.TemporaryDirectory() as folder:
            return export.write(kind, self.save(folder), path)

    def to_diffusers_video(self, view: int = 0) -> list[Image.Image]:
        """The frames of a view, as diffusers' pipelines return and export them.

        Raises:
          ValueError: no such view.
        """
        videos = self.videos
        if not 0 <= view < len(videos):
            raise ValueError(f"view: wanted 0..{len(videos) - 1}, got {view}")
        return [Image.fromarray(frame) for frame in videos[view]]

    def _repr_html_(self) -> str:
        """The viewer, in a notebook."""
        with tempfile.TemporaryDirectory() as folder:
            finished = samples.read(self.save(folder))
            page = Path(folder) / "page.html"
            report.write(page, [{"id": self.meta["id"], **finished}], None, [], "", "")
            text = html.escape(page.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{text}" style="width:100%;height:900px;border:0"></iframe>'
