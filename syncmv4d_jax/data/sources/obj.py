"""Triangles of a Wavefront OBJ file, by the format's own rules.

    v x y z [w | r g b]          a vertex
    f a b c ... | a/t/n ...      a polygon, cut into a fan; a counts from 1, or back from -1
    \\ at a line's end           goes on in the next one

All groups and objects are one mesh. Vertices that no face names are left out, unless all are asked
for.
"""

import numpy as np


def parse(text: str, *, where: str, every: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Returns vertices [p 3] float64 in the file's unit, and faces [q 3].

    Raises:
      ValueError: a line that is not what the format says, a face without its vertices, or no face.
    """
    vertices: list[list[float]] = []
    corners: list[list[int]] = []
    for number, line in enumerate(text.replace("\\\n", " ").split("\n"), 1):
        kind, *words = line.partition("#")[0].split() or [""]
        try:
            if kind == "v":
                vertices.append([float(words[0]), float(words[1]), float(words[2])])
            elif kind == "f":
                polygon = [_corner(word, len(vertices)) for word in words]
                if len(polygon) < 3:
                    raise ValueError(f"a face of {len(polygon)} corners")
                fan = zip(polygon[1:], polygon[2:], strict=False)
                corners += [[polygon[0], b, c] for b, c in fan]
        except (ValueError, IndexError) as error:
            raise ValueError(f"{where}, line {number}: {line.strip()[:60]!r}: {error}") from error
    if not corners:
        raise ValueError(f"{where}: no faces")
    points, faces = np.array(vertices, np.float64).reshape(-1, 3), np.array(corners, np.int64)
    if faces.max() >= len(points):
        raise ValueError(f"{where}: a face names vertex {faces.max() + 1} of {len(points)}")
    if not np.isfinite(points).all():
        raise ValueError(f"{where}: vertices that are not finite")
    if every:
        return points, faces
    used, faces = np.unique(faces, return_inverse=True)
    return points[used], faces.reshape(-1, 3)


def _corner(word: str, count: int) -> int:
    """Index, from 0, of the vertex of a face's corner; `count` of them were read so far."""
    given = int(word.partition("/")[0])
    index = given - 1 if given > 0 else count + given
    if given == 0 or index < 0:
        raise ValueError(f"vertex {given} of {count}")
    return index
