"""The weights that the demo ships, and what it makes of them where they are to be used."""

import argparse
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import quantise
from syncmv4d_jax.models.nn import quantised
from syncmv4d_jax.run import checkpoint
from syncmv4d_jax.weights import exports, store

FOLDER = Path(__file__).parent / "weights"
MODEL = FOLDER / "model.safetensors"


class System(NamedTuple):
    """What is shipped of a system.

    config: what --config takes. parts: {part: file}. made_by: the command that makes them.
    synthesis: what sees along a camera path beside them.
    """

    config: str
    parts: dict[str, Path]
    made_by: str
    synthesis: Path | None = None


SYSTEMS = {
    "syncmv4d": System(
        "configs/readings/learned_codec.py:demo",
        dict.fromkeys(("dit", "dpa", "prior"), MODEL) | {"codec": FOLDER / "codec.safetensors"},
        "make demo-train",
    ),
    "hvg3d": System(  # this one and the next are of 8 bits (data_prep/quantise.py)
        "configs/hvg3d.py:demo",
        dict.fromkeys(("dit", "prior", "control", "points"), FOLDER / "hvg3d.safetensors"),
        "make demo-hvg DEMO_ARGS=--fresh",
    ),
    "more4d": System(
        "configs/strag.py:demo",
        dict.fromkeys(("dit", "perception", "codec", "flow_stats"), FOLDER / "strag.safetensors"),
        "make demo-more4d",
        FOLDER / "vism.safetensors",
    ),
}


def unpack(weights: Path, folder: Path = FOLDER) -> None:
    """Puts the autoencoder of `folder` into the folder `weights`, where none is in it: float32, as
    the demo trains it. Without one in `folder` nothing is done: a stage of the demo makes it."""
    if (folder / "vae").is_dir() and not (weights / "vae").is_dir():
        config, params = store.load("vae", folder, dtype=np.float32)
        source = {"by": "demo/weights"}
        store.save("vae", config, params, weights, source=source, dtype=np.float32)


def flags(*parts: str) -> list[str]:
    """What a run is told to start these parts from the shipped weights; [] where there are none."""
    return [f"--config.weights.{part}={MODEL}" for part in parts] if MODEL.is_file() else []


def ship(*sources: Path, system: str, synthesis: Path | None = None) -> int:
    """Puts the parts of a system that a demo trained in FOLDER, in 8 bits; returns the status.

    Raises:
      FileNotFoundError, KeyError: they are not there, or not all.
    """
    own = SYSTEMS[system]
    (out,) = set(own.parts.values())
    jobs = [([str(file) for file in sources], list(own.parts), out)]
    if synthesis is not None and own.synthesis is not None:
        jobs.append(([str(synthesis)], ["dit"], own.synthesis))
    for given, parts, out in jobs:
        quantise.convert(given, parts, str(out), "int8", rest="bfloat16")
        without_paths(out)
        print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    return 0


def refuse_short_and_fresh(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends a demo that is asked for a few steps and for all of them."""
    if args.short and args.fresh:
        parser.error("--fresh: trains for hours; leave --short out")


def widen(source: Path, out: Path) -> None:
    """Writes a shipped file as float32, from which can be trained, where it is not."""
    if out.is_file():
        return
    told, whole = exports.told(source), quantised.widened(exports.read(source, dtype=""))
    told |= {"beside": checkpoint.part_marks(whole, told.get("beside", ()))}
    exports.write(whole, out, metadata=told | {"source": f"{source.name}, widened"})


def without_paths(file: Path) -> None:
    """Leaves of every absolute path in what an export says of its run the name alone."""
    said = re.sub(r"(?<![\w.])/(?:[\w.-]+/)+", "", json.dumps(exports.told(file)))
    whole = exports.read(file, dtype="")
    exports.write(whole, file, dtype="", metadata=json.loads(said))
