"""How far along its ray is a query pixel? Asked of the reference images: a sweep of depths.

A query pixel was chosen in one view, so that its ray is exact and its depth is MJD's guess. Each
depth z of a range about the guess puts the point into the other views b, where the reference
images say two things of it: it lies inside of what b shows of hands and objects, and the pixel
there has its colour. With I blurred colours, d_b the distance in pixels from b's foreground:

    (1)  E(z) = sum_b COLOUR min(|I_a(p) - I_b(p_b)| / ALIKE, 2) + OUTSIDE min(d_b(p_b), FAR)
    (2)  E~(z_0 + s) = mean of E_q(z_0,q + s) over query pixels q of the same view, near p
    (3)  z = sum_z z w(z) / sum_z w(z),  w = exp(-E~ - (z - z_0)^2 / 2 SPREAD^2)

A view that does not show a place says nothing of it. Pictures are brought to WIDTH pixels first, so
that the numbers mean the same at any resolution; they were chosen on samples of embedded scenes,
whose cameras see the same light. NOTE(beyond): not of the paper (docs/paper.md, A24).
"""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import ndimage

from syncmv4d_jax.geometry import cameras

WIDTH = 96  # pixels
BLUR = 0.7  # sigma, pixels
COLOUR, ALIKE = 8.0, 0.16  # of Eq. 1; colours of -1..1
OUTSIDE, FAR = 2.0, 4  # of Eq. 1; pixels
REACH, STEPS = 0.16, 65  # metres, to either side
SPREAD = 0.05  # metres, of Eq. 3
NEAR, ALONG = 4.0, 0.05  # sigma of Eq. 2's neighbours: pixels, metres of depth
_TAPS = np.exp(-0.5 * (np.arange(-2, 3) / BLUR) ** 2)


class Rig(NamedTuple):
    """Intrinsics [v 3 3] of pictures of a size (height, width), extrinsics [v 3 4] of frame 0, and
    which views' pictures are known [v] bool."""

    intrinsics: jax.Array
    extrinsics: jax.Array
    known: jax.Array


class Asked(NamedTuple):
    """Query pixels [k 2] of view [k] (-1: none), and where their points are thought to be, [k 3]
    metres, world."""

    pixels: jax.Array
    view: jax.Array
    points: jax.Array


def shifts(pictures: jax.Array, silhouettes: jax.Array, rig: Rig, asked: Asked) -> jax.Array:
    """By how much points are to be moved along their rays, [k 3] metres; 0 where no view says more.

    Args:
      pictures: [v h w 3] reference images in [-1, 1].
      silhouettes: [v hm wm] bool or shares, of hands and objects in them, of any size.
    """
    height, width = pictures.shape[1:3]
    size = (max(8, round(WIDTH * height / width)), WIDTH)
    images = _blurred(jax.image.resize(pictures, (len(pictures), *size, 3), "linear"))
    inside = silhouettes.astype(jnp.float32)
    inside = jax.image.resize(inside, (len(inside), *size), "linear") >= 0.5
    ratio = jnp.array([size[1] / width, size[0] / height])
    grid = _rescaled(rig.intrinsics, ratio)
    pixels = (asked.pixels + 0.5) * ratio[None] - 0.5
    view = jnp.maximum(asked.view, 0)
    pose = rig.extrinsics[view]
    eye = cameras.camera_centre(pose)
    ones = jnp.ones(len(view))
    ray = cameras.unproject(pixels, ones, grid[view], pose) - eye
    guess = jnp.sum((asked.points - eye) * ray, -1) / jnp.sum(jnp.square(ray), -1)
    offsets = jnp.linspace(-REACH, REACH, STEPS)
    depths = guess[:, None] + offsets[None]
    places = eye[:, None] + depths[..., None] * ray[:, None]
    own = jax.vmap(_read, (0, 0))(images[view], pixels[:, None])  # [k 1 3]

    def of_view(image, outside, lens, extrinsics, known, index):
        at, far = cameras.project(places, lens, extrinsics)
        shown = (at > -0.5).all(-1) & (at < jnp.array([[[size[1], size[0]]]]) - 0.5).all(-1)
        shown &= (far > 0) & known & (view != index)[:, None]
        gap = jnp.mean(jnp.abs(_read(image, at) - own), axis=-1)
        cost = COLOUR * jnp.minimum(gap / ALIKE, 2.0)
        cost += OUTSIDE * _read(outside[..., None], at)[..., 0]
        return jnp.where(shown, cost, COLOUR)

    rest = (images, _outside(inside), grid, rig.extrinsics, rig.known, jnp.arange(len(images)))
    cost = jnp.sum(jax.vmap(of_view)(*rest), axis=0)
    cost = _among_neighbours(cost, pixels, asked.view, guess)
    cost += 0.5 * jnp.square(offsets / SPREAD)[None]
    moved = jax.nn.softmax(-cost, axis=-1) @ offsets
    sure = (asked.view >= 0) & (jnp.sum(rig.known) > 1) & (guess > 0)
    return jnp.where(sure[:, None], moved[:, None] * ray, 0.0)


def _rescaled(intrinsics, ratio):
    """Lenses of pictures whose sides are `ratio` times as long; pixel centres are at integers."""
    shift = jnp.diag(jnp.array([ratio[0], ratio[1], 1.0]))
    shift = shift.at[:2, 2].set(0.5 * ratio - 0.5)
    return jnp.einsum("i j, v j k -> v i k", shift, intrinsics)


def _read(image, at):
    """An image [h w c] at pixels [... 2], between its own."""
    x, y = at[..., 0], at[..., 1]
    one = lambda plane: ndimage.map_coordinates(plane, [y, x], order=1, mode="nearest")  # noqa: E731
    return jnp.moveaxis(jax.vmap(one)(jnp.moveaxis(image, -1, 0)), 0, -1)


def _blurred(images):
    taps = jnp.asarray(_TAPS / _TAPS.sum(), images.dtype)
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (2, 2)
        wide, size = jnp.pad(images, pad, mode="edge"), images.shape[axis]
        parts = (jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i in range(5))
        images = jnp.asarray(sum(tap * part for tap, part in zip(taps, parts, strict=True)))
    return images


def _outside(inside):
    """How many pixels [v h w] a place is from the foreground, FAR at most: rounds of growing."""
    found = jnp.zeros(inside.shape)
    for i in range(FAR):
        found += ~inside
        grown = jax.lax.reduce_window(
            inside, False, jax.lax.bitwise_or, (1, 3, 3), (1, 1, 1), "SAME"
        )
        cross = jax.lax.reduce_window(
            inside, False, jax.lax.bitwise_or, (1, 3, 1), (1, 1, 1), "SAME"
        ) | jax.lax.reduce_window(inside, False, jax.lax.bitwise_or, (1, 1, 3), (1, 1, 1), "SAME")
        inside = grown if i % 2 else cross  # a square and a diamond in turn: nearly a circle
    return found


def _among_neighbours(cost, pixels, view, depth):
    """Eq. 2, of cost [k s]."""
    square = jnp.sum(jnp.square(pixels[:, None] - pixels[None]), axis=-1)
    deep = jnp.square((depth[:, None] - depth[None]) / ALONG)
    weight = jnp.exp(-square / (2 * NEAR**2) - deep) * (view[:, None] == view[None])
    weight = weight / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1e-9)
    return einops.einsum(weight, cost, "k q, q s -> k s")
