"""Sizes and switches of the multi-view joint diffusion transformer."""

import dataclasses

from syncmv4d_jax.models.wan import config as wan_config

INJECT = ("second_embed", "literal_sum")


@dataclasses.dataclass(frozen=True)
class MJDConfig(wan_config.DiTConfig):
    """Wan's configuration and the switches of SyncMV4D (paper Table 3).

    Attributes:
      multi_view: inter-view attention; without it views are independent.
      joint_motion: motion, scale and register tokens beside the video.
      inject: how the fed back motion enters (A8): its own embedding or added to the noisy motion.
      camera_embedding: add a zero-initialised map of [R|t] before inter-view attention (A13).
      scale_tokens, register_tokens: learnable tokens of each view, shared over views.
    """

    multi_view: bool = True
    joint_motion: bool = True
    inject: str = "second_embed"
    camera_embedding: bool = False
    scale_tokens: int = 2
    register_tokens: int = 6

    def __post_init__(self):
        super().__post_init__()
        if self.inject not in INJECT:
            raise ValueError(f"MJDConfig.inject: wanted one of {INJECT}, got {self.inject!r}")
        if self.scale_tokens != 2:
            raise ValueError(
                f"MJDConfig.scale_tokens: wanted 2 (nearest, farthest), got {self.scale_tokens}"
            )

    @property
    def extra_tokens(self) -> int:
        return self.scale_tokens + self.register_tokens if self.joint_motion else 0
