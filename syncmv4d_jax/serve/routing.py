"""Routes whose refusals are JSON (serve/errors.py)."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from syncmv4d_jax.serve import gate
from syncmv4d_jax.serve.errors import Refused

OTHERS = {
    404: ("not_found", "there is nothing here"),
    405: ("method_not_allowed", "not with this method"),
}


def routed(routes: Sequence[BaseRoute]) -> Starlette:
    """The application of these routes."""
    handlers = {Refused: _refused, HTTPException: _other, ClientDisconnect: _gone, Exception: _bug}
    return Starlette(routes=routes, exception_handlers=handlers)


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, Refused)
    return gate.answer(error)


async def _other(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, words = OTHERS.get(error.status_code, ("bad_input", str(error.detail)[:200]))
    found = gate.answer(Refused(code, words))
    if code == "method_not_allowed":
        found.headers["Allow"] = ", ".join(_methods(request))
    return found


def _methods(request: Request) -> list[str]:
    """What the routes of a path answer: there may be several, of a method each."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in here for method in route.methods or ()})


async def _gone(request: Request, error: Exception) -> Response:
    del request, error  # nobody reads it
    return Response(status_code=400)


async def _bug(request: Request, error: Exception) -> Response:
    del request
    return gate.answer(Refused("internal", f"{type(error).__name__}: see the server's output"))
