"""A held-out example sampled with the weights of the moment, as one picture.

The example is the first of `config.sample.split`; key and example never change, so that pictures of
different steps differ by the weights alone. All processes of a run draw together.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from syncmv4d_jax import schema, tree
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.results import samples, sheet
from syncmv4d_jax.run import assembly, inputs, sample
from syncmv4d_jax.tasks import base

Tree = Any


class Pictures:
    """Callable: trainable half of the parameters -> picture [h w 3] uint8.

    Args:
      config: of the run; reads `config.data`, `config.sample`.
      task: that makes videos (`tasks.base.Sampled`).
      frozen: the other half of the parameters.
      mesh: of the run.

    Raises:
      ValueError: a task that makes no videos, or a split without examples.
    """

    def __init__(self, config: Any, task: base.Task, frozen: Tree, mesh: jax.sharding.Mesh) -> None:
        self._task = base.serves(task, base.Sampled, "config.train.sample_every > 0")
        found = next(iter(inputs.examples(assembly.read(config), config.sample.split)), None)
        if found is None:
            raise ValueError(
                f"config.train.sample_every: split {config.sample.split!r} has no example"
            )
        anchors = "given" if config.sample.anchors == "given" else "own"
        self._example, self._inputs = found[1], inputs.given(found[1], anchors=anchors)
        self._frozen = frozen
        self._everywhere = jax.NamedSharding(mesh, jax.P())
        # Every group of devices that trains on its own samples draws the same example.
        self._groups = mesh.shape["data"] * mesh.shape["fsdp"]
        self._cut = meshes.batch_sharding(mesh)
        self._whole = jax.jit(lambda x: x, out_shardings=self._everywhere)

    def __call__(self, trainable: Tree) -> np.ndarray:
        example = self._example
        params = tree.unflatten(tree.flatten(self._frozen) | tree.flatten(trainable))
        given = self._inputs
        known = (*schema.CONDITIONS, *schema.CONTROLS, *schema.GEOMETRY)
        batch = self._put({k: given[k] for k in known if k in given})
        first = self._put({"first": given["images"][:, None]})["first"]
        batch["first"] = self._task.encode(params, first)
        drawn = self._task.sample(params, batch, jax.random.key(0))
        drawn = dataclasses.replace(drawn, motion_latents=None)  # is not shown
        shown = sample.shown(self._whole(self._task.decode(params, drawn)))
        shown = {k: shown[k] for k in ("video", "tracks_per_view") if k in shown}
        rig: dict[str, Any] = {k: example[k] for k in ("intrinsics", "extrinsics") if k in example}
        if "extrinsics" in rig:
            rig["extrinsics"] = cameras.poses(rig["extrinsics"])
        made = {**shown, "video": samples.to_uint8(shown["video"]), **rig}
        return sheet.grid(made, {"video": example["video"], **rig})

    def _put(self, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        batch = {k: np.repeat(np.asarray(x)[None], self._groups, 0) for k, x in arrays.items()}
        return meshes.put(batch, {k: self._cut for k in batch})
