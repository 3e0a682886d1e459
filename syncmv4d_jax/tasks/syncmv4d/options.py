"""`config.task` of SyncMV4D without its networks."""

import dataclasses

from syncmv4d_jax.geometry import pseudo_video
from syncmv4d_jax.tasks import perceptual

PREDICTIONS = ("velocity", "data")
ORIGINS = ("camera", "centre")


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.task` without the networks.

    Attributes:
      size: (height, width) of the videos, pixels.
      frames, views, points: N, V, K of the paper.
      motion_repr: "point_tracks", or "das_tracking" (Table 4; no depth over time, so no aligner).
      prediction: "velocity" or "data" (loop.py).
      scale_mean, scale_std: of (nearest, farthest) depth over the data set, metres (A5).
      scale_origin: "camera", or "centre": those two are of the depth beyond the point that the
        views' middle rays meet in. Where views are cropped about what moves, as here, most of a
        depth is known from the cameras alone.
      time_shift: training times are shift(U(0, 1)); 1 is the paper's uniform draw.
      text_drop: share of samples trained with the null text (guidance).
      view_drop: share of samples trained without the reference of one of their views, any of them
        alike; its video frame 0 is noisy like the others, at t, and in the loss. 0 in effect where
        views do not attend to each other: nothing else says what such a view shows.
      foreground_gain: extra loss weight of latent cells that tracked points pass through.
      frame0_gain: extra loss weight of the motion's first latent frame: where points are, which all
        of a track's error begins with.
      video_weight, motion_weight, scale_weight, dpa_weight, chamfer_weight: of the loss terms.
      perceptual_weight: of LPIPS of the decoded clean estimate, in `task.PERCEPTUAL`'s share of the
        steps and below its time.
      sampler, sample_steps, sample_shift, guidance: of sampling (A22).
      guidance_interval: (lowest, highest) sigma with guidance; other steps run one branch.
      reuse_threshold: change of MJD's input below which a plain sampling step reuses what the
        blocks did in the last (models/reuse.py); 0 for never.
      vae_batch: clips that the autoencoder takes at once inside the loop.
      vae_chunk: latent frames of a clip that it takes at once, 0 for all: less memory.
    """

    size: tuple[int, int] = (480, 704)
    frames: int = 49
    views: int = 3
    points: int = 1600
    motion_repr: str = "point_tracks"
    prediction: str = "velocity"
    scale_mean: tuple[float, float] = (1.9, 2.4)
    scale_std: tuple[float, float] = (0.3, 0.3)
    scale_origin: str = "camera"
    time_shift: float = 1.0
    text_drop: float = 0.1
    view_drop: float = 0.0
    foreground_gain: float = 0.0
    frame0_gain: float = 0.0
    video_weight: float = 1.0
    motion_weight: float = 1.0
    scale_weight: float = 1.0
    dpa_weight: float = 1.0
    chamfer_weight: float = 1.0
    perceptual_weight: float = 0.0
    sampler: str = "unipc"
    sample_steps: int = 50
    sample_shift: float = 5.0
    guidance: float = 5.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    reuse_threshold: float = 0.0
    vae_batch: int = 1
    vae_chunk: int = 0

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"task.prediction: wanted {PREDICTIONS}, got {self.prediction!r}")
        if self.scale_origin not in ORIGINS:
            raise ValueError(f"task.scale_origin: wanted {ORIGINS}, got {self.scale_origin!r}")
        if self.motion_repr not in pseudo_video.REPRESENTATIONS:
            raise ValueError(
                f"task.motion_repr: wanted {pseudo_video.REPRESENTATIONS}, got {self.motion_repr!r}"
            )
        perceptual.check("task.perceptual_weight", self.perceptual_weight, self.size)
        if not 0 <= self.view_drop <= 1:
            raise ValueError(f"task.view_drop: wanted a share, 0 to 1, got {self.view_drop}")
        if self.frames % 4 != 1:
            raise ValueError(f"task.frames: wanted 4 n + 1 frames, got {self.frames}")
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"task.guidance_interval: wanted 0 <= lowest <= highest <= 1, got {low}, {high}"
            )
        if self.reuse_threshold < 0:
            raise ValueError(f"task.reuse_threshold: wanted >= 0, got {self.reuse_threshold}")
