"""Measures flow maps of records: the gain of their companding, the statistics of their latents.

    python data_prep/measure_flow.py --records RECORDS --weights WEIGHTS --out OUT.safetensors

RECORDS are prepared with `--with flow`; WEIGHTS hold the converted autoencoder. Mean and deviation
of every latent channel over the training split go to OUT, for `--config.weights.flow_stats=OUT`;
the gain that fits the records is printed, for config.task.gain, and 8 where it is not given.
"""

import argparse
import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from syncmv4d_jax import disk
from syncmv4d_jax.data import pixel_flow, records
from syncmv4d_jax.geometry import flow_map
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.weights import exports, store


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--records", type=disk.local, required=True, help="folder of records with flow")
    add("--weights", type=disk.local, required=True, help="folder with a converted autoencoder")
    add("--out", type=disk.local, required=True, help="file to write, .safetensors")
    add("--split", default="train")
    add("--clips", type=int, default=200, help="views to measure, evenly taken")
    add("--gain", type=float, default=8.0, help="of the companding, as config.task.gain")
    add("--form", choices=flow_map.FORMS, default="depth", help="as config.task.flow_form")
    return parser.parse_args(argv)


def flows(folder: Path, split: str, count: int, form: str = "depth"):
    """Yields fields (pixel_flow.unpack) of evenly taken views, their flow in a form of
    flow_map.FORMS; the first yield is their number.

    Raises:
      ValueError: records without flow.
    """
    reader = records.Reader(folder, split)
    if "flow" not in reader.settings.get("fields", ()):
        raise ValueError(f"{reader.root}: has no flow: prepare it with --with flow")
    every = [(window, view) for window in reader.windows for view in window.views]
    chosen = np.unique(np.linspace(0, len(every) - 1, min(count, len(every))).astype(int))
    yield len(chosen)
    for i in chosen:
        values = reader.view(*every[i])
        fields = pixel_flow.unpack(values)
        if form != "depth":
            camera = flow_map.Camera(
                fields["depth0"], values["intrinsics"], records.poses(values)[0]
            )
            world = flow_map.inverse(fields["flow"].astype(np.float32), camera)
            fields |= {"flow": flow_map.forward(world, camera, form=form)}
        yield fields


def main(argv: list[str]) -> int:
    args = parse(argv)
    try:
        config, params = store.load("vae", args.weights)
        found = flows(args.records, args.split, args.clips, args.form)
        count = next(found)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")

    @jax.jit
    def encode(params, flow):
        values = flow_map.compand(flow.astype(jnp.float32), args.gain)
        return module.bind(vae.VAE, config, params).encode(values[None], chunk=1)[0]

    total, squares, cells, gains = 0.0, 0.0, 0, []
    for fields in tqdm(itertools.islice(found, count), total=count, unit="view"):
        latents = np.asarray(encode(params, fields["flow"]), np.float64).reshape(-1, config.z_dim)
        total, squares = total + latents.sum(0), squares + np.square(latents).sum(0)
        cells += len(latents)
        gains.append(flow_map.gain(fields["flow"][None], fields["flow_valid"][None]))
    mean = total / cells
    std = np.sqrt(np.maximum(squares / cells - np.square(mean), 1e-8))
    stats = {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}
    fits = float(np.median([g for g in gains if g > 1.0] or [1.0]))
    exports.write({"flow_stats": stats}, args.out, metadata={"gain": args.gain, "fits": fits})
    print(f"{count} views, {cells} cells; the gain that fits is {fits:.2f}; {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
