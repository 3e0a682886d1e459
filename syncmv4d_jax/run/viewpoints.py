"""Scenes seen from elsewhere: other reference views of one image, finished samples along a path.

    points of some views --splat--> pictures with holes --a `base.Synthesis` task--> videos

The points are drawn.py's. The task is the run's own, or comes from a file that its training
exported (`config.sample.synthesis`).
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from syncmv4d_jax import tree
from syncmv4d_jax.data import depth as depth_files
from syncmv4d_jax.data import reading, records
from syncmv4d_jax.geometry import paths, splat
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import assembly, drawn, initial, precision, sections
from syncmv4d_jax.tasks import base
from syncmv4d_jax.weights import encoders, exports

log = logging.getLogger(__name__)
RECORDED = "record:"  # of a camera path: a camera of the sample's own record


def path_of(
    text: str,
    scene: drawn.Scene,
    size: tuple[int, int],
    *,
    where: str = "config.sample.camera_path",
    recorded: Mapping[str, paths.Path] | None = None,
) -> paths.Path:
    """The camera path that a configuration names, checked against the scene.

    Args:
      recorded: cameras of the sample's record, by name, that "record:NAME" means.

    Raises:
      FileNotFoundError, ValueError: as geometry/paths.py; a file or a camera that is not there.
    """
    where = f"{where}={text!r}"
    if text.startswith(RECORDED):
        name = text.removeprefix(RECORDED)
        if name not in (recorded or {}):
            raise ValueError(
                f"{where}: wanted a camera of the record, it has {sorted(recorded or ())}"
            )
        path = (recorded or {})[name]
    elif text.endswith(".json"):
        content = reading.values(text)
        path = paths.of_file(content, frames=scene.frames, size=size, where=where)
    else:
        middle = len(scene.extrinsics) // 2
        path = paths.named(
            text, scene.frames, scene.intrinsics, scene.extrinsics, scene.pivot, source=middle
        )
    paths.check(path, scene.extrinsics, scene.pivot, where=where)
    return path


@dataclasses.dataclass(frozen=True)
class Viewer:
    """A synthesis task with its parameters, and the text encoder of the run; texts: where it is
    loaded already."""

    task: Any  # base.Sampled and base.Synthesis
    params: base.Params
    settings: sections.Sections
    texts: encoders.TextEncoder | None = None

    def text(self, prompt: str) -> dict[str, jax.Array]:
        """Features of a prompt and of the negative one, [1 l d] and lengths."""
        own = self.settings.text
        encode = self.texts or encoders.TextEncoder(
            own.weights, max_length=own.max_length, precision=own.precision
        )
        features, lengths = encode([prompt, self.settings.sample.negative_prompt])
        made = {"text": features[:1], "text_lengths": lengths[:1]}
        made |= {"null_text": features[1:], "null_text_lengths": lengths[1:]}
        return {key: jnp.asarray(x) for key, x in made.items()}

    def see(
        self,
        scene: drawn.Scene,
        lenses: np.ndarray,
        poses: np.ndarray,
        text: Mapping[str, jax.Array],
        rng: jax.Array,
        *,
        progress: base.Progress | None = None,
    ) -> dict[str, np.ndarray]:
        """What cameras see of a scene.

        Args:
          lenses: [v n 3 3]; poses: [v n 3 4].
          text: as `text` makes it.

        Returns:
          video [v n h w 3] in [-1, 1], and as `drawn.told`.
        """
        views = drawn.draw(scene, lenses, poses, self.task.clip.size)
        mask = self.task.fold(splat.trust(views.covered, views.sure)[None])
        inputs = {"render": views.render[None], "hole_mask": mask, **text}
        inputs |= {"covered": views.covered[None], "sure": views.sure[None]}
        start = self._start(scene, lenses, poses)
        if start is not None:
            inputs["first"] = self.task.encode(self.params, jnp.asarray(start)[None, :, None])
        found = self.task.sample(self.params, inputs, rng, progress=progress)
        video = np.asarray(self.task.decode(self.params, found).pixels)[0]
        return {"video": video, **drawn.told(views)}

    @staticmethod
    def _start(scene: drawn.Scene, lenses: np.ndarray, poses: np.ndarray) -> np.ndarray | None:
        """Frame 0 of the sources where all cameras start, [v h w 3] uint8; None elsewhere."""
        found = []
        for lens, pose in zip(lenses[:, 0], poses[:, 0], strict=True):
            same = _same(scene, lens, pose)
            if not any(same):
                return None
            found.append(scene.images[same.index(True)])
        return np.stack(found)

    def along(
        self, sample: Mapping[str, Any], name: str, rng: jax.Array, progress=None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A finished sample seen along `config.sample.camera_path`.

        Returns:
          (result, meta) for samples.write.

        Raises:
          ValueError: a sample that cannot be drawn, or a path that is refused.
        """
        text = self.settings.sample.camera_path
        if not text:
            raise ValueError(
                "config.sample.camera_path: wanted a path that the samples are seen along, a "
                f"camera_path.json or one of {tuple(paths.AMOUNTS)}"
            )
        scene = drawn.of_sample(sample, f"sample {name}")
        source = str(sample["meta"].get("id", name))
        recorded = {}
        if text.startswith(RECORDED):
            recorded = recorded_cameras(self.settings, source)
        path = path_of(text, scene, self.task.clip.size, recorded=recorded)
        prompt = str(sample["meta"].get("prompt", ""))
        lenses, poses = (np.asarray(x)[None] for x in path)
        result = self.see(scene, lenses, poses, self.text(prompt), rng, progress=progress)
        covered = float((result["holes"] < 0).mean())
        result |= {"path_intrinsics": lenses, "path_extrinsics": poses}
        meta = {"id": name, "prompt": prompt, "fps": samples.fps(sample), "camera_path": text}
        own = [all(any(_same(scene, *camera)) for camera in zip(*path, strict=True))]
        meta |= {"source": source, "covered": round(covered, 4), "own_views": own}
        meta |= {"size": list(self.task.clip.size), "frames": scene.frames}
        return result, meta | self.task.sampling._asdict()

    def references(
        self, posed: depth_files.Posed, text: Mapping[str, jax.Array], rng: jax.Array
    ) -> np.ndarray:
        """The reference images [v h w 3] uint8 of all views of a rig, from one of them."""
        scene, others = (
            drawn.of_image(posed),
            [v for v in range(len(posed.extrinsics)) if v != posed.source],
        )
        images = np.repeat(posed.image[None], len(posed.extrinsics), 0).copy()
        for view in others:
            lenses, poses = (x[view][None, None] for x in (posed.intrinsics, posed.extrinsics))
            own = jax.random.fold_in(rng, view)
            seen = self.see(scene, lenses, poses, text, own)
            images[view] = samples.to_uint8(seen["video"])[0, 0]
        return images


def _same(scene: drawn.Scene, lens: np.ndarray, pose: np.ndarray) -> list[bool]:
    """Which of a scene's sources are the camera [3 3], [3 4]."""
    return [
        bool(np.allclose(lens, k, atol=1e-2) and np.allclose(pose, e, atol=1e-4))
        for k, e in zip(scene.intrinsics, scene.extrinsics, strict=True)
    ]


def recorded_cameras(settings: sections.Sections, name: str) -> dict[str, paths.Path]:
    """The cameras of the record `name` of `config.data.records`, by their names.

    Raises:
      ValueError: there is no such record; as records.Reader.
    """
    reader = records.Reader(settings.data.records, size=assembly.wanted(settings).size)
    windows = [window for window in reader.windows if window.id == name]
    if not windows:
        raise ValueError(
            f"config.sample.camera_path={RECORDED}...: {reader.root} has no record {name!r}, of "
            "which the sample would be"
        )
    found, frames = {}, int(reader.settings["frames"])
    for view in windows[0].views:
        values = reader.view(windows[0], view)
        poses = np.broadcast_to(records.poses(values), (frames, 3, 4))
        lenses = np.repeat(values["intrinsics"][None], frames, 0)
        found[view.serial] = paths.Path(lenses.astype(np.float32), poses.astype(np.float32))
    return found


def load(settings: sections.Sections) -> Viewer:
    """The viewer of `config.sample.synthesis`.

    Its configuration is the one that its training exported with it. What it does not hold comes
    from `config.weights.vae` of this run and from the weights that the training started from; it
    may be of 8 bits (data_prep/quantise.py).

    Raises:
      ValueError: none is named, or it is of a task that does not complete pictures of points.
      FileNotFoundError: weights that are not there.
    """
    file = settings.sample.synthesis
    if not file:
        raise ValueError(
            "config.sample.synthesis: wanted weights that draw other views, a file that a training "
            "with --config=configs/vism.py exported (docs/more4d.md)"
        )
    said = exports.metadata(file)["config"]
    config = ml_collections.ConfigDict(json.loads(said) if isinstance(said, str) else said)
    made: Any = assembly.task(config)
    base.serves(made, base.Synthesis, f"config.sample.synthesis={file}")
    own = assembly.read(config)
    given = {**own.weights, "vae": settings.weights.get("vae", "") or own.weights.get("vae", "")}
    whole = exports.source(file)
    wanted = precision.stored(
        jax.eval_shape(made.init, jax.random.key(0)), dict.fromkeys(whole.shapes, whole)
    )
    shapes = tree.flatten(wanted)
    lacking = {name.split("/")[0] for name in shapes if name not in whole.shapes}
    begun = {part: path for part, path in given.items() if part in lacking and path}
    sources = [*(initial.weights(part, path) for part, path in begun.items()), whole]
    found = {name: source for source in sources for name in source.shapes if name in shapes}
    if missing := sorted(shapes.keys() - found.keys()):
        raise FileNotFoundError(
            f"config.sample.synthesis={file}: {len(missing)} of its task's parameters are neither "
            f"in it nor in config.weights.vae, e.g. {tree.sample(missing)}"
        )
    params = tree.unflatten(initial.load(found, shapes))
    log.info("synthesis: %s of %s", made.name, file)
    return Viewer(made, params, settings)
