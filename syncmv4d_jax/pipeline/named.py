"""The systems that have a pipeline, by their names."""

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import ml_collections
import numpy as np

from syncmv4d_jax.data import pictures, rigs
from syncmv4d_jax.data.sources import mesh_recordings
from syncmv4d_jax.geometry import paths
from syncmv4d_jax.pipeline import door, given, result
from syncmv4d_jax.run import assembly, compiling, sample, sections, viewpoints
from syncmv4d_jax.tasks import base


class SyncMV4DPipeline(door.Pipeline):
    """V synchronized videos and world tracks, from an image a view, cameras and a prompt."""

    config = "configs/taco.py"


class WanTI2VPipeline(door.Pipeline):
    """One video of an image and a prompt, or of a prompt alone: the base model."""

    config = "configs/wan_ti2v.py"


class HVG3DPipeline(door.Pipeline):
    """One image and meshes that move -> the video that follows them."""

    config = "configs/hvg3d.py"

    def __call__(  # type: ignore[override]  # it is given meshes too
        self,
        images: given.Pictures,
        prompt: str,
        *,
        cameras: given.Rig,
        meshes: str | Path | Sequence[str | Path] | Mapping[str, tuple[np.ndarray, np.ndarray]],
        fps: float = 30.0,
        unit: float = 1.0,
        up: str = "",
        labels: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Any:
        """Makes one sample, or several; it is the sample of `config.sample.recording` whose
        recording data_prep/import_meshes.py writes of the same.

        Args:
          images: the picture that the video begins with; one a view of a task with several.
          cameras: that took them, in the meshes' world; a file as cameras.json, or what it holds.
          meshes: glTF, a folder of an OBJ sequence, .pc2 or .mdd beside an .obj; one or several.
            Or {name: (faces [q 3], vertices [n p 3])}, metres, z up, `fps` frames a second.
          fps: frames a second to read of them.  unit: metres of a unit of theirs.  up: "y" or "z";
            "" is y of glTF, z of others.
          labels: {mesh: "left hand", "right hand", "object" or "other object"}.
          **settings: as `door.Pipeline.__call__` has them.

        Returns, raises:
          As `door.Pipeline.__call__`; ValueError too where meshes, picture and camera do not fit.
        """
        told = mesh_recordings.Meshes(fps, unit, up, dict(labels or {}))
        if isinstance(meshes, Mapping):
            found = told.fit(mesh_recordings.rows("meshes", meshes))
        else:
            found = told.read([meshes] if isinstance(meshes, str | Path) else list(meshes))

        def lay(folder: Path, task: base.Sampled) -> dict[str, str]:
            views = Path(given.images(images, cameras, folder / "given", task))
            rig = rigs.read(views / "cameras.json")
            pixels = {name: pictures.read(pictures.named(views, name)) for name in rig}
            mesh_recordings.write(
                folder / "recording", found, fps, rig, pixels, text=prompt, where="cameras"
            )
            return {"recording": str(folder / "recording"), "images": ""}

        return super().__call__(lay, prompt, **settings)


class MoRe4DPipeline(door.Pipeline):
    """One image with its depth -> where all its points go and, of a camera path, its video."""

    config = "configs/strag.py"

    def __init__(self, config: ml_collections.ConfigDict, workdir: str | Path = "") -> None:
        """As `door.Pipeline`."""
        super().__init__(config, workdir)
        self._viewer: viewpoints.Viewer | None = None

    @classmethod
    def load(
        cls,
        weights: str | Path | Mapping[str, str | Path] | None = None,
        config: str | Path | ml_collections.ConfigDict | None = None,
        *,
        workdir: str | Path = "",
        synthesis: str | Path = "",
    ) -> Self:
        """Loads a pipeline.

        Args:
          synthesis: a file that a training of configs/vism.py exported; camera paths want it.
          Others: as `door.Pipeline.load`.
        """
        own = given.own_config(config or cls.config)
        own.sample.synthesis = str(synthesis) or own.sample.synthesis
        return super().load(weights, own, workdir=workdir)

    def __call__(  # type: ignore[override]  # it is given depth, and no cameras
        self,
        images: given.Picture,
        prompt: str,
        *,
        depth: str | Path | np.ndarray,
        intrinsics: np.ndarray | None = None,
        camera_path: str | Path | Mapping[str, Any] = "",
        **settings: Any,
    ) -> Any:
        """Makes one sample, or several.

        Args:
          images: the picture.
          depth: a file (data/depth.py), or [h w] metres of every pixel, 0 where not known.
          intrinsics: [3 3] pixels of the picture, with an array of depth.
          camera_path: a name ("orbit:20"), a file, or what it holds (docs/more4d.md): the result's
            `along` is then the video that this camera sees.
          **settings: as `door.Pipeline.__call__` has them.

        Returns, raises:
          As `door.Pipeline.__call__`; ValueError too where a path is asked for without `synthesis`.
        """

        def lay(folder: Path, task: base.Sampled) -> dict[str, str]:
            del task
            (folder / "given").mkdir(parents=True)
            given.lay(images, folder / "given" / "image")
            found = {"images": str(pictures.single(folder / "given")), "depth": str(depth)}
            if not isinstance(depth, str | Path):
                found["depth"] = str(folder / "depth.npz")
                arrays = {"depth": np.asarray(depth)}
                if intrinsics is not None:
                    arrays["intrinsics"] = np.asarray(intrinsics)
                np.savez(found["depth"], **arrays)  # type: ignore[arg-type]
            elif intrinsics is not None:
                raise ValueError("intrinsics: the depth's file has them; wanted none beside it")
            path = camera_path
            if isinstance(path, Mapping):
                path = folder / "path.json"
                plain = json.dumps(camera_path, default=lambda x: np.asarray(x).tolist())
                path.write_text(plain, encoding="utf-8")
            if path:  # said before anything is sampled
                if not str(path).endswith(".json"):
                    paths.parse_name(str(path))
                self._viewer = self._viewer or viewpoints.load(assembly.read(self._config))
            return found | {"camera_path": str(path)}

        return super().__call__(lay, prompt, **settings)

    def _followed(
        self, own: sections.Sections, task: base.Sampled, found: result.Result, seed: int
    ) -> result.Result:
        """With what is seen along the path."""
        if self._viewer is None or not own.sample.camera_path:
            return found
        viewer = dataclasses.replace(self._viewer, settings=own, texts=self._texts)
        name, common = f"{found.meta['id']}_path", sample.shared_recipe(own, task, self._marks)
        rng = sample.key_of(seed, str(found.inputs.get("id", found.meta["id"])))
        with (
            tempfile.TemporaryDirectory() as folder,
            compiling.Progress(viewer.task.sampling.steps, self._times) as bar,
        ):
            source = found.save(folder)
            bar.start(name, compiling.key(own, viewer.task, {}))
            made_from = common | sample.path_recipe(own.sample, source)
            made, meta = sample.along(viewer, source, name, rng, made_from, progress=bar.advance)
        return dataclasses.replace(found, along=result.Result(made, {}, meta))


def of(config: ml_collections.ConfigDict, workdir: str | Path = "") -> door.Pipeline:
    """The pipeline of a configuration, by what its task reads; raises as `door.Pipeline`."""
    task = assembly.task(config)
    if isinstance(task, base.Followed):
        return HVG3DPipeline(config, workdir)
    return (MoRe4DPipeline if isinstance(task, base.Deep) else door.Pipeline)(config, workdir)
