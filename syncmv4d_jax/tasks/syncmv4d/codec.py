"""SyncMV4D with the learned motion codec in its loop, beside the faithful autoencoder.

The loop's decoding, matching, warp, painting and encoding happen at the codec's reduced size;
reference images and final videos still pass the autoencoder. The codec is a frozen part, `codec`,
trained by `tasks.motion_codec`.
"""

from typing import Any

import jax.numpy as jnp

from syncmv4d_jax.configuration import section
from syncmv4d_jax.geometry import matching
from syncmv4d_jax.models import motion_codec
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.tasks import motion_codec as codec_task
from syncmv4d_jax.tasks.syncmv4d import task


def make(codec: Any, **made: Any) -> "SyncMV4DWithCodec":
    """Builds the task from the section `config.task.codec` and what `syncmv4d.make` has made."""
    config = section(motion_codec.CodecConfig, codec, "config.task.codec")
    return SyncMV4DWithCodec(codec_config=config, **made)


class SyncMV4DWithCodec(task.SyncMV4D):
    """The task; see `tasks.base.Task`."""

    def __init__(self, *, codec_config: motion_codec.CodecConfig, **rest: Any):
        self.codec_config = codec_config  # `map_size` reads it
        super().__init__(**rest)
        codec_task.check(codec_config, self.vae_config)
        self.frozen_parts = (*self.frozen_parts, "codec")
        self.match = matching.settings_for(*self.map_size)

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of the pseudo videos inside the loop."""
        height, width = self.options.size
        return height // self.codec_config.reduction, width // self.codec_config.reduction

    def init(self, rng):
        """Returns initial parameters of all parts; `codec` is meant to be loaded."""
        params = super().init(rng)
        return params | {"codec": module.init(motion_codec.Codec, self.codec_config, rng)}

    def _codec(self, params, method, x):
        def run(weights, clip):
            codec = module.bind(motion_codec.Codec, self.codec_config, weights)
            return getattr(codec, method)(clip[None])[0]

        return self._per_view(lambda clip: run(params["codec"], clip), x)

    def _pseudo(self, params, latents):
        maps = self._codec(params, "decode", latents)
        return jnp.where(maps[..., 3:] > 0, jnp.clip(maps[..., :3], 0, 1), 0.0)

    def _anchored(self, scale, context):
        anchors, valid, scale, intrinsics, extrinsics = super()._anchored(scale, context)
        by = self.codec_config.reduction
        small = motion_codec.reduce_pixels(anchors, by)
        return small, valid, scale, motion_codec.reduce_intrinsics(intrinsics, by), extrinsics

    def _decode(self, params, latents, scale, context):
        pseudo = self._pseudo(params, latents)
        return self._matched(pseudo, scale, context), pseudo

    def _encode(self, params, tracks, scale, warp, context):
        pseudo = self._painted(tracks, scale, warp, context)
        mask = jnp.any(pseudo > 0, axis=-1, keepdims=True).astype(jnp.float32)
        return self._codec(params, "encode", jnp.concatenate([pseudo, mask], axis=-1))

    def _find_anchors(self, params, clean, scale, context):
        by = self.codec_config.reduction
        small = motion_codec.reduce_intrinsics(context["intrinsics"], by)
        frame0 = self._pseudo(params, clean)[:, :, 0]
        found = self._anchors_of(frame0, scale, {**context, "intrinsics": small})
        return {**context, **found, "anchors": motion_codec.enlarge_pixels(found["anchors"], by)}
