"""Runs a network over many images in batches of one size, over all devices of this process."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


class Batched:
    """A function of (params, *batches), compiled for one batch size over all local devices."""

    def __init__(self, function: Callable[..., jax.Array], params: Any, *, size: int):
        mesh = jax.make_mesh(
            (jax.local_device_count(),), ("b",), devices=jax.local_devices(),
            axis_types=(jax.sharding.AxisType.Auto,),
        )  # fmt: skip
        self._split = jax.NamedSharding(mesh, jax.P("b"))
        whole = jax.NamedSharding(mesh, jax.P())
        self._params = jax.device_put(params, whole)
        self._devices = jax.local_device_count()
        self._size = size * self._devices
        self._function = jax.jit(function, out_shardings=self._split)

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Maps over the leading axis; the last batch is filled up by repeating its last entry."""
        found = []
        size = min(self._size, -(-len(arrays[0]) // self._devices) * self._devices)
        for start in range(0, len(arrays[0]), max(size, 1)):
            parts = [x[start : start + size] for x in arrays]
            kept = len(parts[0])
            fill = [(0, size - kept)] + [(0, 0)] * (parts[0].ndim - 1)
            parts = [jax.device_put(np.pad(p, fill, mode="edge"), self._split) for p in parts]
            found.append(np.asarray(self._function(self._params, *parts))[:kept])
        return np.concatenate(found) if found else np.zeros(0)
