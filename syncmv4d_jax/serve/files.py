"""Files as answers: those of the pages, and those of results."""

import functools
import importlib.resources
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from syncmv4d_jax.serve import gate
from syncmv4d_jax.serve.errors import Refused

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".npz": "application/octet-stream",
    ".zip": "application/zip",
    ".glb": "model/gltf-binary",
    ".usda": "text/plain; charset=utf-8",
    ".rrd": "application/octet-stream",
}
PAGES = ("syncmv4d_jax.serve", "syncmv4d_jax.results.web")  # packages with a folder page/


@functools.cache
def _pages() -> dict[str, bytes]:
    """{name: content} of the pages' files."""
    found = {}
    for package in PAGES:
        for entry in importlib.resources.files(package).joinpath("page").iterdir():
            found[entry.name] = entry.read_bytes()
    return found


def page(name: str) -> Response:
    """A page of serve/page."""
    return _packaged(name)


def static(name: str) -> Response:
    """A style sheet or a script.

    Raises:
      Refused: there is none of this name.
    """
    if not name.endswith((".css", ".js")) or name not in _pages():
        raise Refused("not_found", "there is nothing here")
    return _packaged(name)


def _packaged(name: str) -> Response:
    kind = TYPES[f".{name.rsplit('.', 1)[-1]}"]
    return Response(_pages()[name], 200, {"Cache-Control": "no-cache"}, kind)


async def response(path: Path) -> Response:
    """A file of a result; of a page with what it may do (`gate.page_policy`)."""
    kind = TYPES.get(path.suffix, "application/octet-stream")
    if path.suffix == ".html":
        return html(await run_in_threadpool(path.read_text, "utf-8"))
    return FileResponse(path, 200, {"Cache-Control": "private, max-age=3600"}, kind)


def html(text: str, policy: str = "") -> Response:
    """A page that is one file; without a `policy` of its own one of a result."""
    headers = {"Content-Security-Policy": policy or gate.page_policy(text)}
    return Response(text, 200, headers, TYPES[".html"])
