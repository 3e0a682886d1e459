"""Flow maps as latents: the frozen video encoder, and a decoder of its own that is trained here.

    F --compand--> y in (-1, 1) --VAE encoder--> z --(z - mean) / std--> latents
    latents --decoder--> y;  of the learned codec y = sigmoid(l) y', l the logit of "moves"

    L = mean w |y - true|, w = valid (1 + 4 moving)  +  BCE(moves)        from latents + noise

mean and std are per channel, measured over a training set (data_prep/measure_flow.py), and a part
of the parameters, `flow_stats`: every user of flow latents has the same. The decoder is a copy of
the autoencoder's, fine-tuned (`flow_decoder`), or a motion codec's on maps of reduced size
(`codec`), which may be shown frame 0's depth: its edges are where what moves ends. NOTE(parity):
the released training encodes without the statistics that its pipeline decodes with (train_vae.py);
there is one place for them here.
"""

import dataclasses
import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import schema
from syncmv4d_jax.configuration import section
from syncmv4d_jax.geometry import flow_map
from syncmv4d_jax.models import flops, motion_codec
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import base, video
from syncmv4d_jax.tasks import motion_codec as codec_task

Array = jax.Array
Params = dict[str, Any]
DECODER = ("conv2", "decoder")  # of the autoencoder's parameters
READ = ("flow", "flow_valid", "depth0")  # of a batch, whatever the form


@dataclasses.dataclass(frozen=True)
class FlowLatents:
    """Between flow maps and their latents.

    Attributes:
      vae: the autoencoder.
      codec: sizes of the learned decoder; None: a copy of the autoencoder's.
      gain: g of geometry/flow_map.py.
      form: of its FORMS.
    """

    vae: video.FrozenVAE
    codec: motion_codec.CodecConfig | None
    gain: float = 8.0
    form: str = "depth"

    def __post_init__(self):
        if self.codec is not None:
            codec_task.check(self.codec, self.vae.config)
            if self.codec.guide not in (0, self.codec.cell**2):
                raise ValueError(
                    f"task.codec.guide: wanted 0, or {self.codec.cell**2} for frame 0's depth in "
                    f"each cell, got {self.codec.guide}"
                )
            if self.codec.places:
                raise ValueError("task.codec.places: wanted False, a flow has no colours of places")
        if not self.gain > 0 or self.form not in flow_map.FORMS:
            raise ValueError(
                f"task.gain, task.flow_form: wanted a positive gain and one of {flow_map.FORMS}, "
                f"got {self.gain}, {self.form!r}"
            )

    @property
    def decoder(self) -> str:
        """The part of the parameters that decodes."""
        return "flow_decoder" if self.codec is None else "codec"

    def init(self, rng: Array) -> Params:
        """Returns {"flow_stats"} and the decoder's part."""
        channels = self.vae.config.z_dim
        made: Params = {
            "flow_stats": {"mean": jnp.zeros((channels,)), "std": jnp.ones((channels,))}
        }
        if self.codec is not None:
            made["codec"] = module.init(motion_codec.Decoder, self.codec, rng)
        else:
            whole = module.init(vae.VAE, self.vae.config, rng)
            made["flow_decoder"] = {key: whole[key] for key in DECODER}
        return made

    @property
    def reads(self) -> tuple[str, ...]:
        """What a batch needs beside its flow, to have it in this form."""
        return () if self.form == "depth" else ("depth0", "intrinsics", "extrinsics")

    def own(self, batch: base.Batch) -> Array:
        """The batch's flow [b v n h w 3], which is of form "depth", in this form; float32."""
        flow = batch["flow"].astype(jnp.float32)
        if self.form == "depth":
            return flow
        camera = flow_map.Camera(batch["depth0"], batch["intrinsics"], batch["extrinsics"][:, :, 0])
        return flow_map.forward(flow_map.inverse(flow, camera), camera, form=self.form)

    def plain(self, flow: Array, camera: flow_map.Camera) -> tuple[Array, Array]:
        """Flow [b v n h w 3] of this form -> of form "depth", and its tracks (metres, world)."""
        world = flow_map.inverse(flow, camera, form=self.form)
        return flow_map.forward(world, camera), world

    @jax.named_scope("flow_encode")
    def encode(self, params: Params, flow: Array) -> Array:
        """F [b v n h w 3] -> latents [b v f hl wl c]."""
        values = flow_map.compand(flow.astype(jnp.float32), self.gain)
        return self.standardise(params, self.vae.encode(params, values))

    @staticmethod
    def standardise(params: Params, latents: Array) -> Array:
        """The autoencoder's latents [... c] -> latents of flow."""
        mean, std = (_last(params["flow_stats"][key], latents) for key in ("mean", "std"))
        return (latents - mean) / std

    @jax.named_scope("flow_decode")
    def values(self, params: Params, latents: Array, depth: Array) -> tuple[Array, Array | None]:
        """latents [b v f hl wl c] -> y [b v n h' w' 3] and the logits of moving [b v n h' w'].

        Of the learned codec h', w' are its map's; of the other h, w, without logits.

        Args:
          depth: [b v h w] metres, of frame 0; 0 where unknown.
        """
        mean, std = (_last(params["flow_stats"][key], latents) for key in ("mean", "std"))
        plain = latents * std + mean
        if self.codec is None:
            own = {"vae": {**params["vae"], **params["flow_decoder"]}}
            return self.vae.decode(own, plain), None
        v = plain.shape[1]
        codec = module.bind(motion_codec.Decoder, self.codec, params["codec"])
        fold = lambda x: einops.rearrange(x, "b v ... -> (b v) ...")  # noqa: E731
        guide = self._guide(fold(depth)) if self.codec.guide else None
        maps = codec.decode(fold(plain), guide)
        maps = einops.rearrange(maps, "(b v) ... -> b v ...", v=v)
        return maps[..., :3] * jax.nn.sigmoid(maps[..., 3:]), maps[..., 3]

    def _guide(self, depth: Array) -> Array:
        """depth [b h w] -> its picture at the map's size, in cells [b hl wl g]."""
        assert self.codec is not None
        r, cell = self.codec.reduction, self.codec.cell
        picture = flow_map.depth_picture(depth)[:, r // 2 :: r, r // 2 :: r, 0]
        return einops.rearrange(picture, "b (h i) (w j) -> b h w (i j)", i=cell, j=cell)

    def decode(self, params: Params, latents: Array, depth: Array) -> Array:
        """latents [b v f hl wl c] -> F [b v n h w 3], 0 in frame 0 and where depth [b v h w] is."""
        values, _ = self.values(params, latents, depth)
        if values.shape[3:5] != depth.shape[2:]:
            height, width = depth.shape[2:]
            values = self._enlarge(values, (height, width))
        flow = flow_map.expand(values, self.gain) * (depth > 0)[:, :, None, :, :, None]
        return flow.at[:, :, 0].set(0.0)

    def _enlarge(self, values: Array, size: tuple[int, int]) -> Array:
        """Maps of reduced size, whose pixel j is the video's r j + r // 2, at the video's size."""
        assert self.codec is not None
        reduction = self.codec.reduction
        shape = (*values.shape[:3], *size, 3)
        # resize's centre of map pixel j is r j + (r - 1) / 2: half a pixel off for even r.
        shift = jnp.full((2,), (reduction // 2 - (reduction - 1) / 2))
        scale = jnp.full((2,), float(reduction))
        flat = einops.rearrange(values, "b v n h w c -> (b v n) h w c")
        one = functools.partial(
            jax.image.scale_and_translate, shape=(*size, 3), spatial_dims=(0, 1), scale=scale,
            translation=shift, method="linear", antialias=False,
        )  # fmt: skip
        ones = one(jnp.ones(flat.shape[1:]))  # the rim, which no map pixel reaches
        large = jax.lax.map(one, flat) / jnp.maximum(ones, 1e-6)[None]
        return large.reshape(shape)


def _last(vector: Array, like: Array) -> Array:
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def latents(
    values: dict[str, Any], config: vae.VAEConfig, placement: protocol.Placement, **sizes: int
) -> FlowLatents:
    """Takes the sections codec, gain and flow_form out of `config.task`.

    Args:
      **sizes: vae_batch, vae_chunk.
    """
    learned = values.pop("codec", None)
    codec = section(motion_codec.CodecConfig, learned, "config.task.codec") if learned else None
    own = {"gain": float(values.pop("gain", 8.0)), "form": values.pop("flow_form", "depth")}
    frozen = video.FrozenVAE(
        config, placement, sizes.get("vae_batch", 1), sizes.get("vae_chunk", 0)
    )
    return FlowLatents(frozen, codec, **own)


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.task` without the networks.

    Attributes:
      size, frames, views: of the records.
      noise: largest deviation of the noise on the decoder's input, in standardised latents.
      moving_gain: extra weight of pixels that move.
      vae_batch, vae_chunk: clips, and latents along time, that the autoencoder takes at once.
    """

    size: tuple[int, int] = (480, 704)
    frames: int = 49
    views: int = 3
    noise: float = 0.1
    moving_gain: float = 4.0
    vae_batch: int = 1
    vae_chunk: int = 0


def make(config: Any, *, placement: protocol.Placement = protocol.LOCAL) -> "FlowCodec":
    """Builds the task from `config.task`: `Options`, gain, flow_form and sections codec, vae.

    Raises:
      ValueError: an unknown key, or a codec that does not fit the autoencoder.
    """
    values = dict(config.task)
    values.pop("name", None)
    vae_config = vae.released(section(vae.VAEConfig, values.pop("vae", {}), "config.task.vae"))
    sizes = {k: values[k] for k in ("vae_batch", "vae_chunk") if k in values}
    maps = latents(values, vae_config, placement, **sizes)
    return FlowCodec(section(Options, values, "config.task"), maps, placement)


@dataclasses.dataclass(frozen=True)
class FlowCodec:
    """The task; see `tasks.base.Task`."""

    name = "more4d.flow_codec"

    options: Options
    maps: FlowLatents
    placement: protocol.Placement = protocol.LOCAL

    @property
    def trainable(self) -> str:
        """See `tasks.base.Task`."""
        return f"^{self.maps.decoder}/"

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """See `tasks.base.Task`."""
        return ("vae", "flow_stats")

    def init(self, rng: Array) -> Params:
        """Returns {"vae", "flow_stats"} and the decoder."""
        keys = jax.random.split(rng)
        return {"vae": module.init(vae.VAE, self.maps.vae.config, keys[0]),
                **self.maps.init(keys[1])}  # fmt: skip

    def grow(self, params: Params, given: frozenset[str]) -> Params:
        """Returns parameters whose decoder, where it is not given, is the autoencoder's."""
        return grown(self.maps, params, given)

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, Array], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss and scalars for a batch with flow, flow_valid and depth0.

        Raises:
          ValueError: a batch without them, or of another size.
        """
        require(batch, (*READ, *self.maps.reads), f"task {self.name}, loss")
        params, o = {**frozen, **trainable}, self.options
        flow = self.maps.own(batch)
        true = flow_map.compand(flow, self.maps.gain)
        if "flow_latents" in batch:
            found = self.maps.standardise(params, batch["flow_latents"].astype(jnp.float32))
        else:
            found = self.maps.encode(params, flow)
        found = jax.lax.stop_gradient(found)
        size, noise = jax.random.split(rng)
        size = o.noise * jax.random.uniform(size, (len(found), 1, 1, 1, 1, 1))
        spoilt = found + size * jax.random.normal(noise, found.shape)
        values, logits = self.maps.values(params, spoilt, batch["depth0"])
        valid = batch["flow_valid"]
        moving = jnp.abs(batch["flow"]).max((2, 5)) > flow_map.MOVING
        if self.maps.codec is not None:
            r = self.maps.codec.reduction
            true = true[:, :, :, r // 2 :: r, r // 2 :: r]
            valid, moving = (x[:, :, r // 2 :: r, r // 2 :: r] for x in (valid, moving))
        weight = (valid * (1 + o.moving_gain * moving))[:, :, None, :, :, None]
        gap = jnp.abs(values - true)
        total = jnp.sum(gap * weight) / (3 * gap.shape[2] * jnp.maximum(jnp.sum(weight), 1.0))
        scalars = {"l1": total}
        if logits is not None:
            sign = jnp.where(moving, 1.0, -1.0)[:, :, None]
            counted = valid[:, :, None] * jnp.ones_like(logits)
            entropy = jnp.sum(jax.nn.softplus(-sign * logits) * counted)
            scalars["moves"] = entropy / jnp.maximum(jnp.sum(counted), 1.0)
            total = total + scalars["moves"]
        error = jnp.abs(flow_map.expand(values, self.maps.gain) - flow_map.expand(true,
            self.maps.gain))  # fmt: skip
        known = (valid & moving)[:, :, None, :, :, None] * jnp.ones_like(error)
        scalars["flow"] = jnp.sum(error * known) / jnp.maximum(jnp.sum(known), 1.0)
        return total, scalars

    def cost(self, batch: dict[str, Array]) -> dict[str, float]:
        """Returns latent cells, as tokens, and FLOPs of one batch, without the encoder's."""
        o, (_, f, h, w, _) = self.options, self._latent_shape
        clips = batch["flow"].shape[0] * o.views
        return {"tokens": clips * f * h * w, "flops": 3.0 * clips * self._forward}

    @property
    def _latent_shape(self) -> tuple[int, int, int, int, int]:
        o = self.options
        return self.maps.vae.latent_shape(o.views, o.frames, o.size)

    @functools.cached_property
    def _forward(self) -> float:
        """FLOPs of decoding one clip, counted from the jaxpr."""
        alone = dataclasses.replace(self.maps, vae=video.FrozenVAE(self.maps.vae.config))
        shapes = (1, 1, *self._latent_shape[1:]), (1, 1, *self.options.size)
        weights = jax.eval_shape(self.init, jax.random.key(0))
        wanted = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        return float(flops.count(lambda p, x, z: alone.values(p, x, z)[0], weights, *wanted))

    def programs(self) -> dict[str, base.Program]:
        """Returns the training step on flow maps with cached latents."""
        own = dataclasses.replace(
            self,
            maps=dataclasses.replace(
                self.maps,
                vae=dataclasses.replace(self.maps.vae, config=video.ahead(self.maps.vae.config)),
            ),
        )
        parts = tuple({self.maps.decoder: 0, "vae": 0, "flow_stats": 0})
        return {"train_step": base.Program(own, parts, None, own._batch, own._work)}

    def _batch(self, samples: int) -> tuple[base.Shapes]:
        (v, f, h, w, c), o = self._latent_shape, self.options
        sizes = {"n": o.frames, "h": o.size[0], "w": o.size[1], "f": f, "hl": h, "wl": w, "c": c}
        names = dict.fromkeys((*READ, "flow_latents", *self.maps.reads))
        return (base.shapes(tuple(names), b=samples, v=v, **sizes),)

    def _work(self) -> base.Work:
        o = self.options
        pixels = 4 * o.frames * o.size[0] * o.size[1] * 3  # of one clip, float32
        return base.Work({"decode": 3 * o.views * self._forward}, views=o.views, clip=float(pixels))

    def embedded(self) -> base.Scenes:
        """Returns what data a run that names none is to make."""
        o = self.options
        return base.Scenes(size=o.size, frames=o.frames, vae=self.maps.vae.config, fields=("flow",))


def grown(maps: FlowLatents, params: Params, given: frozenset[str]) -> Params:
    """`params` whose flow decoder, where nothing of it is given, is the autoencoder's own."""
    if maps.codec is not None or any(name.startswith("flow_decoder/") for name in given):
        return params
    return {**params, "flow_decoder": {key: params["vae"][key] for key in DECODER}}


def require(batch: base.Batch, names: tuple[str, ...], where: str) -> None:
    """Checks that a batch has fields, of the shapes that schema.BATCH says.

    Raises:
      ValueError: it has not; says how records get them.
    """
    missing = [name for name in names if name not in batch]
    if missing:
        raise ValueError(
            f"{where}: the batch has no {missing}: prepare the records with --with flow, and read "
            "it by --config.data.fields=\"('flow',)\""
        )
    base.check(where, batch, {name: schema.BATCH[name].axes for name in names})
