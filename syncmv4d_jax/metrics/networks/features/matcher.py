"""What a matcher is, for matching pixels: two images in, matched points and confidences out.

A matcher is any callable of this form; `config.evaluate.matcher` names one: "xfeat" (xfeat.py),
"gim_dkm" (below), or "module:function", where the function takes no argument and returns the
matcher. Numbers of different matchers do not compare.

The paper's is GIM (Shen et al. 2024). `gim_dkm` runs GIM's DKM through the package vismatch, which
is no dependency of ours: it brings PyTorch and fetches GIM's weights itself.
"""

import hashlib
import importlib
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np


class Matches(NamedTuple):
    """first, second: [k 2] pixels (x, y) in each image; confidence: [k] in 0..1."""

    first: np.ndarray
    second: np.ndarray
    confidence: np.ndarray


class Matcher(Protocol):
    """Finds the same scene points in two images.

    Attributes:
      name: of the network, with its version and settings.
      files: {weight file: sha256}.
      threshold: a match counts where its confidence is above.
    """

    name: str
    files: dict[str, str]
    threshold: float

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


class Gim:
    """GIM-DKM by vismatch: 5000 points sampled from a dense match, seeded anew for each pair."""

    threshold = 0.5

    def __init__(self, match: Any, seed: Any, *, name: str, files: dict[str, str]):
        self.name, self.files = name, files
        self._match, self._seed = match, seed

    def __call__(self, first: np.ndarray, second: np.ndarray) -> Matches:
        """first, second: [h w 3] uint8."""
        self._seed(0)
        found = self._match(
            *(x.transpose(2, 0, 1).astype(np.float32) / 255 for x in (first, second))
        )
        keys = ("matched_kpts0", "matched_kpts1", "matched_confidences")
        return Matches(*(np.asarray(found[key]) for key in keys))


def gim_dkm() -> Gim:
    """Returns GIM's DKM at vismatch's own 672 x 896, on the CPU.

    Raises:
      ModuleNotFoundError: vismatch is not installed; says how to get it.
    """
    try:
        vismatch = importlib.import_module("vismatch")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "config.evaluate.matcher='gim_dkm' wants the package vismatch (and its PyTorch), best "
            f"in an environment of its own: pip install vismatch ({error})"
        ) from error
    match = vismatch.get_matcher("gim-dkm", device="cpu", max_num_keypoints=5000)
    folder = Path(importlib.import_module("huggingface_hub").snapshot_download("vismatch/gim-dkm"))
    files = {}
    for path in sorted(folder.glob("gim_dkm*")):
        with path.open("rb") as file:
            files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    name = f"GIM-DKM, vismatch {vismatch.__version__}, 672 x 896, 5000 points, no RANSAC"
    return Gim(match, importlib.import_module("torch").manual_seed, name=name, files=files)
