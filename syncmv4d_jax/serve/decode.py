"""Decodes other people's files in a process of its own, which can run out of time and memory.

    python -m syncmv4d_jax.serve.decode FOLDER --pixels N      (serve/uploads.py starts it)

FOLDER/given/*.image -> FOLDER/*.png, read as data/pictures.py reads them; meshes and depth that
FOLDER/given/told.json names as serve/meshes.py and serve/deep.py say. Prints JSON: `images`, a row
a picture, [height, width] or a sentence; `meshes` and `depth`, where they are given, what the page
draws of them, or {error, where}.
"""

import argparse
import functools
import json
import resource
import warnings
from pathlib import Path
from typing import Any

MEMORY = 3 * 2**30  # bytes of addresses
PROCESSOR = 60  # seconds


def main() -> None:
    """Decodes what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pixels", type=int, required=True, help="of a picture, at most")
    flags = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR, PROCESSOR))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    print(json.dumps(read(flags.folder, flags.pixels)))


def read(folder: Path, most: int) -> dict[str, Any]:
    """Decodes all that is given in a folder; what is wrong with the pictures comes first."""
    given = folder / "given"
    rows = [one(path, most) for path in sorted(given.glob("*.image"))]
    found: dict[str, Any] = {"images": rows}
    if any(isinstance(row, str) for row in rows):
        return found
    told = json.loads((given / "told.json").read_text(encoding="utf-8"))
    if told["meshes"]:
        from syncmv4d_jax.serve import drawn, meshes

        files = [(name, given / f"{i:03d}.mesh") for i, name in enumerate(told["meshes"])]
        found["meshes"] = drawn.answered(functools.partial(meshes.read, folder, files, told))
    if told["depth"]:
        from syncmv4d_jax.serve import deep, drawn

        file, (name, *_) = given / "000.depth", told["depth"]
        found["depth"] = drawn.answered(functools.partial(deep.read, folder, name, file, told))
    return found


def one(path: Path, most: int) -> list[int] | str:
    """Decodes one picture of FOLDER/given into FOLDER; returns its (h, w), or what is wrong."""
    from PIL import Image

    from syncmv4d_jax.data import pictures

    Image.MAX_IMAGE_PIXELS = most
    try:
        with Image.open(path) as image:  # the head alone
            width, height = image.size
        if width * height > most:
            return f"{path}: {width} x {height} pixels, wanted at most {most} in all"
    except Exception as error:  # a damaged head raises whatever its parser runs into
        if isinstance(error, Image.DecompressionBombError):
            return f"{path}: more than {most} pixels"
    try:
        pixels = pictures.read(path)
        target = path.parents[1] / f"{path.stem}.png"
        Image.fromarray(pixels).save(target, compress_level=1)
    except MemoryError:
        return f"{path}: takes more memory than a picture may"
    except (ValueError, OSError) as error:
        return str(error)
    return list(pixels.shape[:2])


if __name__ == "__main__":
    main()
