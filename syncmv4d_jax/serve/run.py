"""`config.mode=serve`: the studio and the server of one configuration, over one workdir.

    DIR/jobs/<id>/...       jobs, their inputs and results (serve/jobs.py)

One process answers, another one makes samples. The first line on standard output says where.
"""

import functools
from pathlib import Path
from typing import Any

from syncmv4d_jax.run import assembly
from syncmv4d_jax.serve import app, dispatch, gate, jobs, listening, maker

DAY = 86400.0


def run(config: Any, workdir: str | Path) -> None:
    """Serves until it is told to stop (Ctrl-C, SIGTERM).

    Raises:
      ValueError: a task that makes no videos, another host without a token, or what a worker could
        not load.
      OSError: the port is taken.
    """
    own, workdir = assembly.read(config).serve, Path(workdir)
    secret = gate.token(own.host, own.token_file)
    wants = maker.wants(config)
    store = jobs.Store(workdir / "jobs")
    plain = config.copy_and_resolve_references().unlock()
    dispatcher = dispatch.Dispatcher(
        store,
        functools.partial(maker.load, plain, workdir),
        seconds=own.seconds,
        keep=own.keep_days * DAY,
    )
    most = app.Limits(
        bytes=own.megabytes * 2**20,
        images=own.images,
        pixels=round(own.megapixels * 1e6),
        waiting=own.waiting,
        per_minute=own.jobs_per_minute,
    )
    listener = listening.listen(own.host, own.port)
    dispatcher.start()
    try:
        studio = app.Studio(dispatcher, wants, most, secret)
        whole = app.application(studio, host=own.host, secret=secret)
        listening.say(f"{workdir} at", listener)
        listening.answer(whole, listener, until=lambda: bool(dispatcher.broken))
    finally:
        dispatcher.stop()
    if dispatcher.broken:
        raise ValueError(dispatcher.broken)
