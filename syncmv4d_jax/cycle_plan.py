"""Which sampling steps close the loop (A22, A23): plans for `cycle`, made before compilation."""

from typing import Any


def plan_steps(sigmas: Any, settings: Any, *, anchors_given: bool) -> list[tuple[int, int, bool]]:
    """Splits a sampler's steps into runs: (first, last + 1, whether this one step refines).

    Args:
      sigmas: [steps + 1], host array, decreasing to 0.
      settings: a `cycle.Settings`: refine_every, refine_last, anchor_time.
      anchors_given: False delays the first refinement until sigma <= anchor_time (A23).

    Returns:
      Runs in order; a refining run has one step. Without an aligner there is one plain run.
    """
    steps = len(sigmas) - 1
    if not settings.dpa:
        return [(0, steps, False)]
    start = 0
    if not anchors_given:
        start = next(i for i in range(steps) if sigmas[i] <= settings.anchor_time or i == steps - 1)
    refine = [
        i >= start
        and (
            i == start
            or (i - start) % settings.refine_every == 0
            or i >= steps - settings.refine_last
        )
        for i in range(steps)
    ]
    runs, first = [], 0
    for i in (i for i, chosen in enumerate(refine) if chosen):
        runs += [(first, i, False), (i, i + 1, True)]
        first = i + 1
    return [run for run in [*runs, (first, steps, False)] if run[0] < run[1]]


def plan_warps(sigmas: Any, runs: list[tuple[int, int, bool]], settings: Any) -> list[bool]:
    """Returns for each run whether it takes a fresh warp from its own estimate of frame 0.

    Refining runs do until sigma has fallen to `settings.anchor_time`; the first one there is the
    last that does. Where anchors are set on the way (A23) the warp is so computed once a sample.
    """
    fresh, settled = [], False
    for begin, _, refine in runs:
        fresh.append(refine and not settled)
        settled = settled or (refine and sigmas[begin] <= settings.anchor_time)
    return fresh


def plan_guidance(
    sigmas: Any, runs: list[tuple[int, int, bool]], interval: tuple[float, float]
) -> list[tuple[int, int, bool, bool]]:
    """Returns runs that are guided throughout or not at all: (first, last + 1, refine, guided).

    Args:
      sigmas: [steps + 1], host array.
      runs: of `plan_steps`.
      interval: (lowest, highest) sigma that is guided.
    """
    low, high = interval
    result: list[tuple[int, int, bool, bool]] = []
    for begin, end, refine in runs:
        for i in range(begin, end):
            guided = bool(low <= sigmas[i] <= high)
            if i > begin and result[-1][3] == guided:
                result[-1] = (result[-1][0], i + 1, refine, guided)
            else:
                result.append((i, i + 1, refine, guided))
    return result
