"""TrajScene-60K (MoRe4D's training clips): read from its archives, and written in its form.

    <range>.tar.gz of <range>/<id>.mp4  <id>.txt  <id>_dt3d_pred.pkl  and renderings; 50 samples,
    or the folder <range>/ unpacked
    pkl   what torch.save wrote: coords [1? T HW 3] metres, camera frame; colors [HW 3] 0..255; vis
          [T HW]; HW = 384 x 512, rows first: read, never executed

The lens is DELTA's default: as many pixels as the tracks are wide, centre in the middle. Cameras of
these videos move and coords are of each frame's camera: "motion" has the camera in it, so that such
records say `camera_motion` and are for pretraining. The data descends from WebVid, whose terms are
restrictive. Nothing here downloads it.
"""

import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax import disk
from syncmv4d_jax.data import frames as video_frames
from syncmv4d_jax.data import reading
from syncmv4d_jax.data.sources import dense, taco_writer
from syncmv4d_jax.geometry import flow_map
from syncmv4d_jax.weights import torch_pickle, torch_writer

GRID = (384, 512)
FRAMES = 49
FPS = 8.0  # of our records: the archives say nothing of it
STRANGE = 0.01  # share of coordinates that may not be finite
FARTHEST = 2.0  # median |F| of what is still motion
LONGEST = 2**31  # bytes of a member


def samples(path: str | Path) -> Iterator[tuple[str, dense.Clip | ValueError]]:
    """Yields (id, clip), or (id, why not) of what is refused, of an archive or folder.

    Raises:
      FileNotFoundError: neither.
      ValueError: no sample in it, or a damaged archive.
    """
    path = Path(path)
    if path.is_dir():
        found = {p.name: p for p in reading.entries(path)}
        yield from _each({name: p.read_bytes for name, p in found.items()}, path)
        return
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such archive or folder")
    try:
        with tarfile.open(path) as archive:
            files = [m for m in archive.getmembers() if m.isfile() and m.size < LONGEST]
            readers = {Path(m.name).name: _member(archive, m) for m in files}
            yield from _each(readers, path)
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not an archive ({error})") from error


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo):
    def read() -> bytes:
        file = archive.extractfile(member)
        assert file is not None  # it is a file
        return file.read()

    return read


def _each(readers: Mapping[str, Any], where: Path):
    end = "_dt3d_pred.pkl"
    names = sorted(name.removesuffix(end) for name in readers if name.endswith(end))
    if not names:
        raise ValueError(f"{where}: no <id>_dt3d_pred.pkl in it: not of TrajScene-60K")
    for name in names:
        try:
            yield name, _clip(name, readers)
        except (ValueError, KeyError, OSError, torch_pickle.Refused) as error:
            yield name, ValueError(f"{where}, {name}: {error}")


def _clip(name: str, readers: Mapping[str, Any]) -> dense.Clip:
    for suffix in (".mp4", ".txt"):
        if f"{name}{suffix}" not in readers:
            raise ValueError(f"wanted {name}{suffix} beside its tracks")
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(readers[f"{name}.mp4"]())
        file.flush()
        video = video_frames.read_all(Path(file.name))
    if len(video) < FRAMES:
        raise ValueError(f"wanted {FRAMES} frames, the video has {len(video)}")
    text = reading.prompt(readers[f"{name}.txt"]().decode("utf-8", "replace"), where=f"{name}.txt")
    content = torch_pickle.load(readers[f"{name}_dt3d_pred.pkl"]())
    if not isinstance(content, dict) or "coords" not in content:
        raise ValueError("the pickle has no coords [T HW 3]")
    coords = np.asarray(content["coords"], np.float64)
    coords = coords.reshape(-1, *coords.shape[-2:])[:FRAMES]
    if coords.shape != (FRAMES, GRID[0] * GRID[1], 3):
        raise ValueError(f"coords: wanted [{FRAMES} {GRID[0] * GRID[1]} 3], got {coords.shape}")
    finite: np.ndarray = np.asarray(np.isfinite(coords).all(-1))
    if 1 - finite.mean() > STRANGE:
        raise ValueError(f"{1 - finite.mean():.1%} of the coordinates are not finite")
    coords = np.where(np.asarray(finite.all(0))[None, :, None], coords, np.nan)
    size = (video.shape[1], video.shape[2])
    lens = lens_of(size)
    depth = np.nan_to_num(coords[0, :, 2]).reshape(GRID)
    _check_motion(coords, depth)
    y, x = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, GRID, strict=True))
    poses = np.repeat(np.eye(3, 4)[None], FRAMES, 0)
    depth = np.maximum(depth, 0)[y[:, None], x[None]].astype(np.float32)
    points = coords.astype(np.float32)
    return dense.Clip(name, text, FPS, False, video[:FRAMES], lens, poses, depth, points, GRID)


def lens_of(size: tuple[int, int]) -> np.ndarray:
    """DELTA's lens [3 3] for the grid, at an image's size (height, width)."""
    y, x = size[0] / GRID[0], size[1] / GRID[1]
    focal = GRID[1]
    middle = ((n / 2 + 0.5) * scale - 0.5 for n, scale in zip(GRID, (y, x), strict=True))
    down, across = middle
    return np.array([[focal * x, 0, across], [0, focal * y, down], [0, 0, 1]])


def _check_motion(coords: np.ndarray, depth: np.ndarray) -> None:
    tracks = coords.reshape(len(coords), *GRID, 3)
    camera = flow_map.Camera(depth, lens_of(GRID), np.eye(3, 4))
    size = np.abs(flow_map.forward(np.nan_to_num(tracks), camera)).max(-1)
    middle = float(np.median(size[1:, depth > 0]))
    if middle > FARTHEST:
        raise ValueError(f"the median way is {middle:.2g} image sides: not tracks of this video")


def write(folder: Path, name: str, clip: Mapping[str, np.ndarray], text: str) -> None:
    """Writes a sample in TrajScene's form.

    Args:
      clip: video [n h w 3] uint8; tracks [n h w 3] in camera 0's frame, resampled to GRID here;
        valid [h w].
      text: its caption.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taco_writer.write_video(folder / f"{name}.mp4", clip["video"], fps=FPS)
    have = clip["valid"].shape
    y, x = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(GRID, have, strict=True))
    at = (slice(None), y[:, None], x[None])
    coords = clip["tracks"][at].reshape(len(clip["tracks"]), -1, 3)
    content = {
        "coords": coords.astype(np.float32),
        "colors": clip["video"][0][y[:, None], x[None]].reshape(-1, 3).astype(np.float32),
        "vis": np.repeat(clip["valid"][y[:, None], x[None]].reshape(1, -1), len(coords), 0),
    }
    with disk.whole(folder / f"{name}_dt3d_pred.pkl") as partial:
        partial.write_bytes(torch_writer.dumps(content))
    with disk.whole(folder / f"{name}.txt") as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")
