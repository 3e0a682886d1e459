"""Where in a pseudo-video frame is each anchor? Sorted colour matching, robust affine fits.

A foreground pixel (x, y) of frame n carries the colour (u0/W, v0/H, z): the surface point seen
there was at pixel (u0, v0) in frame 0 and now has normalised depth z. Decoding inverts this for
given anchors a = (u0, v0), per frame (facts of the paper's Sec. 3.3; NN search replaced):

    foreground   max(r, g) > threshold, eroded: blur mixes colours with black at silhouettes
    smoothing    Gaussian inside the mask, normalised by it
    candidates   the pixels of the 3 x 3 colour cells around a, evenly subsampled to a fixed number
    fit          (x, y, c z) = affine in (u0, v0) - a, by iteratively reweighted least squares

The pixels of a frame are sorted once by colour cell (one 32-bit key: cell, then pixel), so a row of
three cells is one contiguous range; all shapes are static. Arrays of candidates are laid out [c k]:
the anchors are the fastest axis, sums run over the slow one.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class MatchSettings:
    """Lengths are pixels. `settings_for` gives the values for a resolution."""

    foreground: float  # threshold on max(r, g) in [0, 1]
    erode: int  # rounds of 3 x 3 erosion
    smooth: float  # sigma of the masked Gaussian; 0 is none
    cell: float  # side of a colour cell, frame-0 pixels
    per_row: int  # candidates from one row of three cells
    colour_reach: float  # sigma of the weight by colour distance, frame-0 pixels
    found: float  # an anchor whose nearest colour is farther is not found, frame-0 pixels
    space_reach: float  # candidates farther from the spatial mode hardly count
    noise: float  # floor of the residual scale
    rounds: int  # rounds of reweighting
    visible: float  # confidence from which a point counts as visible
    chunk: int  # frames matched at a time
    footprint: float  # a painted sample covers pixel centres within this distance along x and y
    agree: float  # metres: two depths closer than this are the same surface
    matching: str = "sorted"  # "sorted", or "brute": all pixels, nearest first; for tests


def settings_for(height: int, width: int, *, matching: str = "sorted") -> MatchSettings:
    """The settings for frames of height x width pixels (tuned at 480 x 704, scaled by width).

    Raises:
      ValueError: frames smaller than 16 x 16.
    """
    if min(height, width) < 16:
        raise ValueError(f"frames: wanted at least 16 x 16 pixels, got {height} x {width}")
    ratio = width / 704
    cell = max(6.5 * ratio, 2.0)
    while _key_bits(height, width, cell) > 32:
        cell *= 1.05
    return MatchSettings(
        foreground=20 / 255,
        erode=1 if width >= 160 else 0,  # smaller frames have parts of two pixels
        smooth=min(max(1.5 * ratio, 0.5), 1.0),
        cell=cell,
        per_row=min(56, math.ceil(3 * cell * cell)),
        colour_reach=min(max(6.0 * ratio, 1.5), 3.0),
        found=max(8.0 * ratio, 2.0),
        space_reach=max(15.0 * ratio, 4.0),
        noise=max(0.5 * ratio, 0.15),
        rounds=4,
        visible=0.2,
        chunk=max(1, min(64, 2_000_000 // (height * width))),
        footprint=0.6,
        agree=0.02,
        matching=matching,
    )


def _grid(height: int, width: int, cell: float) -> tuple[int, int]:
    return max(3, math.ceil(height / cell)), max(3, math.ceil(width / cell))


def _key_bits(height: int, width: int, cell: float) -> int:
    rows, cols = _grid(height, width, cell)
    return (rows * cols).bit_length() + (height - 1).bit_length() + (width - 1).bit_length()


def foreground(frames: jax.Array, settings: MatchSettings) -> jax.Array:
    """Returns the eroded foreground mask [... h w] bool of frames [... h w 3] in [0, 1]."""
    mask = jnp.maximum(frames[..., 0], frames[..., 1]) > settings.foreground
    for _ in range(settings.erode):
        for axis in (-2, -1):
            mask = mask & _shift(mask, 1, axis) & _shift(mask, -1, axis)
    return mask


def _shift(x: jax.Array, step: int, axis: int) -> jax.Array:
    """Returns x moved by `step` along `axis`, zeros (False) entering."""
    size, axis = x.shape[axis], axis % x.ndim
    pad = [(0, 0)] * x.ndim
    pad[axis] = (max(step, 0), max(-step, 0))
    start = max(-step, 0)
    return jax.lax.slice_in_dim(jnp.pad(x, pad), start, start + size, axis=axis)


def smooth(frames: jax.Array, mask: jax.Array, sigma: float) -> jax.Array:
    """Gaussian smoothing of frames [... h w c] inside mask [... h w], normalised by the mask."""
    if sigma <= 0:
        return frames
    radius = max(1, math.ceil(2.5 * sigma))
    taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    inside = mask[..., None].astype(frames.dtype)
    stack = jnp.concatenate([frames * inside, inside], axis=-1)
    for axis in (-3, -2):
        shifted = (tap * _shift(stack, i - radius, axis) for i, tap in enumerate(taps))
        stack = jnp.asarray(sum(shifted)) / sum(taps)
    return stack[..., :-1] / jnp.maximum(stack[..., -1:], 1e-6)


def extent(scale):
    """Returns d_max - d_min [], metres, of scale [2], at least a micrometre; numpy or jax."""
    xp = jnp if isinstance(scale, jax.Array) else np
    return xp.maximum(scale[1] - scale[0], 1e-6)


def pixel_grid(height: int, width: int) -> jax.Array:
    """Returns the pixels' own coordinates (x, y) [h w 2], float32."""
    x, y = jnp.meshgrid(jnp.arange(width), jnp.arange(height))
    return jnp.stack([x, y], axis=-1).astype(jnp.float32)


def frame_depth(
    frame: jax.Array, scale: jax.Array, *, settings: MatchSettings
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Depth of one frame [h w 3] in [0, 1] with scale [2], metres.

    Returns:
      (depth [h w] metres, mask [h w] bool, known [h w] bool). Depth is read inside the eroded
      foreground; smoothing carries it to the rim and a little beyond: `known`. `mask` is the
      foreground, rim included, where depth is known.
    """
    outer = foreground(frame, dataclasses.replace(settings, erode=0))
    code, known = _depth_code(frame, settings)
    return scale[0] + code * extent(scale), outer & known, known


def _depth_code(frame, settings):
    """The third channel of one frame [h w 3], smoothed; and where the smoothing reaches."""
    inner = foreground(frame, settings)
    both = jnp.stack([frame[..., 2], jnp.ones_like(frame[..., 2])], axis=-1).astype(jnp.float32)
    both = smooth(both, inner, max(settings.smooth, 0.5))
    return both[..., 0], both[..., 1] > 0.5


def read_depth(
    frame: jax.Array, anchors: jax.Array, *, settings: MatchSettings
) -> tuple[jax.Array, jax.Array]:
    """The depth code that frame 0 [h w 3] shows at the anchors' own pixels [k 2].

    Returns:
      (code [k] in [0, 1], known [k] bool: a foreground is there and the anchor lies in the frame).
    """
    height, width, _ = frame.shape
    code, known = _depth_code(frame, settings)
    place = jnp.floor(anchors).astype(jnp.int32)
    part = anchors - place
    total = value = jnp.asarray(0.0)
    for i in (0, 1):
        for j in (0, 1):
            x, y = place[:, 0] + i, place[:, 1] + j
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
            share = jnp.abs(1 - i - part[:, 0]) * jnp.abs(1 - j - part[:, 1])
            share = jnp.where(inside & known[y, x], share, 0.0)
            total, value = total + share, value + share * code[y, x]
    return value / jnp.maximum(total, 1e-6), total > 0.25


def _sorted_candidates(frame, mask, anchors, settings):
    """Returns (colour [c k 2] frame-0 px, depth [c k], x [c k], y [c k], valid [c k])."""
    height, width = mask.shape
    rows, cols = _grid(height, width, settings.cell)
    x_bits = (width - 1).bit_length()
    bits = x_bits + (height - 1).bit_length()
    if _key_bits(height, width, settings.cell) > 32:
        raise ValueError(
            f"colour cells of {settings.cell} px on {height} x {width} frames: over 32 bits"
        )
    col = jnp.clip(frame[..., 0] * (width / settings.cell), 0, cols - 1).astype(jnp.uint32)
    row = jnp.clip(frame[..., 1] * (height / settings.cell), 0, rows - 1).astype(jnp.uint32)
    cell = jnp.where(mask, row * jnp.uint32(cols) + col, jnp.uint32(rows * cols))
    x = jnp.arange(width, dtype=jnp.uint32)[None, :]
    y = jnp.arange(height, dtype=jnp.uint32)[:, None]
    key = (cell << bits) | (y << x_bits) | x
    key = jnp.sort(key.ravel(), stable=False)
    edges = jnp.arange(rows * cols + 1, dtype=jnp.uint32) << bits
    starts = jnp.searchsorted(key, edges).astype(jnp.int32)  # first pixel of every cell

    at_col = jnp.clip((anchors[:, 0] / settings.cell).astype(jnp.int32), 1, cols - 2)
    at_row = jnp.clip((anchors[:, 1] / settings.cell).astype(jnp.int32), 1, rows - 2)
    first = (at_row[None, :] + jnp.arange(-1, 2)[:, None]) * cols + at_col[None, :] - 1
    low, high = starts[first], starts[first + 3]  # [3 k]
    step = jnp.maximum(high - low, settings.per_row)
    take = jnp.arange(settings.per_row)[:, None, None]
    position = low[None] + take * step[None] // settings.per_row
    valid = (position < high[None]).reshape(-1, anchors.shape[0])
    packed = key[jnp.minimum(position, height * width - 1)].reshape(valid.shape)
    x = (packed & jnp.uint32((1 << x_bits) - 1)).astype(jnp.int32)
    y = ((packed >> x_bits) & jnp.uint32((1 << (bits - x_bits)) - 1)).astype(jnp.int32)
    return _read(frame, x, y, valid)


def _brute_candidates(frame, mask, anchors, settings):
    """As `_sorted_candidates`, from a search over all pixels; slow, the reference in tests."""
    height, width = mask.shape
    colour = frame[..., :2].reshape(-1, 2) * jnp.array([[width, height]], frame.dtype)
    far = jnp.where(mask.reshape(-1), 0.0, jnp.inf)

    def nearest(anchor):
        offset = colour - anchor[None, :]
        return jax.lax.top_k(-(jnp.sum(offset * offset, axis=-1) + far), 160)

    score, index = jax.lax.map(nearest, anchors, batch_size=16)
    x, y = index.T % width, index.T // width
    return _read(frame, x, y, jnp.isfinite(score.T))


def _read(frame, x, y, valid):
    height, width, _ = frame.shape
    value = frame.reshape(-1, 3)[y * width + x]
    colour = value[..., 0] * width, value[..., 1] * height
    return colour, value[..., 2], x.astype(frame.dtype), y.astype(frame.dtype), valid


def _location(weight, x, y):
    total = jnp.sum(weight, axis=0) + 1e-9
    return jnp.sum(weight * x, axis=0) / total, jnp.sum(weight * y, axis=0) / total


def _affine(weight, fu, fv, targets):
    """Weighted least squares of each target [c k] on (1, fu, fv): value at 0 and residuals."""
    weight = jax.lax.optimization_barrier(weight)  # computed once, not inside each sum below
    total = jnp.sum(weight, axis=0) + 1e-9

    def mean(value):
        return jnp.sum(weight * value, axis=0) / total

    mu, mv = mean(fu), mean(fv)
    ridge = 2e-3  # in units of colour_reach^2: shrinks the slopes where the colours do not spread
    suu = mean(fu * fu) - mu * mu + ridge
    svv = mean(fv * fv) - mv * mv + ridge
    suv = mean(fu * fv) - mu * mv
    determinant = suu * svv - suv * suv
    values, residual = [], 0.0
    for target in targets:
        mt = mean(target)
        su, sv = mean(fu * target) - mu * mt, mean(fv * target) - mv * mt
        bu = (svv * su - suv * sv) / determinant
        bv = (suu * sv - suv * su) / determinant
        value = mt - bu * mu - bv * mv
        error = target - value[None, :] - bu[None, :] * fu - bv[None, :] * fv
        values.append(value)
        residual = residual + error * error
    return values, jnp.sqrt(residual)


def _fit(candidates, anchors, settings, depth_unit):
    """Returns (pixels [k 2], depth code [k], confidence [k], found [k]) from candidates [c k]."""
    (cu, cv), depth, x, y, valid = candidates
    fu = (cu - anchors[None, :, 0]) / settings.colour_reach
    fv = (cv - anchors[None, :, 1]) / settings.colour_reach
    distance = fu * fu + fv * fv
    nearest = jnp.sqrt(jnp.min(jnp.where(valid, distance, jnp.inf), axis=0)) * settings.colour_reach
    base = jnp.where(valid, jnp.exp(-0.5 * distance), 0.0)
    # One spatial mode: a redescending mean that starts at the pixels nearest in colour.
    mx, my = _location(jnp.where(valid, jnp.exp(-4.0 * distance), 1e-9 * base), x, y)
    for _ in range(2):
        gap = ((x - mx[None, :]) ** 2 + (y - my[None, :]) ** 2) / settings.space_reach**2
        mx, my = _location(base / (1 + gap) ** 2, x, y)
    gap = ((x - mx[None, :]) ** 2 + (y - my[None, :]) ** 2) / settings.space_reach**2
    weight = base * jnp.exp(-0.5 * gap)
    # Centred targets keep float32 sums exact enough; depth is in the pixels it would look like.
    middle = jnp.sum(weight * depth, axis=0) / (jnp.sum(weight, axis=0) + 1e-9)
    targets = (x - mx[None, :], y - my[None, :], (depth - middle[None, :]) * depth_unit)
    for step in range(settings.rounds):
        values, residual = _affine(weight, fu, fv, targets)
        if step + 1 < settings.rounds:
            scale = 1.5 * jnp.sum(weight * residual, axis=0) / (jnp.sum(weight, axis=0) + 1e-9)
            ratio = residual / (scale + settings.noise)[None, :]
            weight = base / (1 + ratio * ratio) ** 2
    limit = 2 * settings.space_reach  # no extrapolation beyond the mode that was fitted
    values = [jnp.clip(value, -limit, limit) for value in values]
    pixels = jnp.stack([values[0] + mx, values[1] + my], axis=-1)
    mass = jnp.sum(base, axis=0)
    support = mass / (mass + 0.05 * settings.per_row)  # few matches are weak evidence
    near = jnp.exp(-0.5 * (2 * jnp.minimum(nearest, 1e3) / settings.found) ** 2)
    agreement = jnp.sum(weight, axis=0) / (mass + 1e-9)
    # Matches on one side only: the anchor itself is hidden, or at the edge of what is seen.
    mu, mv = _location(weight, fu, fv)
    agreement = agreement * jnp.exp(-(mu * mu + mv * mv))
    found = nearest <= settings.found
    confidence = jnp.where(found, jnp.clip(agreement * support * near, 0, 1), 0.0)
    return pixels, values[2] / depth_unit + middle, confidence, found


def match_frame(
    frame: jax.Array, anchors: jax.Array, *, settings: MatchSettings, depth_unit: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Finds the anchors in one frame.

    Args:
      frame: [h w 3] in [0, 1].
      anchors: [k 2], pixels of frame 0.
      depth_unit: [], pixels that a change of the depth code by 1 looks like.

    Returns:
      (pixels [k 2], depth code [k] in [0, 1], confidence [k] in [0, 1], found [k] bool). Values of
      anchors that are not found are finite and meaningless.
    """
    mask = foreground(frame, settings)
    frame = smooth(frame, mask, settings.smooth)
    if settings.matching == "sorted":
        candidates = _sorted_candidates(frame, mask, anchors, settings)
    elif settings.matching == "brute":
        candidates = _brute_candidates(frame, mask, anchors, settings)
    else:
        raise ValueError(f"matching: wanted 'sorted' or 'brute', got {settings.matching!r}")
    return _fit(candidates, anchors, settings, depth_unit)
