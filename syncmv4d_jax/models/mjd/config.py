"""Sizes and switches of the multi-view joint diffusion transformer."""

import dataclasses

from syncmv4d_jax.models.wan import config as wan_config

INJECT = ("second_embed", "literal_sum")
SCALE_TOKENS = 2  # nearest, farthest
REGISTER_TOKENS = 6


@dataclasses.dataclass(frozen=True)
class MJDConfig(wan_config.DiTConfig):
    """Wan's configuration and the switches of SyncMV4D (paper Table 3).

    Attributes:
      multi_view: inter-view attention; without it views are independent.
      joint_motion: motion, scale and register tokens beside the video.
      inject: how the fed back motion enters (A8): its own embedding or added to the noisy motion.
      camera_embedding: add a zero-initialised map of [R|t] before inter-view attention (A13).
    """

    multi_view: bool = True
    joint_motion: bool = True
    inject: str = "second_embed"
    camera_embedding: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.inject not in INJECT:
            raise ValueError(f"MJDConfig.inject: wanted one of {INJECT}, got {self.inject!r}")

    @property
    def extra_tokens(self) -> int:
        """Learnable tokens of each view, shared over views."""
        return SCALE_TOKENS + REGISTER_TOKENS if self.joint_motion else 0
