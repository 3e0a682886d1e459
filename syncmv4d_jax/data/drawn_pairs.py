"""Pairs of view synthesis that are drawn before training (geometry/view_pairs.py).

Drawing points and encoding what is drawn costs far more than a training step of a small network,
and as much as one of a large one; a cache holds a number of pairs of each clip:

    render_latents [k f hl wl c] bfloat16    of the drawn points (view_pairs.shown)
    hole_mask [k f hl wl step] float16       trust in them (splat.trust), of each video frame
    pair_targets [k] int32                   index of the view whose video it is
    pair_same [k] bool                       its points are its own alone
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np

from syncmv4d_jax.configuration import section
from syncmv4d_jax.data import pixel_flow, records
from syncmv4d_jax.geometry import masks, splat, view_pairs

STEP = 4  # video frames of a latent frame
MASK = "trust"  # what hole_mask is; a cache of pairs from before it was is refused


@dataclasses.dataclass(frozen=True)
class Pairs:
    """How pairs are drawn.

    Attributes:
      count: of a clip.
      same: share of targets that are their own source.  sources: views a target is drawn from.
      fill: whether holes are filled.  corruption: what is done to sources.
    """

    count: int
    same: float = 0.25
    sources: int = 3
    fill: bool = False
    corruption: view_pairs.Corruption = view_pairs.Corruption()

    def __post_init__(self):
        if self.count < 1 or self.sources < 1 or not 0 <= self.same <= 1:
            raise ValueError(
                "pairs: wanted at least one pair and one source, and a share of 0 to 1, got "
                f"{self.count}, {self.sources}, {self.same}"
            )

    def told(self) -> dict[str, Any]:
        """What a cache of them says."""
        return dataclasses.asdict(self) | {"mask": MASK}

    @classmethod
    def asked(cls, task: Mapping[str, Any]) -> dict[str, Any]:
        """What `config.task` asks of them, as `told`, whatever their number.

        Raises:
          ValueError: an unknown corruption.
        """
        spoilt = section(
            view_pairs.Corruption, task.get("corruption", {}), "config.task.corruption"
        )
        own = cls(
            1,
            float(task.get("same_view", cls.same)),
            int(task.get("sources", cls.sources)),
            bool(task.get("fill", cls.fill)),
            spoilt,
        )
        return {key: x for key, x in own.told().items() if key != "count"}


def row(
    name: str,
    views: Sequence[Mapping[str, Any]],
    how: Pairs,
    encode: Callable[[np.ndarray], Any],
) -> dict[str, np.ndarray]:
    """The pairs of a clip; the same whenever they are drawn.

    Args:
      name: of the clip, which the draws are seeded with.
      views: the records' values of its views, with flow.
      encode: clip [n h w 3] float32 of -1..1 -> latents [f hl wl c].
    """
    fields = [pixel_flow.unpack(values) for values in views]
    frames, height, width = fields[0]["flow"].shape[:3]
    poses = [np.broadcast_to(records.poses(values), (frames, 3, 4)) for values in views]
    sample = {
        "video": np.stack([records.decode_first(values["video"])[None] for values in views]),
        "intrinsics": np.stack([values["intrinsics"] for values in views]),
        "extrinsics": np.stack(poses).astype(np.float32),
    } | {key: np.stack([one[key] for one in fields]) for key in fields[0]}
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    keys = jax.random.split(jax.random.key(seed), how.count)
    running = [_draw(key, sample, how, (height, width)) for key in keys]
    found: dict[str, list] = {
        "render_latents": [], "hole_mask": [], "pair_targets": [], "pair_same": []
    }  # fmt: skip
    for target, same, clip, trust in running:
        latents = np.asarray(encode(np.asarray(clip)))
        shares = masks.of_frames(np.asarray(trust), STEP, height // latents.shape[1])
        found["render_latents"].append(latents.astype(ml_dtypes.bfloat16))
        found["hole_mask"].append(shares.astype(np.float16))
        found["pair_targets"].append(np.int32(target))
        found["pair_same"].append(np.asarray(same))
    return {key: np.stack(values) for key, values in found.items()}


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw(key, sample, how: Pairs, size):
    drawn = view_pairs.draw(
        key, sample, same=how.same, sources=how.sources, how=how.corruption, form="depth", size=size
    )
    clip = view_pairs.shown(drawn.render, drawn.covered, drawn.sure, fill=how.fill)
    return drawn.target, drawn.same, clip, splat.trust(drawn.covered, drawn.sure)


def chosen(
    row: Mapping[str, np.ndarray], count: int, rng: np.random.Generator | None
) -> np.ndarray:
    """Indices of `count` pairs of a row, or of all: drawn by `rng`, or the first."""
    have = len(row["pair_targets"])
    count = min(count, have)
    return np.arange(count) if rng is None else rng.choice(have, count, replace=False)
