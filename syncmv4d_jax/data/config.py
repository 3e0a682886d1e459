"""What the data readers are told: `config.data`, and what a task wants of an example.

Light to import: a configuration file is read before anything else is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

CAMERAS = ("sample", "fixed")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """`config.data`.

    Attributes:
      name: of the reader ("taco"), "module:function" for one's own, or "embedded".
      records, cache: folders of data_prep/prepare_taco.py and cache_latents.py.
      mix: more of them: (records, cache, share of the batches' samples) each; the first two have
        the rest.
      split: that training reads.
      fps: frames a second that the records must have.
      cameras: "sample" draws one of each cluster, "fixed" takes the first.
      raw, latents: read pixels instead of cached latents, read both.
      pairs: training reads pairs of view synthesis that a cache has (drawn_pairs.py), and nothing
        else; config.task.views of a clip at a time.
      augment: turn the world and permute the views.
      jitter: strength of the change of colours, 0 = none.
      skip_corrupt: take the next example where a record is damaged.
      share: of the clips, a random part.
      fields: of the records beside the usual: "flow", where frame 0's pixels go (clips.FIELDS).
      options: for a reader of one's own, which alone knows the keys.
    """

    name: str = "taco"
    records: str = ""
    cache: str = ""
    mix: tuple[tuple[str, str, float], ...] = ()
    split: str = "train"
    fps: float = 8.0
    cameras: str = "sample"
    raw: bool = False
    latents: bool = False
    pairs: bool = False
    augment: bool = False
    jitter: float = 0.0
    skip_corrupt: bool = False
    share: float = 1.0
    fields: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cameras not in CAMERAS:
            raise ValueError(f"config.data.cameras: wanted one of {CAMERAS}, got {self.cameras!r}")
        if not 0 < self.share <= 1:
            raise ValueError(f"config.data.share: wanted 0 < share <= 1, got {self.share}")
        shares = [float(share) for *_, share in self.mix]
        if any(share <= 0 for share in shares) or sum(shares) >= 1:
            raise ValueError(
                f"config.data.mix: wanted shares above 0 that leave some to config.data.records, "
                f"got {shares}"
            )
        if not 0 <= self.jitter < 1:
            raise ValueError(f"config.data.jitter: wanted 0 <= jitter < 1, got {self.jitter}")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a task wants of an example; None: as the records have it.

    Attributes:
      size: (height, width).  frames, views, points: how many.  representation: of the motion.
      cloud: points of a cloud; tracking: of the video that controls. As the records have them: not
        read at all. colours: whether the points have those that frame 0 shows.
      gain: of the flow whose latents are read where a cache has them; None: not read.
      pairs: of view synthesis, `drawn_pairs.Pairs.asked`; {}: none.
      text: whether features of texts are needed, which only a cache has.
      weights: {part: converted weights} that a cache must have been made with, "" = any.
    """

    size: tuple[int, int] | None = None
    frames: int | None = None
    views: int | None = None
    points: int | None = None
    representation: str | None = None
    cloud: int | None = None
    tracking: str | None = None
    colours: bool = False
    gain: float | None = None
    pairs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text: bool = False
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
