"""Converts Wan2.2-TI2V-5B: an official or diffusers folder to ours, or any of them to diffusers.

    python data_prep/convert_weights.py --src Wan2.2-TI2V-5B --out weights --dtype bfloat16
    python data_prep/convert_weights.py --src weights --out exported --to diffusers

See docs/wan.md for sizes and times.
"""

import argparse

from syncmv4d_jax import disk
from syncmv4d_jax.weights import folders, release


def main() -> None:
    """Parses the flags and converts; a bad source ends with its message, without a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--src",
        type=disk.local,
        required=True,
        help="official, diffusers, repackaged or converted folder, or file",
    )
    parser.add_argument(
        "--out", type=disk.local, required=True, help="folder to make, or to add parts to"
    )
    parser.add_argument("--to", choices=("jax", "diffusers"), default="jax")
    parser.add_argument("--parts", help=f"of {','.join(folders.PARTS)}; default: all there")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the source's")
    flags = parser.parse_args()
    try:
        release.convert(
            flags.src,
            flags.out,
            to=flags.to,
            parts=flags.parts.split(",") if flags.parts else None,
            dtype=flags.dtype,
        )
    except (ValueError, OSError) as error:
        parser.exit(1, f"convert_weights: {error}\n")


if __name__ == "__main__":
    main()
