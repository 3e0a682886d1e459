"""Tables of made-up scenes, and which bars they fail."""

import numpy as np

from syncmv4d_jax.metrics import summary


def checked(make, good, change=(), *, scenes=16, triplets=8, without=()):
    """(names of the failing checks, all checks) of scenes with the values {row: {metric: value}} of
    `good`, changed at {(row, metric): value}, and some noise."""
    rng = np.random.default_rng(0)
    scores = {}
    for i in range(scenes):
        rows = {r: dict(cells) for r, cells in good.items() if r not in without}
        for (row, metric), value in dict(change).items():
            rows[row][metric] = value
        scores[str(i)] = {r: {m: x * (1 + rng.normal(0, 0.01)) for m, x in cells.items()}
                          for r, cells in rows.items()}  # fmt: skip
    clusters = {str(i): f"triplet {i % triplets}" for i in range(scenes)}
    found = make(summary.rows(scores, clusters), clusters)
    return [c["name"].split(":")[0] for c in found if not c["passed"]], found
