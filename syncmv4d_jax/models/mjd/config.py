"""Sizes and switches of the multi-view joint diffusion transformer."""

import dataclasses

from syncmv4d_jax.models.wan import config as wan_config

INJECT = ("second_embed", "literal_sum")
CAMERA_FORMS = {"pose": 12, "rays": 6}  # and how many numbers they are
SCALE_TOKENS = 2  # nearest, farthest
REGISTER_TOKENS = 6


@dataclasses.dataclass(frozen=True)
class MJDConfig(wan_config.DiTConfig):
    """Wan's configuration and the switches of SyncMV4D (paper Table 3).

    Attributes:
      multi_view: inter-view attention; without it views are independent.
      joint_motion: motion, scale and register tokens beside the video.
      inject: how the fed back motion enters (A8): its own embedding or added to the noisy motion.
      camera_embedding: add a zero-initialised map of the camera before inter-view attention (A13).
      camera_form: what of it, of CAMERA_FORMS: "pose", [R|t] of each latent frame, or "rays", the
        Pluecker coordinates of the ray through the middle of each token.
      actions: how many numbers an action has; each latent frame's own are added to its time vector
        by a map that starts at zero. 0: no actions.
    """

    multi_view: bool = True
    joint_motion: bool = True
    inject: str = "second_embed"
    camera_embedding: bool = False
    camera_form: str = "pose"
    actions: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.camera_form not in CAMERA_FORMS:
            raise ValueError(
                f"MJDConfig.camera_form: wanted one of {tuple(CAMERA_FORMS)}, got "
                f"{self.camera_form!r}"
            )
        if self.actions < 0:
            raise ValueError(f"MJDConfig.actions: wanted 0 or more, got {self.actions}")
        if self.inject not in INJECT:
            raise ValueError(f"MJDConfig.inject: wanted one of {INJECT}, got {self.inject!r}")

    @property
    def extra_tokens(self) -> int:
        """Learnable tokens of each view, shared over views."""
        return SCALE_TOKENS + REGISTER_TOKENS if self.joint_motion else 0
