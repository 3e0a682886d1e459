"""What the training loop and the sampler know of a model: the `Task` protocol.

Parameters are one dict of parts, ``{"dit": ..., "dpa": ..., "vae": ...}``. `run/train.py` splits it
once by `Task.trainable`; gradients, optimiser, averages and checkpoints see that half only, the
other half is passed to `loss` as `frozen`. A part keeps its key in every task, so that stages
merge by path.
"""

from typing import Any, Protocol, runtime_checkable

import jax

Params = dict[str, Any]
Batch = dict[str, jax.Array]
Scalars = dict[str, jax.Array]


@runtime_checkable
class Task(Protocol):
    """A trainable, samplable model; `syncmv4d_jax.tasks.<name>.make(config)` returns one.

    Attributes:
      trainable: regex over parameter paths (`re.search`), e.g. ``"^(dit|dpa)/"``.

    A task may also define:
      cost(batch) -> {"tokens": int, "flops": float} of one global batch, from shapes alone; the
      loop
        then logs tokens/s, TFLOP/s and, where the chip is known, MFU.
      frozen_parts: names of the parts that must come from converted weights or from an earlier
        stage (``("vae",)``); the loop refuses to train on their random initial values.
      grow(params, given) -> params: derives parameters that no earlier weights have (all names but
        the frozenset `given`) from those that they have; runs under jit.
      placement: what models get as their `placement` argument; single-device when built, replaced
        by the loop (`sharded.Placement`) where the mesh has several devices.
    """

    trainable: str

    def init(self, rng: jax.Array) -> Params:
        """Returns initial parameters, a dict of parts; runs under jit."""
        ...

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Scalars]:
        """Returns the loss [] float32 and the scalars to log; runs under jit and value_and_grad."""
        ...

    def sample(self, params: Params, inputs: Batch, rng: jax.Array) -> dict[str, Any]:
        """Returns latents, tracks and scale for `inputs`."""
        ...
