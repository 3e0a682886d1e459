"""Files of a request: counted while they come, decoded by another process, named by their place.

What a request calls its files is told again in sentences, cut and without control characters, and
says which camera an image is of; it is never a path.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool

import syncmv4d_jax
from syncmv4d_jax.serve.errors import Refused

SECONDS = 180.0  # by the clock, for the files of one request; of a processor: serve/decode.py
TOLD, SUFFIXED = 60, 200  # characters of a name in a sentence; of one that must keep its end


def shown(name: str, most: int = TOLD) -> str:
    """A file's name as a sentence has it, of so many characters."""
    plain = "".join(c for c in name if unicodedata.category(c)[0] != "C")
    return plain.replace("\\", "/").split("/")[-1][:most] or "a file without a name"


def stem(name: str) -> str:
    """A file's name without its suffix, to be compared with a camera's."""
    plain = unicodedata.normalize("NFC", shown(name))
    return plain.rsplit(".", 1)[0] if "." in plain else plain


class Decoded(NamedTuple):
    """sizes: (h, w) of the pictures.  drawn: {"meshes" or "depth": what the page draws of it}."""

    sizes: list[tuple[int, int]]
    drawn: dict[str, Any]


async def decode(
    folder: Path,
    files: Mapping[str, Sequence[tuple[str, bytes]]],
    told: Mapping[str, Any],
    *,
    pixels: int,
    seconds: float = SECONDS,
) -> Decoded:
    """Decodes files of a request into a folder that is there: pictures become 000.png, ...; meshes
    and depth what serve/meshes.py and serve/deep.py say.

    Args:
      files: {"images", "meshes", "depth": (what a file is called, its content)}.
      told: how meshes and depth are to be read.
      pixels: of a picture, at most.

    Raises:
      Refused: something that is not what it should be, or too large to be decoded here; the first.
    """
    given, names = folder / "given", {"images": [shown(name) for name, _ in files["images"]]}
    for kind in files.keys() - names:  # whose suffixes count
        names[kind] = [shown(name, SUFFIXED) for name, _ in files[kind]]
    await run_in_threadpool(_lay, given, files, {"meshes": [], "depth": [], **told, **names})
    try:
        rows = await _asked(folder, pixels, seconds)
    except (TimeoutError, ValueError) as error:
        kind = next((x for x in ("meshes", "depth") if files.get(x)), "images")
        every = ", ".join(name for part in names.values() for name in part)
        words = f"{kind}: {every[:400]}: cannot be decoded in time and memory"
        raise Refused("bad_input", words, kind) from error
    finally:
        await run_in_threadpool(shutil.rmtree, given, ignore_errors=True)
    for i, (row, name) in enumerate(zip(rows["images"], names["images"], strict=True)):
        if isinstance(row, str):
            words = row.replace(str(given / f"{i:03d}.image"), name)
            raise Refused("bad_input", words, "images")
    drawn = {kind: row for kind, row in rows.items() if kind != "images"}
    for kind, row in drawn.items():
        if "error" in row:
            where = row["where"] or kind
            raise Refused("bad_input", row["error"].replace(f"{folder}/", ""), where)
    return Decoded([(row[0], row[1]) for row in rows["images"]], drawn)


def _lay(
    given: Path, files: Mapping[str, Sequence[tuple[str, bytes]]], told: Mapping[str, Any]
) -> None:
    given.mkdir()
    suffixes = {"images": "image", "meshes": "mesh", "depth": "depth"}
    for kind, rows in files.items():
        for i, (_, data) in enumerate(rows):
            (given / f"{i:03d}.{suffixes[kind]}").write_bytes(data)
    (given / "told.json").write_text(json.dumps(told), encoding="utf-8")


async def _asked(folder: Path, pixels: int, seconds: float) -> dict[str, Any]:
    """What the process that decodes says; raises TimeoutError, ValueError where it says nothing."""
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
        rows: dict[str, Any] = json.loads(said)
        return rows
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
