"""What the demo's training reads, in one file of 30 MB: for a machine with a GPU (train_gpu.py).

    python demo/package.py --out package.tar.gz [--of out/demo-train] [--megabytes 30]

of what `make demo-train` leaves there (its training need not have begun): records, autoencoder,
text encoder, motion codec. The package has the layout of that folder:

    package.json                what it is made of, and a hash of every file
    records/64x96/              one camera of each cluster for as many training scenes as there is
                                room for, drawn from a seed; videos and pseudo videos as films,
                                tracks in units of 1/8 mm, query pixels of 1/64 (data/records.py)
    sent/vae, weights/umt5, codec/weights.safetensors, data/scenes.json

Latents are not in it: 1200 scenes of six cameras are 530 MB of them in bfloat16, and 30 MB would
hold 50 scenes. They are encoded where the package is opened.
"""

import argparse
import concurrent.futures
import gzip
import hashlib
import io
import json
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `from demo import ...`
from demo import shipped
from syncmv4d_jax import disk, recipe, schema
from syncmv4d_jax.data import records
from syncmv4d_jax.data.scenes import scene
from syncmv4d_jax.weights import store

VERSION = 1
ABOUT = "package.json"
CODEC = "codec/weights.safetensors"
PART = 64  # scenes of a file
UNITS = {"tracks": 2.0**-13, "anchors": 2.0**-6}  # metres, pixels
FILMS = {"video": {"quantiser": 36}, "motion": {"quantiser": 30, "planes": True}}
SPARE = 0.98  # of the room: archive, index and alignment take some


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--of", type=Path, default=Path("out/demo-train"))
    parser.add_argument("--megabytes", type=float, default=30.0)
    parser.add_argument("--cameras", type=int, default=1, help="of each cluster")
    parser.add_argument("--jobs", type=int, default=2, help="threads")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Makes the package; returns the exit status."""
    args = parse(argv)
    try:
        about = make(
            args.of, args.out, megabytes=args.megabytes, cameras=args.cameras, jobs=args.jobs
        )
    except (ValueError, OSError) as error:
        sys.exit(f"package: {type(error).__name__}: {error}")
    size = args.out.stat().st_size / 1e6
    print(f"{args.out}: {size:.1f} MB, {about['count']} of {about['of']} training scenes")
    return 0


def make(
    source: Path, target: Path, *, megabytes: float, cameras: int = 1, jobs: int = 2
) -> dict[str, Any]:
    """Writes the package, whole or not at all; returns what package.json says.

    Args:
      source: a folder of demo/make.py.
      megabytes: of the package, at most.
      cameras: of each cluster of a scene.
      jobs: threads.

    Raises:
      FileNotFoundError: records or weights that are not there.
      ValueError: weights and one file of scenes take more room, or weights that are not float16's.
    """
    reader = records.Reader(source / "records", "train")
    with tempfile.TemporaryDirectory() as name:
        stage = Path(name)
        _weights(source, stage)
        room = SPARE * megabytes * 1e6 - _packed_size(stage)
        root = stage / "records" / reader.root.name
        windows = list(_write_records(reader, root, room, cameras, jobs))
        if not windows:
            raise ValueError(
                f"{target}: wanted room for a scene in {megabytes:g} MB, {max(room, 0) / 1e6:.3f} "
                "MB are left beside the weights"
            )
        index = {"version": schema.VERSION, "settings": reader.settings, "windows": windows}
        records.write_json(root / "index.json", index | {"skipped": [], "left_out": []})
        files = sorted(p for p in stage.rglob("*") if p.is_file())
        about = {
            "version": VERSION,
            "schema": schema.VERSION,
            "scenes": json.loads((stage / "data" / "scenes.json").read_text()),
            "of": len(reader.windows),
            "count": len(windows),
            "cameras": cameras,
            "files": {str(p.relative_to(stage)): _hash(p.read_bytes()) for p in files},
        }
        with disk.whole(target) as partial, tarfile.open(partial, "w:gz") as archive:
            _add(archive, ABOUT, json.dumps(about, indent=1, sort_keys=True).encode())
            for path in files:
                _add(archive, str(path.relative_to(stage)), path.read_bytes())
            archive.close()
            size = partial.stat().st_size / 1e6
            if size > megabytes:
                raise ValueError(f"{target}: wanted at most {megabytes:g} MB, got {size:.3f}")
    return about


def unpack(package: Path, out: Path) -> dict[str, Any]:
    """Opens a package in a folder, once; returns what its package.json says.

    Raises:
      ValueError: no package, a damaged one, or one of another version of the package, the records
        or the embedded scenes.
      recipe.Other: another package was opened there.
    """
    try:
        with tarfile.open(package, "r:gz") as archive:
            members = iter(archive)
            about = _about(package, archive, next(members, None))
            if (out / ABOUT).is_file():
                if json.loads((out / ABOUT).read_text()) == about:
                    return about
                raise recipe.Other(f"{out}: another package was opened there; give another --out")
            wanted = dict(about["files"])
            for member in members:
                data = _read(archive, member)
                if wanted.pop(member.name, None) != _hash(data):
                    raise ValueError(f"{package}: damaged: {member.name} is not what was packed")
                with disk.whole(out / member.name) as partial:
                    partial.write_bytes(data)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{package}: damaged, or no package ({error})") from error
    if wanted:
        raise ValueError(f"{package}: damaged: without {sorted(wanted)}")
    shipped.unpack(out / "weights", out / "sent")
    records.write_json(out / ABOUT, about)
    return about


def _about(package: Path, archive: tarfile.TarFile, first: tarfile.TarInfo | None) -> Any:
    if first is None or first.name != ABOUT:
        raise ValueError(f"{package}: wanted a package of demo/package.py, it has no {ABOUT}")
    about = json.loads(_read(archive, first))
    if outside := [x for x in about.get("files", ()) if ".." in Path(x).parts or x.startswith("/")]:
        raise ValueError(f"{package}: wanted files of its own folder, got {outside}")
    now = {"package": VERSION, "records": schema.VERSION, "embedded scenes": scene.VERSION}
    was = {"package": about.get("version"), "records": about.get("schema")}
    was |= {"embedded scenes": about.get("scenes", {}).get("version")}
    if differ := recipe.differences(was, now):
        raise ValueError(
            f"{package} was made of another version ({'; '.join(differ)}): make it anew by this "
            "code's demo/package.py"
        )
    return about


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{archive.name}: damaged: {member.name} is no file")
    return file.read()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _packed_size(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(len(zlib.compress(path.read_bytes())) for path in files)


def _weights(source: Path, stage: Path) -> None:
    """Copies what training reads beside records; of the autoencoder the float16 that it is."""
    config, params = store.load("vae", source / "weights")
    store.save(
        "vae", config, params, stage / "sent", source={"by": "demo/package.py"}, dtype=np.float16
    )
    _, kept = store.load("vae", stage / "sent", dtype=np.float32)
    if not all(jax.tree.leaves(jax.tree.map(np.array_equal, params, kept))):
        raise ValueError(f"{source / 'weights'}: wanted an autoencoder that float16 holds")
    own = source / CODEC
    for path, name in (
        (own if own.is_file() else shipped.FOLDER / "codec.safetensors", CODEC),
        (source / "data" / "scenes.json", "data/scenes.json"),
        *((p, p.relative_to(source)) for p in (source / "weights" / "umt5").rglob("*")),
    ):
        if not path.is_dir():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_bytes(path.read_bytes())


def _write_records(
    reader: records.Reader, root: Path, room: float, cameras: int, jobs: int
) -> Iterator[Mapping[str, Any]]:
    """Writes scenes in a drawn order while there is room; yields their entries of the index."""
    rng = np.random.default_rng(0)
    chosen = [
        (reader.windows[i], rng.integers(2**32)) for i in rng.permutation(len(reader.windows))
    ]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(chosen), PART):
            file = f"sequences/part_{start // PART:03d}.array_record"
            rows, entries = [], []
            pairs = pool.map(lambda one: small(reader, *one, cameras), chosen[start : start + PART])
            for (window, views), values in pairs:
                room -= len(zlib.compress(b"".join(map(records.pack, values))))
                if room < 0:
                    break
                entries.append(_entry(window, views, file, len(rows)))
                rows += values
            if rows:
                records.write_file(root / file, rows)
            yield from entries
            if room < 0:
                return


def small(
    reader: records.Reader, window: records.Window, seed: int, cameras: int
) -> tuple[tuple[records.Window, list[records.View]], list[dict[str, Any]]]:
    """Makes a scene small.

    Args:
      seed: of the draw of its cameras.
      cameras: of each cluster.

    Returns:
      (the scene, its views that stay), the examples of its tracks and of these views.
    """
    rng, views = np.random.default_rng(seed), []
    for cluster in sorted({view.cluster for view in window.views}):
        there = [view for view in window.views if view.cluster == cluster]
        order = rng.permutation(len(there))[:cameras]
        views += [there[i] for i in sorted(order)]
    examples = [dict(reader.tracks(window))]
    for view in views:
        values = dict(reader.view(window, view))
        for key, how in FILMS.items():
            values[key] = records.film(records.decode(values[key]), **how)
        examples.append(values)
    for values in examples:
        for key in UNITS.keys() & values.keys():
            values[key] = records.Steps(values[key], UNITS[key])
    return (window, views), examples


def _entry(
    window: records.Window, views: list[records.View], file: str, row: int
) -> dict[str, Any]:
    """The scene as an index has it, in another file, from this row on."""
    views = [view._replace(record=row + 1 + i) for i, view in enumerate(views)]
    entry = window._replace(file=file, record=row, surfaces=-1, views=())._asdict()
    return entry | {"views": [view._asdict() for view in views]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
