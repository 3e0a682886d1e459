"""LoRA files of Wan2.2: what training exported to diffusers' or kohya's form, and back.

    python data_prep/convert_lora.py --src out/lora/weights.safetensors --out cat.safetensors \
        --to diffusers --alpha 32
    python data_prep/convert_lora.py --src cat.safetensors --out cat_jax.safetensors \
        --to jax --alpha 32

    python data_prep/convert_lora.py --src Wan22_TI2V_5B_Turbo_lora_rank_64_fp16.safetensors \
        --to merged --base /data/wan --out /data/wan_turbo

The last merges a file of any layers and ranks, with differences of weights and biases, into
converted weights: --config.weights.dit=/data/wan_turbo samples with it, `--strength` scales it.

Training writes its adapters at the end with --config.train.export=float32; files of the second kind
are read by --config.weights.lora. `--alpha` is config.task.lora.alpha.
"""

import argparse

from syncmv4d_jax import disk
from syncmv4d_jax.weights import exports, lora, lora_merge, store


def main() -> None:
    """Parses the flags and converts; a bad source ends with its message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src", type=disk.local, required=True, help="safetensors file")
    parser.add_argument("--out", type=disk.local, required=True, help="file to write, or folder")
    parser.add_argument("--to", choices=("jax", "merged", *lora.LAYOUTS), default="diffusers")
    parser.add_argument("--alpha", type=float, help="config.task.lora.alpha")
    parser.add_argument("--base", type=disk.local, help="converted weights, of --to merged")
    parser.add_argument("--strength", type=float, default=1.0, help="of --to merged")
    flags = parser.parse_args()
    needed = "base" if flags.to == "merged" else "alpha"
    if getattr(flags, needed) is None:
        parser.error(f"--to {flags.to} needs --{needed}")
    try:
        if flags.to == "merged":
            config, params = store.load("dit", flags.base)
            merged = lora_merge.merge(flags.src, config, params, strength=flags.strength)
            source = {"base": str(flags.base), "lora": str(flags.src), "strength": flags.strength}
            store.save("dit", config, merged, flags.out, source=source)
        elif flags.to == "jax":
            adapters = lora.load(flags.src, alpha=flags.alpha)
            exports.write({"lora": adapters}, flags.out, metadata={"alpha": flags.alpha})
        else:
            adapters = exports.read(flags.src, "lora")
            lora.save(flags.out, adapters, alpha=flags.alpha, layout=flags.to)
    except (ValueError, OSError, KeyError) as error:
        parser.exit(1, f"convert_lora: {error}\n")


if __name__ == "__main__":
    main()
