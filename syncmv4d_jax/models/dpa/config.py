"""Sizes of the aligner."""

import dataclasses

TEMPORAL = ("track", "none")


@dataclasses.dataclass(frozen=True)
class AlignerConfig:
    """Sizes.

    Attributes:
      width, heads: of every block.  depth: super-blocks.  coarse_blocks: PTv3 blocks on the
        condition.
      cpe_channels: width of the convolution.  patch: points a patch.
      voxel: edge in normalised units; curves use cells four times finer.
      octaves: Fourier features per coordinate.  temporal: one of TEMPORAL.
      anchored: the closed form trusts the rays of frame 0 (models.dpa.queries); needs "track".
      sigma_coarse: deviation of the fused coarse tracks, normalised units; None: no
        preconditioning.
      remat: recompute super-blocks in the backward pass.  dtype: of activations.
    """

    width: int = 256
    heads: int = 4
    depth: int = 6
    coarse_blocks: int = 2
    cpe_channels: int = 64
    patch: int = 1024
    voxel: float = 0.032
    octaves: int = 8
    temporal: str = "track"
    anchored: bool = True
    sigma_coarse: float | None = 0.15
    remat: bool = True
    dtype: str = "float32"

    def __post_init__(self):
        if self.temporal not in TEMPORAL:
            raise ValueError(f"temporal: wanted one of {TEMPORAL}, got {self.temporal!r}")
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width}: wanted an even multiple of heads {self.heads}")


BASE = AlignerConfig()
DEMO = AlignerConfig(
    width=64, heads=2, depth=2, coarse_blocks=1, cpe_channels=32, patch=128, remat=False
)
TINY = AlignerConfig(width=32, heads=2, depth=2, coarse_blocks=1, cpe_channels=16, patch=64)
