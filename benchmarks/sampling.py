"""What sampling with fewer FLOPs saves, and what it changes: the demo's weights, held-out scenes.

    python benchmarks/sampling.py [--demo out/demo-train] [--steps 8 16] [--scenes 4] [--rows all]

Reads a folder that `make demo` or `make demo-train` made (records, cache, weights); without one two
embedded scenes are made here. Rows of VARIANTS differ in switches of `config.task`; all of them
sample the same scenes from the same noise, in turn. Prints `name ours peer ratio`, seconds of a
sample beside those of the row without the switch; under it FLOPs (tasks/syncmv4d/cost.py), a share,
steps that were reused, PSNR between both videos, and the error of the fused tracks against the
truth (mm; given correspondences, points that a view sees in frame 0) and the PSNR against the true
video, with the paired change and its standard error over scenes. The last lines time one guided
network call: both branches in one batch beside one after the other.

The shipped weights were trained without dropped text, so guidance cannot improve their samples.
`--guidance` names weights that were (`--config=configs/demo.py:guidance`, docs/speed.md).
`--codec` names a trained motion codec (configs/motion_codec.py:demo) for the row of that name.
"""

import argparse
import functools
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import timing  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for `from configs import ...`

from configs import demo, motion_codec  # noqa: E402
from demo import shipped  # noqa: E402
from syncmv4d_jax import schema  # noqa: E402
from syncmv4d_jax.geometry import tracks  # noqa: E402
from syncmv4d_jax.metrics import summary  # noqa: E402
from syncmv4d_jax.run import assembly, embedded, inputs  # noqa: E402
from syncmv4d_jax.tasks.syncmv4d import cost as syncmv4d_cost  # noqa: E402

# name -> (the row it is compared with, switches of config.task)
GUIDED = {"guidance": 2.0}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("", {}),
    "refine_every": ("plain", {"cycle": {"refine_every": 1}}),
    "refine_few": ("plain", {"cycle": {"refine_every": 12, "refine_last": 1}}),
    "codec": ("plain", {"codec": dict(motion_codec.DEMO)}),
    "reuse_0.1": ("plain", {"reuse_threshold": 0.1}),
    "reuse_0.2": ("plain", {"reuse_threshold": 0.2}),
    "reuse_0.4": ("plain", {"reuse_threshold": 0.4}),
    "guided": ("plain", GUIDED),
    "interval": ("guided", GUIDED | {"guidance_interval": (0.75, 1.0)}),
    "interval_reuse_0.2": (
        "guided",
        GUIDED | {"guidance_interval": (0.75, 1.0), "reuse_threshold": 0.2},
    ),
}
SHORT = ("plain", "reuse_0.2")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, help="default: out/demo-train, out/demo, or none")
    parser.add_argument("--steps", type=int, nargs="+", default=[8])
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--rows", nargs="+", default=list(SHORT), choices=[*VARIANTS, "all"])
    parser.add_argument("--guidance", type=Path, help="weights trained with dropped text")
    parser.add_argument("--codec", type=Path, help="weights of a motion codec")
    return parser.parse_args()


def load(folder: Path | None, scratch: Path, args: argparse.Namespace) -> Any:
    """The demo's configuration with its data, made here where there is none."""
    config = demo.get_config()
    trained = shipped.FOLDER / "model.safetensors"
    with config.unlocked():
        for part in ("dit", "dpa", "prior"):
            config.weights[part] = str((part != "dpa" and args.guidance) or trained)
        config.weights.codec = str(args.codec or "")
        if folder is None:
            parts = scratch / "embedded" / "weights"  # where the text encoder is made
            shipped.unpack(parts)
            config.weights.vae = str(parts)
            embedded.ensure(config, scratch)
        else:
            config.data.records = str(folder / "records" / "64x96")
            config.data.cache = str(folder / "cache" / "64x96")
            config.weights.vae = config.text.weights = str(folder / "weights")
    return config


def vary(config: Any, steps: int, switches: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A task of one row and its parameters."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if "codec" not in switches:
            config.weights.codec = ""
        config.task.update({"sample_steps": steps, **switches})
    task = assembly.task(config)
    return task, assembly.load_params(task, assembly.read(config), Path("none"))


def inputs_of(arrays: dict[str, np.ndarray], task: Any, params: Any) -> dict[str, jax.Array]:
    batch = {k: jnp.asarray(arrays[k])[None] for k in schema.CONDITIONS if k in arrays}
    return batch | {"first": task.encode(params, jnp.asarray(arrays["images"])[None, :, None])}


def run(task: Any, params: Any, batch: Any, seed: int) -> tuple[Any, float]:
    start = time.perf_counter()
    out = jax.block_until_ready(task.sample(params, batch, jax.random.key(seed)))
    return out, time.perf_counter() - start


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of videos in [-1, 1]."""
    return float(
        10 * np.log10(4 / max(np.mean((np.clip(a, -1, 1) - np.clip(b, -1, 1)) ** 2), 1e-9))
    )


def measure(config: Any, steps: int, rows: list[str], scenes: list[Any]) -> None:
    """Samples all scenes by all rows in turn and prints the table."""
    tasks = {name: vary(config, steps, VARIANTS[name][1]) for name in rows}
    task, params = tasks[rows[0]]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    for index, arrays in enumerate([scenes[0], *scenes]):  # the first round compiles
        batch, videos = inputs_of(arrays, task, params), {}
        truth = arrays["video"].astype(np.float32) / 127.5 - 1
        for name, own in tasks.items():
            out, seconds = run(*own, batch, index)
            videos[name] = np.asarray(task.decode(params, out).pixels)[0]
            fused = tracks.fuse(out.tracks_per_view, out.confidence)[0]
            seen = arrays["anchor_valid"].any(0)  # where no view sees a point nothing can be known
            error = np.linalg.norm(np.asarray(fused) - arrays["tracks"], axis=-1)[:, seen]
            base = VARIANTS[name][0] or name
            values = {
                "seconds": seconds,
                "between": psnr(videos[name], videos[base]),
                "truth": psnr(videos[name], truth),
                "mm": 1e3 * float(np.mean(error)),
                "reused": 0.0 if out.reused_steps is None else float(out.reused_steps[0]),
            }
            if index:
                found[name].append(values)
    show({name: own[0] for name, own in tasks.items()}, steps, found)


def change(rows: list[dict[str, float]], others: list[dict[str, float]], key: str) -> str:
    """`mean (change ± its standard error)` of one value over the scenes."""
    gaps = (a[key] - b[key] for a, b in zip(rows, others, strict=True))
    gap = summary.mean(dict(enumerate(gaps)))
    error = np.nan if gap["se"] is None else gap["se"]
    return f"({gap['value']:+.2f} ± {error:.2f})"


def show(tasks: dict[str, Any], steps: int, found: dict[str, list[dict[str, float]]]) -> None:
    parts = {
        codec: syncmv4d_cost.parts(
            next(t.loop for n, t in tasks.items() if (n == "codec") == codec)
        )
        for codec in {n == "codec" for n in tasks}
    }
    mean = {n: {k: np.mean([r[k] for r in rows]) for k in rows[0]} for n, rows in found.items()}
    best = {n: min(r["seconds"] for r in rows) for n, rows in found.items()}

    def tera(name):
        each = parts[name == "codec"]
        cost = syncmv4d_cost.sampling(tasks[name].loop, each, reused=mean[name]["reused"])
        return sum(cost.values()) / 1e12, cost["mjd"] / 1e12

    for name in tasks:
        base = VARIANTS[name][0] or name
        timing.row(f"sampling_{steps}_{name}", best[name], best[base])
        own, both = mean[name], (found[name], found[base])
        (total, mjd), (total_base, mjd_base) = tera(name), tera(base)
        print(
            f"# of the FLOPs {total / total_base:.3f} (of the network's {mjd / mjd_base:.3f}), "
            f"reused {own['reused']:.1f} of {steps}, between {own['between']:.1f} dB, "
            f"tracks {own['mm']:.1f} mm {change(*both, 'mm')}, "
            f"video {own['truth']:.2f} dB {change(*both, 'truth')}",
            flush=True,
        )


def branches(config: Any, arrays: Any, rounds: int = 5) -> None:
    """One guided network call: both branches in one batch, and in two calls."""
    task, params = vary(config, 8, GUIDED)
    batch = inputs_of(arrays, task, params)
    context = task.loop.context(batch)
    null = {**context, "text": context["null_text"], "text_lengths": context["null_text_lengths"]}
    shape = (1, *task.latent_shape)
    x, t = jax.random.normal(jax.random.key(0), shape), jnp.full((1,), 0.7)

    @functools.partial(jax.jit, static_argnums=1)
    def call(params, guidance, context):
        functions = task.loop.functions(params, batch["first"], guidance=guidance)
        return functions.mjd(x, x, jnp.zeros(shape), t, context).motion_velocity

    runs = {
        "batched": lambda: call(params, 2.0, context),
        "sequential": lambda: [call(params, 1.0, c) for c in (context, null)],
    }
    times = timing.interleaved(runs, rounds)
    timing.row("guidance_batched_over_sequential", times["batched"].best, times["sequential"].best)


def main() -> None:
    args = parse()
    places = [args.demo] if args.demo else [ROOT / "out" / x for x in ("demo-train", "demo")]
    there = [x for x in places if (x / "cache" / "64x96" / "cache.json").is_file()]
    if args.demo and not there:
        sys.exit(f"{args.demo}: wanted what `make demo` leaves there, found no cache/64x96")
    rows = list(VARIANTS) if "all" in args.rows else args.rows
    if args.codec is None:
        rows = [n for n in rows if n != "codec"]
    rows = [n for n in VARIANTS if n in rows or n in {VARIANTS[r][0] for r in rows}]
    with tempfile.TemporaryDirectory(prefix="sampling-") as scratch:
        config = load(there[0] if there else None, Path(scratch), args)
        config.sample.count = args.scenes
        found = inputs.examples(assembly.read(config), config.sample.split)
        scenes = [one | inputs.given(one, anchors="given") for _, one in found]
        print(f"# {there[0] if there else 'scenes made here'}: {len(scenes)} scenes")
        print("name ours peer ratio")
        for steps in args.steps:
            measure(config, steps, rows, scenes)
        branches(config, scenes[0])


if __name__ == "__main__":
    main()
