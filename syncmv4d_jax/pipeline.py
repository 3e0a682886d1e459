"""The Python door: weights once, then images, cameras and a prompt -> videos and world tracks.

    from syncmv4d_jax import pipeline

    pipe = pipeline.SyncMV4DPipeline.load(weights="WEIGHTS", config="configs/taco.py")
    result = pipe(images=["left.png", "right.png", "top.png"], cameras="cameras.json",
                  prompt="A person uses a brush to sweep a plate.", seed=1)
    result.videos, result.tracks         # [v n h w 3] uint8; [n k 3] metres, world frame
    result.save("out/samples"), result.export("out/tracks.glb")

A call goes the way of `--config.mode=sample` (run/sample.py): the same inputs, name and seed give
the same sample to the last byte. What is compiled is kept by sizes, steps and guidance; the first
call of these waits for it. The text encoder stays loaded.
"""

import dataclasses
import html
import importlib.util
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import ml_collections
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from syncmv4d_jax import flow
from syncmv4d_jax.data import reading
from syncmv4d_jax.geometry import cameras as rigs
from syncmv4d_jax.results import export, samples
from syncmv4d_jax.results.web import report
from syncmv4d_jax.run import assembly, sample
from syncmv4d_jax.run import inputs as run_inputs
from syncmv4d_jax.tasks import base
from syncmv4d_jax.weights import encoders

log = logging.getLogger(__name__)
Picture = str | Path | Image.Image | np.ndarray
StepEnd = Callable[["Pipeline", int, float, dict[str, Any]], Any]
Preview = Callable[[int, "Result"], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """One sample.

    Attributes:
      made: as results/samples.py writes it.  inputs: what it was given.
      meta: its settings, `id` its name.
    """

    made: Mapping[str, np.ndarray]
    inputs: Mapping[str, Any]
    meta: Mapping[str, Any]

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
    def cameras(self) -> dict[str, np.ndarray] | None:
        """intrinsics [v 3 3] pixels of the videos, extrinsics [v 3 4] world to camera, metres, or
        [v n 3 4] where a camera moves."""
        if "intrinsics" not in self.inputs:
            return None
        poses = rigs.poses(np.asarray(self.inputs["extrinsics"]))
        return {"intrinsics": np.asarray(self.inputs["intrinsics"]), "extrinsics": poses}

    def save(self, folder: str | Path) -> Path:
        """Writes FOLDER/<id>, as sampling from the command line does, and returns it."""
        target = Path(folder) / str(self.meta["id"])
        target.parent.mkdir(parents=True, exist_ok=True)
        samples.write(target, self.made, self.inputs, self.meta)
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


class Pipeline:
    """A configuration with its parameters; `load` makes it, a call samples."""

    config = ""  # where `load` is given none

    def __init__(self, config: ml_collections.ConfigDict, workdir: str | Path = "") -> None:
        """Loads the weights that the configuration names, or that were trained in `workdir`.

        Raises:
          FileNotFoundError: a part is neither named nor trained.
          ValueError: a task that makes no videos, or weights of another architecture.
        """
        self._config = config.copy_and_resolve_references().unlock()
        own = assembly.read(self._config)
        self._mesh = assembly.load_mesh(own)
        task = assembly.task(self._config, self._mesh)
        base.serves(task, base.Sampled, "a pipeline")
        # Without a workdir nothing is looked for: a folder that was just made is empty.
        with tempfile.TemporaryDirectory() as nothing:
            where = Path(workdir or nothing)
            self._origins = assembly.origins(own, where)
            self._params = assembly.load_params(task, own, where, self._mesh)
        self._marks = sample.weight_marks(self._params)
        self._texts: encoders.TextEncoder | None = None
        self._compiled: set[tuple[Any, ...]] = set()

    @classmethod
    def load(
        cls,
        weights: str | Path | Mapping[str, str | Path] | None = None,
        config: str | Path | ml_collections.ConfigDict | None = None,
        *,
        workdir: str | Path = "",
    ) -> Self:
        """Loads a pipeline.

        Args:
          weights: a folder of converted weights with all parts, or a path by part, the text
            encoder's as "umt5"; None: as the configuration says.
          config: "configs/X.py[:variant]" or what such a file returns.
          workdir: of a training; its parts come before `weights`.

        Raises:
          FileNotFoundError, ValueError: no such configuration; and as `Pipeline`.
        """
        config = config or cls.config
        found = config if isinstance(config, ml_collections.ConfigDict) else read_config(config)
        own = found.copy_and_resolve_references().unlock()
        shapes = jax.eval_shape(assembly.task(own).init, jax.random.key(0))
        if weights is not None and not isinstance(weights, Mapping):
            weights = dict.fromkeys([*shapes, "umt5"], weights)
        for part, path in (weights or {}).items():
            if part == "umt5":
                own.text.weights = str(path)
            elif part in shapes:
                own.weights[part] = str(path)
            else:
                raise ValueError(
                    f"weights: no part {part!r}, there are {[*sorted(shapes), 'umt5']}"
                )
        return cls(own, workdir)

    def __call__(
        self,
        images: str | Path | Picture | Sequence[Picture] | Mapping[str, Picture] | None = None,
        prompt: str = "",
        *,
        cameras: str | Path | Mapping[str, Any] | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        num_videos: int = 1,
        name: str = "sample",
        switches: Mapping[str, float] | None = None,
        callback_on_step_end: StepEnd | None = None,
        preview: Preview | None = None,
    ) -> Any:
        """Makes one sample, or `num_videos` of the seeds seed, seed + 1, ...

        Args:
          images: of all views: in the order of the cameras, or by their names; a folder with
            cameras.json; one image where the task wants one, nothing where it wants none. Files
            are read as sampling reads them; arrays are [h w 3] uint8.
          cameras: a file in the form of cameras.json, or what it holds (docs/data.md).
          negative_prompt, num_inference_steps, guidance_scale: None: the configuration's.
          name: of the sample; it is part of the seed.
          switches: of the task (`tasks.base.Switched`), by name.
          callback_on_step_end: called as (pipeline, step, timestep, {}) after a run of steps.
          preview: called as (steps done, `Result` of the clean estimate) on the way, of a task that
            has one; decoding it costs what decoding the sample does.

        Returns:
          A `Result`, or a list of `num_videos` > 1.

        Raises:
          ValueError: what sampling refuses: wrong sizes, numbers or names of images, cameras that
            are none, an empty prompt.
        """
        if num_videos < 1:
            raise ValueError(f"num_videos: wanted at least 1, got {num_videos}")
        reading.prompt(prompt, where="prompt")
        own, task = self._settled(num_inference_steps, guidance_scale, switches or {})
        own = dataclasses.replace(
            own,
            sample=dataclasses.replace(
                own.sample,
                prompt=prompt,
                prompts="",
                negative_prompt=own.sample.negative_prompt
                if negative_prompt is None
                else negative_prompt,
                seed=seed,
                seeds=tuple(range(seed, seed + num_videos)) if num_videos > 1 else (),
                name=name,
            ),
        )
        self._texts = self._texts or encoders.TextEncoder(
            own.text.weights, max_length=own.text.max_length, precision=own.text.precision
        )
        with tempfile.TemporaryDirectory() as folder:
            where = _images(images, cameras, Path(folder) / "images", task)
            own = dataclasses.replace(own, sample=dataclasses.replace(own.sample, images=where))
            inputs = run_inputs.of_config(own, task, texts=self._texts)
            found = [self._made(own, task, *job, callback_on_step_end, preview) for job in
                     sample.jobs(own.sample, inputs)]  # fmt: skip
        return found if num_videos > 1 else found[0]

    def _settled(
        self, steps: int | None, guidance: float | None, switches: Mapping[str, float]
    ) -> tuple[Any, base.Sampled]:
        """Sections and task with these settings."""
        config, given = self._config.copy_and_resolve_references(), {}
        for word, key, value in (
            ("num_inference_steps", "sample_steps", steps),
            ("guidance_scale", "guidance", guidance),
        ):
            if value is not None:
                if key not in config.task:
                    raise ValueError(f"{word}: config.task has no {key}")
                given[key] = value
        config.task.update(given)
        switch(config, switches)
        task = base.serves(assembly.task(config, self._mesh), base.Sampled, "a pipeline")
        return assembly.read(config), task

    def _made(
        self,
        own: Any,
        task: base.Sampled,
        name: str,
        seed: int,
        arrays: dict[str, Any],
        callback: StepEnd | None,
        preview: Preview | None,
    ) -> Result:
        how, sizes = task.sampling, tuple(sorted((k, np.shape(x)) for k, x in arrays.items()))
        key = (how, sizes)
        times = np.asarray(flow.schedule(how.sampler, how.steps, shift=how.shift).timestep)
        fresh = "" if key in self._compiled else "compiling, once for these sizes: "
        with tqdm(total=how.steps * own.sample.best_of, unit="step", desc=f"{fresh}{name}") as bar:

            def progress(done: int, steps: int) -> None:
                bar.set_description(name, refresh=False)
                bar.update(done - bar.n)
                if callback is not None:
                    step = (done - 1) % how.steps
                    callback(self, step, float(times[step]), {})

            def look(done: int, estimate: base.Sample) -> None:
                assert preview is not None  # else this is not called
                found = sample.shown(task.decode(self._params, estimate))
                preview(done, Result(found, arrays, {"id": name, "fps": own.data.fps}))

            made, meta = sample.make(
                own, task, self._params, name, seed, arrays,
                progress=progress, look=look if preview is not None else None,
            )  # fmt: skip
        self._compiled.add(key)
        made_from = sample.shared_recipe(own, task, self._marks)
        meta |= {
            "weights": self._origins,
            "command": f"{__name__}.{type(self).__name__}",
            "recipe": made_from | sample.own_recipe(own, name, seed, arrays),
        }
        return Result(made, arrays, meta)


class SyncMV4DPipeline(Pipeline):
    """V synchronized videos and world tracks, from an image a view, cameras and a prompt."""

    config = "configs/taco.py"


class WanTI2VPipeline(Pipeline):
    """One video of an image and a prompt, or of a prompt alone: the base model."""

    config = "configs/wan_ti2v.py"


def switch(config: ml_collections.ConfigDict, values: Mapping[str, float]) -> None:
    """Sets switches of the task that `config.task` names, by their names.

    Raises:
      ValueError: no such switch, or a value that is not of its range.
    """
    task = assembly.task(config) if values else None
    rows: tuple[base.Switch, ...] = task.switches if isinstance(task, base.Switched) else ()
    known = {row.name: row for row in rows}
    for name, value in values.items():
        if (found := known.get(name)) is None:
            raise ValueError(f"switches: no {name!r}, this task has {sorted(known)}")
        *way, last = found.key.split(".")
        section = config.task
        for step in way:
            section = section[step]
        truth = isinstance(found.least, bool)
        whole = isinstance(value, bool) if truth else type(value) is int
        if not whole or not found.least <= value <= found.most:
            wanted = "true or false" if truth else f"a whole number {found.least}..{found.most}"
            raise ValueError(f"switches, {name}: wanted {wanted}, got {value!r}")
        with section.unlocked():
            section[last] = value


def read_config(path: str | Path) -> ml_collections.ConfigDict:
    """Returns what the get_config of "FILE[:variant]" returns, as --config does.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file without get_config, or what it raises.
    """
    file, _, variant = str(path).partition(":")
    found = Path(file).resolve()
    if not found.is_file():
        raise FileNotFoundError(f"{file}: no such configuration")
    root = str(found.parents[1] if found.parent.name == "configs" else found.parents[2])
    sys.path.insert(0, root)  # configurations import each other from there
    try:
        spec = importlib.util.spec_from_file_location(f"_config_{found.stem}", found)
        assert spec is not None and spec.loader is not None  # a file that is there
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(root)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{file}: wanted a function get_config in it")
    return module.get_config(*[variant] if variant else [])


def _images(
    images: Any, cameras: str | Path | Mapping[str, Any] | None, folder: Path, task: base.Sampled
) -> str:
    """What `config.sample.images` is to name: the user's own folder or file, or `folder`, filled.

    Raises:
      ValueError: names or numbers that do not fit each other, or something that is no picture.
    """
    if images is None:
        return ""
    if isinstance(images, str | Path) and (Path(images).is_dir() or not task.cameras):
        if cameras is not None:
            raise ValueError(f"cameras: {images} has its own; give images one by one, or none")
        return str(images)
    if isinstance(images, str | Path | Image.Image | np.ndarray):
        images = [images]
    folder.mkdir()
    rig: dict[str, Any] = {}
    if task.cameras:
        if cameras is None:
            raise ValueError("cameras: wanted a file or a dict of one camera a view, got none")
        rig = reading.values(cameras) if isinstance(cameras, str | Path) else dict(cameras)
        plain = json.dumps(rig, default=lambda x: np.asarray(x).tolist())
        (folder / "cameras.json").write_text(plain, encoding="utf-8")
    if not isinstance(images, Mapping):
        names = list(rig) or [f"{i:03d}" for i in range(len(images))]
        if len(names) != len(images):
            raise ValueError(
                f"images: wanted {len(names)}, one a camera ({names}), got {len(images)}"
            )
        images = dict(zip(names, images, strict=True))
    for name, picture in images.items():
        if Path(name).name != name or name.startswith("."):
            raise ValueError(f"images: a name that is no file's: {name!r}")
        _picture(picture, folder / name)
    if not task.cameras and len(images) == 1:
        return str(next(path for path in folder.iterdir()))
    return str(folder)


def _picture(picture: Picture, target: Path) -> None:
    """Lays a picture down as `target` with a suffix of its own."""
    if isinstance(picture, str | Path):
        shutil.copyfile(picture, f"{target}{Path(picture).suffix}")
        return
    if isinstance(picture, Image.Image):
        ImageOps.exif_transpose(picture).save(f"{target}.png")
        return
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"images, {target.name}: wanted [h w 3] uint8, a PIL image or a path, got "
            f"{pixels.dtype} {pixels.shape}"
        )
    Image.fromarray(pixels).save(f"{target}.png")
