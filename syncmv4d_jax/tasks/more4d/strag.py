"""One image with its depth -> where each of its pixels goes, as a video of flow (4D-STraG).

    z = [z_t of the flow, RGB of frame 0, depth of frame 0] -> velocity of the flow's latents

frame 0's two latents for all latent frames. Depth is log Z, per image between -1 (nearest) and 1
(farthest, and where nothing is known), three times. Flow is zero in frame 0: its latent stays clean
at t = 0, in place of the released network's reference tokens. W weighs latent cells by the share of
their pixels whose flow is known, at least 0.1. NOTE(parity): released training drops errors above
50 and skips steps above 0.25 (train.py); not so here, run/optim.py judges steps.

Parts: `dit` and `perception` are trained (or `lora` beside what Wan does not have); `vae`,
`flow_stats` and the flow decoder (flow_codec.py) are not. Each view is a sample of its own; the
points of a sample are pixels on a grid, each of one view.
"""

import dataclasses
import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import schema, tree
from syncmv4d_jax.configuration import section
from syncmv4d_jax.geometry import flow_map
from syncmv4d_jax.models import flops
from syncmv4d_jax.models.nn import protocol
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import base, video
from syncmv4d_jax.tasks.more4d import conditional, flow_codec

Array = jax.Array
Params = dict[str, Any]
FOLD = "b v ... -> (b v) ..."
LEAST = 0.1  # of W


@dataclasses.dataclass(frozen=True)
class Options(conditional.Options):
    """`config.task` without the networks; see `conditional.Options`.

    Attributes:
      points: at most so many pixels of a sample are its points.
      depth: whether depth is a condition (its channels are zero else: an ablation).
    """

    points: int = 1600
    depth: bool = True


def make(config: Any, *, placement: protocol.Placement = protocol.LOCAL) -> "STraG":
    """Builds the task from `config.task`: `Options`, gain, flow_form and sections dit, vae, codec,
    lora, perception."""
    values = dict(config.task)
    vae_config = vae.released(section(vae.VAEConfig, values.get("vae", {}), "config.task.vae"))
    sizes = {key: values[key] for key in ("vae_batch", "vae_chunk") if key in values}
    maps = flow_codec.latents(values, vae_config, placement, **sizes)
    generator = conditional.generator(
        config, values, Options, channels=2 * vae_config.z_dim, placement=placement
    )
    return STraG(generator, maps, placement)


@dataclasses.dataclass(frozen=True)
class STraG(video.Coded):
    """The task; see `tasks.base.Task`. `cameras`: sampling inputs have them, and depth."""

    name = "more4d.strag"
    cameras = reads_depth = True

    generator: conditional.Generator
    maps: flow_codec.FlowLatents
    placement: protocol.Placement = protocol.LOCAL

    @property
    def reads_appearance(self) -> bool:
        """See `tasks.base.Deep`."""
        return bool(self._seen())

    @property
    def options(self) -> Options:
        """Its options."""
        assert isinstance(self.generator.options, Options)
        return self.generator.options

    @property
    def trainable(self) -> str:
        """See `tasks.base.Task`."""
        return self.generator.trained

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """See `tasks.base.Task`."""
        return (*self.generator.frozen_parts, "flow_stats")

    @property
    def clip(self) -> base.Clip:
        """Sizes of a sample."""
        return base.Clip(self.options.frames, self.options.size, self.options.views)

    @property
    def sampling(self) -> base.Sampling:
        """How a sample is made."""
        return self.generator.sampling

    def init(self, rng: Array) -> Params:
        """Returns initial parameters of all parts."""
        keys = jax.random.split(rng)
        return {**self.generator.init(keys[0]), **self.maps.init(keys[1])}

    def grow(self, params: Params, given: frozenset[str]) -> Params:
        """See `flow_codec.grown`."""
        return flow_codec.grown(self.maps, params, given)

    # Training.

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, Array], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss and scalars for a batch with flow, flow_valid and depth0.

        Raises:
          ValueError: a batch without them, or of another size.
        """
        flow_codec.require(batch, ("flow_valid", "depth0"), f"task {self.name}, loss")
        keys = jax.random.split(rng, 3)
        params = tree.join(frozen, trainable)
        data = self._flow(params, batch)
        v, f = data.shape[1:3]
        fold = lambda x: einops.rearrange(x, FOLD)  # noqa: E731
        rgb0, depth = (x[:, :, 0] for x in self._frame0(params, batch))
        condition = self._dropped(keys[0], fold(rgb0), fold(depth), f)
        text, lengths = video.drop_text(batch, keys[1], share=self.options.text_drop)
        perceived = self.generator.perceived(params, fold(self._feature(batch, rgb0)))
        inputs = conditional.Inputs(
            condition,
            jnp.repeat(text, v, 0),
            jnp.repeat(lengths, v, 0),
            jnp.ones(len(condition), bool),
            perceived,
        )
        weight = self._weight(batch)
        return self.generator.diffusion_loss(params, fold(data), inputs, fold(weight), keys[2])

    def _flow(self, params: Params, batch: base.Batch) -> Array:
        """Flow latents [b v f h w c]: from the cache or from flow maps."""
        if "flow_latents" in batch:
            latents = self.maps.standardise(params, batch["flow_latents"].astype(jnp.float32))
        else:
            flow_codec.require(batch, ("flow", *self.maps.reads), f"task {self.name}, loss")
            latents = jax.lax.stop_gradient(self.maps.encode(params, self.maps.own(batch)))
        wanted = self.generator.latent_shape
        if latents.shape[1:] != wanted:
            raise ValueError(
                f"task {self.name}: wanted flow latents [b {' '.join(map(str, wanted))}], got "
                f"{latents.shape}"
            )
        return latents

    def _frame0(self, params: Params, batch: base.Batch) -> tuple[Array, Array]:
        """Latents [b v 1 h w c] of frame 0's picture and of its depth."""
        encode = functools.partial(self.generator.vae.encode, params)
        if "rgb0_latents" in batch:
            rgb0 = batch["rgb0_latents"]
        elif "video_latents" in batch:  # the encoder is causal
            rgb0 = batch["video_latents"][:, :, :1]
        else:
            rgb0 = encode(batch["video"][:, :, :1].astype(jnp.float32) / 127.5 - 1)
        if not self.options.depth:
            return jax.lax.stop_gradient(rgb0), jnp.zeros_like(rgb0)
        depth = batch.get("depth_latents")
        if depth is None:
            depth = encode(flow_map.depth_picture(batch["depth0"])[:, :, None])
        rgb0, depth = (jax.lax.stop_gradient(x.astype(jnp.float32)) for x in (rgb0, depth))
        return rgb0, depth

    def _dropped(self, rng: Array, rgb0: Array, depth: Array, frames: int) -> Array:
        """The conditions [b f h w 2c], each left out in a share of samples."""
        draws = jax.random.uniform(rng, (2, len(rgb0), 1, 1, 1))
        kept = draws >= self.options.condition_drop
        both = jnp.concatenate([rgb0 * kept[0], depth * kept[1]], axis=-1)
        return einops.repeat(both, "b h w c -> b f h w c", f=frames)

    def _feature(self, batch: base.Batch, rgb0: Array) -> Array:
        """What the motion module reads, [b v h w c]."""
        config = self.generator.perception_config
        if config is None or config.source == "latents":
            return rgb0
        if "appearance" not in batch:
            raise ValueError(
                f"task {self.name}: the motion module reads features of a pretrained network, but "
                f"there is no appearance [b v 14 14 {config.channels}]: "
                "data_prep/cache_latents.py --appearance FOLDER caches DINO's (of an image of your "
                "own config.sample.features names that folder), or task.perception.source=latents"
            )
        return batch["appearance"].astype(jnp.float32)

    def _weight(self, batch: base.Batch) -> Array:
        """W [b v f h w 1]: the share of a cell's pixels whose flow is known; 0 in frame 0."""
        _, f, h, w, _ = self.generator.latent_shape
        share = einops.reduce(
            batch["flow_valid"].astype(jnp.float32), "b v (h i) (w j) -> b v 1 h w 1", "mean",
            h=h, w=w,
        )  # fmt: skip
        weight = jnp.maximum(share, LEAST) * jnp.ones((1, 1, f, 1, 1, 1))
        weight = weight.at[:, :, 0].set(0.0)
        if "latent_valid" in batch:
            weight = weight * einops.rearrange(batch["latent_valid"], "b f -> b 1 f 1 1 1")
        return weight

    # Sampling.

    @property
    def vae(self) -> video.FrozenVAE:
        """The autoencoder."""
        return self.generator.vae

    def sample(
        self,
        params: Params,
        inputs: dict[str, Array],
        rng: Array,
        *,
        progress: base.Progress | None = None,
    ) -> base.Sample:
        """Samples the ways of pixels.

        Args:
          params: all parts.
          inputs: first [b v 1 h w c], the images' latents; depth0 [b v h w] metres; intrinsics,
            extrinsics of frame 0; text, and null text unless guidance is 1; appearance where the
            motion module reads it.
          rng: key of the initial noise.
          progress: see `base.Sampled`.

        Raises:
          ValueError: one of them is missing, or of another size.
        """
        where = f"task {self.name}, sample"
        if "depth0" not in inputs or "first" not in inputs:
            raise ValueError(
                f"{where}: wanted an image and its depth, got {sorted(inputs)}; of an image of "
                "your own config.sample.depth names a file (docs/more4d.md: tools that write one)"
            )
        base.check(where, inputs, {k: schema.BATCH[k].axes for k in ("depth0", "intrinsics")})
        b, v = inputs["first"].shape[:2]
        _, f, h, w, c = self.generator.latent_shape
        made = _prepare(self, params, {k: inputs[k] for k in GIVEN if k in inputs})
        text, lengths = self.generator.branches(inputs, v)
        given = conditional.Inputs(
            made.condition, text, lengths, jnp.ones(b * v, bool), made.perceived
        )
        noise = jax.random.normal(rng, (b * v, f, h, w, c))
        found = self.generator.sample(params, noise, given, made.held, progress=progress)
        latents = einops.rearrange(found, "(b v) ... -> b v ...", v=v)
        flow = _decode(self, params, latents, inputs["depth0"])
        pose = inputs["extrinsics"][:, :, 0]
        camera = flow_map.Camera(inputs["depth0"], inputs["intrinsics"], pose)
        flow, world = self.maps.plain(flow, camera)  # of samples it is of one form
        points = self._points(world, camera)
        return base.Sample(latents, flow=flow, depth0=inputs["depth0"], **points)

    def _points(self, world: Array, camera: flow_map.Camera) -> dict[str, Array]:
        """The sample's points, of tracks [b v n h w 3]: a grid of pixels, view after view."""
        b, v, n, height, width, _ = world.shape
        step = grid_step(v * height * width, self.options.points)
        y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
        y, x = y.ravel(), x.ravel()
        world = world[:, :, :, y, x]
        known = (camera.depth > 0)[:, :, y, x]  # [b v k]
        count = len(x)
        tracks = einops.rearrange(world, "b v n k c -> b n (v k) c")
        own = np.repeat(np.eye(v, dtype=bool), count, axis=1)  # [v (v k)]
        sure = own[None] & einops.rearrange(known, "b v k -> b 1 (v k)")
        pixels = np.tile(np.stack([x, y], -1).astype(np.float32), (v, 1))
        sure = jnp.asarray(sure)
        return {
            "tracks_per_view": jnp.repeat(tracks[:, None], v, 1),
            "confidence": jnp.repeat(sure[:, :, None], n, 2).astype(jnp.float32),
            "anchors": jnp.asarray(np.broadcast_to(pixels, (b, v, *pixels.shape))),
            "anchor_valid": sure,
            "anchor_confidence": sure.astype(jnp.float32),
            "anchor_view": jnp.asarray(
                np.broadcast_to(np.repeat(np.arange(v), count), (b, v * count))
            ),
        }

    def decode(self, params: Params, sample: base.Sample) -> base.Sample:
        """Returns the sample with its flow, companded, as pixels."""
        assert sample.flow is not None
        return dataclasses.replace(sample, pixels=flow_map.compand(sample.flow, self.maps.gain))

    @property
    def rebuilt_by(self) -> tuple[str, ...]:
        """See `tasks.base.Rebuilt`."""
        return ("vae", "flow_stats", self.maps.decoder)

    def rebuild(self, params: Params, truth: base.Batch) -> base.Sample:
        """Returns the true flow after its own latents: what the codec alone costs.

        Raises:
          ValueError: a truth without flow, or of another size.
        """
        flow_codec.require(truth, REBUILT, f"task {self.name}, rebuild")
        latents, flow = _rebuild(self, params, {k: truth[k] for k in REBUILT})
        return base.Sample(latents, flow=flow, depth0=truth["depth0"])

    # Costs.

    def cost(self, batch: dict[str, Array]) -> dict[str, float]:
        """Returns tokens and FLOPs of a training step over a global batch."""
        clips, (tokens, one) = self._clips(batch), self.generator.forward_cost()
        return {"tokens": clips * tokens, "flops": float(clips * flops.train(one))}

    def _clips(self, batch: dict[str, Array]) -> int:
        return batch["text"].shape[0] * self.options.views

    def programs(self) -> dict[str, base.Program]:
        """Returns the training step on cached latents, and a guided step of sampling."""
        own = dataclasses.replace(self, generator=conditional.ahead(self.generator))
        shapes = jax.eval_shape(own.init, jax.random.key(0))
        parts = tuple(part for part in ("dit", "perception", "lora") if part in shapes)
        program = functools.partial(base.Program, own)
        work = functools.partial(own.generator.work, views=self.options.views)
        return {
            "train_step": program(
                (*parts, "flow_stats"), None, own._batch, functools.partial(work, training=True)
            ),
            "sample_step": program(
                parts,
                functools.partial(conditional.sample_run, own.generator),
                own._step_inputs,
                functools.partial(work, training=False),
            ),
        }

    def _batch(self, samples: int) -> tuple[base.Shapes]:
        (v, f, h, w, c), o = self.generator.latent_shape, self.options
        sizes = {"b": samples, "v": v, "f": f, "hl": h, "wl": w, "c": c, "l0": 1}
        sizes |= {"l": self.generator.dit_config.text_len, "d": self.generator.dit_config.text_dim}
        sizes |= {"h": o.size[0], "w": o.size[1]}
        names = ("flow_latents", "depth_latents", "rgb0_latents", "flow_valid", "depth0",
                 "latent_valid", *conditional.TEXT, *self._seen())  # fmt: skip
        return (base.shapes(names, **sizes),)

    def _seen(self) -> tuple[str, ...]:
        config = self.generator.perception_config
        return ("appearance",) * (config is not None and config.source == "appearance")

    def _step_inputs(self, samples: int) -> tuple[base.Shapes, ...]:
        (batch,) = self._batch(samples)
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        given = {k: batch[k] for k in ("depth_latents", "depth0", *self._seen())}
        given["first"] = batch["rgb0_latents"]
        made = jax.eval_shape(functools.partial(_prepared, self), shapes, given)
        v = self.options.views

        def state(noise):
            return video.start(self.generator.schedule(), {"video": noise})

        noise = jax.eval_shape(
            lambda: jnp.zeros((samples * v, *self.generator.latent_shape[1:]), jnp.float32)
        )
        text, lengths = jax.eval_shape(
            lambda x: self.generator.branches(x, v), {k: batch[k] for k in conditional.TEXT}
        )
        first: Any = jax.ShapeDtypeStruct((samples * v,), bool)
        inputs = conditional.Inputs(made.condition, text, lengths, first, made.perceived)
        row = jax.eval_shape(lambda: self.generator.schedule().rows(0, 1))
        return jax.eval_shape(state, noise), row, (inputs, {"video": made.held})

    def embedded(self) -> base.Scenes:
        """Returns what data a run that names none is to make."""
        o, config = self.options, self.generator.dit_config
        text = (config.text_dim, config.text_len)
        return base.Scenes(
            size=o.size, frames=o.frames, text=text, vae=self.generator.vae_config, fields=("flow",)
        )


GIVEN = ("first", "depth0", "depth_latents", "appearance")
REBUILT = ("flow", "depth0", "intrinsics", "extrinsics")


def grid_step(pixels: int, points: int) -> int:
    """Every how many pixels a point is, so that there are at most `points`."""
    return max(1, int(np.ceil(np.sqrt(pixels / points))))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prepared:
    """condition [(b v) f h w 2c]; perceived; held: frame 0 of the flow's latents."""

    condition: Array
    perceived: Array | None
    held: Array


def _prepared(task: STraG, params: Params, inputs: dict[str, Array]) -> Prepared:
    """What all steps of sampling read."""
    batch = {**inputs, "rgb0_latents": inputs["first"]}
    rgb0, depth = (einops.rearrange(x[:, :, 0], FOLD) for x in task._frame0(params, batch))
    _, f, h, w, c = task.generator.latent_shape
    both = jnp.concatenate([rgb0, depth], axis=-1)
    feature = task._feature(batch, inputs["first"][:, :, 0])
    # The same for all, but cut as they are: a mesh wants rows for each of its data shards.
    still = jnp.zeros((len(feature), 1, 1, *task.options.size, 3))
    zero = task.maps.encode(params, still)[:1, 0]
    return Prepared(
        einops.repeat(both, "b h w c -> b f h w c", f=f),
        task.generator.perceived(params, einops.rearrange(feature, FOLD)),
        jnp.broadcast_to(zero, (len(rgb0), 1, h, w, c)),
    )


_prepare = jax.jit(_prepared, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _decode(task: STraG, params: Params, latents: Array, depth: Array) -> Array:
    return task.maps.decode(params, latents, depth)


@functools.partial(jax.jit, static_argnums=0)
def _rebuild(task: STraG, params: Params, truth: base.Batch) -> tuple[Array, Array]:
    latents = task.maps.encode(params, task.maps.own(truth))
    camera = flow_map.Camera(truth["depth0"], truth["intrinsics"], truth["extrinsics"][:, :, 0])
    return latents, task.maps.plain(task.maps.decode(params, latents, camera.depth), camera)[0]
