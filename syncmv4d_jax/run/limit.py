"""A stage that ends in time: which of its steps is the last is planned from the measured rate.

With `train.minutes` a stage has that long from its start, compilation included. At every logged
step the seconds of a step are known better, and what is left holds so many more:

    last = step + (left - SAVING) / seconds,   at most `train.steps`

The learning rate's schedule has the length `last`, an input of the program: nothing is compiled
anew when the plan changes. Without `train.minutes` the last step is `train.steps`.
"""

import time
from collections.abc import Callable

import jax
import numpy as np

SAVING = 5.0  # seconds kept for the last checkpoint and the export


def planned(step: int, *, seconds: float, left: float, most: int) -> int:
    """Returns the last step of a stage at `step`, with `left` seconds of `seconds` a step."""
    return min(most, step + max(0, int((left - SAVING) / seconds)))


class Limit:
    """The last step of a stage, `last`, from its start on.

    Args:
      minutes: that the stage has, 0 = as long as it takes.
      steps: that it has at most.

    Raises:
      ValueError: a limit for several processes, whose clocks differ.
    """

    def __init__(
        self, minutes: float, *, steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if minutes and jax.process_count() > 1:
            raise ValueError(
                f"config.train.minutes={minutes:g}: wanted one process, got {jax.process_count()}"
            )
        self.last, self._steps, self._clock = steps, steps, clock
        self._end = clock() + 60 * minutes if minutes else None
        self._since: tuple[float, int] | None = None

    @property
    def length(self) -> np.ndarray | None:
        """[] float32, of the schedule; None: the configuration's."""
        return None if self._end is None else np.asarray(self.last, np.float32)

    def reached(self, step: int) -> bool:
        """Whether a step is the last one, by the plan or as the time is over."""
        late = self._end is not None and self._clock() > self._end - SAVING
        return late or step >= self.last

    def plan(self, step: int) -> None:
        """Plans anew at a step that is computed; the first such step tells when the others began,
        since it was compiled before."""
        if self._end is None:
            return
        now = self._clock()
        if self._since is None:
            self._since = now, step
        elif step > self._since[1]:
            seconds = (now - self._since[0]) / (step - self._since[1])
            self.last = planned(step, seconds=seconds, left=self._end - now, most=self._steps)
