"""What a matcher is, for matching pixels: two images in, matched points and confidences out.

A matcher is any callable of this form; `config.evaluate.matcher` names one as "module:function",
where the function takes no argument and returns the matcher. The paper's own is GIM (Shen et al.
2024), whose networks stay with their authors' code. Numbers of different matchers do not compare.
"""

from typing import NamedTuple, Protocol

import numpy as np


class Matches(NamedTuple):
    """first, second: [k 2] pixels (x, y) in each image; confidence: [k] in 0..1."""

    first: np.ndarray
    second: np.ndarray
    confidence: np.ndarray


class Matcher(Protocol):
    """Finds the same scene points in two images.

    Attributes:
      name: of the network, with its version.
      files: {weight file: sha256}.
    """

    name: str
    files: dict[str, str]

    def __call__(self, first: np.ndarray, second: np.ndarray) -> Matches:
        """first, second: [h w 3] uint8."""
        ...


def checked(matches: Matches, name: str) -> np.ndarray:
    """Returns the confidences [k] of what a matcher found; not finite ones are 0.

    Raises:
      ValueError: points and confidences do not fit each other.
    """
    first, second, confidence = (np.asarray(x) for x in matches)
    if not (first.shape == second.shape == (len(confidence), 2) and confidence.ndim == 1):
        raise ValueError(
            f"matcher {name}: wanted points [k 2], [k 2] and confidences [k], got {first.shape}, "
            f"{second.shape}, {confidence.shape}"
        )
    return np.where(np.isfinite(confidence), confidence, 0)
