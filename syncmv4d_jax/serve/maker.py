"""What the worker makes: a sample by the Python door, and everything that is given out of it."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import ml_collections
from PIL import Image

from syncmv4d_jax import disk, pipeline
from syncmv4d_jax.results import export, samples, video
from syncmv4d_jax.results.web import report, tracks
from syncmv4d_jax.run import assembly
from syncmv4d_jax.serve import meshes as mesh_files
from syncmv4d_jax.serve import requests, worker
from syncmv4d_jax.tasks import base

NAME = "sample"  # of every sample, part of its seed: equal requests give equal samples
SMALLEST = 256  # pixels, height of a preview


def wants(config: ml_collections.ConfigDict) -> requests.Wants:
    """What the task of a configuration takes; no weights are read.

    Raises:
      ValueError: a task that makes no videos.
    """
    own = assembly.read(config)
    task = base.serves(assembly.task(config), base.Sampled, "mode=serve")
    rows = []
    for switch in task.switches if isinstance(task, base.Switched) else ():
        rows.append({k: x for k, x in switch._asdict().items() if k != "key"})
    frames, size, views = task.clip
    deep = isinstance(task, base.Deep)  # of one image, whose depth says where its camera is
    return requests.Wants(
        views=1 if deep else views,
        size=(int(size[0]), int(size[1])),
        frames=frames,
        fps=float(own.data.fps),
        cameras=task.cameras and not deep,
        steps=task.sampling.steps,
        guidance=float(task.sampling.guidance),
        negative_prompt=own.sample.negative_prompt,
        switches=tuple(rows),
        previews=isinstance(task, base.Previewed),
        compares=base.compared(task),
        meshes=isinstance(task, base.Followed),
        depth=deep,
        paths=requests.named_paths() if deep and own.sample.synthesis else (),
    )


def load(config: ml_collections.ConfigDict, workdir: Path) -> worker.Maker:
    """Loads the weights; a worker calls it."""
    return Made(pipeline.of(config, workdir))


@dataclasses.dataclass(frozen=True)
class Made:
    """Makes jobs with a pipeline; see `worker.Maker`."""

    pipe: pipeline.Pipeline

    def __call__(
        self, request: dict[str, Any], folder: Path, target: Path, tell: worker.Tell
    ) -> None:
        """Makes one."""
        given, each = _inputs(folder / "inputs", request), int(request["num_inference_steps"])
        steps, done = each * int(request.get("best_of", 1)), 0
        tell("progress", phase="preparing", done=0, steps=steps)

        def advance(_: pipeline.Pipeline, step: int, *__: Any) -> None:
            nonlocal done  # steps of all draws; each begins with its first one again
            draw = done // each
            done = draw * each + step + 1
            tell("progress", phase="sampling", done=done, steps=steps)

        def compiles(seconds: float | None) -> None:
            tell("progress", phase="compiling", compile_seconds=seconds)

        def preview(done: int, result: pipeline.Result) -> None:
            look(result, folder / "previews", done)
            tell("preview", done=done)

        result = self.pipe(
            **given,
            prompt=request["prompt"],
            negative_prompt=request["negative_prompt"],
            num_inference_steps=each,
            guidance_scale=request["guidance_scale"],
            seed=request["seed"],
            best_of=int(request.get("best_of", 1)),
            switches=request["switches"],
            name=NAME,
            callback_on_step_end=advance,
            on_compile=compiles,
            on_views=lambda _: None,  # whoever asked has seen them on the page
            preview=preview if request["preview"] else None,
        )
        names = json.loads((folder / "job.json").read_text(encoding="utf-8"))["cameras"]
        if names:  # inputs have numbers
            result = dataclasses.replace(result, meta={**result.meta, "views": names})
        tell("progress", phase="writing", done=steps, steps=steps)
        write(result, target, tell)


def _inputs(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    images: list[Any] = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    if (depth := folder / "depth.npz").is_file():
        path = request["camera_path"]
        whole = json.loads(path) if path[:1] == "{" else path
        return {"images": images[0], "depth": depth, "camera_path": whole}
    rig, meshes = folder / "cameras.json", folder / "meshes.npz"
    if not rig.is_file():
        return {"images": images[0] if images else None}
    given = {"images": images, "cameras": rig}
    if meshes.is_file():
        given |= {"meshes": mesh_files.stored(meshes), "up": "z"}
        given |= {key: request[key] for key in ("fps", "labels")}
    return given


def write(result: pipeline.Result, target: Path, tell: worker.Tell) -> None:
    """Writes a sample into `target` as the command line does, with a page, archives, and its tracks
    for other programs."""
    made = result.save(target / "made")
    sample = samples.read(made)
    pages = [{"id": NAME, **sample}]
    if result.along is not None:
        beside = made.with_name(str(result.along.meta["id"]))
        pages.append({"id": beside.name, **samples.read(beside)})
        for path in sorted(beside.iterdir()):
            path.rename(target / f"path_{path.name}")
    for path in sorted(made.iterdir()):
        path.rename(target / path.name)
    shutil.rmtree(target / "made")
    names = sorted(path.name for path in target.iterdir())
    tell("progress", phase="writing")
    text = json.dumps(sample["meta"], indent=1)
    report.write(target / "report.html", pages, None, [], text, "made by the server")
    pack(target / "sample.zip", [target / name for name in names])
    for kind in export.kinds() if "tracks" in sample else ():
        tell("progress", phase="writing")
        written = export.write(kind, target, target / f"tracks.{kind}")
        if written.is_dir():
            pack(target / "tracks_ply.zip", sorted(written.iterdir()))
            shutil.rmtree(written)


def pack(path: Path, files: list[Path]) -> None:
    """Puts files into an archive, by their names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)


def look(result: pipeline.Result, folder: Path, done: int) -> None:
    """Writes what a sample looks like after so many steps; what was there before it goes.

    The names have the step in them: a page sees a new name, and shows it.
    """
    with disk.whole(folder) as partial:
        partial.mkdir()
        clips = {"view": result.videos, "motion": result.pseudo_videos}
        for kind, views in clips.items():
            for v, clip in enumerate(views if views is not None else ()):
                small = clip[:, :: max(1, clip.shape[1] // SMALLEST)]
                small = small[:, :, :: max(1, clip.shape[1] // SMALLEST)]
                path = partial / f"{done:03d}_{kind}_{v}.mp4"
                video.write(path, small, fps=result.meta["fps"])
        if result.tracks is not None and (rig := result.cameras) is not None:
            size = result.videos.shape[2:4]
            scene = tracks.scene(result.tracks, None, **rig, size=size)
            (partial / f"{done:03d}_tracks.json").write_text(json.dumps(scene), encoding="utf-8")
