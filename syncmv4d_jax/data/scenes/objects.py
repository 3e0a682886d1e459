"""Procedural tools and targets of the embedded scenes: meshes in metres with vertex colours.

A tool's frame: the grip's centre at the origin, the handle along y, its head at +y, z up when held.
A target's frame: it stands on z = 0 about the z axis. A variant is a mesh of its own (sizes,
proportions, colours); variants from `HELD_OUT` on are never trained on. Sizes are within 18 % of
those of a kitchen, colours from the whole circle of hues.
"""

import colorsys
from typing import NamedTuple

import numpy as np
import trimesh

VARIANTS = 16
HELD_OUT = 12
TOOLS = ("brush", "roller", "spatula", "spoon", "knife", "kettle", "cup")
TARGETS = ("plate", "bowl", "pan", "box", "cup")
HANDLES = ((0.45, 0.28, 0.16), (0.16, 0.17, 0.20), (0.62, 0.40, 0.22), (0.75, 0.75, 0.72))


class Object(NamedTuple):
    """vertices [p 3] metres, faces [q 3], colours [p 3] in 0..1, reach: grip to head, metres."""

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    reach: float


def identifier(kind: str, name: str, variant: int) -> str:
    """The three-digit model id: tools 0.., targets from 500."""
    table, base = (TOOLS, 0) if kind == "tool" else (TARGETS, 500)
    return f"{base + table.index(name) * VARIANTS + variant + 1:03d}"


def make(kind: str, name: str, variant: int) -> Object:
    """Returns the mesh of a tool or target; deterministic.

    Raises:
      ValueError: unknown kind, name or variant.
    """
    table = {"tool": TOOLS, "target": TARGETS}.get(kind, ())
    if name not in table or not 0 <= variant < VARIANTS:
        raise ValueError(f"object: no {kind} {name!r} variant {variant}; there are {table}")
    rng = np.random.default_rng([table.index(name), variant, kind == "tool"])
    size = rng.uniform(0.84, 1.18, 3)
    parts, reach = _tool(name, size, rng) if kind == "tool" else (_target(name, size, rng), 0.0)
    vertices = np.concatenate([m.vertices for m, _ in parts])
    starts = np.cumsum([0] + [len(m.vertices) for m, _ in parts[:-1]])
    faces = np.concatenate([m.faces + s for (m, _), s in zip(parts, starts, strict=True)])
    colours = np.concatenate([texture(m.vertices, c) for m, c in parts])
    return Object(vertices, faces, colours.astype(np.float32), reach)


def _hue(rng: np.random.Generator, *, strong: bool) -> tuple[float, float, float]:
    """A colour of any hue: strong (tools) or pale (targets)."""
    saturation = rng.uniform(0.6, 0.9) if strong else rng.uniform(0.1, 0.55)
    value = rng.uniform(0.45, 0.8) if strong else rng.uniform(0.8, 0.95)
    return colorsys.hsv_to_rgb(rng.uniform(), saturation, value)


def texture(vertices: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    """Colours [p 3] of vertices [p 3]: a mild wave about `colour`."""
    wave = 0.06 * np.sin(vertices @ np.array([90.0, 130.0, 70.0]))[:, None]
    return np.clip(np.array(colour)[None] * (1 + wave), 0, 1)


def _cylinder(radius, low, high, axis="y", sections=16):
    mesh = trimesh.creation.cylinder(radius=radius, height=high - low, sections=sections)
    mesh = mesh.subdivide()
    mesh.apply_translation([0, 0, (high + low) / 2])
    if axis == "y":
        mesh.apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0]))
    return mesh


def _box(extents, centre):
    mesh = trimesh.creation.box(extents=extents).subdivide().subdivide()
    mesh.apply_translation(centre)
    return mesh


def _revolve(profile):
    return trimesh.creation.revolve(np.asarray(profile), sections=28)


def _shell(outer, height, wall, foot):
    """A bowl or cup: outer radius at the rim, foot radius, wall thickness."""
    return _revolve([
        [0, 0], [foot, 0], [0.5 * (foot + outer) * 1.06, height * 0.45], [outer, height],
        [outer - wall, height], [0.5 * (foot + outer) * 1.06 - wall, height * 0.45],
        [foot - wall, wall], [0, wall],
    ])  # fmt: skip


def _tool(name, size, rng):
    handle = HANDLES[rng.integers(len(HANDLES))]
    colour = _hue(rng, strong=True)
    a, b, c = size
    grip = (_cylinder(0.011 * a, -0.060, 0.075), handle)
    if name == "brush":
        head = _box([0.075 * b, 0.050 * c, 0.018], [0, 0.105, -0.004])
        bristle = _box([0.070 * b, 0.045 * c, 0.026], [0, 0.105, -0.026])
        return [grip, (head, colour), (bristle, (0.90, 0.86, 0.70))], 0.105
    if name == "roller":
        drum = _cylinder(0.022 * c, -0.045 * b, 0.045 * b)
        drum.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [0, 0, 1]))
        drum.apply_translation([0, 0.115, -0.012])
        return [grip, (drum, colour)], 0.115
    if name == "spatula":
        neck = _cylinder(0.006, 0.070, 0.105)
        blade = _box([0.062 * b, 0.085 * c, 0.005], [0, 0.140, -0.006])
        return [grip, (neck, handle), (blade, colour)], 0.140
    if name == "spoon":
        neck = _cylinder(0.006, 0.070, 0.120)
        bowl = trimesh.creation.icosphere(subdivisions=3)
        bowl.apply_scale([0.028 * b, 0.038 * c, 0.012])
        bowl.apply_translation([0, 0.145, -0.006])
        return [grip, (neck, colour), (bowl, colour)], 0.145
    if name == "knife":
        blade = _box([0.006, 0.125 * c, 0.036 * b], [0, 0.135, -0.008])
        return [grip, (blade, (0.75, 0.77, 0.80))], 0.135
    if name == "kettle":
        body = _shell(0.048 * b, 0.085 * c, 0.006, 0.046 * b)
        lid = _cylinder(0.044 * b, 0.078 * c, 0.088 * c, axis="z")
        for mesh in (body, lid):
            mesh.apply_translation([0, 0.105, -0.050])
        spout = _cylinder(0.011, 0.0, 0.050)
        spout.apply_transform(trimesh.transformations.rotation_matrix(0.7, [1, 0, 0]))
        spout.apply_translation([0, 0.140, -0.010])
        return [grip, (body, colour), (lid, handle), (spout, colour)], 0.130
    body = _shell(0.040 * b, 0.080 * c, 0.005, 0.030 * b)
    body.apply_translation([0, 0.085, -0.040])
    return [grip, (body, colour)], 0.095


def _target(name, size, rng):
    colour = _hue(rng, strong=False)
    a, b, c = size
    if name == "plate":
        return [(_shell(0.085 * a, 0.020 * b, 0.005, 0.050 * c), colour)]
    if name == "bowl":
        return [(_shell(0.070 * a, 0.052 * b, 0.006, 0.036 * c), colour)]
    if name == "pan":
        body = _shell(0.078 * a, 0.034 * b, 0.005, 0.066 * c)
        arm = _cylinder(0.009, 0.070, 0.150)
        arm.apply_translation([0, 0, 0.026])
        return [(body, (0.22, 0.23, 0.26)), (arm, colour)]
    if name == "box":
        body = _box([0.115 * a, 0.090 * b, 0.050 * c], [0, 0, 0.025 * c])
        stripe = _box([0.118 * a, 0.030 * b, 0.051 * c], [0, 0, 0.0255 * c])
        return [(body, colour), (stripe, (0.72, 0.36, 0.20))]
    return [(_shell(0.045 * a, 0.070 * b, 0.005, 0.036 * c), colour)]
