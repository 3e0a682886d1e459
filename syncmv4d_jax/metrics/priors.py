"""How scenes move, learned without any network: what a generated motion has to be better than.

A training scene gives a path [n 3], the mean displacement from frame 0 of the points that a view
sees there, and what is given of it: its words, and its first frames. From these

    mean_path    the mean path of the scenes with the same words (tool and target left out)
    crop_ridge   path ~ words + where the foreground lies in each view's crop, by ridge regression
    nearest      the path of the scene of the same words whose first frames look most alike

Nothing of the evaluated scene is looked at but its words and its first frames. The foreground's
place is taken from the record's frame 0, as a segmentation of the given image would have it: that
can only help the rows. What the scenes' videos teach of actions is kept with them (actions.py).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from syncmv4d_jax import disk
from syncmv4d_jax.metrics import actions

RIDGE = 0.1
GRID = (8, 12)  # cells of a picture that are compared
PARTS = ("words", "place", "picture", "paths", "actions", "signatures")  # of the file
THRESHOLD = 20  # of the pseudo video's first two channels, 0..255: foreground


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is given of a scene.

    Attributes:
      words: the prompt without tool and target.
      place: [v 4] in -1..1, middle and mean of the foreground (x, y) in each view's crop.
      picture: [v 8 12 4], the first frames and their foreground in coarse cells, 0..1.
    """

    words: str
    place: np.ndarray
    picture: np.ndarray


def layout(prompt: str, triplet: Sequence[str], images: np.ndarray, pseudo: np.ndarray) -> Layout:
    """Returns the layout of a scene.

    Args:
      triplet: (action, tool, target).
      images: [v h w 3] uint8, the first frames. pseudo: [v h w 3] uint8, of the pseudo videos.
    """
    _, tool, target = triplet
    before, found, after = prompt.rpartition(target)  # a tool may be called as the action is
    words = (before + "_" + after if found else prompt).replace(tool, "_", 1)
    mask = pseudo[..., :2].max(-1) > THRESHOLD
    picture = np.concatenate([images / 255.0, mask[..., None]], -1)
    return Layout(words, np.stack([_place(m) for m in mask]), _cells(picture))


def _place(mask: np.ndarray) -> np.ndarray:
    """Middle of the bounds and mean place of a mask [h w], in -1..1: [4]; zeros if empty."""
    y, x = np.nonzero(mask)
    if not len(x):
        return np.zeros(4)
    half = (np.array(mask.shape[::-1]) - 1) / 2
    middle = np.array([x.min() + x.max(), y.min() + y.max()]) / 2
    return np.concatenate([middle / half - 1, np.array([x.mean(), y.mean()]) / half - 1])


def _cells(picture: np.ndarray) -> np.ndarray:
    """Means over GRID cells of [v h w c]."""
    rows = np.array_split(np.arange(picture.shape[1]), GRID[0])
    columns = np.array_split(np.arange(picture.shape[2]), GRID[1])
    found = [[picture[:, r][:, :, c].mean((1, 2)) for c in columns] for r in rows]
    return np.moveaxis(np.array(found), 2, 0)


def path(tracks: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The mean displacement [n 3] from frame 0 of tracks [n k 3] where seen [k], metres."""
    tracks = np.asarray(tracks, np.float64)
    chosen = tracks[:, seen] if seen.any() else tracks
    return (chosen - chosen[:1]).mean(1)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a training scene teaches.

    Attributes:
      layout: what is given of it.
      path: [n 3] of `path`, metres.
      action: its name.
      signature: [d] of its true video (`actions.signature`).
    """

    layout: Layout
    path: np.ndarray
    action: str
    signature: np.ndarray


class Priors:
    """Rows of moved points, fitted to training scenes.

    Attributes:
      namer: of the actions of videos.
    """

    def __init__(self, scenes: Iterable[Scene]):
        """Fits them to training scenes, all of one length.

        Raises:
          ValueError: no scene.
        """
        found = list(scenes)
        if not found:
            raise ValueError("priors: wanted at least one training scene, got none")
        self.namer = actions.Namer(
            np.stack([one.signature for one in found]), [one.action for one in found]
        )
        self._layouts = [one.layout for one in found]
        self._paths = np.array([one.path for one in found], np.float64)
        self._words = sorted({one.words for one in self._layouts})
        design = np.stack([self._features(one) for one in self._layouts])
        flat = self._paths.reshape(len(found), -1)
        inner = design.T @ design + RIDGE * np.eye(design.shape[1])
        self._ridge = np.linalg.solve(inner, design.T @ flat)

    def __len__(self) -> int:
        return len(self._layouts)

    def save(self, path: Path) -> None:
        """Writes what it was fitted to into one .npz, whole or not at all."""
        with disk.whole(path) as partial, open(partial, "wb") as file:
            np.savez_compressed(
                file,
                words=np.array([one.words for one in self._layouts]),
                place=np.stack([one.place for one in self._layouts]).astype(np.float32),
                picture=np.round([255 * one.picture for one in self._layouts]).astype(np.uint8),
                paths=self._paths.astype(np.float32),
                actions=np.array(self.namer.actions),
                signatures=self.namer.signatures.astype(np.float16),
            )

    @classmethod
    def load(cls, path: Path) -> "Priors":
        """Reads the file of `save`.

        Raises:
          ValueError: not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                parts = [file[key] for key in PARTS]
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(f"{path}: wanted priors of an evaluation, got {error!r}") from error
        words, place, picture, *others = parts
        given = zip(words, place.astype(np.float64), picture / 255.0, strict=True)
        layouts = [Layout(str(w), at, seen) for w, at, seen in given]
        rows = zip(layouts, *others, strict=True)
        return cls(Scene(one, p, str(action), s) for one, p, action, s in rows)

    def _features(self, one: Layout) -> np.ndarray:
        words = [float(one.words == w) for w in self._words]
        return np.concatenate([one.place.ravel(), words, [1.0]])

    def _alike(self, one: Layout) -> np.ndarray:
        """Indices of the scenes with the same words; all where there is none."""
        same = [i for i, other in enumerate(self._layouts) if other.words == one.words]
        return np.array(same or range(len(self._layouts)))

    def paths(self, one: Layout) -> Mapping[str, np.ndarray]:
        """Returns {row: path [n 3] metres} for a scene of which only its layout is known."""
        alike = self._alike(one)
        far = [np.square(self._layouts[i].picture - one.picture).sum() for i in alike]
        return {
            "mean_path": self._paths[alike].mean(0),
            "crop_ridge": (self._features(one) @ self._ridge).reshape(self._paths.shape[1:]),
            "nearest": self._paths[alike[int(np.argmin(far))]],
        }


def moved(start: np.ndarray, paths: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Points `start` [k 3] along each path [n 3]: {row: tracks [n k 3]}."""
    return {row: start[None] + way[:, None] for row, way in paths.items()}
