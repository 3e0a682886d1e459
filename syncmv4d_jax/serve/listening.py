"""A port, and an application that answers at it until it is told to stop."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from syncmv4d_jax.serve import limits

BACKLOG = 512
LEAVE = 5  # seconds for answers that are on their way when the server stops


def listen(host: str, port: int) -> socket.socket:
    """Opens a port, 0 for any free one.

    Raises:
      OSError: it is taken, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise OSError(f"{host}:{port}: cannot listen there ({error.strerror})") from error
    return made


def address(listener: socket.socket) -> str:
    """Where it is, for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def say(what: str, listener: socket.socket) -> None:
    """The line that people, and programs which started this, read the address in."""
    print(f"{what} {address(listener)} (Ctrl-C stops)", flush=True)


def answer(
    application: ASGIApp, listener: socket.socket, *, until: Callable[[], bool] = lambda: False
) -> None:
    """Answers until a signal comes, or `until` is true."""
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            http=limits.Protocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=20,
            timeout_graceful_shutdown=LEAVE,
            h11_max_incomplete_event_size=32 * 1024,
        )
    )

    async def watch() -> None:
        while not server.should_exit:
            await asyncio.sleep(0.5)
            server.should_exit = server.should_exit or until()

    async def both() -> None:
        # The server is the main task: what a signal raises in it comes out of asyncio.run.
        watching = asyncio.create_task(watch())
        await server.serve(sockets=[listener])
        watching.cancel()

    if threading.current_thread() is threading.main_thread():  # else it would not be tidied up
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(both())
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # nobody may read any more
            print()
