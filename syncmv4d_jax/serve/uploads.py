"""Files of a request: counted while they come, decoded by another process, named by their place.

What a request calls its files is told again in sentences, cut and without control characters, and
says which camera an image is of; it is never a path.
"""

import asyncio
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import syncmv4d_jax
from syncmv4d_jax.serve.errors import Refused

SECONDS = 60.0  # for the pictures of one request
TOLD = 60  # characters of a name in a sentence


def shown(name: str) -> str:
    """A file's name as a sentence has it."""
    plain = "".join(c for c in name if unicodedata.category(c)[0] != "C")
    return plain.replace("\\", "/").split("/")[-1][:TOLD] or "a file without a name"


def stem(name: str) -> str:
    """A file's name without its suffix, to be compared with a camera's."""
    plain = unicodedata.normalize("NFC", shown(name))
    return plain.rsplit(".", 1)[0] if "." in plain else plain


async def decode(
    folder: Path, names: Sequence[str], *, pixels: int, seconds: float = SECONDS
) -> list[tuple[int, int]]:
    """Decodes FOLDER/000.upload, ... to 000.png, ... and removes the uploads.

    Args:
      names: of the files, for sentences.
      pixels: of a picture, at most.

    Returns:
      (h, w) of each.

    Raises:
      Refused: something that is no picture, or too large to be decoded here; the first of them.
    """
    root = str(Path(syncmv4d_jax.__file__).parents[1])
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}  # they take
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "syncmv4d_jax.serve.decode", str(folder)]
    process = await asyncio.create_subprocess_exec(
        *command, "--pixels", str(pixels), env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        said, _ = await asyncio.wait_for(process.communicate(), seconds)
        rows: list[Any] = json.loads(said)
    except (TimeoutError, ValueError) as error:
        words = f"images: {', '.join(map(shown, names))}: cannot be decoded in time and memory"
        raise Refused("bad_input", words, "images") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        if isinstance(row, str):
            words = row.replace(str(folder / f"{i:03d}.upload"), shown(name))
            raise Refused("bad_input", words, "images")
        (folder / f"{i:03d}.upload").unlink()
    return [(row[0], row[1]) for row in rows]
