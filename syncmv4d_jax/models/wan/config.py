"""Sizes of the Wan2.2 transformer."""

import dataclasses

REMAT = ("none", "full", "save_attention", "offload")


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Sizes and numerics; dtypes are names ("float32", "bfloat16").

    unroll: blocks in a turn of the scan over blocks. More compile longer; all in one turn save a
    CPU the copies into and out of what the scan keeps for the backward pass (docs/speed.md).
    """

    dim: int = 3072
    ffn_dim: int = 14336
    heads: int = 24
    layers: int = 30
    in_channels: int = 48
    out_channels: int = 48
    patch: tuple[int, int, int] = (1, 2, 2)
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    qk_norm: bool = True
    cross_attn_norm: bool = True
    eps: float = 1e-6
    dtype: str = "bfloat16"
    residual_dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self):
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"DiTConfig: dim {self.dim} is not 2 x {self.heads} heads x an integer"
            )
        if not 1 <= self.unroll <= max(self.layers, 1):
            raise ValueError(
                f"DiTConfig.unroll: wanted 1 to {self.layers} blocks, got {self.unroll}"
            )
        if self.remat not in REMAT:
            raise ValueError(f"DiTConfig: wanted remat of {REMAT}, got {self.remat!r}")

    @property
    def d_head(self) -> int:
        return self.dim // self.heads

    @property
    def patch_size(self) -> int:
        """Latent positions in a patch."""
        return self.patch[0] * self.patch[1] * self.patch[2]


TI2V_5B = DiTConfig()
TINY = DiTConfig(
    dim=48,
    ffn_dim=96,
    heads=2,
    layers=2,
    in_channels=4,
    out_channels=4,
    freq_dim=32,
    text_dim=16,
    text_len=8,
    dtype="float32",
)
