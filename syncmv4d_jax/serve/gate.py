"""The door of the server: who may come in, how often, and what every answer carries.

- It answers to its own names only (a page elsewhere cannot reach it under a name of its own), and
  takes changes from its own pages only (Origin, Sec-Fetch-Site), as a browser says them.
- With a token every request but the page to enter it, its files and /healthz must have it, as
  `Authorization: Bearer` or as the cookie that /v1/session gives for it.
- Each client may ask so many times a minute, and send so many jobs.
- No page may run a script that is not the server's own file (CSP), be framed by others, or be
  taken for another kind of file.
"""

import base64
import hashlib
import re
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from syncmv4d_jax.serve import limits, session
from syncmv4d_jax.serve.errors import Refused

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
TOKEN = 16  # characters that a token has at least
OPEN = re.compile(r"/(healthz|v1/session|static/[\w.-]+)?")  # without a token
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; frame-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
}
LIST = (  # of a page without scripts, whose styles are in it
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
PER_MINUTE, BURST = 3000.0, 400  # requests of a client


def token(host: str, file: str) -> str:
    """Reads the token that a host other than this machine needs.

    Raises:
      ValueError: such a host without a token, or a token that is too short.
      FileNotFoundError: no such file.
    """
    if not file:
        if host in LOOPBACK:
            return ""
        raise ValueError(
            f"host {host!r} shows this to a network: wanted a file with a token of at least "
            f"{TOKEN} characters (config.serve.token_file, view --token-file), or 127.0.0.1"
        )
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such file; wanted one with a token")
    found = Path(file).read_text(encoding="utf-8").strip()
    if len(found) < TOKEN or not found.isascii() or len(found.split()) != 1:
        raise ValueError(
            f"{file}: wanted one word of at least {TOKEN} ASCII characters, got {len(found)} "
            'characters (python -c "import secrets; print(secrets.token_urlsafe())")'
        )
    return found


class Gate:
    """ASGI around an application."""

    def __init__(
        self, application: ASGIApp, host: str, secret: str, *, per_minute: float = PER_MINUTE
    ) -> None:
        """Args: host: that is listened at. secret: the token, "" for none."""
        self._application, self._door = application, session.Door(secret)
        self._names = {host, *LOOPBACK} if host in LOOPBACK else None
        self._rate = limits.Rate(per_minute, BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for key, value in HEADERS.items():
                    headers.setdefault(key, value)
            await send(message)

        try:
            self._check(scope, Headers(scope=scope))
        except Refused as refused:
            await answer(refused)(scope, receive, dressed)
            return
        await self._application(scope, receive, dressed)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._names is not None and re.sub(r":\d+$", "", host) not in self._names:
            raise Refused("forbidden", "this server answers to its own name only")
        if scope["method"] not in ("GET", "HEAD"):
            site, origin = headers.get("sec-fetch-site"), headers.get("origin")
            if site not in (None, "same-origin", "none") or (
                origin is not None and origin not in (f"http://{host}", f"https://{host}")
            ):
                raise Refused("forbidden", "this request comes from the page of another server")
        client = (scope.get("client") or ("",))[0]
        if wait := self._rate.take(client):
            raise Refused("too_many_requests", f"too many requests: wait {wait:.1f} s")
        if not OPEN.fullmatch(scope["path"]) and not self._door.admits(HTTPConnection(scope)):
            words = "wanted the server's token: Authorization: Bearer TOKEN, or enter it at /"
            raise Refused("unauthorized", words)


def answer(refused: Refused) -> JSONResponse:
    """What a request that is refused is answered."""
    headers = {"Connection": "close"} if refused.code in ("too_large", "timeout") else {}
    if refused.code == "too_many_requests":
        headers["Retry-After"] = "1"
    return JSONResponse(refused.body(), refused.status, headers)


def page_policy(text: str) -> str:
    """The policy of a page that is one file, with its script in it.

    Its own scripts run by their hashes; it has no origin (sandbox), so that whatever a file in a
    folder of results says, it reads and asks nothing here.
    """
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    return (
        f"sandbox allow-scripts allow-downloads; default-src 'none'; script-src {hashes}; "
        "style-src 'unsafe-inline'; img-src data: blob:; media-src data: blob:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
