"""Whether a sample is sharp and right at once: one sample, two steps, the mean of many draws.

    python benchmarks/sharpness.py --demo out/demo --out out/sharpness --features FOLDER
    python benchmarks/sharpness.py --demo out/demo --out out/sharpness --table     # the table only

Samples the held-out scenes of a finished demo with the same weights in `--steps` steps, `--draws`
times, and in two, from the noise of draw 0. Beside them stand the true videos through the
autoencoder, and frame 0 with the blur that is best for PSNR. A regression gives the mean of what
may happen: soft, and good for PSNR. A generative model has one sample that is as sharp as the
autoencoder lets it be, and a mean of its draws that is better than any of them. So, each by more
than two standard errors over triplets of the differences paired by scene (ASKED):

    gradient energy    one sample above 0.8 of the autoencoder's
    LPIPS              one sample below two steps
    PSNR, moving       one sample 1.5 dB above the blur, the mean of the draws 3 dB

Prints Markdown; every scene's values are in OUT/sharpness.json. What is sampled is kept, so a
stopped run continues. `--features` is a folder with LPIPS' weights (docs/metrics.md); without it
that line is not shown.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import few_steps
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for `from configs import ...`

from configs.readings import learned_codec  # noqa: E402
from syncmv4d_jax import disk  # noqa: E402
from syncmv4d_jax.metrics import scene, summary  # noqa: E402
from syncmv4d_jax.metrics.networks import evaluators  # noqa: E402
from syncmv4d_jax.metrics.networks import weights as feature_weights  # noqa: E402
from syncmv4d_jax.results import samples  # noqa: E402
from syncmv4d_jax.run import assembly, inputs  # noqa: E402
from syncmv4d_jax.tasks import base  # noqa: E402

ONE, TWO, MEAN, CODED, BLURRED = "one sample", "two steps", "mean", "autoencoder", "frame_0_blurred"
LPIPS = "lpips_alex"
Scores = Mapping[str, scene.Scores]  # scene -> row -> metric -> value


class Asked(NamedTuple):
    """That `row` is better than `share` of `other` in a metric, by more than `by`."""

    row: str
    metric: str
    other: str
    share: float = 1.0
    by: float = 0.0


ASKED = (
    Asked(ONE, "gradient_energy", CODED, share=0.8),
    Asked(ONE, LPIPS, TWO),
    Asked(ONE, "psnr_moving", BLURRED, by=1.5),
    Asked(MEAN, "psnr_moving", BLURRED, by=3.0),
)


def gains(scores: Scores, asked: Asked) -> dict[str, float | None]:
    """{scene: by how much more than asked a row is better}; gradients count upwards."""
    found = {}
    for name, rows in scores.items():
        own, theirs = (rows[row].get(asked.metric) for row in (asked.row, asked.other))
        gain = None
        if own is not None and theirs is not None:
            gain = own - asked.share * theirs
            gain = (-gain if asked.metric == LPIPS else gain) - asked.by
        found[name] = gain
    return found


def table(scores: Scores, triplets: Mapping[str, str]) -> str:
    """The rows' means and what is asked of them, in Markdown."""
    rows = next(iter(scores.values()))
    metrics = {metric for cells in rows.values() for metric in cells}
    evaluations = {
        row: {
            "rows": {"model": {m: {"per_sample": {s: one[row].get(m) for s, one in scores.items()}}
                               for m in metrics & rows[row].keys()}},
            "triplets": triplets,
        }
        for row in rows
    }  # fmt: skip
    lines = [*few_steps.means(evaluations), "", "| asked | paired, beyond it | |", "|---|---|---|"]
    for asked in ASKED:
        found = summary.mean(gains(scores, asked), triplets)
        share = f"{asked.share:g} x " if asked.share != 1 else ""
        more = f" by {asked.by:g} dB" if asked.by else ""
        cell = answer = "not shown"
        if found["n"]:
            cell = f"{found['value']:.3g} ± {found['se'] or np.nan:.2g} (n = {found['clusters']})"
            answer = few_steps.verdict(found, beyond=True)
        told = f"{asked.metric}: {asked.row} better than {share}{asked.other}{more}"
        lines.append(f"| {told} | {cell} | {answer} |")
    return "\n".join(lines)


def sample(args: argparse.Namespace) -> None:
    """Samples whatever is not there."""
    seeds = f"--config.sample.seeds={tuple(range(args.draws))}"
    for steps, own in ((args.steps, seeds), (2, "--config.sample.seed=0")):
        command = few_steps.of_demo(args, few_steps.CONFIG, args.out / f"steps-{steps}")
        command += [f"--config.task.sample_steps={steps}", own, "--config.mode=sample"]
        few_steps.call(*command, f"--config.sample.count={args.scenes}")


def truths(args: argparse.Namespace) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yields (scene, triplet, true video [v n h w 3] uint8, the same through the autoencoder)."""
    config = learned_codec.get_config("demo").unlock()
    config.data.records = str(args.demo / "records" / few_steps.SIZE)
    config.data.cache = str(args.demo / "cache" / few_steps.SIZE)
    config.weights.vae = str(args.demo / "weights")
    config.sample.count = args.scenes
    settings, task = assembly.read(config), assembly.task(config)
    params = assembly.load_params(task, settings, args.out / "none", parts=("vae",))
    for name, example in inputs.examples(settings, settings.sample.split):
        true = np.asarray(example["video"])
        latents = task.encode(params, jnp.asarray(true)[None])
        coded = task.decode(params, base.Sample(latents)).pixels
        n = int(example["frame_valid"].sum())
        yield name, ", ".join(example["triplet"]), true[:, :n], samples.to_uint8(coded[0])[:, :n]


def score(args: argparse.Namespace) -> tuple[dict[str, scene.Scores], dict[str, str]]:
    """Scores of all scenes, and {scene: triplet}."""
    lpips = None
    if args.features:
        lpips = evaluators.lpips(LPIPS, feature_weights.load(LPIPS, args.features))
    scores: dict[str, scene.Scores] = {}
    blurs, triplets = {}, {}
    for name, triplets[name], true, coded in truths(args):
        draws = [args.out / f"steps-{args.steps}" / "samples" / f"{name}_seed{i}"
                 for i in range(args.draws)]  # fmt: skip
        two = args.out / "steps-2" / "samples" / name
        if missing := [path for path in (*draws, two) if not (path / "meta.json").is_file()]:
            sys.exit(f"{missing[0]}: not sampled: run without --table")
        n = true.shape[1]
        made = np.stack([samples.read(path)["video"][:, :n] for path in draws])
        clips = {ONE: made[0], TWO: samples.read(two)["video"][:, :n],
                 MEAN: np.round(made.mean(0)).astype(np.uint8), CODED: coded}  # fmt: skip
        scores[name] = {BLURRED: {}}
        for row, clip in clips.items():
            found, blurs[name] = scene.video_rows(clip, true)
            scores[name][row] = found["model"]
            if lpips is not None:
                pair = evaluators.Pair(name, clip, true, 0.0)
                scores[name][row] |= lpips(pair, evaluators.Frechet())["model"]
    scene.best_blur(scores, blurs)
    return scores, triplets


def main() -> None:
    flags = few_steps.parser(__doc__)
    flags.add_argument("--steps", type=int, default=8, help="of one sample")
    flags.add_argument("--draws", type=int, default=8, help="of the mean, 2 at least")
    args = few_steps.read(flags)
    if args.steps < 3 or args.draws < 2:
        sys.exit(f"wanted 3 steps and 2 draws at least, got {args.steps} and {args.draws}")
    if not args.table:
        sample(args)
    scores, triplets = score(args)
    with disk.whole(args.out / "sharpness.json") as partial:
        partial.write_text(json.dumps({"scores": scores, "triplets": triplets}, indent=1))
    print(table(scores, triplets))


if __name__ == "__main__":
    main()
