"""Lower bounds on the time of a step, and an estimate of its memory, before anything is compiled.

Of one device, with N parameters, B samples a step, D devices of which g work on one sample:

    compute       FLOPs B / (D peak), FLOPs by closed formulas (models/flops.py)
    memory        (gathered weights + state + activations) / bandwidth
    interconnect  (weights gathered and gradients scattered + tokens exchanged) / link
    network       the part of it that crosses slices or hosts / network

A step takes at least the largest of these, if everything overlaps. Compiled programs replace the
bytes that are sent by those of the program (`hlo`), and say what overlaps (`schedule`). What a
group of devices sends across hosts is shared by those of one host: a ring leaves each host once.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from syncmv4d_jax.machines.planning import pods

# Reads and writes of [tokens d] bf16 by a block in one pass, norms and residuals unfused: an
# estimate, within the spread of compiled programs.
ACTIVATIONS = 60
# Fitted to what libtpu assigned full-size programs (docs/pods.md). Bytes for each value of the
# residual stream that live inside a block in training, beside the one kept for each block: hidden
# values of the feed-forward (4 x 14336 / 3072 x 2 bytes alone), queries, keys, their gradients; and
# how many of the autoencoder's largest activations live at once, up-sampled copies included.
LIVE, LIVE_RESIDUAL = 92.0, 12.5
CLIPS = 8.5
RESERVE = 0.92  # of the memory: estimates above are tried last


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step does.

    Attributes:
      flops: {part: FLOPs} of a sample, rematerialisation included.
      parameters: trainable; frozen: the others.
      state: bytes a trainable parameter holds at rest (weights, moments, average); 4 in sampling.
      batch: samples of a step.
      views: of a sample; its clips are spread over the devices that share it.
      tokens, width, layers, residual: of one sample in the transformer; bytes of a residual value.
      passes: how often the blocks' weights are gathered.
      clip: bytes of the largest activation of the autoencoder, 0 without.
    """

    flops: Mapping[str, float]
    parameters: int
    frozen: int
    state: int
    batch: int
    views: int
    tokens: int
    width: int
    layers: int
    residual: int
    passes: int
    clip: float

    @property
    def training(self) -> bool:
        return self.state > 4


def estimate(
    work: Work,
    chip: pods.Chip,
    mesh: Mapping[str, int],
    *,
    near: int = 0,
    sent: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Returns bounds in seconds, an estimate of memory and whether it is likely to fit.

    Args:
      mesh: sizes of data, fsdp, view, sequence.
      near: devices that the fast links join, 0 for all.
      sent: bytes a device sends over the fast links, and across the network, if known from a
        compiled program.
    """
    devices = math.prod(mesh.values())
    group = mesh["view"] * mesh["sequence"]
    cut = devices // mesh["data"]  # ways the state is cut
    local = work.batch * work.tokens // (mesh["data"] * mesh["fsdp"] * group)
    stream = local * work.width
    weights = 2 * work.parameters
    # 3 clips over 4 devices take as long as 4 would.
    idle = math.ceil(work.views / group) * group / work.views
    weight = {"encode": idle, "decode": idle}
    compute = sum(x * weight.get(part, 1.0) for part, x in work.flops.items())
    compute *= work.batch / (devices * chip.flops)
    forward_and_back = 3 if work.training else 1
    traffic = (
        2 * weights * work.passes
        + 2 * work.state * work.parameters / cut
        + 2 * stream * ACTIVATIONS * work.layers * forward_and_back
    )
    sent = _sent(work, mesh, stream, near or devices) if sent is None else sent
    kept = work.layers if work.training else 0
    memory = work.state * work.parameters / cut
    memory += 4 * work.frozen / cut + 4 * work.frozen * bool(work.clip)
    memory += kept * work.residual * stream + 4 * weights / max(work.layers, 1)
    # Blocks and autoencoder take turns; gradients exist only while blocks run backward.
    block = (LIVE + LIVE_RESIDUAL * work.residual) * stream
    block += 4 * work.parameters / cut if work.training else 0
    memory += max(block, CLIPS * work.clip)
    seconds = {"compute": compute, "hbm": traffic / chip.bandwidth, "link": sent[0] / chip.link}
    if sent[1]:
        seconds["network"] = sent[1] / chip.network
    return {
        "seconds": {name: round(x, 4) for name, x in seconds.items()},
        "bound_s_per_sample": round(max(seconds.values()) / work.batch * devices, 3),
        "estimate_bytes": int(memory),
        "likely": memory < RESERVE * chip.hbm,
    }


def _sent(work: Work, mesh: Mapping[str, int], stream: int, near: int) -> tuple[float, float]:
    """Bytes that a device sends over the fast links, and its share of what crosses the network."""
    group = mesh["view"] * mesh["sequence"]
    cut = math.prod(mesh.values()) // mesh["data"]
    weights, back = 2 * work.parameters, 3 if work.training else 1
    gathered = (work.passes * weights + (2 * weights if work.training else 0)) * (1 - 1 / cut)
    # q k v o of intra-view and inter-view attention, in every pass
    tokens = 16 * stream * work.layers * (1 - 1 / group) * (back + 1)
    # Gradients of a device's shards, summed over data.
    summed = 8 * work.parameters / cut * (1 - 1 / mesh["data"]) if work.training else 0.0
    far = gathered / near if cut > near else 0.0
    if mesh["data"] * cut > near:
        alone = cut >= near
        return gathered + tokens + summed * (not alone), far + summed / max(near // cut, 1)
    return gathered + tokens + summed, far
