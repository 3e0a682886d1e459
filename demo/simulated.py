"""Held-out scenes by the simulator's road: files of other programs and one picture, and back.

    python demo/simulated.py --data DATA --records RECORDS --out OUT        (a stage of demo/hvg.py)

    OUT/files/<sequence>    the tool as glTF, the target as an OBJ sequence, hands and forearms as
                            point caches; photo.png and camera.json of the records' camera
    OUT/photos/<sequence>   what data_prep/import_meshes.py makes of these: no later frame is in it
    OUT/filmed/<sequence>   the same with the camera's video: the truth that scores are against

A sequence whose folders are there is left alone.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from syncmv4d_jax import disk
from syncmv4d_jax.data import frames, records, rigs, surfaces
from syncmv4d_jax.data.sources import mesh_writer, recordings, taco

ROOT = Path(__file__).parents[1]
FORMS = {"tool": "gltf", "target": "obj", "table": "gltf"}  # by surface; others bend: pc2


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=disk.local, required=True, help="of make_scenes.py")
    add("--records", type=disk.local, required=True, help="made of it, to be held out")
    add("--out", type=disk.local, required=True)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Writes what is missing; returns the exit status of the first import that fails."""
    args = parse(argv)
    sources = recordings.taco_sources(args.data / "taco", args.data / "mano")
    found = {source.id: source for source in sources}
    for window in records.Reader(args.records, "test").windows:
        name = window.sequence
        if (args.out / "filmed" / name).is_dir():
            continue
        recording = found[name].open()
        command = export(recording, window, args.out)
        if status := subprocess.run([sys.executable, *command], cwd=ROOT).returncode:
            return status
        film(args.out, name, recording.video_path(window.views[0].serial))
    return 0


def export(recording: recordings.Recording, window: records.Window, out: Path) -> list[str]:
    """Writes the files of a recording; returns the arguments of python that import them."""
    folder, camera = out / "files" / window.sequence, window.views[0].serial
    meshes = [
        mesh_writer.write(folder, surface, FORMS.get(surface.name, "pc2"), fps=taco.FPS)
        for surface in recording.surfaces
    ]
    first = frames.read_all(recording.video_path(camera))[0]
    Image.fromarray(first).save(folder / "photo.png")
    rig = {camera: rigs.stated(recording.cameras[camera])}
    (folder / "camera.json").write_text(json.dumps(rig))
    hiding = [s.name for s in recording.surfaces if s.kind == surfaces.OCCLUDER]
    return [
        "data_prep/import_meshes.py", "--meshes", *map(str, meshes), "--occluders", *hiding,
        "--image", str(folder / "photo.png"), "--camera", str(folder / "camera.json"),
        "--out", str(out / "photos"), "--name", window.sequence, "--text", window.text,
    ]  # fmt: skip


def film(out: Path, name: str, video: Path) -> None:
    """Writes the imported recording once more, with the video in the picture's place."""
    with disk.whole(out / "filmed" / name) as partial:
        shutil.copytree(out / "photos" / name, partial)
        for picture in partial.glob("*.png"):
            picture.unlink()
            shutil.copyfile(video, picture.with_suffix(".mp4"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
