"""Doors of the field's own forms: calibrations, mesh sequences, LeRobot, clips of one camera.

Their valid inputs are written by the same writers as the tests of these readers use.
"""

import dataclasses
from pathlib import Path

import arctic_files
import foreign_rigs
import lerobot_sets
import mesh_files
import monocular_clips
import numpy as np
import tiny
import workbooks
from fuzz_doors import Door, Values, flat
from PIL import Image

from syncmv4d_jax.data import calibrations, depth
from syncmv4d_jax.data.sources import arctic, lerobot, mesh_sequences, monocular, taste_rob


def make(root: Path) -> None:
    """Writes the inputs below `root`."""
    for name, write in foreign_rigs.FORMS.items():
        folder = root / "rigs" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        write(folder)
    meshes(root / "meshes")
    arctic_files.write(root / "arctic")
    posed(root / "posed")
    lerobot_sets.write_3(root / "lerobot", images=("right",))
    clip = monocular_clips.make(root / "clip/plain")
    monocular_clips.write("SpatialTracker", clip, root / "clip/tracked")
    workbooks.write(root / "captions.xlsx")


def meshes(folder: Path) -> None:
    """A solid that turns, in four forms."""
    folder.mkdir(parents=True)
    vertices, faces = tiny.solids()["tool"]
    turned = np.stack([vertices @ x[:3, :3].T + x[:3, 3] for x in tiny.poses(4)["tool"]])
    mesh_files.write_sequence(folder / "objs", "tool", turned, faces)
    mesh_files.write_pc2(folder / "a.pc2", turned, faces)
    mesh_files.write_mdd(folder / "b.mdd", turned, faces, np.arange(4) / 8)
    file = mesh_files.Gltf()
    own = file.mesh("tool", vertices, faces)
    times = file.add(np.arange(4)[:, None] / 8)
    ways = file.add(np.cumsum(np.full((4, 3), 0.01), 0))
    channel = {"sampler": 0, "target": {"node": 0, "path": "translation"}}
    sampler = {"input": times, "output": ways, "interpolation": "LINEAR"}
    file.save(
        folder / "c.glb", meshes=[own], nodes=[{"name": "tool", "mesh": 0}],
        scenes=[{"nodes": [0]}], scene=0,
        animations=[{"channels": [channel], "samplers": [sampler]}],
    )  # fmt: skip


def posed(folder: Path) -> None:
    """A picture with the depth of its pixels."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[:36, :48]
    Image.fromarray(np.stack([x * 5, y * 6, x + y], -1).astype(np.uint8)).save(folder / "a.png")
    lens = np.array([[50.0, 0, 23.5], [0, 50, 17.5], [0, 0, 1]])
    np.savez(folder / "depth.npz", depth=np.float32(1 + 0.002 * y + 0.001 * x), intrinsics=lens)


def rig(root: Path, file: Path, out: Path) -> Values:
    path = file.parent if file.suffix in (".bin", ".txt") and "colmap" in str(file) else file
    metres = None if "qualisys" in str(file) else foreign_rigs.UNIT
    return flat("", calibrations.read(path, metres=metres))


def moving(root: Path, file: Path, out: Path) -> Values:
    path = file.parent if file.parent.name == "objs" else file
    path = file.with_name("a.pc2") if file.name == "a.obj" else path
    return flat("", mesh_sequences.read(path, 8.0))


def raw(root: Path, file: Path, out: Path) -> Values:
    folder = root / "arctic"
    return flat("", arctic.read(folder / HANDS, 30.0, hands=folder / "mano"))


def distances(root: Path, file: Path, out: Path) -> Values:
    metres, lens = depth.read_file(file, (36, 48))
    return {"depth": metres} | ({} if lens is None else {"lens": lens})


def episode(root: Path, file: Path, out: Path) -> Values:
    dataset = lerobot.open_dataset(root / "lerobot")
    first = dataset.episodes[0]
    found = {"stamps": dataset.stamps(first), "action": dataset.column(first, "action")}
    for name in ("top", "right"):
        camera = dataset.camera(name)
        if camera is None:
            raise ValueError(f"{root / 'lerobot/meta/info.json'}: no camera {name}")
        found[name], _ = dataset.pictures(first, camera, np.array([0, 3]), (48, 64))
    mean, std = lerobot.statistics(dataset, "action")
    return found | {"mean": mean, "std": std, "text": first.text}


def clip(root: Path, file: Path, out: Path) -> Values:
    scene = monocular.read(root / "clip/tracked")
    names = [f.name for f in dataclasses.fields(scene) if f.name not in ("name", "video")]
    found = {name: getattr(scene, name) for name in names}
    found |= {"depth": np.nan_to_num(scene.depth), "stamps": scene.video.stamps}
    return flat("", found)


def captions(root: Path, file: Path, out: Path) -> Values:
    return {"/".join(key): text for key, (_, text) in taste_rob.captions(file).items()}


HANDS = f"raw_seqs/s01/{arctic_files.NAME}.mano.npy"
TEMPLATE = "arctic/meta/object_vtemplates/box"
PARQUET = "lerobot/{}/chunk-000/file-000.parquet"
TABLE = [
    Door("colmap", "cameras of COLMAP as text", "rigs/colmap_txt/cameras.txt", rig),
    Door("colmap", "images of COLMAP as text", "rigs/colmap_txt/images.txt", rig),
    Door("bin", "cameras of COLMAP", "rigs/colmap_bin/cameras.bin", rig),
    Door("bin", "images of COLMAP", "rigs/colmap_bin/images.bin", rig),
    Door("json", "cameras of nerfstudio", "rigs/nerfstudio/transforms.json", rig),
    Door("yaml", "cameras of OpenCV", "rigs/opencv/rig.yml", rig),
    Door("xml", "cameras of Qualisys", "rigs/qualisys/rig.qca.txt", rig),
    Door("obj", "a mesh of a sequence", "meshes/objs/tool_000002.obj", moving),
    Door("obj", "faces of a cache", "meshes/a.obj", moving),
    Door("cache", "a PC2 cache", "meshes/a.pc2", moving),
    Door("cache", "an MDD cache", "meshes/b.mdd", moving),
    Door("glb", "a mesh that moves", "meshes/c.glb", moving),
    Door("npy", "hands of ARCTIC", f"arctic/{HANDS}", raw),
    Door("npy", "an object of ARCTIC", f"arctic/{HANDS}".replace("mano", "object"), raw),
    Door("obj", "a mesh of ARCTIC", f"{TEMPLATE}/mesh.obj", raw),
    Door("json", "parts of ARCTIC", f"{TEMPLATE}/parts.json", raw),
    Door("npz", "depth of a picture", "posed/depth.npz", distances),
    Door("json", "a data set of LeRobot", "lerobot/meta/info.json", episode),
    Door("json", "statistics of LeRobot", "lerobot/meta/stats.json", episode),
    Door("parquet", "rows of LeRobot", PARQUET.format("data"), episode),
    Door("parquet", "episodes of LeRobot", PARQUET.format("meta/episodes"), episode),
    Door("mp4", "a camera of LeRobot", "lerobot/videos/*top/chunk-000/file-000.mp4", episode),
    Door("json", "a clip's description", "clip/tracked/clip.json", clip),
    Door("npz", "depth of a clip", "clip/tracked/vggt.npz", clip),
    Door("npz", "tracks of a clip", "clip/tracked/tracks.npz", clip),
    Door("xlsx", "captions", "captions.xlsx", captions),
]  # fmt: skip
