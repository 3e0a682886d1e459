"""Checkpoint and inputs -> synchronized videos and world tracks on disk.

Inputs are records (`config.sample.split`) or a user's folder of images and cameras with a prompt
(`config.sample.images`). Text encoding, reference encoding, runs of sampling steps and final
decoding are compiled apart; each sample is written under a temporary name and renamed when it is
whole, so that a second run continues where the first stopped:

    DIR/samples/<id>/view_<v>.mp4  motion_<v>.mp4  tracks.npz  meta.json   (exact: view_<v>.mkv)

A sample is done where one of the same recipe lies there whole: prompt, images, cameras, seed,
settings and the weights' content. Anything else is made, and the former sample keeps a name of its
own (results/samples.py). With `sample.camera_path` each is also seen along a path (viewpoints.py):

    DIR/samples/<id>_path/view_0.mp4  render_0.mp4  holes_0.mp4  tracks.npz  tracks.glb  meta.json

`sample.prompts` is a file with a prompt a line, for one folder of images; `sample.seeds` makes one
sample a seed. With `sample.best_of` = n > 1 each sample is the one of n draws whose views agree
best about the tracks (`disagreement`).

Sampling takes the axes view and sequence of `config.mesh`, on that many devices: parameters and the
tokens of a sample are cut over them. data and fsdp, which cut a batch, are training's.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import recipe, schema
from syncmv4d_jax.data import reading
from syncmv4d_jax.geometry import anchors, paths
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.results import export, samples
from syncmv4d_jax.run import assembly, checkpoint, compiling, drawn, rig, sections, viewpoints
from syncmv4d_jax.run import inputs as run_inputs
from syncmv4d_jax.tasks import base

log = logging.getLogger(__name__)


def run(config: Any, workdir: str | Path) -> None:
    """Samples everything that `config.sample` names and that is not on disk yet.

    Raises:
      FileNotFoundError: no trained weights, no inputs.
      ValueError: a task that makes no videos, weights of another architecture, or inputs that do
        not fit.
    """
    workdir, own = Path(workdir), assembly.read(config)
    settings, mesh = own.sample, assembly.load_mesh(own)
    whole = assembly.task(config, mesh)
    task = base.serves(whole, base.Sampled, "mode=sample")
    weights = assembly.origins(own, workdir)
    params = assembly.load_params(whole, own, workdir, mesh)
    common = shared_recipe(own, task, weight_marks(params))
    target = workdir / "samples"
    target.mkdir(parents=True, exist_ok=True)
    done = made = 0
    name = settings.name or Path(settings.images).name
    for line in rig.show(settings.images, task, workdir / f"{name}_rig.png"):
        log.info(line)
    inputs = run_inputs.of_config(own, task)
    viewer = None
    times = compiling.Times(workdir)
    if settings.sources:
        base.serves(whole, base.Synthesis, "config.sample.sources")
    elif settings.camera_path:
        if not settings.camera_path.endswith(".json") and not settings.camera_path.startswith(
            viewpoints.RECORDED
        ):
            paths.parse_name(settings.camera_path)  # said before anything is sampled
        viewer = viewpoints.load(own)
    along_each = viewer.task.sampling.steps if viewer is not None else 0
    steps = _steps(settings, task, len(inputs)) + along_each * len(inputs) * len(_seeds(settings))
    with compiling.Progress(steps, times) as bar:

        def see(seer: viewpoints.Viewer, source: Path, name: str, rng: jax.Array) -> int:
            """Writes a finished sample as it is seen along the path; how many were made."""
            made_from = common | path_recipe(seer.settings.sample, source)
            if samples.made(target / name, made_from):
                bar.skip(seer.task.sampling.steps)
                return 0
            bar.start(name, compiling.key(own, seer.task, {}))
            result, meta = along(seer, source, name, rng, made_from, progress=bar.advance)
            write_path(target / name, result, meta, source, exact=settings.exact)
            return 1

        for name, seed, arrays in jobs(settings, inputs):
            rng = key_of(seed, str(arrays.get("id", name)))
            if "folder" in arrays:  # a finished sample, seen from elsewhere
                own_viewer = viewpoints.Viewer(task, params, own)
                made += see(own_viewer, Path(str(arrays["folder"])), name, rng)
                continue
            made_from = common | own_recipe(own, name, seed, arrays)
            if samples.made(target / name, made_from):
                done += 1
                bar.skip(_steps(settings, task, 1) // len(_seeds(settings)))
            else:
                bar.start(name, compiling.key(own, task, arrays))
                result, meta = make(
                    own, task, params, name, seed, arrays,
                    progress=lambda steps, _: bar.advance(steps),
                )  # fmt: skip
                meta |= {"weights": weights, "command": assembly.command(), "recipe": made_from}
                samples.write(target / name, result, arrays, meta, exact=settings.exact)
                if not samples.made(target / name, made_from):
                    raise OSError(f"{target / name}: was written, but is not whole on disk")
                made += 1
            if viewer is not None:
                made += see(viewer, target / name, f"{name}_path", rng)
    log.info("sampling: %d made, %d done before", made, done)


def make(
    own: sections.Sections,
    task: base.Sampled,
    params: base.Params,
    name: str,
    seed: int,
    arrays: dict[str, np.ndarray],
    *,
    progress: base.Progress | None = None,
    look: base.Look | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Makes one sample.

    Args:
      arrays: unbatched, as `inputs.of_config` yields them.
      progress: called with (steps done, steps) of all draws.
      look: called with clean estimates on the way, of a task that is `tasks.base.Previewed`.

    Returns:
      The sample as results/samples.py writes it, and its meta without what it was made from.

    Raises:
      ValueError: query pixels that are outside of the images, or that no view sees.
    """
    known = (*schema.CONDITIONS, *schema.CONTROLS, *schema.GEOMETRY)
    batch = {key: jnp.asarray(arrays[key])[None] for key in known if key in arrays}
    if "anchors" in arrays:
        seen = arrays["anchors"], arrays["anchor_valid"]
        anchors.check_anchors(*seen, size=task.clip.size, where=f"sample {name}")
    if "images" in arrays:
        batch["first"] = task.encode(params, jnp.asarray(arrays["images"])[None, :, None])
    rng = key_of(seed, str(arrays.get("id", name)))
    best, chosen = _best(own.sample, task, params, batch, rng, progress, look)
    result = shown(task.decode(params, best))
    if "flow" in result:  # the colours of what moves
        result["images"] = arrays["images"]
    if "render" in arrays:  # what it was made of, and for which cameras
        result |= drawn.told(drawn.Views(*(arrays[key] for key in drawn.Views._fields)))
        lenses = np.repeat(arrays["intrinsics"][:, None], arrays["render"].shape[1], 1)
        result |= {"path_intrinsics": lenses, "path_extrinsics": arrays["extrinsics"]}
    if "anchor_confidence" in result:
        anchors.check_confidence(result["anchor_confidence"], where=f"sample {name}")
    meta = _meta(own, task, name, arrays) | {"seed": seed} | chosen
    if "references" in arrays:
        meta["references"] = str(arrays["references"])
    if "hidden" in arrays:
        meta["hidden_view"] = int(np.argmax(arrays["hidden"]))
    if "source_view" in arrays:
        meta |= {"source_view": int(arrays["source_view"]), "points": "of the record"}
    if "reused_steps" in result:
        meta["reused_steps"] = int(result["reused_steps"])
    return result, meta


def along(
    viewer: viewpoints.Viewer,
    source: Path,
    name: str,
    rng: jax.Array,
    made_from: Mapping[str, Any],
    *,
    progress: Callable[[int], Any],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What is seen of the finished sample in `source` along `config.sample.camera_path`.

    Args:
      name: of what is made.  made_from: its recipe.
      rng: of the finished sample, `key_of`.
      progress: called with steps done.

    Returns:
      (result, meta) as results/samples.py writes them.
    """
    result, meta = viewer.along(
        samples.read(source), name, jax.random.fold_in(rng, 1),
        progress=lambda done, _: progress(done),
    )  # fmt: skip
    return result, meta | {"recipe": dict(made_from)}


def path_recipe(own: sections.SampleConfig, source: Path) -> dict[str, Any]:
    """What decides, beside `shared_recipe`, what is seen of a finished sample along a path."""
    found = {
        "source": recipe.content(source / "meta.json"),
        "camera_path": own.camera_path,
        "path": recipe.content(own.camera_path),
        "synthesis": recipe.content(own.synthesis),
    }
    return dict(recipe.plain(found))


def write_path(
    target: Path,
    result: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    source: Path,
    *,
    exact: bool = False,
) -> None:
    """Writes what `along` gave and, beside it, the tracks of the sample in `source` as glTF."""
    samples.write(target, result, {}, meta, exact=exact)
    arrays = source / "tracks.npz"
    if arrays.is_file() and "tracks" in reading.arrays(arrays):
        export.write("glb", source, target / "tracks.glb")


def key_of(seed: int, name: str) -> jax.Array:
    """The key of a sample: of its seed and of its input's name."""
    return jax.random.fold_in(jax.random.key(seed), run_inputs.stable_hash(name))


def shown(sample: base.Sample) -> dict[str, np.ndarray]:
    """The first sample of a batch as results/samples.py keeps it, without what there is not."""
    found = {field.name: getattr(sample, field.name) for field in dataclasses.fields(sample)}
    found = {key: x for key, x in found.items() if x is not None and "latents" not in key}
    words = {"pixels": "video", "motion_pixels": "motion"}  # files are named by what they show
    return {words.get(key, key): np.asarray(x)[0] for key, x in jax.device_get(found).items()}


def _seeds(settings: sections.SampleConfig) -> list[int]:
    return list(settings.seeds) or [settings.seed]


def _steps(settings: sections.SampleConfig, task: base.Sampled, inputs: int) -> int:
    """Sampling steps of so many inputs, all seeds and draws."""
    return inputs * len(_seeds(settings)) * settings.best_of * task.sampling.steps


def jobs(
    settings: sections.SampleConfig, inputs: Any
) -> Iterator[tuple[str, int, dict[str, np.ndarray]]]:
    """Yields (sample id, seed, unbatched arrays), one for every input and seed."""
    seeds = _seeds(settings)
    for name, arrays in inputs:
        for seed in seeds:
            own = f"{name}_seed{seed}" if len(seeds) > 1 else name
            yield own, seed, {**arrays, "id": name}


def _best(
    settings: sections.SampleConfig,
    task: base.Sampled,
    params: base.Params,
    batch: base.Batch,
    rng: jax.Array,
    progress: base.Progress | None,
    look: base.Look | None,
) -> tuple[base.Sample, dict[str, Any]]:
    """Returns the sample and, with `sample.best_of` > 1, what was chosen by, for meta.json.

    Raises:
      ValueError: draws are to be compared, but the task makes no tracks.
    """
    count, scores = settings.best_of, list[float]()
    if count > 1 and not base.compared(task):
        raise ValueError(f"best_of={count} compares views' tracks, but this task makes none")
    for draw in range(count):
        report = None
        if progress is not None:
            before, steps = draw * task.sampling.steps, count * task.sampling.steps
            report = lambda done, _, b=before, n=steps: progress(b + done, n)  # noqa: E731
        key = rng if draw == 0 else jax.random.fold_in(rng, draw)
        if look is not None and isinstance(task, base.Previewed):
            found = task.watch(params, batch, key, progress=report, look=look)
        else:
            found = task.sample(params, batch, key, progress=report)
        if count == 1:
            return found, {}
        pair = np.asarray(found.tracks_per_view), np.asarray(found.confidence)
        score = world_tracks.disagreement(*pair)
        if not scores or score <= min(scores):
            best = found
        scores.append(score)
    return best, {"best_of": count, "disagreement": [round(score, 6) for score in scores]}


def weight_marks(params: base.Params) -> dict[str, Any]:
    """A mark of each part's content; it reads all of them, so make it once."""
    return {part: checkpoint.mark(leaves) for part, leaves in params.items()}


def shared_recipe(
    own: sections.Sections, task: base.Sampled, weights: dict[str, Any]
) -> dict[str, Any]:
    """What decides all samples of a run."""
    view = own.sample.drop_view
    more: dict[str, Any] = {"drop_view": view} if view >= 0 else {}
    more |= {"exact": True} if own.sample.exact else {}  # samples without these keep their recipe
    return recipe.of(
        task=own.task,
        sampling=task.sampling._asdict(),
        best_of=own.sample.best_of,
        fps=own.data.fps,
        weights=weights,
        **more,
    )


def own_recipe(
    own: sections.Sections, name: str, seed: int, arrays: dict[str, Any]
) -> dict[str, Any]:
    """What decides one of them besides."""
    found = {
        "id": str(arrays.get("id", name)),
        "prompt": str(arrays.get("prompt", "")),
        "seed": seed,
        "anchors": own.sample.anchors if "anchors" in arrays else "own",
        "inputs": run_inputs.made_from(own, arrays),
    }
    return dict(recipe.plain(found))


def _meta(
    own: sections.Sections, task: base.Sampled, name: str, arrays: dict[str, Any]
) -> dict[str, Any]:
    named = {"views": str(arrays["views"]).split("\n")} if "views" in arrays else {}
    return {
        "id": name,
        "prompt": str(arrays.get("prompt", "")),
        "anchors": own.sample.anchors if "anchors" in arrays else "own",
        **named,
        "fps": own.data.fps,
        "size": list(task.clip.size),
        "frames": task.clip.frames,
        **task.sampling._asdict(),
    }
