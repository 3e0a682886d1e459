"""The frozen transformer with the branch beside it, as one denoiser of all views.

Latents are {"video": [b v f h w c]} and, of an MJD with joint motion, {"motion"} as well. The
branch reads the noisy video latents and the conditions Z [b v f h w 2c]; without Z the backbone
runs by itself.
"""

import dataclasses
import math
from typing import Any, NamedTuple, Protocol

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import flow
from syncmv4d_jax.models import control
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import mjd, warm_start
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import block as dit_block
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit

Array = jax.Array
Params = dict[str, Any]
Latents = dict[str, Array]
FOLD, UNFOLD = "b v f h w c -> (b v) f h w c", "(b v) f h w c -> b v f h w c"


class Text(NamedTuple):
    """Features [b l d_text] and how many rows count [b]."""

    features: Array
    lengths: Array


class TextKeys(NamedTuple):
    """What all blocks of the backbone, and all copies, read of a text."""

    own: dit_block.Keys
    copies: dit_block.Keys


class Views(NamedTuple):
    """What an MJD reads of the views: their rope's slots [b v], extrinsics [b v 3 4]."""

    slots: Array
    extrinsics: Array


class Denoised(NamedTuple):
    """What the transformer gives {name: [b v f h w c]}, and the answer of a branch that copies."""

    latents: Latents
    answer: control.Answer | None = None


class Backbone(Protocol):
    """A frozen transformer and its branch; `dit` its parameters, `control` the branch's."""

    def init(self, key: Array) -> Params:
        """Initial parameters of the transformer."""
        ...

    def denoise(
        self,
        params: Params,
        latents: Latents,
        t: Array,
        text: Text | TextKeys,
        views: Views,
        z: Array | None,
        *,
        scale: float = 1.0,
    ) -> Denoised:
        """What the transformer gives of noisy latents at t [b] in 0..1, float32, like these."""
        ...

    def text_keys(self, params: Params, text: Text) -> TextKeys:
        """Computed once a sample they serve every step."""
        ...


@dataclasses.dataclass(frozen=True)
class Wan:
    """Wan's transformer on every view by itself."""

    config: wan_config.DiTConfig
    control: control.ControlConfig
    placement: protocol.Placement

    def init(self, key: Array) -> Params:
        """See `Backbone`."""
        return module.init(dit.DiT, self.config, key)

    def text_keys(self, params: Params, text: Text) -> TextKeys:
        """See `Backbone`."""
        return _keys(dit.DiT, self, params, text)

    def denoise(
        self,
        params: Params,
        latents: Latents,
        t: Array,
        text: Text | TextKeys,
        views: Views,
        z: Array | None,
        *,
        scale: float = 1.0,
    ) -> Denoised:
        """See `Backbone`."""
        del views
        model = module.bind(dit.DiT, self.config, params["dit"])
        x, v = einops.rearrange(latents["video"], FOLD), latents["video"].shape[1]
        keys, answers = text if isinstance(text, TextKeys) else None, []

        def blocks(tokens, embedded, *, placement, **inputs):
            branch = module.bind(control.ControlBranch, self.control, params["control"])
            copies = embedded if keys is None else keys.copies
            beside = control.Stream(_embed(model, branch, latents, z, placement), copies, inputs)
            own = control.Stream(tokens, embedded, inputs)
            x, c = control.run(model, branch, own, beside, scale=scale, placement=placement)
            answers.append(_answer(branch, c, latents, placement))
            return x

        velocity = model(
            x,
            jnp.repeat(t, v) * flow.TRAIN_STEPS,
            text[0],
            context_lengths=None if keys else text[1],
            first_frame=True,
            placement=self.placement,
            blocks=None if z is None else blocks,
        )
        found = {"video": einops.rearrange(velocity, UNFOLD, v=v)}
        return Denoised(found, *answers)


@dataclasses.dataclass(frozen=True)
class Joint:
    """MJD on all views together."""

    config: mjd_config.MJDConfig
    control: control.ControlConfig
    placement: protocol.Placement

    def init(self, key: Array) -> Params:
        """See `Backbone`."""
        return warm_start.init(self.config, key)

    def text_keys(self, params: Params, text: Text) -> TextKeys:
        """See `Backbone`."""
        return _keys(mjd.MJD, self, params, text)

    def denoise(
        self,
        params: Params,
        latents: Latents,
        t: Array,
        text: Text | TextKeys,
        views: Views,
        z: Array | None,
        *,
        scale: float = 1.0,
    ) -> Denoised:
        """See `Backbone`."""
        place, model = self.placement, module.bind(mjd.MJD, self.config, params["dit"])
        inputs = mjd.Inputs(
            latents["video"], latents.get("motion"), t * flow.TRAIN_STEPS, None, *views
        )
        keys = text if isinstance(text, TextKeys) else None
        given = text.own if isinstance(text, TextKeys) else mjd.Text(*text)
        tokens = model.prepare(inputs, given, placement=place)
        answer = None
        if z is None:
            x = model.run(tokens, placement=place)
        else:
            branch = module.bind(control.ControlBranch, self.control, params["control"])
            alone = tokens.layout._replace(extra=0, modalities=1, pad=0)
            own = {"conditions": tokens.conditions, "layout": tokens.layout}
            beside = {
                "time": tokens.conditions.video_time,
                "spread": lambda vectors: alone.spread(vectors, None, None),
                "rotation": model.rotation(alone.grid),
            }
            c = _embed(model, branch, latents, z, place)
            x, c = control.run(
                model,
                branch,
                control.Stream(tokens.x, tokens.text, own),
                control.Stream(c, tokens.text if keys is None else keys.copies, beside),
                scale=scale,
                first=tokens.layout.extra,
                placement=place,
            )
            answer = _answer(branch, c, latents, place)
        out = model.read(x, tokens, placement=place)
        found = {"video": out.velocity}
        found |= {} if out.motion_velocity is None else {"motion": out.motion_velocity}
        return Denoised(found, answer)


def _embed(model, branch, latents, z, placement):
    """The branch's tokens [(b v) s d] of noisy latents and conditions."""
    seen = jnp.concatenate([latents["video"], z], axis=-1)
    x = model.embed_patches(einops.rearrange(seen, FOLD), branch.patch_embedding, placement)
    return placement.constrain(x, model.token_axes)


def _answer(branch, c, latents, placement) -> control.Answer | None:
    """The branch's own answer, where it gives one, of its tokens c [(b v) s d] (padded)."""
    if not branch.config.copies:
        return None
    sizes, patch = latents["video"].shape[1:5], branch.config.backbone.patch
    grid = tuple(size // p for size, p in zip(sizes[1:], patch, strict=True))
    answer = branch.answer(c[:, : math.prod(grid)], grid, placement=placement)
    return control.Answer(*(einops.rearrange(x, UNFOLD, v=sizes[0]) for x in answer))


def _keys(network, backbone, params, text) -> TextKeys:
    model = module.bind(network, backbone.config, params["dit"])
    branch = module.bind(control.ControlBranch, backbone.control, params["control"])
    copies = branch.text_keys(model.text_embedding(*text), placement=backbone.placement)
    return TextKeys(model.text_keys(*text, placement=backbone.placement), copies)
