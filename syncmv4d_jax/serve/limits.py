"""What keeps one client from being in the way of the others: rates, sizes, time.

ASGI around the application: nothing in here knows a route.
"""

import asyncio
import collections
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from syncmv4d_jax.serve.errors import Refused

SILENCE = 30.0  # seconds in which a request must send something
WHOLE = 600.0  # seconds in which it must be here
HEAD = 20.0  # seconds in which a new connection must have sent a request's head
CLIENTS = 4096  # whose rates are remembered
TAIL = 128  # bytes at the end of a body that are kept: longer than a multipart boundary may be


class Rate:
    """So many a minute for each client, `burst` at once."""

    def __init__(self, per_minute: float, burst: int) -> None:
        self._each, self._burst = per_minute / 60.0, burst
        self._left: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def take(self, client: str, count: int = 1) -> float:
        """Takes so many, `burst` at most; returns 0, or the seconds until there will be as many."""
        now, count = time.monotonic(), min(count, self._burst)
        left, at = self._left.pop(client, (float(self._burst), now))
        left = min(self._burst, left + (now - at) * self._each)
        wait = 0.0 if left >= count else (count - left) / self._each
        self._left[client] = (left - count * (not wait), now)
        while len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        return wait


class Body:
    """Counts and times what a request sends: `application` gets no more than `most` bytes.

    What it does not take in time raises Refused where the application reads on. `scope["tail"]` is
    a list with the last bytes that came.
    """

    def __init__(self, application: ASGIApp, most: int, silence: float = SILENCE) -> None:
        self._application, self._most, self._silence = application, most, silence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        scope["tail"], count, begin, ended = [b""], 0, time.monotonic(), False

        async def counted() -> Message:
            nonlocal count, ended
            if ended:  # what comes now is that the client has gone
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._silence)
            except TimeoutError as error:
                words = f"wanted the rest of the request within {self._silence:g} s"
                raise Refused("timeout", words) from error
            ended = not message.get("more_body")
            count += len(message.get("body", b""))
            if count > self._most:
                raise Refused("too_large", too_large(self._most))
            if time.monotonic() - begin > WHOLE and not ended:
                raise Refused("timeout", f"wanted the whole request within {WHOLE:g} s")
            scope["tail"][0] = (scope["tail"][0] + message.get("body", b""))[-TAIL:]
            return message

        await self._application(scope, counted, send)


def claimed(headers: Mapping[str, str], most: int) -> None:
    """Refuses a body that says itself that it is too large, before it is read.

    Raises:
      Refused: a length above `most`.
    """
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise Refused("too_large", too_large(most))


def too_large(most: int) -> str:
    """The sentence."""
    return f"wanted a request of at most {most / 2**20:.4g} MiB"


class Protocol(H11Protocol):
    """uvicorn's, which closes a connection whose first request does not come."""

    def connection_made(self, transport: Any) -> None:
        """Sets the clock."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Takes it away."""
        self._late.cancel()
        super().connection_lost(exc)

    def _close(self) -> None:
        if self.cycle is None:
            self.transport.close()
