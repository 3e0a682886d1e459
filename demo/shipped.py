"""The weights that the demo ships, and what it makes of them where they are to be used."""

from pathlib import Path

import numpy as np

from syncmv4d_jax.weights import store

FOLDER = Path(__file__).parent / "weights"


def unpack(weights: Path, folder: Path = FOLDER) -> None:
    """Puts the autoencoder of `folder` into the folder `weights`, where none is in it: float32, as
    the demo trains it. Without one in `folder` nothing is done: a stage of the demo makes it."""
    if (folder / "vae").is_dir() and not (weights / "vae").is_dir():
        config, params = store.load("vae", folder, dtype=np.float32)
        source = {"by": "demo/weights"}
        store.save("vae", config, params, weights, source=source, dtype=np.float32)


def flags(*parts: str) -> list[str]:
    """What a run is told to start these parts from the shipped weights; [] where there are none."""
    file = FOLDER / "model.safetensors"
    return [f"--config.weights.{part}={file}" for part in parts] if file.is_file() else []
