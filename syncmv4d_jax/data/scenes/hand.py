"""A made-up hand model in MANO's format: same keys, shapes and joints, nothing of MANO in it.

The mesh is a tube: a wrist ring of 16, ten palm rings of 20 whose last one frames a 9 x 3 grid,
from which four finger tubes rise (rings of 8, closed by a tip); the thumb leaves through a hole of
2 x 2 cells in the side of the palm. Counting vertices gives 775; three more split triangles of the
palm, so that there are 778 and, by Euler's formula with one boundary of 16, 2 * 778 - 2 - 16 = 1538
faces. Right hand: fingers along +x, thumb towards +y, palm facing -z; left: mirrored in x.
"""

import pickle
from pathlib import Path

import numpy as np
import scipy.optimize
import scipy.sparse
import trimesh

from syncmv4d_jax import disk
from syncmv4d_jax.data.sources import mano

PALM_LENGTH, PALM_WIDTH, PALM_THICKNESS = 0.092, 0.080, 0.026  # metres
ORIGIN = np.array([-0.0957, 0.0064, 0.0062])  # wrist of the right template, not at zero
# Finger: grid column of its base, joint indices, length, radius, rings, splay in radians.
FINGERS = {
    "pinky": (0, (7, 8, 9), 0.062, 0.0076, 13, -0.16),
    "ring": (2, (10, 11, 12), 0.076, 0.0086, 14, -0.05),
    "middle": (4, (4, 5, 6), 0.082, 0.0090, 14, 0.02),
    "index": (6, (1, 2, 3), 0.076, 0.0088, 14, 0.10),
}
THUMB = ((13, 14, 15), 0.064, 0.0104, 14)
PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]
JOINT_PARTS = (0.04, 0.46, 0.75)  # of a finger's length, knuckles


class _Mesh:
    """Vertices, faces and skinning weights under construction."""

    def __init__(self) -> None:
        self.vertices: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.faces: list[tuple[int, int, int]] = []

    def add(self, points: np.ndarray, weights: np.ndarray) -> list[int]:
        first = len(self.vertices)
        self.vertices.extend(points)
        self.weights.extend(weights)
        return list(range(first, first + len(points)))

    def bridge(self, a: list[int], b: list[int]) -> None:
        """Triangulates the closed strip between two loops, equally long or not."""
        i = j = 0
        while i < len(a) or j < len(b):
            p, q = a[i % len(a)], b[j % len(b)]
            if j >= len(b) or (i < len(a) and (i + 1) * len(b) <= (j + 1) * len(a)):
                self.faces.append((p, a[(i + 1) % len(a)], q))
                i += 1
            else:
                self.faces.append((p, b[(j + 1) % len(b)], q))
                j += 1

    def quad(self, a: int, b: int, c: int, d: int) -> None:
        self.faces += [(a, b, c), (a, c, d)]


def _one_hot(*shares: tuple[int, float]) -> np.ndarray:
    weights = np.zeros(mano.JOINTS)
    for joint, share in shares:
        weights[joint] += share
    return weights


def _smooth(x: float) -> float:
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


def _loop() -> list[tuple[int, int]]:
    """The 20 border cells of the 9 x 3 grid, counter-clockwise seen from the fingertips."""
    top = [(c, 2) for c in range(9)]
    bottom = [(c, 0) for c in range(9)]
    return bottom + [(8, 1)] + top[::-1] + [(0, 1)]


def _section(column: float, row: float) -> np.ndarray:
    """Grid position -> (y, z) in the palm's rounded cross-section, unit half width and height."""
    across, up = column / 4 - 1, row - 1.0
    return np.array([across * (1 - 0.10 * abs(up)), up * np.sqrt(1 - 0.55 * across**4)])


def _palm(mesh: _Mesh) -> tuple[list[list[int]], dict[tuple[int, int], int]]:
    loop, rings = _loop(), []
    angle = np.linspace(-np.pi, np.pi, 16, endpoint=False) - 0.35
    wrist = np.stack([np.zeros(16), 0.029 * np.cos(angle), 0.019 * np.sin(angle)], -1)
    rings.append(mesh.add(wrist, np.tile(_one_hot((0, 1.0)), (16, 1))))
    for k in range(10):
        part = (k + 1) / 10
        width = 0.5 * PALM_WIDTH * (0.74 + 0.26 * _smooth(part * 1.3))
        height = 0.5 * PALM_THICKNESS * (1.35 - 0.35 * part)
        points = []
        for cell in loop:
            y, z = _section(*cell)
            bow = 0.012 * (1 - y**2) * _smooth(part)  # knuckles form an arc
            points.append([PALM_LENGTH * part - 0.012 * _smooth(part) + bow, y * width, z * height])
        rings.append(mesh.add(np.array(points), np.tile(_one_hot((0, 1.0)), (20, 1))))
    grid = dict(zip(loop, rings[-1], strict=True))
    mesh.bridge(rings[0], rings[1])
    for column in (2, 4, 6):  # webs between the fingers
        y, z = _section(column, 1)
        point = np.array([[PALM_LENGTH - 0.012 + 0.012 * (1 - y**2) + 0.002,
                           y * 0.5 * PALM_WIDTH, z * 0.5 * PALM_THICKNESS]])  # fmt: skip
        grid[column, 1] = mesh.add(point, _one_hot((0, 1.0))[None])[0]
    return rings, grid


def _chain_weights(joints: tuple[int, int, int], part: float) -> np.ndarray:
    """Weights of a finger's vertex at `part` of its length: blends over the knuckles."""
    reach = 0.10
    share = [_smooth((part - knuckle + reach) / (2 * reach)) for knuckle in JOINT_PARTS]
    return _one_hot(
        (0, 1 - share[0]),
        (joints[0], share[0] * (1 - share[1])),
        (joints[1], share[1] * (1 - share[2])),
        (joints[2], share[2]),
    )


def _tube(mesh, base, joints, start, direction, up, length, radius, rings) -> None:
    """A finger on the loop `base` of 8 vertices: rings along `direction`, closed by a tip."""
    side = np.cross(up, direction)
    offsets = np.array([mesh.vertices[i] for i in base]) - start
    phase = np.arctan2(offsets @ up, offsets @ side)
    last = base
    for k in range(rings):
        part = (k + 1) / (rings + 0.6)
        bulge = 1 + 0.10 * sum(np.exp(-(((part - j) / 0.09) ** 2)) for j in JOINT_PARTS[1:])
        taper = (1.08 - 0.32 * part) * bulge * np.sqrt(1 - max(0.0, part - 0.86) ** 2 / 0.0225)
        unit = np.cos(phase)[:, None] * side + np.sin(phase)[:, None] * up
        blend = min(1.0, 0.35 + 2.2 * part)
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        ring = start + direction * length * part
        points = ring + blend * radius * taper * unit + (1 - blend) * offsets * 0.9
        weights = np.tile(_chain_weights(joints, part), (8, 1))
        new = mesh.add(points, weights)
        for i in range(8):
            j = (i + 1) % 8
            mesh.quad(last[i], last[j], new[j], new[i])
        last = new
    tip = mesh.add((start + direction * length)[None], _one_hot((joints[2], 1.0))[None])[0]
    mesh.faces += [(last[i], last[(i + 1) % 8], tip) for i in range(8)]


def _block(column: int) -> list[tuple[int, int]]:
    """The 8 cells around the centre of a 2 x 2 block of the grid, in the loop's direction."""
    c = column
    return [(c, 0), (c + 1, 0), (c + 2, 0), (c + 2, 1), (c + 2, 2), (c + 1, 2), (c, 2), (c, 1)]


def _build() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns vertices [778 3], faces, weights [778 16] and joints [16 3] about the wrist."""
    mesh = _Mesh()
    rings, grid = _palm(mesh)
    joints = np.zeros((mano.JOINTS, 3))

    def knuckles(chain, start, direction, length):
        for joint, part in zip(chain, JOINT_PARTS, strict=True):
            joints[joint] = start + direction * length * part

    for column, chain, length, radius, count, splay in FINGERS.values():
        base = [grid[cell] for cell in _block(column)]
        start = np.mean([mesh.vertices[i] for i in base], axis=0)
        direction = np.array([np.cos(splay), np.sin(splay), 0.0])
        knuckles(chain, start, direction, length)
        _tube(mesh, base, chain, start, direction, np.array([0, 0, 1.0]), length, radius, count)
    # The thumb's hole: palm rings 3..5, cells (8, 0..2) on the +y side; its centre is removed.
    k, (low, mid, high) = 3, (8, 9, 10)
    hole = [rings[k][low], rings[k][mid], rings[k][high], rings[k + 1][high], rings[k + 2][high],
            rings[k + 2][mid], rings[k + 2][low], rings[k + 1][low]]  # fmt: skip
    removed = rings[k + 1][mid]
    for a, b in zip(rings[1:-1], rings[2:], strict=True):
        for i in range(20):
            quad = (a[i], a[(i + 1) % 20], b[(i + 1) % 20], b[i])
            if removed not in quad:
                mesh.quad(*quad)
    start = np.mean([mesh.vertices[i] for i in hole], axis=0)
    direction = np.array([0.66, 0.68, -0.32])
    direction /= np.linalg.norm(direction)
    up = np.cross(direction, np.array([0.0, 0.0, 1.0]))
    up = np.cross(up / np.linalg.norm(up), direction)
    chain, length, radius, count = THUMB
    knuckles(chain, start - 0.012 * direction, direction, length)
    _tube(mesh, hole[::-1], chain, start, direction, up, length, radius, count)
    vertices, weights = np.array(mesh.vertices), np.array(mesh.weights)
    faces = np.array(mesh.faces)
    keep = np.arange(len(vertices)) != removed
    faces = (np.cumsum(keep) - 1)[faces]
    vertices, weights = vertices[keep], weights[keep]
    for face in range(3):  # 775 -> 778
        corner = faces[face].copy()
        vertices = np.vstack([vertices, vertices[corner].mean(0)])
        weights = np.vstack([weights, weights[corner].mean(0)])
        new = len(vertices) - 1
        faces[face] = [corner[0], corner[1], new]
        faces = np.vstack([faces, [corner[1], corner[2], new], [corner[2], corner[0], new]])
    return vertices, faces, weights, joints


def _outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Returns the faces wound alike, normals outwards."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    trimesh.repair.fix_winding(mesh)
    inside = mesh.face_normals * (mesh.triangles_center - vertices.mean(0))
    faces = np.array(mesh.faces)
    return faces if inside.sum() > 0 else faces[:, ::-1]


def make(side: str, *, seed: int = 7) -> dict[str, object]:
    """Returns the dictionary of a MANO pickle for `side` "right" or "left"."""
    rng = np.random.default_rng(seed)
    vertices, faces, weights, joints = _build()
    faces = _outward(vertices, faces)
    regressor = np.zeros((mano.JOINTS, len(vertices)))
    for j in range(mano.JOINTS):  # weights of the nearest vertices, fitted to give the joint
        near = np.argsort(np.linalg.norm(vertices - joints[j], axis=1))[:16]
        if j == 0:
            near = np.arange(16)
        fit = scipy.optimize.nnls(
            np.vstack([vertices[near].T * 100, np.ones(16) * 100]), np.append(joints[j], 1.0) * 100
        )[0]
        regressor[j, near] = fit / fit.sum()
    x, y, z = vertices.T
    shape = np.zeros((len(vertices), 3, 10))
    shape[:, :, 0] = vertices * 0.04
    shape[:, 0, 1] = 0.04 * np.maximum(x - 0.08, 0)
    shape[:, 1, 2] = 0.05 * y
    shape[:, 2, 3] = 0.10 * z
    waves = rng.normal(size=(6, 3, 3)) * 30
    for i in range(6):
        shape[:, :, 4 + i] = 0.0006 * np.sin(vertices @ waves[i])
    pose = 0.0004 * np.sin(vertices @ rng.normal(size=(3, 135)) * 40)[:, None, :]
    pose = pose * rng.normal(size=(1, 3, 135)) * (1 - weights[:, :1, None])
    components = np.linalg.qr(rng.normal(size=(45, 45)))[0]
    mean = np.zeros((15, 3))
    mean[:12, 1] = 0.15  # fingers a little bent: adding it by mistake shows
    template = vertices + ORIGIN
    if side == "left":
        mirror = np.array([-1.0, 1, 1])
        template, faces = template * mirror, faces[:, ::-1]
        pose = pose * mirror[:, None]
        mean = mean * np.array([1.0, -1, -1])
    parents = np.array(PARENTS, np.int64)
    parents[0] = 2**32 - 1
    return {
        "v_template": template,
        "shapedirs": shape,  # not mirrored for the left hand, as in MANO's files
        "posedirs": pose,
        "J_regressor": scipy.sparse.csc_matrix(regressor),
        "weights": weights,
        "kintree_table": np.stack([parents, np.arange(16)]).astype(np.uint32),
        "f": faces.astype(np.uint32),
        "hands_components": components,
        "hands_mean": mean.ravel(),
        "hands_coeffs": rng.normal(size=(1554, 45)),
        "J": regressor @ template,
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def write(folder: str | Path) -> None:
    """Writes MANO_LEFT.pkl and MANO_RIGHT.pkl of the synthetic model, python-2 protocol."""
    folder = Path(folder)
    for side in ("left", "right"):
        with disk.whole(folder / f"MANO_{side.upper()}.pkl") as partial:
            partial.write_bytes(pickle.dumps(make(side), protocol=2))
