"""Weights of 8 bits for sampling: a transformer's blocks, from converted weights or exports.

    python data_prep/quantise.py --src /data/wan --out wan_int8.safetensors --to int8
    python -m syncmv4d_jax.main ... --config.mode=sample --config.weights.dit=wan_int8.safetensors

halves what bfloat16 takes on disk and on the device; docs/few_steps.md says what it changes.
Training refuses such a file. `--config.sample.precision=int8` does the same while weights are
loaded.

    ... --src out/hvg/video.safetensors out/hvg/control.safetensors --part dit,control,points

takes several parts, each from the first source that has it. What was trained beside a transformer
that is taken too belongs to its 8 bits in the new file.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import disk, tree
from syncmv4d_jax.models.nn import quantised
from syncmv4d_jax.run import checkpoint, initial, precision
from syncmv4d_jax.weights import exports, slices


def find(part: str, sources: Sequence[str]) -> slices.Files:
    """Opens the first source that has a part.

    Raises:
      KeyError, FileNotFoundError: none has; what the last one said.
    """
    for src in sources[:-1]:
        try:
            return initial.weights(part, src)
        except (KeyError, FileNotFoundError):
            continue
    return initial.weights(part, sources[-1])


def read(source: slices.Files, kind: str, rest: str) -> dict[str, np.ndarray]:
    """{path: array} of a source, kernels of blocks quantised, the rest as `rest` ("": as it is)."""
    flat = {}
    for name, leaf in source.leaves.items():
        x = leaf.read((slice(None),) * len(leaf.shape))
        if quantised.chosen(name):
            one: dict[str, Any] = {name: jnp.asarray(x)}
            quantised.replace(one, kind)
            flat |= {key: np.asarray(value) for key, value in one.items()}
        else:
            flat[name] = x.astype(jnp.dtype(rest)) if rest else x
    return flat


def convert(
    sources: Sequence[str], parts: Sequence[str], out: str, kind: str, *, rest: str = ""
) -> None:
    """Writes parts of sources as one file; rest: dtype of what is not quantised, "" as it is.

    Raises:
      FileNotFoundError, KeyError: a part is nowhere.
      ValueError: a part was trained beside another one than is taken.
    """
    found = {part: find(part, sources) for part in parts}
    flat = {}
    for source in found.values():
        flat |= read(source, kind, rest)
    named = sorted({name for source in found.values() for name in source.beside})
    whole = tree.unflatten(flat)
    made, beside = checkpoint.part_marks(whole, [part for part in named if part in found]), {}
    for part in named:
        wanted = {source.beside[part] for source in found.values() if part in source.beside}
        if part in found:
            shapes = {
                name: jax.ShapeDtypeStruct(shape, jnp.float32)
                for name, shape in found[part].shapes.items()
            }
            stored = precision.part_marks(dict.fromkeys(shapes, found[part]), shapes, [part])
            wanted.add(stored[part])
        if len(wanted) > 1:
            raise ValueError(
                f"{part!r}: not the one that the others were trained beside (hashes "
                f"{', '.join(sorted(wanted))}); give the source of that one"
            )
        beside[part] = made.get(part, next(iter(wanted)))
    told: dict[str, Any] = {"precision": kind, "source": ", ".join(map(str, sources))}
    if len(sources) == 1 and str(sources[0]).endswith(".safetensors"):
        # The run's configuration stays with its weights.
        told = exports.told(Path(sources[0])) | told
    told |= {"beside": beside} if beside else {}
    exports.write(whole, out, dtype="", metadata=told)


def main() -> None:
    """Parses the flags and converts; a bad source ends with its message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--src", type=disk.local, required=True, nargs="+", help="folders, or exported files")
    add("--out", type=disk.local, required=True, help="safetensors file to write")
    add("--part", default="dit", help="of the sources, several by commas (dit)")
    add("--to", choices=sorted(quantised.LARGEST), default="int8")
    flags = parser.parse_args()
    try:
        convert(flags.src, flags.part.split(","), flags.out, flags.to)
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"quantise: {error}")


if __name__ == "__main__":
    main()
