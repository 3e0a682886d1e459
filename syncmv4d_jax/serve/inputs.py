"""The files of a request as inputs of a job: which are wanted, whose camera an image is, decoded.

000.png, ...    the pictures, in the order of the views
cameras.json    of a task with cameras, by the numbers of the views
meshes.npz, depth.npz    serve/meshes.py, serve/deep.py
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from syncmv4d_jax.data import rigs
from syncmv4d_jax.serve import requests, uploads
from syncmv4d_jax.serve.errors import Refused

DECODED = 2  # requests whose files are decoded at a time
Files = Mapping[str, Sequence[tuple[str, bytes]]]


class Reader:
    """Reads requests for one task."""

    def __init__(self, wants: requests.Wants, *, images: int, pixels: int) -> None:
        """Args: images: files of a field, at most. pixels: of a picture."""
        self._wants, self._images, self._pixels = wants, images, pixels
        self._decoding = asyncio.Semaphore(DECODED)

    async def job(self, fields: Mapping[str, str], files: Files, folder: Path) -> tuple[str, ...]:
        """Lays a job's inputs down in `folder`, which is not there; returns the views' names.

        Raises:
          Refused: files that are missing, too many, or not what they should be; `where` says which.
        """
        wants = self._wants
        for kind, words in (("meshes", "the meshes that move"), ("depth", "the image's depth")):
            if getattr(wants, kind) and not files[kind]:
                raise Refused("bad_input", f"{kind}: wanted {words}, got no file", kind)
        if wants.cameras and not fields.get("cameras", ""):
            raise Refused("bad_input", "cameras: wanted cameras.json, got none", "cameras")
        _, rig = await self._laid(fields, files, folder, whole=True)
        return tuple(rig or ())

    async def look(
        self, fields: Mapping[str, str], files: Files, folder: Path
    ) -> dict[str, dict[str, Any]]:
        """What the page draws of meshes or depth before a job is sent; raises as `job`."""
        drawn, _ = await self._laid(fields, files, folder)
        if not drawn:
            kinds = [kind for kind in self._wants.files if kind != "images"]
            words = f"wanted a file in one of the fields {kinds}, got none"
            if not kinds:
                words = "this task reads no meshes and no depth: there is nothing to look at"
            raise Refused("bad_input", words)
        return drawn

    async def _laid(
        self, fields: Mapping[str, str], files: Files, folder: Path, *, whole: bool = False
    ) -> tuple[dict[str, Any], Mapping[str, rigs.Camera] | None]:
        """What is drawn, and the cameras; whole: every camera must have its image."""
        wants, rig, images = self._wants, None, files["images"]
        told = requests.told(fields, wants) | requests.shapes(fields, wants)
        if fields.get("cameras", ""):
            if not wants.cameras:
                raise Refused("bad_input", "cameras: this task reads none", "cameras")
            rig = await run_in_threadpool(requests.cameras, fields["cameras"], wants)
            stems = [uploads.stem(name) for name, _ in images]
            if images or whole:
                images = [images[i] for i in requests.order(stems, rig)]
        elif len(images) > 1:
            raise Refused("bad_input", f"images: wanted one, or none, got {len(images)}", "images")
        if len(files.get("depth", ())) > 1:
            raise Refused("bad_input", "depth: wanted one file, got several", "depth")
        if files.get("depth") and not images:
            raise Refused("bad_input", "images: wanted the one of this depth, got none", "images")
        folder.mkdir()
        if rig is not None:
            plain = json.dumps(requests.plain(rig))
            (folder / "cameras.json").write_text(plain, encoding="utf-8")
        if not any(files.values()):
            return {}, rig
        async with self._decoding:
            decoded = await uploads.decode(
                folder,
                {**files, "images": images},
                {**told, "size": self._wants.size},
                pixels=self._pixels,
            )
        if rig is not None and images:
            requests.fit(rig, decoded.sizes)
        return decoded.drawn, rig
