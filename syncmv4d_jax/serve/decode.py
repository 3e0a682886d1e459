"""Decodes other people's pictures in a process of its own, which can run out of time and memory.

    python -m syncmv4d_jax.serve.decode FOLDER --pixels N      (serve/uploads.py starts it)

FOLDER/*.upload -> FOLDER/*.png, read as data/pictures.py reads them; prints a JSON list with a row
a picture, [height, width] or a sentence.
"""

import argparse
import json
import resource
import warnings
from pathlib import Path

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
    print(json.dumps([one(path, flags.pixels) for path in sorted(flags.folder.glob("*.upload"))]))


def one(path: Path, most: int) -> list[int] | str:
    """Decodes one picture beside its upload; returns its (h, w), or what is wrong."""
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
        Image.fromarray(pixels).save(path.with_suffix(".png"), compress_level=1)
    except MemoryError:
        return f"{path}: takes more memory than a picture may"
    except (ValueError, OSError) as error:
        return str(error)
    return list(pixels.shape[:2])


if __name__ == "__main__":
    main()
