"""Between motion latents and tracks: maps, their colours matched, tracks painted into them.

A map is a frame of a pseudo video, colours (u0 / W, v0 / H, depth code) in [0, 1] where something
is painted. `Autoencoder` and `Codec` have one form: maps at the videos' size by the frozen
autoencoder, or at a quarter of it by the learned codec (`tasks.motion_codec` trains it). `Motion`
joins either with matching (geometry/matching.py) and painting (geometry/painting.py).
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from syncmv4d_jax.geometry import anchors, cameras, matching, painting, pseudo_video
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.models import motion_codec
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.tasks import video
from syncmv4d_jax.tasks.syncmv4d import cycle

Array = jax.Array
Params = dict[str, Any]


class Maps(Protocol):
    """Latents <-> maps.

    Attributes:
      part: of the parameters.
      size: (height, width) of the maps, pixels.
    """

    @property
    def part(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def decode(self, params: Params, latents: Array, first: Array) -> Array:
        """latents [b v f h w c] -> maps [b v n h w 3] in [0, 1].

        first: [b v 1 h w c], the reference images' latents, zeros where a view has none.
        """
        ...

    def encode(self, params: Params, maps: Array) -> Array:
        """maps [b v n h w 3] in [0, 1] -> latents [b v f h w c]."""
        ...

    def anchors(self, pixels: Array) -> Array:
        """Pixels of the video [...] -> pixels of a map."""
        ...

    def pixels(self, anchors: Array) -> Array:
        """Pixels of a map [...] -> pixels of the video."""
        ...

    def intrinsics(self, intrinsics: Array) -> Array:
        """Cameras of the video [... 3 3] -> those of a map."""
        ...

    def mask(self, mask: Array) -> Array:
        """Masks of the video's size [... h w] -> of a map's."""
        ...


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Maps of the videos' size; see `Maps`."""

    part = "vae"

    vae: video.FrozenVAE
    size: tuple[int, int]

    def decode(self, params: Params, latents: Array, first: Array) -> Array:
        del first  # it says all by itself
        return jnp.clip((self.vae.decode(params, latents) + 1) / 2, 0, 1)

    def encode(self, params: Params, maps: Array) -> Array:
        return self.vae.encode(params, maps * 2 - 1)

    def anchors(self, pixels: Array) -> Array:
        return pixels

    def pixels(self, anchors: Array) -> Array:
        return anchors

    def intrinsics(self, intrinsics: Array) -> Array:
        return intrinsics

    def mask(self, mask: Array) -> Array:
        return mask


@dataclasses.dataclass(frozen=True)
class Codec:
    """Maps of a reduced size by a network of its own; see `Maps`."""

    part = "codec"

    config: motion_codec.CodecConfig
    video_size: tuple[int, int]
    placement: protocol.Placement = protocol.LOCAL

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.video_size
        return height // self.config.reduction, width // self.config.reduction

    @jax.named_scope("codec_decode")
    def decode(self, params: Params, latents: Array, first: Array) -> Array:
        guide = (first[:, :, 0],) if self.config.guide else ()
        maps = self._run(params, "decode", latents, *guide)
        return jnp.where(maps[..., 3:] > 0, jnp.clip(maps[..., :3], 0, 1), 0.0)

    @jax.named_scope("codec_encode")
    def encode(self, params: Params, maps: Array) -> Array:
        mask = jnp.any(maps > 0, axis=-1, keepdims=True).astype(jnp.float32)
        return self._run(params, "encode", jnp.concatenate([maps, mask], axis=-1))

    def anchors(self, pixels: Array) -> Array:
        return motion_codec.reduce_pixels(pixels, self.config.reduction)

    def pixels(self, anchors: Array) -> Array:
        return motion_codec.enlarge_pixels(anchors, self.config.reduction)

    def intrinsics(self, intrinsics: Array) -> Array:
        return motion_codec.reduce_intrinsics(intrinsics, self.config.reduction)

    def mask(self, mask: Array) -> Array:
        return motion_codec.reduce_mask(mask, self.config.reduction)

    def _run(self, params: Params, method: str, *given: Array) -> Array:
        def one(weights, clips):
            codec = module.bind(motion_codec.Codec, self.config, weights)
            return getattr(codec, method)(*(clip[None] for clip in clips))[0]

        return self.placement.each(one, params["codec"], given)


@dataclasses.dataclass(frozen=True)
class Motion:
    """Motion latents <-> tracks, as `cycle.Functions` wants them.

    Attributes:
      maps: what stands between.
      points: of a scene.
    """

    maps: Maps
    points: int
    placement: protocol.Placement = protocol.LOCAL

    @functools.cached_property
    def settings(self) -> matching.MatchSettings:
        """Lengths of matching and painting at the maps' size."""
        return matching.settings_for(*self.maps.size)

    def decode(
        self, params: Params, first: Array, latents: Array, scale: Array, context: Any
    ) -> tuple[cycle.Coarse, Array]:
        """See `cycle.Decode`; first: [b v 1 h w c], the reference images' latents."""
        pseudo = self._maps(params, first, latents, context)
        return self.match(pseudo, scale, context), pseudo

    @jax.named_scope("match")
    def match(self, pseudo: Array, scale: Array, context: Any) -> cycle.Coarse:
        """Tracks of a pseudo video [b v n h w 3] in [0, 1]; a scale that is no range is widened."""
        scale = jnp.stack([scale[..., 0], jnp.maximum(scale[..., 1], scale[..., 0] + 1e-2)], -1)
        match = functools.partial(pseudo_video.decode, settings=self.settings)
        found = self._per_view(match, pseudo, *self._anchored(scale, context))
        confidence = found.confidence
        if context.get("anchor_confidence") is not None:  # of frame 0's rays: not all are given
            confidence = confidence.at[:, :, 0].multiply(context["anchor_confidence"])
        return cycle.Coarse(found.tracks, confidence)

    @jax.named_scope("warp")
    def warp(self, frame0: Array, scale: Array, context: Any) -> Any:
        """See `cycle.MakeWarp`.

        Where the context has `mask` [b v h w], the foreground of the clean reference images at the
        maps' size, it is the silhouette of what is warped, else frame 0's own.
        """
        if context.get("mask") is not None:
            cut = functools.partial(painting.masked, settings=self.settings)
            frame0 = self._per_view(cut, frame0, context["mask"])
        weigh = functools.partial(painting.warp_weights, settings=self.settings)
        return self._per_view(weigh, frame0, *self._anchored(scale, context))

    def encode(self, params: Params, tracks: Array, scale: Array, warp: Any, context: Any) -> Array:
        """See `cycle.Encode`."""
        return self.maps.encode(params, self.paint(tracks, scale, warp, context))

    @jax.named_scope("paint")
    def paint(self, tracks: Array, scale: Array, warp: Any, context: Any) -> Array:
        """tracks [b v n k 3] metres -> pseudo video [b v n h w 3] in [0, 1]."""
        blank = jnp.zeros((*scale.shape[:2], *self.maps.size, 3))  # `render` reads its size

        def paint(warp, *view):
            return painting.render(*view, settings=self.settings, warp=warp)

        return self._per_view(paint, warp, tracks, blank, *self._anchored(scale, context))

    @jax.named_scope("find_anchors")
    def find_anchors(
        self,
        params: Params,
        first: Array,
        latents: Array,
        scale: Array,
        context: dict[str, Any],
    ) -> cycle.Query:
        """Query pixels from frame 0 of clean motion latents [b v f h w c] (A23)."""
        frame0 = self._maps(params, first, latents, context)[:, :, 0]
        find = functools.partial(anchors.frame0_anchors, count=self.points, settings=self.settings)
        return self._query(jax.vmap(find)(frame0, scale, *self._rig0(context)))

    @jax.named_scope("relocate")
    def relocate(
        self, frame0: Array, scale: Array, tracks: cycle.Coarse, context: dict[str, Any]
    ) -> cycle.Query:
        """See `cycle.Relocate`."""
        points = world_tracks.fuse(tracks.tracks, tracks.confidence)[:, 0]
        known = anchors.Anchors(
            self.maps.anchors(context["anchors"]), context["anchor_valid"],
            context["anchor_confidence"], context["anchor_view"], points,
        )  # fmt: skip
        move = functools.partial(anchors.relocate, settings=self.settings)
        moved = self._query(jax.vmap(move)(known, points, frame0, scale, *self._rig0(context)))
        asked = jnp.arange(frame0.shape[1])[None, :, None] == context["anchor_view"][:, None]
        pixels = jnp.where(asked[..., None], context["anchors"], moved.anchors)  # to the last bit
        return moved._replace(anchors=pixels)

    def _maps(self, params: Params, first: Array, latents: Array, context: Any) -> Array:
        """Maps [b v n h w 3] of motion latents; of hidden views nothing is known beside."""
        return self.maps.decode(params, latents, cycle.shown(first, context))

    def _rig0(self, context: Any) -> tuple[Array, Array]:
        """Intrinsics of the maps [b v 3 3], extrinsics of frame 0 [b v 3 4]."""
        poses = cameras.at_first(context["extrinsics"], 2)
        return self.maps.intrinsics(context["intrinsics"]), poses

    def _query(self, found: anchors.Anchors) -> cycle.Query:
        """Anchors in pixels of a map, as query pixels of the video."""
        pixels = self.maps.pixels(found.pixels)
        return cycle.Query(pixels, found.valid, found.confidence, found.view)

    def _anchored(self, scale: Array, context: Any) -> tuple[Array, ...]:
        """anchors, anchor_valid, scale, intrinsics, extrinsics of all views, for maps."""
        rig = self.maps.intrinsics(context["intrinsics"]), context["extrinsics"]
        return self.maps.anchors(context["anchors"]), context["anchor_valid"], scale, *rig

    def _per_view(self, function: Any, *arrays: Any) -> Any:
        """Maps a single-view function over [b v ...] arrays, one view of a device at a time."""
        return self.placement.each(lambda _, view: function(*view), None, arrays)
