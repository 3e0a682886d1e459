"""The token of a server that a network sees, as a header or as the cookie given for it."""

import asyncio
import hashlib
import hmac
import json
from http import cookies

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from syncmv4d_jax.serve.errors import Refused

COOKIE = "studio"
BODY = 4096  # bytes of a request with a token
PAUSE = 0.5  # seconds that a wrong one waits


class Door:
    """Knows the token; "" admits everybody."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def admits(self, request: HTTPConnection) -> bool:
        """Whether a request has the token, or its cookie."""
        if not self._secret:
            return True
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and same(given.strip(), self._secret):
            return True
        try:
            found = cookies.SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
        except cookies.CookieError:
            return False
        return found is not None and same(found.value, shown(self._secret))

    async def enter(self, request: Request) -> Response:
        """Gives the cookie for the token."""
        if int(request.headers.get("content-length") or 0) > BODY:
            raise Refused("too_large", "wanted a token", "token")
        try:
            given = str(json.loads(await request.body())["token"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Refused("bad_input", 'wanted {"token": "..."}', "token") from error
        if not self._secret or not same(given, self._secret):
            await asyncio.sleep(PAUSE)
            raise Refused("unauthorized", "this is not the server's token", "token")
        answer = JSONResponse({})
        answer.set_cookie(
            COOKIE, shown(self._secret), httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer


def shown(secret: str) -> str:
    """What the cookie holds: it shows that its bearer had the token, and does not tell it."""
    return hmac.new(secret.encode(), b"session", hashlib.sha256).hexdigest()


def same(given: str, wanted: str) -> bool:
    """Whether two texts are one, in a time that does not tell how far they are."""
    return hmac.compare_digest(given.encode(), wanted.encode())
