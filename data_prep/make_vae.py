"""Makes the small autoencoder of the embedded demo from prepared records.

    python data_prep/make_vae.py --records RECORDS --out DIR [--variant sharp] [--steps 1500]

A linear codec is fitted to some clips (models.wan.vae_linear), or `--start` names a folder of an
earlier one (DIR or demo/weights); it is trained on (configs/wan_vae.py), and normalised: the
statistics of its latents are folded into the 1 x 1 convolutions, so that encoders and decoders need
no numbers beside the weights, and these are rounded to what float16 holds. Writes DIR/vae in the
form of convert_weights.py. Run it again to continue a training that was stopped.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # configs/ is not an installed package

from configs import wan_vae as configuration
from syncmv4d_jax import disk, recipe, tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae, vae_linear
from syncmv4d_jax.run import assembly, checkpoint, inputs, resume, train
from syncmv4d_jax.tasks import wan_vae
from syncmv4d_jax.weights import store


def clips(config, count: int) -> np.ndarray:
    """[b n h w 3] uint8: videos and pseudo videos of the first views, in turn."""
    config.sample.count = count
    found = inputs.examples(assembly.read(config), config.data.split)
    pairs = [(x["video"][i % 3], x["motion"][i % 3]) for i, (_, x) in enumerate(found)]
    return np.concatenate([np.stack(pair) for pair in pairs])


def report(when: str, config, params, videos: np.ndarray) -> None:
    """Prints the PSNR of encode then decode over all pixels and over those that are not black."""
    through = jax.jit(lambda p, x: _through(config, p, x))
    every, bright = [], []
    for clip in videos:
        x = jnp.asarray(clip, jnp.float32)[None] / 127.5 - 1
        error = np.square((np.clip(through(params, x), -1, 1) - x) / 2)
        every.append(error.mean())
        bright.append(error[np.asarray(clip)[None].max(-1) > 20].mean())
    every, bright = (-10 * np.log10(np.mean(e)) for e in (every, bright))
    print(f"{when}: PSNR {every:.2f} dB, not black {bright:.2f} dB", flush=True)


def _through(config, params, x):
    model = module.bind(vae.VAE, config, params)
    return model.decode(model.encode(x))


def fold(config: vae.VAEConfig, params: dict, mean, std) -> dict:
    """Returns parameters whose latents are (z - mean) / std of those of `params`."""
    flat, z = dict(tree.flatten(params)), config.z_dim
    mean, std = jnp.asarray(mean), jnp.asarray(std)
    both = jnp.concatenate([std, jnp.ones((z,))])
    shift = jnp.concatenate([mean, 2 * jnp.log(std)])  # of the mean, and of the log variance
    kernel, bias = flat["conv1/kernel"], flat["conv1/bias"]
    flat["conv1/kernel"], flat["conv1/bias"] = kernel / both, (bias - shift) / both
    kernel = flat["conv2/kernel"]  # [1 1 1 z z]
    flat["conv2/bias"] = flat["conv2/bias"] + mean @ kernel[0, 0, 0]
    flat["conv2/kernel"] = kernel * std[:, None]
    return tree.unflatten(flat)


def halved(params: dict) -> dict:
    """Returns parameters that float16 holds, as float32: stored in two bytes they stay the same,
    and so do the latents that other networks are trained on."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float16).astype(jnp.float32), params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=disk.local, required=True)
    parser.add_argument("--out", type=lambda path: disk.local(path).resolve(), required=True)
    parser.add_argument("--variant", choices=("demo", "sharp"), default="demo")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--clips", type=int, default=12, help="examples the linear start is fitted to"
    )
    parser.add_argument(
        "--features", type=disk.local, help="folder of LPIPS' weights, which join the loss then"
    )
    parser.add_argument("--start", type=disk.local, help="weights to go on from, not a linear fit")
    args = parser.parse_args()
    try:
        with recipe.Lock(args.out, "make_vae"):
            make(args)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def earlier(config: vae.VAEConfig, folder: Path) -> dict:
    """Reads the autoencoder of an earlier run.

    Raises:
      FileNotFoundError: none is there.
      ValueError: it is of another size.
    """
    there, params = store.load("vae", folder, dtype=jnp.float32)
    if there != config:
        differ = recipe.differences(dataclasses.asdict(there), dataclasses.asdict(config))
        raise ValueError(f"{folder}: wanted the autoencoder of --variant ({'; '.join(differ)})")
    return params


def linear(config: vae.VAEConfig, videos: np.ndarray) -> dict:
    """Fits a linear codec to videos [b n h w 3] uint8."""
    params = module.init(vae.VAE, config, jax.random.key(0))
    scaled = jnp.asarray(videos, jnp.float32) / 127.5 - 1
    return jax.jit(lambda p, x: vae_linear.fit(config, p, x))(params, scaled)


def make(args: argparse.Namespace) -> None:
    """Fits or reads the start, trains on, and folds the statistics in; goes on where it stopped.

    Raises:
      FileNotFoundError: no weights in `--start`.
      ValueError: the folder was begun with other records, another variant, other clips or another
        start, or the start is of another size.
    """
    config = configuration.get_config(args.variant)
    config.unlock()
    config.data.records, config.data.raw = str(args.records), True
    records = resume.records_mark(assembly.read(config))
    if args.features:
        config.task.perceptual_weight = configuration.PERCEPTUAL
        config.weights.lpips = str(args.features)
    task = wan_vae.make(config)
    given = earlier(task.config, args.start) if args.start else None
    mark = checkpoint.mark(given) if given else "linear fit"
    begun = dict(records=records, variant=args.variant, clips=args.clips, start=mark)
    begun |= {"perceptual_weight": configuration.PERCEPTUAL} if args.features else {}
    begun = recipe.of(**begun)
    recipe.claim(args.out / "recipe.json", begun, way="use another --out")
    some = clips(config, args.clips)
    start = args.out / "start"
    if not (start / "vae" / "index.json").is_file():
        params = given or linear(task.config, some)
        report("start", task.config, params, some)
        store.save("vae", task.config, params, start, source={"by": mark}, dtype=np.float32)
    config.weights.vae = str(start)
    config.train.steps = args.steps
    train.run(config, args.out / "training")
    params = assembly.trained_params(config, args.out / "training")["vae"]
    report("trained", task.config, params, some)
    mean, std = wan_vae.statistics(task.config, params, some[:, None])
    params = halved(fold(task.config, params, mean, std))
    report("folded", task.config, params, some)
    source = {"by": "data_prep/make_vae.py", "steps": args.steps, "start": mark}
    store.save("vae", task.config, params, args.out, source=source)


if __name__ == "__main__":
    main()
