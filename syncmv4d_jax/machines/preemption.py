"""Noticing that the scheduler takes the machine away."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Whether the scheduler wants the machine back; a context manager around the training loop.

    Under jax.distributed the notice may reach one process only: `reached` is then jax's sync point,
    which all processes must ask at every step and which answers yes to all at the same step (jax
    has its own SIGTERM handler; a Python one over it would break this). A single process handles
    SIGTERM itself.
    """

    def __enter__(self) -> "Preemption":
        self._flag, self._previous = threading.Event(), None
        main = threading.current_thread() is threading.main_thread()
        if not jax.distributed.is_initialized() and main:
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._flag.set())
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def reached(self, step: int) -> bool:
        """Returns whether to save and stop after `step`."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._flag.is_set()
