"""A folder of runs over HTTP: the list, reports, a page and a .glb of every sample, and files."""

from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from syncmv4d_jax.results.web import listing
from syncmv4d_jax.serve import files, gate, limits, routing, session
from syncmv4d_jax.serve.errors import Refused

BODY = 4096  # bytes of a request


def application(root: str | Path, *, host: str, secret: str) -> ASGIApp:
    """The whole, with its gate around it.

    Raises:
      NotADirectoryError: root is no folder.
    """
    top = Path(root).resolve()
    if not top.is_dir():
        raise NotADirectoryError(f"{root}: wanted a folder of results")
    door = session.Door(secret)

    async def answer(request: Request) -> Response:
        if not door.admits(request):  # only the list's own address comes so far
            return files.page("enter.html")
        # The path as it was sent, its %xx resolved once.
        path = listing.inside(top, request.scope["path"])
        if path is None:
            raise Refused("forbidden", "outside of the folder that is served")
        if path == top:
            return files.html(await run_in_threadpool(listing.listing, top), gate.LIST)
        sample = path.with_suffix("") if path.suffix == ".glb" and not path.exists() else path
        if sample.parent.name == "samples" and (sample / "meta.json").is_file():
            return await _sample(sample, tracks=sample != path)
        if not path.is_file() or path.suffix not in files.TYPES:
            raise Refused("not_found", "no such result")
        return await files.response(path)

    async def static(request: Request) -> Response:
        return files.static(request.path_params["name"])

    routes = [
        Route("/static/{name}", static),
        Route("/v1/session", door.enter, methods=["POST"]),
        Route("/{path:path}", answer),
    ]
    inner = limits.Body(routing.routed(routes), BODY)
    return gate.Gate(inner, host, secret)


async def _sample(folder: Path, *, tracks: bool) -> Response:
    """A sample's page, or its tracks as glTF."""
    try:
        if not tracks:
            return files.html(await run_in_threadpool(listing.sample_page, folder))
        data = await run_in_threadpool(listing.sample_glb, folder)
    except (ValueError, OSError, KeyError) as error:
        refused = Refused("not_found", f"{type(error).__name__}: {error}")
        return JSONResponse(refused.body(), refused.status)
    return Response(data, 200, media_type=files.TYPES[".glb"])
