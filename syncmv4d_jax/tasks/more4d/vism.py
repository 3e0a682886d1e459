"""Points drawn for a camera, with their holes -> the video that this camera sees (4D-ViSM).

    z = [z_t, mask, render]     mask: how far the drawn points of a latent cell can be believed
                                (splat.trust: 0 a hole, 1/2 covered, 1 surely seen), of each of its
                                four video frames (frame 0 counts for four); render: latents of the
                                drawn points, whose holes are grey, or with `Options.fill` have the
                                colours around them

the layout of Wan2.2-Fun-5B-InP's patch embedding, so that these weights are a start, as TI2V's
are. With `Options.details` the decoded video takes the drawn points' own colours where it agrees
with them (video.detailed). In training pairs are drawn on the way (geometry/view_pairs.py), or
before, which is cheaper (data/drawn_pairs.py, config.data.pairs); a share of steps sees frame 0
alone, as when other reference views of one image are wanted. No frame is held, except where the
camera starts as the source: latent frame 0 is clean then. NOTE(parity): the released mask has 0
and 1 alone; its code draws holes from projected points and colours from Gaussians, so that both
differ, and takes black points for holes.

Parts: `dit` (or `lora` beside the embeddings) is trained, `vae` is not. A sample has one clip for
each camera that is asked for.
"""

import dataclasses
import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import schema, tree
from syncmv4d_jax.configuration import at_least, section, shares
from syncmv4d_jax.geometry import masks, splat, view_pairs
from syncmv4d_jax.models import flops
from syncmv4d_jax.models.nn import protocol
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import base, video
from syncmv4d_jax.tasks.more4d import conditional, flow_codec

Array = jax.Array
Params = dict[str, Any]
FOLD = "b v ... -> (b v) ..."
MASK = 4  # channels: video frames of a latent frame
CACHED = ("video_latents", "render_latents", "hole_mask")
NEEDED = ("flow", "flow_valid", "depth0", "intrinsics", "extrinsics")


@dataclasses.dataclass(frozen=True)
class Options(conditional.Options):
    """`config.task` without the networks; see `conditional.Options`.

    Attributes:
      residual: with `prediction="data"`, the network gives what x_0 is more than the drawn points:
        a small one need not carry what they show.
      same_view: share of samples whose target is its own source.
      sources: views that the points of a sample are from, at most.
      single_share: share of steps that see frame 0 alone.
      details: 0, or how far, in colours of -1..1, a sampled video may be from the drawn points to
        take their pixels (video.detailed).
      fill: whether holes of what the network is shown are filled (geometry/filling.py).
      mask: whether the network is told what points cover (0 everywhere else: an ablation).
      flow_form: of the records' flow, see geometry/flow_map.py.
    """

    residual: bool = False
    same_view: float = 0.25
    sources: int = 3
    single_share: float = 0.2
    details: float = 0.0
    fill: bool = False
    mask: bool = True
    flow_form: str = "depth"

    def __post_init__(self):
        super().__post_init__()
        shares("task", self, "same_view", "single_share")
        at_least(1, "task", self, "sources")
        at_least(0, "task", self, "details")
        if self.residual and self.prediction != "data":
            raise ValueError('task.residual: wanted task.prediction="data" with it, got "velocity"')


def make(config: Any, *, placement: protocol.Placement = protocol.LOCAL) -> "ViSM":
    """Builds the task from `config.task`: `Options` and sections dit, vae, lora, corruption."""
    values = dict(config.task)
    spoilt = section(view_pairs.Corruption, values.pop("corruption", {}), "config.task.corruption")
    vae_config = vae.released(section(vae.VAEConfig, values.get("vae", {}), "config.task.vae"))
    if vae_config.stride[0] != MASK:
        raise ValueError(
            f"task.vae: wanted {MASK} video frames a latent frame, as the mask's channels are, got "
            f"{vae_config.stride[0]}"
        )
    generator = conditional.generator(
        config, values, Options, channels=MASK + vae_config.z_dim, placement=placement
    )
    return ViSM(generator, spoilt, placement)


@dataclasses.dataclass(frozen=True)
class ViSM(base.Grown, video.Coded):
    """The task; see `tasks.base.Task`. `cameras`: its inputs are drawn for cameras."""

    name = "more4d.vism"
    cameras = True

    generator: conditional.Generator
    corruption: view_pairs.Corruption = view_pairs.Corruption()
    placement: protocol.Placement = protocol.LOCAL

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
        return self.generator.frozen_parts

    @property
    def clip(self) -> base.Clip:
        """Sizes of a sample: the video of one camera."""
        return base.Clip(self.options.frames, self.options.size, 1)

    @property
    def sampling(self) -> base.Sampling:
        """How a sample is made."""
        return self.generator.sampling

    def init(self, rng: Array) -> Params:
        """Returns initial parameters of all parts."""
        return self.generator.init(rng)

    # Training.

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, Array], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss and scalars for a batch with flow, or with render and hole_mask.

        With `render_latents` and `hole_mask` [b v ...] in the batch each view is a clip, drawn
        before (`render_same`: by its own camera's points); else one target a sample is drawn here.

        Raises:
          ValueError: neither is there, or of another size.
        """
        keys = jax.random.split(rng, 4)
        params = tree.join(frozen, trainable)
        text, lengths = video.drop_text(batch, keys[0], share=self.options.text_drop)
        where = f"task {self.name}, loss"
        if "render_latents" in batch:
            flow_codec.require(batch, CACHED, where)
        elif "video" not in batch:
            raise ValueError(f"{where}: wanted pixels (config.data.raw=True), got latents only")
        else:
            flow_codec.require(batch, NEEDED, where)
        made = self._cached if "render_latents" in batch else self._drawn
        whole = functools.partial(made, params, batch, (text, lengths), keys[1])
        share = self.options.single_share
        if not share or self.options.frames == 1:
            return whole(self.options.frames)
        single = jax.random.uniform(keys[2]) < share
        return jax.lax.cond(single, lambda: whole(1), lambda: whole(self.options.frames))

    def _drawn(self, params: Params, batch: base.Batch, text: Any, rng: Array, frames: int):
        """The loss of pairs that are drawn here, of the first `frames` frames."""
        rngs = jax.random.split(rng, 3)
        keys = ("video", *NEEDED)
        sample = {key: jnp.asarray(batch[key]) for key in keys}
        sample["video"], sample["flow"] = (sample[k][:, :, :frames] for k in ("video", "flow"))
        sample["extrinsics"] = sample["extrinsics"][:, :, :frames]
        o = self.options
        draw = functools.partial(
            view_pairs.draw, same=o.same_view, sources=o.sources, how=self.corruption,
            form=o.flow_form, size=o.size,
        )  # fmt: skip
        drawn = jax.vmap(draw)(jax.random.split(rngs[0], len(sample["flow"])), sample)
        pick = lambda x: jax.vmap(lambda a, i: a[i])(x, drawn.target)[:, None]  # noqa: E731
        encode = self.generator.vae.encode
        seen = view_pairs.shown(drawn.render, drawn.covered, drawn.sure, fill=o.fill)
        render = encode(params, seen[:, None])[:, 0]
        if "video_latents" in batch:  # the encoder is causal
            data = pick(batch["video_latents"].astype(jnp.float32))[:, 0, : render.shape[1]]
        else:
            data = encode(params, pick(sample["video"]).astype(jnp.float32) / 127.5 - 1)[:, 0]
        data, render = (jax.lax.stop_gradient(x) for x in (data, render))
        mask = self.fold(splat.trust(drawn.covered, drawn.sure)[:, None])[:, 0]
        loss, scalars = self._loss(params, data, render, mask, text, drawn.same, batch, rngs[1:])
        return loss, scalars | {"covered": jnp.mean(drawn.covered)}

    def _cached(self, params: Params, batch: base.Batch, text: Any, rng: Array, frames: int):
        """The loss of pairs that were drawn before, of the first `frames` frames: every view is a
        clip. The encoder is causal: the latents of the first frames are the first latents."""
        v, rngs = batch["render_latents"].shape[1], jax.random.split(rng)
        latent = (frames - 1) // MASK + 1
        data, render, mask = (
            einops.rearrange(batch[key][:, :, :latent].astype(jnp.float32), FOLD) for key in CACHED
        )
        text = (jnp.repeat(text[0], v, 0), jnp.repeat(text[1], v, 0))
        same = batch.get("render_same", jnp.zeros((len(data) // v, v), bool))
        held = einops.rearrange(same, "b v -> (b v)")
        return self._loss(params, data, render, mask, text, held, batch, rngs)

    def _loss(self, params, data, render, mask, text, first, batch, rngs):
        if not self.options.mask:
            mask = jnp.zeros_like(mask)
        kept = jax.random.uniform(rngs[0], (len(data), 1, 1, 1, 1)) >= self.options.condition_drop
        condition = jnp.concatenate([mask, render], axis=-1) * kept
        first = first & (data.shape[1] > 1)
        inputs = self._given(condition, text[0], text[1], first)
        weight = jnp.ones((*data.shape[:2], 1, 1, 1))
        valid = batch.get("latent_valid")
        if valid is not None:
            valid = jnp.repeat(valid, len(data) // len(valid), 0)[:, : data.shape[1]]
            weight = weight * einops.rearrange(valid, "b f -> b f 1 1 1")
        return self.generator.diffusion_loss(params, data, inputs, weight, rngs[1])

    def _given(self, condition, text, lengths, first) -> conditional.Inputs:
        prior = condition[..., MASK:] if self.options.residual else None
        return conditional.Inputs(condition, text, lengths, first, prior=prior)

    # Sampling.

    def fold(self, trust: Array) -> Array:
        """See `base.Synthesis`."""
        _, stride = self.generator.vae_config.stride
        return masks.of_frames(trust, MASK, stride)

    @property
    def vae(self) -> video.FrozenVAE:
        """The autoencoder."""
        return self.generator.vae

    @property
    def details(self) -> float:
        """See `video.Coded`."""
        return self.options.details

    def sample(
        self,
        params: Params,
        inputs: dict[str, Array],
        rng: Array,
        *,
        progress: base.Progress | None = None,
    ) -> base.Sample:
        """Samples what cameras see.

        Args:
          params: all parts.
          inputs: render [b v n h w 3] uint8 (holes are grey or whatever hole_mask says), hole_mask
            [b v f hl wl 4], with details or fill covered [b v n h w] bool, with fill sure alike;
            text, and null text unless guidance is 1; first [b v 1 h w c] where the cameras start
            as the source. n is any 4 m + 1.
          rng: key of the initial noise.
          progress: see `base.Sampled`.

        Raises:
          ValueError: no render, or of another size.
        """
        where = f"task {self.name}, sample"
        if "render" not in inputs or "hole_mask" not in inputs:
            raise ValueError(
                f"{where}: wanted points drawn for a camera (render, hole_mask), got "
                f"{sorted(inputs)}: give config.sample.sources, finished samples with tracks, and "
                "config.sample.camera_path (docs/more4d.md)"
            )
        (h, w), v = self.options.size, inputs["render"].shape[1]
        for option, keys in {"details": ("covered",), "fill": ("covered", "sure")}.items():
            if getattr(self.options, option) and not set(keys) <= set(inputs):
                raise ValueError(f"{where}: task.{option} wanted what points cover {keys}")
        axes = {key: schema.BATCH[key].axes for key in ("render", "hole_mask", "covered", "sure")}
        base.check(where, inputs, axes, h=h, w=w)
        pixels = inputs["render"]
        if self.options.fill:
            pixels = view_pairs.filled(pixels, inputs["covered"], inputs["sure"])
        render = self.encode(params, pixels)
        mask = inputs["hole_mask"] if self.options.mask else jnp.zeros_like(inputs["hole_mask"])
        condition = einops.rearrange(jnp.concatenate([mask, render], axis=-1), FOLD)
        text, lengths = self.generator.branches(inputs, v)
        held = inputs.get("first")
        known = held is not None and render.shape[2] > 1
        first = jnp.full(len(condition), known)
        given = self._given(condition, text, lengths, first)
        noise = jax.random.normal(rng, (*condition.shape[:4], render.shape[-1]))
        clean = einops.rearrange(held, FOLD) if known else None
        found = self.generator.sample(params, noise, given, clean, progress=progress)
        taken = {}
        if self.options.details:
            taken = {
                "given": pixels.astype(jnp.float32) / 127.5 - 1,
                "given_share": inputs["covered"].astype(jnp.float32),
            }
        return base.Sample(einops.rearrange(found, "(b v) ... -> b v ...", v=v), **taken)

    @property
    def rebuilt_by(self) -> tuple[str, ...]:
        """See `tasks.base.Rebuilt`."""
        return ("vae",)

    def rebuild(self, params: Params, truth: base.Batch) -> base.Sample:
        """Returns the true videos after their own latents: what the autoencoder alone costs."""
        return self.decode(params, base.Sample(self.encode(params, truth["video"])))

    # Costs.

    def cost(self, batch: dict[str, Array]) -> dict[str, float]:
        """Returns tokens and FLOPs of a training step, of all frames, over a global batch."""
        clips, (tokens, one) = self._clips(batch), self.generator.forward_cost()
        return {"tokens": clips * tokens, "flops": float(clips * flops.train(one))}

    def _clips(self, batch: dict[str, Array]) -> int:
        drawn = "render_latents" in batch
        return batch["text"].shape[0] * (self.options.views if drawn else 1)

    def programs(self) -> dict[str, base.Program]:
        """Returns the training step on cached latents, and a guided step of sampling one clip."""
        own = dataclasses.replace(self, generator=conditional.ahead(self.generator))
        parts = ("dit", "lora") if self.generator.lora_config.ranks else ("dit",)
        program = functools.partial(base.Program, own, parts)
        work = own.generator.work
        return {
            "train_step": program(
                None, own._batch, functools.partial(work, views=self.options.views, training=True)
            ),
            "sample_step": program(
                functools.partial(conditional.sample_run, own.generator),
                own._step_inputs,
                functools.partial(work, views=1, training=False),
            ),
        }

    def _batch(self, samples: int) -> tuple[base.Shapes]:
        (v, f, h, w, c), config = self.generator.latent_shape, self.generator.dit_config
        sizes = {"b": samples, "v": v, "f": f, "hl": h, "wl": w, "c": c, "l0": 1}
        sizes |= {"l": config.text_len, "d": config.text_dim}
        names = (*CACHED, "render_same", "latent_valid", *conditional.TEXT)
        return (base.shapes(names, **sizes),)

    def _step_inputs(self, samples: int) -> tuple[base.Shapes, ...]:
        (batch,), (_, f, h, w, c) = self._batch(samples), self.generator.latent_shape

        def shape(*sizes: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((samples, *sizes), jnp.float32)

        text, lengths = jax.eval_shape(
            lambda x: self.generator.branches(x, 1), {k: batch[k] for k in conditional.TEXT}
        )
        first: Any = jax.ShapeDtypeStruct((samples,), bool)
        condition: Any = shape(f, h, w, MASK + c)
        inputs = jax.eval_shape(self._given, condition, text, lengths, first)
        schedule = self.generator.schedule()
        state = jax.eval_shape(lambda x: video.start(schedule, {"video": x}), shape(f, h, w, c))
        row = jax.eval_shape(lambda: schedule.rows(0, 1))
        return state, row, (inputs, {"video": shape(1, h, w, c)})

    def embedded(self) -> base.Scenes:
        """Returns what data a run that names none is to make."""
        o, config = self.options, self.generator.dit_config
        text = (config.text_dim, config.text_len)
        return base.Scenes(
            size=o.size, frames=o.frames, text=text, vae=self.generator.vae_config, fields=("flow",)
        )
