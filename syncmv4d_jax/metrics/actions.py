"""Which action a video shows, told by how it changes and not by what it looks like.

A tool gives its action away in frame 0, which is given. So a video's signature holds only changes
of luma from frame to frame: how they are spread over time, where in the picture they are and how
wide, and how far apart any two frames are. A kernel ridge regression on the signatures of true
training videos names the action; a video that stands still has a signature of nothing.
"""

from collections.abc import Sequence

import numpy as np

from syncmv4d_jax.metrics import video

RIDGE = 1.0
FLOOR = 1e-3  # of luma in 0..1: less change than this, summed over a picture, is none


def signature(clip: np.ndarray) -> np.ndarray:
    """Returns how a video changes, [5 (n - 1) + n (n - 1) / 2] float64, mean over views.

    Args:
      clip: [v n h w 3] uint8.

    Raises:
      ValueError: fewer than two frames.
    """
    if clip.shape[1] < 2:
        raise ValueError(f"actions: wanted two frames or more, got {clip.shape[1]}")
    luma = video.luma(clip) / 255
    change = np.abs(np.diff(luma, axis=1))
    total = change.sum((2, 3))
    y, x = (np.linspace(0, 1, size) for size in luma.shape[2:])
    share = total / np.maximum(total.sum(1, keepdims=True), FLOOR)
    parts = [share]
    for place, axis in ((x, 2), (y, 3)):  # the other axis is summed out
        weight = change.sum(axis) / np.maximum(total, FLOOR)[..., None]
        middle = (weight * place).sum(-1)
        wide = np.sqrt((weight * np.square(place - middle[..., None])).sum(-1))
        parts += [middle - middle.mean(1, keepdims=True), wide]
    rows, columns = np.triu_indices(luma.shape[1], 1)
    far = np.sqrt(np.square(luma[:, rows] - luma[:, columns]).mean((2, 3)))
    parts.append(far / np.maximum(far.mean(1, keepdims=True), FLOOR))
    return np.concatenate(parts, -1).mean(0)


class Namer:
    """Names the action of a signature, fitted to training videos."""

    def __init__(self, signatures: np.ndarray, actions: Sequence[str]):
        """Fits it.

        Args:
          signatures: [s d] of true videos of one length. actions: their s names.
        """
        self.signatures, self.actions = np.asarray(signatures, np.float64), list(actions)
        self._names = sorted(set(self.actions))
        self._mean = self.signatures.mean(0)
        self._std = self.signatures.std(0) + 1e-6
        self._known = (self.signatures - self._mean) / self._std
        wanted = [[float(a == name) for name in self._names] for a in self.actions]
        self._share = np.mean(wanted, 0)
        inner = self._kernel(self._known) + RIDGE * np.eye(len(self._known))
        self._weights = np.linalg.solve(inner, np.array(wanted) - self._share)

    def _kernel(self, x: np.ndarray) -> np.ndarray:
        """exp(-mean squared difference) between [m d] and what is known: [m s]."""
        far = np.square(x[:, None] - self._known[None]).mean(-1)
        return np.exp(-far)

    def name(self, clip: np.ndarray) -> str:
        """The likeliest action of a video [v n h w 3] uint8.

        Raises:
          ValueError: a video of another length than those it was fitted to.
        """
        found = signature(clip)
        if found.shape != self._mean.shape:
            raise ValueError(
                f"actions: wanted videos of signatures {self._mean.shape}, got {found.shape}: of "
                f"{clip.shape[1]} frames, training videos had another number"
            )
        return self._names[int(np.argmax(self.scores(found)))]

    def scores(self, found: np.ndarray) -> np.ndarray:
        """How much speaks for each action of a signature [d], in the order of their names."""
        return self._kernel((found - self._mean)[None] / self._std)[0] @ self._weights + self._share
