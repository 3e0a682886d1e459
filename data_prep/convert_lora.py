"""LoRA files of Wan2.2: what training exported to diffusers' or kohya's form, and back.

    python data_prep/convert_lora.py --src out/lora/weights.safetensors --out cat.safetensors \
        --to diffusers --alpha 32
    python data_prep/convert_lora.py --src cat.safetensors --out cat_jax.safetensors \
        --to jax --alpha 32

Training writes its adapters at the end with --config.train.export=float32; files of the second kind
are read by --config.weights.lora. `--alpha` is config.task.lora.alpha.
"""

import argparse

from syncmv4d_jax import disk
from syncmv4d_jax.weights import exports, lora


def main() -> None:
    """Parses the flags and converts; a bad source ends with its message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src", type=disk.local, required=True, help="safetensors file")
    parser.add_argument("--out", type=disk.local, required=True, help="safetensors file to write")
    parser.add_argument("--to", choices=("jax", *lora.LAYOUTS), default="diffusers")
    parser.add_argument("--alpha", type=float, required=True, help="config.task.lora.alpha")
    flags = parser.parse_args()
    try:
        if flags.to == "jax":
            adapters = lora.load(flags.src, alpha=flags.alpha)
            exports.write({"lora": adapters}, flags.out, metadata={"alpha": flags.alpha})
        else:
            adapters = exports.read(flags.src, "lora")
            lora.save(flags.out, adapters, alpha=flags.alpha, layout=flags.to)
    except (ValueError, OSError, KeyError) as error:
        parser.exit(1, f"convert_lora: {error}\n")


if __name__ == "__main__":
    main()
