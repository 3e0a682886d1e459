"""Tracks of a sample for other programs: glTF, USD, a PLY sequence, rerun's .rrd.

glb   one animated file, cameras included: Blender, web viewers (gltf.py)
usda  points with time samples and cameras, as text: Blender, usdview, Houdini (usd.py)
ply   a folder: frame_0000.ply, ..., and tracks.npz: MeshLab, Blender, CloudCompare
rrd   points, trails, cameras and videos on one time line: rerun (needs rerun-sdk)
"""

import importlib.util
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import einops
import numpy as np

from syncmv4d_jax import disk
from syncmv4d_jax.results import clouds as point_clouds
from syncmv4d_jax.results import gltf, samples, usd

KINDS = ("glb", "usda", "ply", "rrd")
PLY = """ply
format binary_little_endian 1.0
comment metres, world frame, z up
element vertex {count}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
"""


def kinds() -> tuple[str, ...]:
    """KINDS, without rrd where rerun-sdk is not installed."""
    return KINDS if importlib.util.find_spec("rerun") else KINDS[:-1]


def write(kind: str, source: str | Path, target: str | Path, *, views: bool = False) -> Path:
    """Exports the sample folder `source` to `target` and returns what was written.

    Args:
      kind: of KINDS.
      target: the file, or for ply the folder.
      views: each view's own copy of the points, too (not in ply).

    Raises:
      ValueError: an unknown kind, or a sample without tracks.
      FileNotFoundError: no sample there.
      ImportError: rrd without rerun-sdk.
    """
    if kind not in KINDS:
        raise ValueError(f"wanted one of {KINDS}, got {kind!r}")
    source, target = Path(source), Path(target)
    sample = samples.read(source)
    if "tracks" not in sample:
        raise ValueError(f"{source}: this sample has no tracks, it has {sorted(sample)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    clouds = {"tracks": sample["tracks"]}
    if views and "tracks_per_view" in sample:
        clouds |= {f"tracks_view_{v + 1}": x for v, x in enumerate(sample["tracks_per_view"])}
    if kind in ("glb", "usda"):
        writer = gltf.write if kind == "glb" else usd.write
        paint = point_clouds.colours(sample["tracks"])
        writer(target, clouds, paint, fps=samples.fps(sample), cameras=_rig(sample))
    elif kind == "ply":
        ply(target, sample["tracks"], source / "tracks.npz")
    else:
        rerun(target, source, sample, clouds)
    return target


def ply(folder: str | Path, tracks: np.ndarray, arrays: str | Path) -> None:
    """Writes frame_0000.ply, ... of tracks [n k 3], metres, and a copy of `arrays`.

    Points that are not finite are left out of their frame. A former export there is replaced.

    Raises:
      FileExistsError: the folder has other files.
    """
    folder = Path(folder)
    there = sorted(path.name for path in folder.glob("*"))
    if others := [name for name in there if not re.fullmatch(r"frame_\d+\.ply|tracks\.npz", name)]:
        raise FileExistsError(
            f"{folder} has files that are no export's ({', '.join(others[:3])}); give another --out"
        )
    paint = point_clouds.colours(tracks)
    layout = np.dtype([("place", "<f4", 3), ("colour", "u1", 3)])
    with disk.whole(folder) as partial:
        partial.mkdir()
        for n, points in enumerate(np.asarray(tracks)):
            kept = np.isfinite(points).all(-1)
            rows = np.empty(kept.sum(), layout)
            rows["place"], rows["colour"] = points[kept], paint[kept]
            data = PLY.format(count=len(rows)).encode() + rows.tobytes()
            (partial / f"frame_{n:04d}.ply").write_bytes(data)
        shutil.copyfile(arrays, partial / "tracks.npz")


def _rig(sample: Mapping[str, Any]) -> dict[str, Any] | None:
    if "extrinsics" not in sample:
        return None
    keys = ("intrinsics", "extrinsics")
    size = sample["video"].shape[2:4]
    return {key: sample[key] for key in keys} | {
        "size": size,
        "names": sample["meta"].get("views", ()),
    }


def _names(sample: Mapping[str, Any]) -> list[str]:
    return point_clouds.views(len(sample["video"]), sample["meta"].get("views", ()))


def rerun(
    path: Path, source: Path, sample: Mapping[str, Any], clouds: Mapping[str, np.ndarray]
) -> None:
    """Writes a rerun recording: clouds, their trails, cameras and the sample's own videos.

    Raises:
      ImportError: rerun-sdk is not installed; names the extra.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise ImportError(
            "exporting .rrd needs rerun-sdk: pip install 'syncmv4d_jax[viz]' (or export glb, ply)"
        ) from error
    stream = rr.RecordingStream("syncmv4d", recording_id=source.name)
    stream.save(str(path))
    stream.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    _rerun_cameras(rr, stream, source, sample)
    paint, fps = point_clouds.colours(sample["tracks"]), samples.fps(sample)
    for n in range(len(sample["tracks"])):
        stream.set_time("frame", sequence=n)
        stream.set_time("time", duration=n / fps)
        for name, tracks in clouds.items():
            kept = np.isfinite(tracks[n]).all(-1)
            points = rr.Points3D(tracks[n][kept], colors=paint[kept], radii=0.003)
            stream.log(f"world/{name}", points)
            past = tracks[max(0, n - 6) : n + 1]
            whole = np.isfinite(past).all((0, -1))
            strips = einops.rearrange(past[:, whole], "n k x -> k n x")
            if len(past) > 1:
                trails = rr.LineStrips3D(strips, colors=paint[whole], radii=0.0008)
                stream.log(f"world/{name}_trails", trails)
        for view in _names(sample):
            moment = rr.VideoFrameReference(seconds=(n + 0.5) / fps)
            stream.log(f"world/{view}/image", moment)
    stream.flush()


def _rerun_cameras(rr: Any, stream: Any, source: Path, sample: Mapping[str, Any]) -> None:
    height, width = sample["video"].shape[2:4]
    names = _names(sample)
    for v, pose in enumerate(sample.get("extrinsics", ())):
        every = np.asarray(pose).reshape(-1, 3, 4)
        lens = rr.Pinhole(
            image_from_camera=sample["intrinsics"][v],
            resolution=[width, height],
            camera_xyz=rr.ViewCoordinates.RDF,
            image_plane_distance=0.2,
        )
        for n, x in enumerate(every):
            turn, fps = x[:, :3].T, samples.fps(sample)
            if len(every) > 1:  # it moves
                stream.set_time("frame", sequence=n)
                stream.set_time("time", duration=n / fps)
            place = rr.Transform3D(translation=-turn @ x[:, 3], mat3x3=turn)
            stream.log(f"world/{names[v]}", place, static=len(every) == 1)
        stream.log(f"world/{names[v]}/image", lens, static=True)
    for v, view in enumerate(names):
        clip = rr.AssetVideo(path=source / f"view_{v}.mp4")
        stream.log(f"world/{view}/image", clip, static=True)
