"""A held-out example sampled with the weights of the moment, as one picture.

The example is the first of `config.sample.split`; key and example never change, so that pictures of
different steps differ by the weights alone. All processes of a run draw together.
"""

from typing import Any

import jax
import numpy as np

from syncmv4d_jax import tree
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.results import samples, sheet
from syncmv4d_jax.run import assembly, inputs

Tree = Any


class Pictures:
    """Callable: trainable half of the parameters -> picture [h w 3] uint8.

    Args:
      config: of the run; reads `config.data`, `config.sample`.
      task: with encode_pixels, sample and decode_pixels.
      frozen: the other half of the parameters.
      mesh: of the run.

    Raises:
      ValueError: a task that makes no videos, or a split without examples.
    """

    def __init__(self, config: Any, task: Any, frozen: Tree, mesh: jax.sharding.Mesh) -> None:
        if not hasattr(task, "decode_pixels"):
            raise ValueError(
                f"config.train.sample_every: task {config.task.name!r} makes no videos, wanted 0"
            )
        found = next(iter(inputs.examples(assembly.read(config), config.sample.split)), None)
        if found is None:
            raise ValueError(
                f"config.train.sample_every: split {config.sample.split!r} has no example"
            )
        self._example = found[1]
        self._task, self._frozen = task, frozen
        self._everywhere = jax.NamedSharding(mesh, jax.P())
        # Every group of devices that trains on its own samples draws the same example.
        self._groups = mesh.shape["data"] * mesh.shape["fsdp"]
        self._cut = meshes.batch_sharding(mesh)
        self._encode, self._decode = jax.jit(task.encode_pixels), jax.jit(task.decode_pixels)
        self._whole = jax.jit(lambda x: x, out_shardings=self._everywhere)

    def __call__(self, trainable: Tree) -> np.ndarray:
        example = self._example
        params = tree.unflatten(tree.flatten(self._frozen) | tree.flatten(trainable))
        batch = self._put({k: example[k] for k in inputs.CONTEXT if k in example})
        first = self._put({"first": example["video"][:, :1]})["first"]
        batch["first"] = self._encode(params, first)
        result = self._task.sample(params, batch, jax.random.key(0))
        video = self._decode(params, result["video"])
        shown = {"video": video} | {k: result[k] for k in ("tracks_per_view",) if k in result}
        shown = {k: np.asarray(x)[0] for k, x in self._whole(shown).items()}
        rig = {k: example[k] for k in ("intrinsics", "extrinsics") if k in example}
        if "extrinsics" in rig:
            rig["extrinsics"] = cameras.static(rig["extrinsics"], where="pictures")
        drawn = {**shown, "video": samples.to_uint8(shown["video"]), **rig}
        return sheet.grid(drawn, {"video": example["video"], **rig})

    def _put(self, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        batch = {k: np.repeat(np.asarray(x)[None], self._groups, 0) for k, x in arrays.items()}
        return meshes.put(batch, {k: self._cut for k in batch})
