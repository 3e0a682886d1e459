"""Videos of a dot that goes on, or that comes back."""

import numpy as np

WAYS = {"goes on": np.linspace(0, 1, 9), "comes back": np.sin(np.linspace(0, np.pi, 9))}


def clip(way: str, row: int, *, colour=(200, 120, 60)) -> np.ndarray:
    """[1 9 16 24 3] uint8: a square of 4 pixels whose upper edge is in `row`."""
    video = np.zeros((1, 9, 16, 24, 3), np.uint8)
    for n, at in enumerate(WAYS[way]):
        left = 2 + round(16 * at)
        video[0, n, row : row + 4, left : left + 4] = colour
    return video
