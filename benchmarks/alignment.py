"""Does the aligner align: multi-view error of coarse tracks, classical baselines and DPA.

    python benchmarks/alignment.py --records RECORDS --weights RUN/checkpoints --vae WEIGHTS

Held-out scenes (`--split test`), (a) simulated corruption (corruption.SIM, level 1/2), (b) pseudo
videos sent through the autoencoder with latent noise. Rows:

    coarse     confidence-weighted mean of the views as they came
    rigid      rigid alignment, confidence-weighted mean, smoothing over time
    per view   robust fit of scale and offset of each view, smoothing over time
    no rays    the aligner's closed form without the rays of frame 0
    rigid + rays, per view + rays    the same as above, then moved onto the rays of frame 0
    start      the aligner without its network: the closed form
    DPA        the aligner, one step
    truth      for the smoothness

Rows are compared with equal information: the last four know the rays, the first four do not. The
smoothing window of `rigid` and `per view` is the best of WINDOWS, chosen on these very scenes: an
advantage to the baselines. Prints a Markdown table a case, and DPA against the closed form, paired:
means and standard errors over triplets (draws of one scene are averaged first, then scenes of one
triplet, which are not independent).
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from configs import dpa as dpa_config
from syncmv4d_jax import models
from syncmv4d_jax.data import records
from syncmv4d_jax.geometry import cameras, corruption, matching, pseudo_video
from syncmv4d_jax.metrics import baselines_alignment, multiview, summary
from syncmv4d_jax.metrics import motion as track_metrics
from syncmv4d_jax.run import checkpoint
from syncmv4d_jax.tasks import dpa
from syncmv4d_jax.weights import store

WINDOWS = baselines_alignment.WINDOWS  # frames
SMALL = ("anchors", "anchor_valid", "visibility", "intrinsics", "extrinsics", "scale")
COLUMNS = ("mv_rpe", "cross", "error_mm", "centred_mm", "chamfer_mm", "smooth_mm")
HEADS = ("MV RPE %", "MV RPE cross/truth %", "error mm", "centred mm", "Chamfer mm", "smooth mm")


def read(root: Path, split: str) -> list[dict[str, np.ndarray]]:
    """Scenes with all views, motion [v n h w 3] uint8 and the videos' `first` frames included."""
    reader, scenes = records.Reader(root, split), []
    for window in reader.windows:
        views = [reader.view(window, view) for view in window.views]
        scene = {key: np.stack([view[key] for view in views]) for key in SMALL}
        scene["motion"] = np.stack([records.decode(view["motion"]) for view in views])
        scene["first"] = np.stack([records.decode_first(view["video"]) for view in views])
        own = reader.tracks(window)
        scene |= {key: own[key] for key in ("tracks", "frame_valid")}
        scenes.append(scene | {"triplet": ", ".join(window.triplet)})
    return scenes


def simulate(scene: dict, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Case (a): coarse [v n k 3] and confidence [v n k]."""
    views = len(scene["extrinsics"])
    tracks = jnp.repeat(jnp.asarray(scene["tracks"])[None, None], views, axis=1)
    seen = scene["visibility"] & scene["anchor_valid"][:, None]
    coarse, confidence = _corrupt(
        tracks, scene["extrinsics"][None], seen[None], jnp.full(1, 0.5), jax.random.key(seed)
    )
    return np.asarray(coarse[0]), np.asarray(confidence[0])


_corrupt = jax.jit(corruption.corrupt)


def through_vae(scene: dict, seed: int, config, params, noise: float):
    """Case (b): encode the pseudo videos, add latent noise, decode, find the anchors."""
    video = jnp.asarray(scene["motion"], jnp.float32) / 127.5 - 1
    latents = jnp.concatenate([models.apply("vae", config, params, encode=v[None]) for v in video])
    latents = latents + noise * jax.random.normal(jax.random.key(seed), latents.shape)
    pseudo = [models.apply("vae", config, params, decode=z[None])[0] for z in latents]
    found = [_match((p + 1) / 2, *(scene[key][v] for key in MATCHED)) for v, p in enumerate(pseudo)]
    coarse = np.stack([np.asarray(one.tracks) for one in found])
    return coarse, np.stack([np.asarray(one.confidence) for one in found])


MATCHED = ("anchors", "anchor_valid", "scale", "intrinsics", "extrinsics")


@jax.jit
def _match(pseudo, *given):
    settings = matching.settings_for(*pseudo.shape[1:3])
    return pseudo_video.decode(jnp.clip(pseudo, 0, 1), *given, settings=settings)


def score(per_view: np.ndarray, scene: dict) -> dict[str, float]:
    """Metrics of one scene: per_view [v n k 3], metres, world frame."""
    n = int(scene["frame_valid"].sum())
    truth = scene["tracks"][:n].astype(np.float64)
    per_view = per_view[:, :n].astype(np.float64)
    seen = (scene["visibility"] & scene["anchor_valid"][:, None])[:, :n]
    any_seen = seen.any(0)
    gap = (per_view - truth)[seen]
    fused = np.where(any_seen[..., None], per_view.mean(0), np.nan)
    true = np.where(any_seen[..., None], truth, np.nan)
    return {
        "mv_rpe": multiview.world(per_view, truth, seen)[0],
        "cross": multiview.cross(per_view, truth, seen, scene["extrinsics"])[0],
        "error_mm": 1e3 * np.linalg.norm(gap, axis=-1).mean(),
        "centred_mm": 1e3 * np.linalg.norm(gap - gap.mean(0), axis=-1).mean(),
        "chamfer_mm": track_metrics.chamfer_means(fused, true)[1],
        "smooth_mm": 1e3
        * track_metrics.smoothness(np.where(any_seen.any(0)[:, None], per_view.mean(0), np.nan)),
    }


def classical(scene: dict, coarse: np.ndarray, confidence: np.ndarray) -> dict[str, np.ndarray]:
    """{row: fused tracks [n k 3]} of the classical ways, each with each window."""
    found = {}
    mean = (coarse * confidence[..., None]).sum(0)
    mean = mean / np.maximum(confidence.sum(0), 1e-9)[..., None]
    found["coarse"] = baselines_alignment.smooth(mean, confidence.sum(0), window=0)
    rays = scene["anchors"], scene["anchor_valid"], scene["intrinsics"], scene["extrinsics"]
    for window in WINDOWS:
        ways = {
            "rigid": baselines_alignment.rigid(coarse, confidence, window=window),
            "per view": baselines_alignment.per_view(
                coarse, confidence, scene["extrinsics"], window=window
            ),
        }
        for name, tracks in ways.items():
            moved = baselines_alignment.onto_rays(tracks[0], *rays)
            found[f"{name}/{window}"] = tracks
            found[f"{name} + rays/{window}"] = tracks + (moved - tracks[0])
    return found


class Aligners:
    """The aligner without its network, and as trained."""

    def __init__(self, folder: Path | None):
        config = dpa_config.get_config("demo")
        self.task = dpa.make(config)
        self.params, self.step = {}, None
        if folder is not None:
            trained = checkpoint.restore_params(folder)
            self.params["DPA"] = jax.tree.map(jnp.asarray, {"dpa": trained["dpa"]})
        else:
            self.params["DPA"] = jax.jit(self.task.init)(jax.random.key(0))
        unaided = dpa_config.get_config("demo").unlock()
        unaided.task.dpa.anchored = False
        self.unaided = jax.jit(
            lambda p, x: dpa.make(unaided).refine(p, x, jax.random.key(0))["tracks_per_view"]
        )
        zero = dict(self.params["DPA"]["dpa"])
        zero["head"] = jax.tree.map(jnp.zeros_like, zero["head"])
        self.params["start"] = {"dpa": zero}
        if folder is None:
            del self.params["DPA"]
        self.sample = jax.jit(lambda p, x: self.task.refine(p, x, jax.random.key(0)))

    def __call__(self, scene: dict, coarse, confidence) -> dict[str, np.ndarray]:
        """{row: tracks [v n k 3]}; the truth is not handed over."""
        keys = ("visibility", "anchor_valid", "intrinsics", "extrinsics", "scale", "frame_valid")
        given = {key: jnp.asarray(scene[key])[None] for key in keys}
        given["extrinsics"] = given["extrinsics"][:, :, None]  # a batch's, of still cameras
        given |= {"tracks": jnp.zeros((1, *coarse.shape[1:]))}
        given |= {"coarse": jnp.asarray(coarse)[None], "confidence": jnp.asarray(confidence)[None]}
        rows = {"no rays": np.asarray(self.unaided(self.params["start"], given)[0])}
        for name, params in self.params.items():
            rows[name] = np.asarray(self.sample(params, given)["tracks_per_view"][0])
        return rows


def evaluate(scenes, measure, aligners, draws: int) -> dict[str, dict[str, np.ndarray]]:
    """{row: {metric: [scene]}}, the mean over draws."""
    table: dict[str, list] = {}
    for index, scene in enumerate(scenes):
        found: dict[str, list] = {}
        for draw in range(draws):
            coarse, confidence = measure(scene, 1000 * index + draw)
            rows = classical(scene, coarse, confidence) | {"truth": scene["tracks"]}
            views = len(coarse)
            rows = {name: np.broadcast_to(x, (views, *x.shape)) for name, x in rows.items()}
            rows |= aligners(scene, coarse, confidence)
            for name, per_view in rows.items():
                found.setdefault(name, []).append(score(per_view, scene))
        for name, scores in found.items():
            table.setdefault(name, []).append({c: np.mean([s[c] for s in scores]) for c in COLUMNS})
    return {
        name: {c: np.array([row[c] for row in rows]) for c in COLUMNS}
        for name, rows in table.items()
    }


def best_windows(table: dict) -> dict:
    """Keeps each baseline's best window."""
    kept = {"coarse": table["coarse"]}
    for name in ("rigid", "per view", "rigid + rays", "per view + rays"):
        rows = {key: row for key, row in table.items() if key.startswith(f"{name}/")}
        key = min(rows, key=lambda key: rows[key]["error_mm"].mean())
        print(f"{name}: window {key.split('/')[1]} frames")
        kept[name] = rows[key]
    order = ("no rays", "rigid + rays", "per view + rays", "start", "DPA", "truth")
    kept |= {key: table[key] for key in ("no rays", "start", "DPA", "truth") if key in table}
    return {key: kept[key] for key in ("coarse", "rigid", "per view", *order) if key in kept}


def show(title: str, table: dict, triplets: list[str]) -> None:
    """Prints a Markdown table, and by how much DPA is better than the rows that know as much."""
    print(f"\n{title}\n\n| | {' | '.join(HEADS)} |\n|{'---|' * (len(HEADS) + 1)}")
    for name, row in table.items():
        print(f"| {name} | {' | '.join(_cell(row[c], triplets) for c in COLUMNS)} |")
    for other in ("per view + rays", "start") if "DPA" in table else ():
        gain = table[other]["error_mm"] - table["DPA"]["error_mm"]
        print(f"\nDPA, better than {other!r} by {_cell(gain, triplets)} mm")
    print(flush=True)


def _cell(values: np.ndarray, triplets: list[str]) -> str:
    """Mean and standard error over triplets of [scene] values."""
    names = [str(i) for i in range(len(values))]
    found = summary.mean(
        dict(zip(names, values, strict=True)), dict(zip(names, triplets, strict=True))
    )
    return f"{found['value']:.2f}" + ("" if found["se"] is None else f" ± {found['se']:.2f}")


def curve(log: Path, out: Path) -> None:
    """Draws `distance` (mm, of 0.25 m units) over training steps as a small PNG."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [row for row in rows if "distance" in row]
    steps = np.array([row["step"] for row in rows], float)
    values = 250 * np.array([row["distance"] for row in rows])
    width = min(9, len(values))
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    middle = steps[width // 2 :][: len(smooth)]
    size, box = (480, 240), (44, 12, 468, 210)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    high = float(np.ceil(np.percentile(values, 98) / 10) * 10)

    def place(x, y):
        across = box[0] + (box[2] - box[0]) * x / max(steps[-1], 1)
        return across, box[3] - (box[3] - box[1]) * min(y, high) / high

    for mark in np.arange(0, high + 1, 10):
        pen.line([place(0, mark), place(steps[-1], mark)], fill="#dddddd")
        pen.text((8, place(0, mark)[1] - 6), f"{mark:.0f}", fill="#444444")
    for mark in np.linspace(0, steps[-1], 5):
        pen.text((place(mark, 0)[0] - 8, box[3] + 4), f"{mark:.0f}", fill="#444444")
    pen.text((150, box[3] + 15), "training step; mean error of the estimate, mm", fill="#444444")
    pen.point([place(x, y) for x, y in zip(steps, values, strict=True)], fill="#99aacc")
    pen.line([place(x, y) for x, y in zip(middle, smooth, strict=True)], fill="#1144aa", width=2)
    image.save(out, optimize=True)
    print(f"{out}: {len(rows)} points, last mean {smooth[-1]:.1f} mm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--scenes", type=int, default=0, help="0: all")
    parser.add_argument("--weights", type=Path, help="folder of checkpoints of configs/dpa.py:demo")
    parser.add_argument("--vae", type=Path, help="converted autoencoder: case (b)")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.2, 0.4])
    parser.add_argument("--draws", type=int, default=4, help="corruptions of one scene")
    parser.add_argument("--curve", type=Path, nargs=2, metavar=("JSONL", "PNG"))
    arguments = parser.parse_args()
    if arguments.curve:
        curve(*arguments.curve)
    scenes = read(arguments.records, arguments.split)[: arguments.scenes or None]
    distance = [
        np.linalg.norm(cameras.camera_centre(s["extrinsics"]), axis=-1).mean() for s in scenes
    ]
    print(f"{len(scenes)} scenes, cameras {np.mean(distance):.2f} m from the world's origin")
    aligners, begin = Aligners(arguments.weights), time.time()
    table = evaluate(scenes, simulate, aligners, arguments.draws)
    triplets = [scene["triplet"] for scene in scenes]
    show("(a) simulated corruption", best_windows(table), triplets)
    if arguments.vae:
        config, params = store.load("vae", arguments.vae, dtype=jnp.float32)
        for noise in arguments.noise:

            def measure(scene, seed, noise=noise):
                return through_vae(scene, seed, config, params, noise)

            table = evaluate(scenes, measure, aligners, max(1, arguments.draws // 4))
            show(f"(b) autoencoder, latent noise {noise:g}", best_windows(table), triplets)
    print(f"{time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
