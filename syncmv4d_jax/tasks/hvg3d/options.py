"""`config.task` of HVG-3D without its networks."""

import dataclasses

from syncmv4d_jax.configuration import at_least, one_of, shares
from syncmv4d_jax.geometry import pseudo_video

BACKBONES = ("wan", "mjd")
CONTROLS = ("points", "tracking")
PREDICTIONS = ("velocity", "data")


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.task` without the networks.

    Attributes:
      size: (height, width) of the videos, pixels.
      frames, views: of a sample. cloud: points a frame.
      backbone: "wan", each view for itself, or "mjd", views that attend to each other.
      stride: backbone blocks for each copy, one that divides them.
      controls: what the branch is given, of CONTROLS; what is not named is dropped always.
      colours: whether points have the colours that frame 0 shows of them; else shape alone.
      tracking: what the tracking video shows at the places of today: where its points were in
        frame 0, of pseudo_video.REPRESENTATIONS, or frame 0's own colours (pseudo_video.WARPED).
      copies: whether the branch may copy the tracking video's latents into the video's, and add to
        them, past the frozen transformer (control.py); of pseudo_video.WARPED alone.
      details: 0, or how far, in colours of -1..1, a sampled video may be from a tracking video of
        frame 0's own colours to take its pixels (video.detailed); of pseudo_video.WARPED alone.
      prediction: "velocity", or "data" as in small models (flow.bounded_time).
      time_shift: of training times, the table's or, with "data", of a uniform draw.
      text_drop, point_drop, tracking_drop: share of samples without it; apart from each other.
      detail_drop: share of samples whose points have no normals, colours and velocities, as those
        of a real video have none.
      mask_gain, mask_power: (1 + gain m)^power is the loss's weight, m the share of a cell that
        hands and objects cover.
      control_scale: of what the branch adds, in sampling.
      control_until: share of the sampling steps, from noise on, that are controlled.
      sampler, sample_steps, sample_shift, guidance: of sampling; guidance 1 needs no null text.
      run_steps: at most so many sampling steps between two calls of `progress`.
      vae_batch, vae_chunk: clips, and latents along time, that the autoencoder takes at once.
    """

    size: tuple[int, int] = (480, 704)
    frames: int = 49
    views: int = 1
    cloud: int = 2048
    backbone: str = "wan"
    stride: int = 1
    controls: tuple[str, ...] = CONTROLS
    colours: bool = False
    tracking: str = "das_tracking"
    copies: bool = False
    details: float = 0.0
    prediction: str = "velocity"
    time_shift: float = 5.0
    text_drop: float = 0.1
    point_drop: float = 0.1
    tracking_drop: float = 0.1
    detail_drop: float = 0.3
    mask_gain: float = 1.0
    mask_power: int = 2
    control_scale: float = 1.0
    control_until: float = 1.0
    sampler: str = "unipc"
    sample_steps: int = 50
    sample_shift: float = 5.0
    guidance: float = 5.0
    run_steps: int = 5
    vae_batch: int = 1
    vae_chunk: int = 0

    def __post_init__(self):
        drops = ("text_drop", "point_drop", "tracking_drop", "detail_drop")
        shares("task", self, *drops, "control_until")
        at_least(1, "task", self, "views", "cloud", "sample_steps", "run_steps", "vae_batch")
        one_of("task", self, backbone=BACKBONES, prediction=PREDICTIONS, mask_power=(1, 2))
        one_of("task", self, tracking=(*pseudo_video.REPRESENTATIONS, pseudo_video.WARPED))
        for key in ("copies", "details"):
            if getattr(self, key) and self.tracking != pseudo_video.WARPED:
                raise ValueError(
                    f"task.{key}: wanted a tracking video of frame 0's colours with it, "
                    f"task.tracking={pseudo_video.WARPED!r}, got {self.tracking!r}"
                )
        if self.details < 0:
            raise ValueError(f"task.details: wanted 0 or more, got {self.details}")
        if unknown := sorted(set(self.controls) - set(CONTROLS)):
            raise ValueError(f"task.controls: wanted some of {CONTROLS}, got {unknown}")
