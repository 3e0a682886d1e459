"""HVG-3D: a frozen video transformer made to follow point clouds and tracks (arXiv:2604.03305).

    x_t = (1 - t) x_0 + t e,   frame 0 given and held
    L   = w(t) mean |(1 + g m) (v(x_t, Z) - (e - x_0))|^2     over valid latent frames but the first

with m the share of a latent cell that hands and objects cover: the error counts (1 + g)^2 inside.
w and t are of Wan's table; with `prediction="data"` the error is of the clean latents, t uniform.
Z are the latents of points and of a tracking video (conditions.py); the branch that reads them
(models/control.py) and the points' encoder are trained, the backbone is frozen (backbone.py).

Parts of the parameters: `control`, `points` (trained); `dit`, `vae` and, with data prediction,
`prior` (frozen). A branch starts as copies of the backbone it is trained beside.
"""

import dataclasses
import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import flow, schema, tree
from syncmv4d_jax.geometry import masks
from syncmv4d_jax.models import control, point_condition
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import base, video
from syncmv4d_jax.tasks.hvg3d import backbone, conditions, cost, sampling
from syncmv4d_jax.tasks.hvg3d import network as networks
from syncmv4d_jax.tasks.hvg3d import options as task_options

Array = jax.Array
Params = dict[str, Any]
TEXT = ("text", "text_lengths", "null_text", "null_text_lengths")
READ = (
    "video_latents", *TEXT, *conditions.CLOUD, *conditions.RIG, "hoi_mask", "tracking_latents",
    "black_latents", "latent_valid", "view_index",
)  # fmt: skip
AXES = {
    key: schema.BATCH[key].axes for key in ("video", "mask", "tracking", "motion_latents", *READ)
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HVG3D(video.Coded):
    """The task; see `tasks.base.Task`."""

    name = "hvg3d"
    cameras = follows_surfaces = True
    trainable = r"^(control|points)/"
    beside = ("dit",)

    network: networks.Network

    @property
    def options(self) -> task_options.Options:
        """`config.task` without the networks."""
        return self.network.options

    @property
    def placement(self) -> protocol.Placement:
        """See `tasks.base.Task`."""
        return self.network.placement

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """See `tasks.base.Task`."""
        return ("dit", "vae", *["prior"] * (self.options.prediction == "data"))

    @property
    def clip(self) -> base.Clip:
        """Sizes of a sample."""
        return base.Clip(self.options.frames, self.options.size, self.options.views)

    @property
    def sampling(self) -> base.Sampling:
        """How a sample is made."""
        o = self.options
        return base.Sampling(o.sampler, o.sample_steps, o.sample_shift, o.guidance, o.prediction)

    def init(self, rng: Array) -> Params:
        """Returns initial parameters of all parts; the branch is the transformer's copy."""
        keys = jax.random.split(rng, 4)
        params = {
            "dit": self.network.backbone.init(keys[0]),
            "vae": module.init(vae.VAE, self.network.vae_config, keys[1]),
            "points": module.init(
                point_condition.PointCondition, self.network.point_config, keys[2]
            ),
        }
        params["control"] = control.init(self.network.control_config, keys[3], params["dit"])
        if self.options.prediction == "data":
            c = self.network.vae_config.z_dim
            params["prior"] = {"kernel": jnp.eye(c), "bias": jnp.zeros((c,))}
        return params

    def grow(self, params: Params, given: frozenset[str]) -> Params:
        """Returns parameters whose branch copies the transformer where it is not given itself."""
        own = {f"control/{name}": x for name, x in tree.flatten(params["control"]).items()}
        copied = control.copied(self.network.control_config, params["control"], params["dit"])
        grown = {f"control/{name}": x for name, x in tree.flatten(copied).items()}
        kept = {
            name: x if name in given else grown[name].astype(x.dtype) for name, x in own.items()
        }
        return {**params, **tree.unflatten(kept)}

    # Training.

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, Array], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss [] float32 and scalars for a batch of schema.BATCH.

        Of the batch are read video_latents (or video), text, the clouds' keys, tracking_latents and
        black_latents (or tracking), hoi_mask, cameras and latent_valid; of an MJD with joint motion
        motion_latents too.

        Raises:
          ValueError: a batch of other sizes, or without what the options need.
        """
        base.check(f"task {self.name}, loss", batch, AXES, **self.network.sizes())
        o, params = self.options, {**frozen, **trainable}
        keys = jax.random.split(rng, 4)
        data, b = self._data(params, batch), batch["text"].shape[0]
        if o.prediction == "data":
            t = flow.sample_uniform(keys[0], (b,), shift=o.time_shift)
            weight = jnp.ones_like(t)
        else:
            t, weight = flow.sample_table(keys[0], (b,), shift=o.time_shift)
        noise = {
            name: jax.random.normal(jax.random.fold_in(keys[1], i), x.shape)
            for i, (name, x) in enumerate(data.items())
        }
        noisy = {name: flow.interpolate(x, noise[name], t) for name, x in data.items()}
        first = data["video"][:, :, :1]
        noisy["video"] = flow.hold_first(noisy["video"], first)
        text = video.drop_text(batch, keys[2], share=o.text_drop)
        drop = conditions.Drop.draw(keys[3], b, (o.point_drop, o.tracking_drop, o.detail_drop))
        z = self.network.control_latents(params, batch, drop)
        velocity = self.network.velocity(
            params, noisy, t, backbone.Text(*text), self.network.views(batch), z, first
        )
        error = velocity["video"] - flow.velocity(data["video"], noise["video"])
        if o.prediction == "data":
            error = error * flow.bounded_time(t, error)
        return self._weighed(error, weight, batch)

    def _weighed(
        self, error: Array, weight: Array, batch: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """The loss of errors [b v f hl wl c]; weight [b], of the time."""
        o, f = self.options, error.shape[2]
        counted = (batch["latent_valid"] & (jnp.arange(f) > 0)[None]).astype(jnp.float32)
        counted = einops.rearrange(counted, "b f -> b 1 f 1 1 1")
        mask = batch.get("hoi_mask")
        if mask is None:
            if "mask" not in batch:
                raise ValueError(
                    f"task {self.name}: wanted hoi_mask or mask for the loss, got {sorted(batch)}; "
                    "prepare the records with --with points,das"
                )
            mask = masks.to_cells(batch["mask"], self.network.latent_shape[1:4])
        more = (1 + o.mask_gain * mask) ** o.mask_power
        each = video.mean_square(error, counted * more, counted=counted, axes=range(1, 6))
        inside = video.mean_square(error, counted * mask)
        outside = video.mean_square(error, counted * (1 - mask))
        scalars = {"hoi_loss": inside, "background_loss": outside}
        return jnp.mean(weight * each), scalars

    def _data(self, params: Params, batch: dict[str, Array]) -> dict[str, Array]:
        """Clean latents: of the cache, or of the pixels."""
        found = {}
        for name in ("video", *["motion"] * self.network.joint_motion):
            if f"{name}_latents" in batch:
                found[name] = batch[f"{name}_latents"].astype(jnp.float32)
            elif name in batch:
                latents = self.network.vae.encode_bytes(params, batch[name])
                found[name] = jax.lax.stop_gradient(latents)
            else:
                raise ValueError(
                    f"task {self.name}: wanted {name} or {name}_latents, got {sorted(batch)}"
                )
        return found

    # Sampling.

    @property
    def details(self) -> float:
        """See `video.Coded`."""
        return self.options.details

    @property
    def vae(self) -> video.FrozenVAE:
        """The autoencoder."""
        return self.network.vae

    def sample(
        self,
        params: Params,
        inputs: dict[str, Array],
        rng: Array,
        *,
        progress: base.Progress | None = None,
    ) -> base.Sample:
        """See `sampling.sample`.

        Raises:
          ValueError: inputs of other sizes, clouds that cannot be meant, or no control.
        """
        where = f"task {self.name}, sample"
        base.check(where, inputs, AXES | {"first": "b v 1 hl wl c"}, **self.network.sizes())
        conditions.axes(where, inputs, **self.network.sizes())
        conditions.check(inputs, self.options.size, where)
        return sampling.sample(self.network, params, inputs, rng, progress=progress)

    # Cost and plans.

    def cost(self, batch: dict[str, Array]) -> dict[str, float]:
        """Returns tokens and FLOPs of a training step over a global batch."""
        samples, each = batch["text"].shape[0], cost.parts(self.network)
        one = cost.training(each, recomputed=False)
        return {"tokens": samples * cost.tokens(self.network), "flops": samples * sum(one.values())}

    def programs(self) -> dict[str, base.Program]:
        """Returns the training step on cached latents, and a guided step of sampling."""
        ahead = video.ahead(self.network.vae_config)
        own = HVG3D(network=dataclasses.replace(self.network, vae_config=ahead))
        parts = ("control", "dit", "points", *["prior"] * (self.options.prediction == "data"))
        one = functools.partial(sampling.sample_run, own.network, True)
        work = functools.partial(cost.work, own.network)
        return {
            "train_step": base.Program(
                own, parts, None, own._batch, functools.partial(work, training=True)
            ),
            "sample_step": base.Program(
                own,
                tuple(p for p in parts if p != "points"),
                one,
                own._step_inputs,
                functools.partial(work, training=False),
            ),
        }

    def _batch(self, samples: int) -> tuple[base.Shapes]:
        sizes = {
            "b": samples,
            "l": self.network.dit_config.text_len,
            "l0": 1,
            "p": self.options.cloud,
        }
        read = (*READ, *["motion_latents"] * self.network.joint_motion)
        return (base.shapes(read, **sizes, **self.network.sizes()),)

    def _step_inputs(self, samples: int) -> tuple[base.Shapes, ...]:
        (batch,) = self._batch(samples)
        first = jax.eval_shape(lambda x: x[:, :, :1], batch["video_latents"])
        given = {**batch, "first": first}
        params = jax.eval_shape(self.init, jax.random.key(0))
        state, fixed = jax.eval_shape(
            functools.partial(sampling.begin, self.network), params, given, jax.random.key(0)
        )
        row = jax.eval_shape(lambda: sampling.schedule(self.network).rows(0, 1))
        return state, row, fixed

    def embedded(self) -> base.Scenes:
        """Returns what data a run that names none is to make."""
        o, text = self.options, (self.network.dit_config.text_dim, self.network.dit_config.text_len)
        return base.Scenes(
            size=o.size, frames=o.frames, text=text, vae=self.network.vae_config, cloud=o.cloud,
            tracking=o.tracking,
        )  # fmt: skip
