"""Scenes seen from elsewhere: other reference views of one image, finished samples along a path.

    points of some views --splat--> pictures with holes --a `base.Synthesis` task--> videos

The points are those of a sample's flow (every pixel of frame 0), of a sample's tracks (the pixels
that they move, in front of a table plane that stands still), or of one image with its depth. The
task is the run's own, or comes from a file that its training exported (`config.sample.synthesis`).
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from syncmv4d_jax import tree
from syncmv4d_jax.data import depth as depth_files
from syncmv4d_jax.data import pixel_flow, reading
from syncmv4d_jax.geometry import cameras, flow_map, matching, painting, paths, splat
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import assembly, initial, sections
from syncmv4d_jax.tasks import base
from syncmv4d_jax.weights import encoders, exports

log = logging.getLogger(__name__)
HOLE = 128  # grey of uint8, next to 0 of [-1, 1]
MOVED = 0.02  # metres: points that move farther are what a path turns about


class Scene(NamedTuple):
    """Points of a sample's views, and what a path needs to know of it.

    clouds: one a view. intrinsics [v 3 3], extrinsics [v 3 4]: of the sources. images [v h w 3]
    uint8: their frame 0. pivot: [3] metres. frames: of the points.
    """

    clouds: list[splat.Cloud]
    intrinsics: np.ndarray
    extrinsics: np.ndarray
    images: np.ndarray
    pivot: np.ndarray
    frames: int


def of_sample(sample: Mapping[str, Any], where: str) -> Scene:
    """The scene of a finished sample (results/samples.py).

    Raises:
      ValueError: a sample without points or cameras, or of a path.
    """
    if "intrinsics" not in sample or not {"flow", "tracks"} & set(sample):
        raise ValueError(
            f"{where}: wanted tracks or flow, and cameras, to draw it from elsewhere; it has "
            f"{sorted(sample)}"
        )
    lenses, poses = sample["intrinsics"], sample["extrinsics"]
    if "flow" in sample:
        clouds, images = _of_flow(sample, lenses, poses), sample["images"]
        frames = sample["flow"].shape[1]
    else:
        clouds, images = _of_tracks(sample, lenses, poses), sample["video"][:, 0]
        frames = len(sample["tracks"])
    return Scene(clouds, lenses, poses, images, pivot(sample, clouds), frames)


def pivot(sample: Mapping[str, Any], clouds: Sequence[splat.Cloud]) -> np.ndarray:
    """[3] metres: the median of the points that move, of all tracks where none does."""
    tracks = np.asarray(sample["tracks"]) if "tracks" in sample else np.asarray(clouds[0].points)
    start = tracks[0]
    moves = np.linalg.norm(tracks - start, axis=-1).max(0) > MOVED
    sure = np.isfinite(tracks).all((0, 2))
    if "anchor_valid" in sample:
        sure &= np.asarray(sample["anchor_valid"]).any(0)
    elif "tracks" not in sample:
        sure &= np.asarray(clouds[0].valid)
    chosen = start[sure & moves] if (sure & moves).any() else start[sure]
    return np.median(chosen, axis=0)


def _of_flow(sample, lenses, poses) -> list[splat.Cloud]:
    found = []
    for view, flow in enumerate(sample["flow"]):
        depth = sample["depth0"][view]
        camera = flow_map.Camera(*(jnp.asarray(x) for x in (depth, lenses[view], poses[view])))
        tracks = flow_map.inverse(jnp.asarray(flow, jnp.float32), camera)
        valid = jnp.asarray(depth > 0)
        found.append(splat.cloud(tracks, jnp.asarray(sample["images"][view]), camera, valid))
    return found


def _of_tracks(sample, lenses, poses) -> list[splat.Cloud]:
    """Pixels of each view's pseudo video move with the refined tracks; the rest is a table."""
    if "motion" not in sample or "scale" not in sample:
        raise ValueError("wanted the sample's pseudo videos and scale: they say what moves")
    height, width = sample["video"].shape[2:4]
    settings = matching.settings_for(height, width)
    tracks, found = jnp.asarray(sample["tracks"]), []
    warps = []
    for view in range(len(lenses)):
        first = jnp.asarray(sample["motion"][view, 0], jnp.float32) / 255
        scale, lens, pose = (
            jnp.asarray(x) for x in (sample["scale"][view], lenses[view], poses[view])
        )
        anchors, valid = (jnp.asarray(sample[k][view]) for k in ("anchors", "anchor_valid"))
        warp = painting.warp_weights(first, anchors, valid, scale, lens, pose, settings=settings)
        moved = jnp.repeat(warp.rest[None], len(tracks), 0)
        for i in range(warp.anchor.shape[1]):
            moved = moved + warp.weight[None, :, i : i + 1] * tracks[:, warp.anchor[:, i]]
        warps.append((moved, warp.source, matching.frame_depth(first, scale, settings=settings)[0]))
    low = [np.asarray(moved[0])[np.asarray(there)][:, 2] for moved, there, _ in warps]
    level = float(np.quantile(np.concatenate(low), 0.02)) if sum(map(len, low)) else 0.0
    plane = np.array([0.0, 0.0, 1.0, -level])
    for view, (moved, there, depth) in enumerate(warps):
        lens, pose = lenses[view], poses[view]
        beyond = pixel_flow.plane_depth(plane, lens, pose, (height, width))
        mask = np.asarray(there).reshape(height, width)
        whole = np.where(mask, np.asarray(depth), beyond).astype(np.float32)
        camera = flow_map.Camera(*(jnp.asarray(x) for x in (whole, lens, pose)))
        still = cameras.to_world(flow_map.start(camera), camera.extrinsics)
        moved = moved.reshape(len(moved), height, width, 3)
        points = jnp.where(jnp.asarray(mask)[None, ..., None], moved, still[None])
        colours = jnp.asarray(sample["video"][view, 0])
        found.append(splat.cloud(points, colours, camera, jnp.asarray(whole > 0)))
    return found


def of_image(posed: depth_files.Posed) -> Scene:
    """The scene of one image with its depth; it stands still, of one frame."""
    own = posed.source
    lens, pose = posed.intrinsics[own], posed.extrinsics[own]
    camera = flow_map.Camera(*(jnp.asarray(x) for x in (posed.depth, lens, pose)))
    tracks = cameras.to_world(flow_map.start(camera), camera.extrinsics)[None]
    cloud = splat.cloud(tracks, jnp.asarray(posed.image), camera, jnp.asarray(posed.depth > 0))
    return Scene([cloud], lens[None], pose[None], posed.image[None], pivot({}, [cloud]), 1)


def path_of(
    text: str, scene: Scene, size: tuple[int, int], *, where: str = "config.sample.camera_path"
) -> paths.Path:
    """The camera path that a configuration names, checked against the scene.

    Raises:
      FileNotFoundError, ValueError: as geometry/paths.py; a file that is not there.
    """
    where = f"{where}={text!r}"
    if text.endswith(".json"):
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
        scene: Scene,
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
          video, render, holes [v n h w 3] in [-1, 1].
        """
        size = self.task.clip.size
        whole = splat.merge(scene.clouds)
        draw = jax.jit(splat.render, static_argnames="size")
        drawn = [
            draw(whole, jnp.asarray(k), jnp.asarray(e), size=size)
            for k, e in zip(lenses, poses, strict=True)
        ]
        render, covered = (jnp.stack(x)[None] for x in zip(*drawn, strict=True))
        render = jnp.where(covered[..., None], render, HOLE).astype(jnp.uint8)
        inputs = {"render": render, "hole_mask": self.task.fold(covered), **text}
        start = self._start(scene, lenses, poses)
        if start is not None:
            inputs["first"] = self.task.encode(self.params, jnp.asarray(start)[None, :, None])
        found = self.task.sample(self.params, inputs, rng, progress=progress)
        video = np.asarray(self.task.decode(self.params, found).pixels)[0]
        holes = np.where(np.asarray(covered)[0], -1.0, 1.0)[..., None]
        shown = np.asarray(render, np.float32)[0] / 127.5 - 1
        return {"video": video, "render": shown, "holes": np.repeat(holes, 3, axis=-1)}

    @staticmethod
    def _start(scene: Scene, lenses: np.ndarray, poses: np.ndarray) -> np.ndarray | None:
        """Frame 0 of the sources where all cameras start, [v h w 3] uint8; None elsewhere."""
        found = []
        for lens, pose in zip(lenses[:, 0], poses[:, 0], strict=True):
            same = [
                np.allclose(lens, k, atol=1e-2) and np.allclose(pose, e, atol=1e-4)
                for k, e in zip(scene.intrinsics, scene.extrinsics, strict=True)
            ]
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
        scene = of_sample(sample, f"sample {name}")
        path = path_of(text, scene, self.task.clip.size)
        prompt = str(sample["meta"].get("prompt", ""))
        lenses, poses = (np.asarray(x)[None] for x in path)
        result = self.see(scene, lenses, poses, self.text(prompt), rng, progress=progress)
        covered = float((result["holes"] < 0).mean())
        result |= {"path_intrinsics": lenses, "path_extrinsics": poses}
        meta = {"id": name, "prompt": prompt, "fps": samples.fps(sample), "camera_path": text}
        meta |= {"source": sample["meta"].get("id", name), "covered": round(covered, 4)}
        meta |= {"size": list(self.task.clip.size), "frames": scene.frames}
        return result, meta | self.task.sampling._asdict()

    def references(
        self, posed: depth_files.Posed, text: Mapping[str, jax.Array], rng: jax.Array
    ) -> np.ndarray:
        """The reference images [v h w 3] uint8 of all views of a rig, from one of them."""
        scene, others = (
            of_image(posed),
            [v for v in range(len(posed.extrinsics)) if v != posed.source],
        )
        images = np.repeat(posed.image[None], len(posed.extrinsics), 0).copy()
        for view in others:
            lenses, poses = (x[view][None, None] for x in (posed.intrinsics, posed.extrinsics))
            own = jax.random.fold_in(rng, view)
            seen = self.see(scene, lenses, poses, text, own)
            images[view] = samples.to_uint8(seen["video"])[0, 0]
        return images


def load(settings: sections.Sections) -> Viewer:
    """The viewer of `config.sample.synthesis`.

    Its configuration is the one that its training exported with it. What it does not hold comes
    from `config.weights.vae` of this run and from the weights that the training started from.

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
    shapes = tree.flatten(jax.eval_shape(made.init, jax.random.key(0)))
    sources = [initial.weights(part, path) for part, path in given.items() if path]
    sources.append(exports.source(file))
    found = {name: source for source in sources for name in source.shapes if name in shapes}
    if missing := sorted(shapes.keys() - found.keys()):
        raise FileNotFoundError(
            f"config.sample.synthesis={file}: {len(missing)} of its task's parameters are neither "
            f"in it nor in config.weights.vae, e.g. {tree.sample(missing)}"
        )
    params = tree.unflatten(initial.load(found, shapes))
    log.info("synthesis: %s of %s", made.name, file)
    return Viewer(made, params, settings)
