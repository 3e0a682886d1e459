"""The doors: which file each reads, by which function, and what holds of whatever it gives.

A reader returns what it read as a flat {name: array, number or text}; a command returns what it
wrote, read again. What is read of a changed file is not known, but it is finite, not empty, and of
cameras, poses and surfaces what cameras, poses and surfaces are.
"""

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import convert_lora
import convert_weights
import extract_frames
import import_hot3d
import numpy as np
import prepare_taco

from syncmv4d_jax import tree, view
from syncmv4d_jax.data import frames, reading, records, surfaces, user
from syncmv4d_jax.data.scenes import hot3d
from syncmv4d_jax.data.sources import mano, recordings, taco
from syncmv4d_jax.results import samples
from syncmv4d_jax.weights import exports, files, folders, lora, store

Values = dict[str, Any]


class Door(NamedTuple):
    """kind, of the formats of mutations; file, below the root; read(root, file, out) -> values.

    writes: `out` is there after a success and not after a refusal.
    """

    kind: str
    name: str
    file: str
    read: Callable[[Path, Path, Path], Values]
    writes: bool = False


class Refusal(ValueError):
    """A command ended with another status than 0; the text is what it said."""


def flat(prefix: str, value: Any) -> Values:
    """Nested containers as {path: leaf}."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, (list, tuple)):
        pairs = enumerate(value)
    else:
        return {} if isinstance(value, Path) else {prefix: value}
    return {k: x for key, item in pairs for k, x in flat(f"{prefix}/{key}", item).items()}


def command(main: Callable, *words: str | Path, argv: bool = True) -> None:
    """Runs a script's main in this process; raises Refusal as a user would see it."""
    said = io.StringIO()
    words = tuple(map(str, words))
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            if argv:
                status = main(list(words))
            else:
                with swapped_arguments(words):
                    status = main()
        except SystemExit as end:
            status = end.code
    if status:
        text = status if isinstance(status, str) else said.getvalue().strip()
        raise Refusal(text[:2000])


@contextlib.contextmanager
def swapped_arguments(words):
    import sys

    before, sys.argv = sys.argv, ["script", *words]
    try:
        yield
    finally:
        sys.argv = before


def recording(root: Path, file: Path, out: Path) -> Values:
    return flat("", recordings.read_folder(root / "recording/seq0"))


def taco_sequence(root: Path, file: Path, out: Path) -> Values:
    hands = mano.load_hands(root / "mano")
    (entry,) = taco.index(root / "taco")
    found = taco.load(root / "taco", entry, hands)
    return flat("", dataclasses.replace(found, entry=None))


def hands(root: Path, file: Path, out: Path) -> Values:
    return flat("", mano.load_hands(root / "mano"))


def capture(root: Path, file: Path, out: Path) -> Values:
    return flat("", hot3d.load(root / "hot3d", "P1", tool="box", target="mug_white"))


def views(root: Path, file: Path, out: Path) -> Values:
    return flat("", user.read(root / "views", views=3, size=(32, 48)))


def picture(root: Path, file: Path, out: Path) -> Values:
    return {"image": user.read_image(file, size=(32, 48))}


def video(root: Path, file: Path, out: Path) -> Values:
    return {"video": frames.read_all(file), "stamps": frames.Video(file).stamps}


def sample(root: Path, file: Path, out: Path) -> Values:
    return flat("", samples.read(root / "samples/one"))


def opened(found: files.Tensors) -> Values:
    return {key: entry.read() for key, entry in found.entries.items()}


def tensors(root: Path, file: Path, out: Path) -> Values:
    return opened(files.open_any(file))


def sliced(root: Path, file: Path, out: Path) -> Values:
    return {key: leaf.read(np.s_[...]) for key, leaf in files.leaves(file).items()}


def sharded(root: Path, file: Path, out: Path) -> Values:
    return opened(files.open_sharded(root / "weights", "all"))


def adapters(root: Path, file: Path, out: Path) -> Values:
    path = root / "weights/adapter_model.safetensors" if file.suffix == ".json" else file
    return tree.flatten(lora.load(path, alpha=2.0))


def release_part(root: Path, file: Path, out: Path) -> Values:
    part = "vae" if file.suffix == ".pth" else "dit"
    found = folders.find(file if part == "vae" else root / "release", part)
    return flat("", found.sizes) | opened(found.tensors)


def prompts(root: Path, file: Path, out: Path) -> Values:
    return flat("", reading.prompts(file))


def to_folder(root: Path, file: Path, out: Path) -> Values:
    folder, rig = root / "clips", root / "clips/calibration.json"
    words = ("--videos", folder, "--calibration", rig, "--out", out, "--frame", "3")
    command(extract_frames.main, *words, argv=False)
    count = len(json.loads((out / "cameras.json").read_text()))
    return flat("", user.read(out, views=count, size=(32, 48)))


def to_lora(root: Path, file: Path, out: Path) -> Values:
    words = ("--src", file, "--out", out, "--to", "jax", "--alpha", "2")
    command(convert_lora.main, *words, argv=False)
    return tree.flatten(exports.read(out, "lora"))


def to_weights(root: Path, file: Path, out: Path) -> Values:
    part = "vae" if file.suffix == ".pth" else "dit"
    src = file if part == "vae" else root / "release"
    command(convert_weights.main, "--src", src, "--out", out, "--parts", part, argv=False)
    return {k: np.asarray(x) for k, x in tree.flatten(store.load(part, out)[1]).items()}


def to_plain(root: Path, file: Path, out: Path) -> Values:
    words = ("--hot3d", root / "hot3d", "--recording", "P1", "--tool", "box", "--size", "32x48")
    command(import_hot3d.main, *words, "--cameras", "three", "--out", out)
    return flat("", recordings.read_folder(out / "P1"))


def to_records(root: Path, file: Path, out: Path) -> Values:
    words = ("--folder", root / "recording", "--out", out, "--size", "32x48", "--frames", "5")
    words += ("--points", "16", "--jobs", "1", "--fps", "30", "--val", "0", "--clusters", "2")
    try:
        command(prepare_taco.main, *words)
    except Refusal as error:
        summary = out / "32x48/summary.json"
        if not summary.is_file():  # refused before any sequence
            raise
        skipped = json.loads(summary.read_text())["skipped"]
        left = [p.name for p in (out / "32x48").rglob("*") if p.suffix == ".array_record"]
        if left or not skipped:
            raise AssertionError(f"{left} are left of a sequence that was skipped") from error
        raise Refusal(f"prepare: {skipped[0]['reason']}") from error
    skipped = json.loads((out / "32x48/summary.json").read_text())["skipped_views"]
    if skipped and file.suffix == ".mp4":  # told, and the other cameras are enough
        raise Refusal(skipped[0]["reason"])
    reader = records.Reader(out)
    window = reader.windows[0]
    found = {str(i): reader.view(window, v) for i, v in enumerate(window.views)}
    return flat("", found)


def exported(root: Path, file: Path, out: Path) -> Values:
    words = (root / "samples/one", "--export", "glb", "--out", out)
    command(view.main, *words)
    return {"glb": np.frombuffer(out.read_bytes(), np.uint8)}


SEQUENCE = "taco/{}/*/*/"
TABLE = [
    Door("json", "a recording's description", "recording/seq0/recording.json", recording),
    Door("json", "names of scans", "hot3d/object_library/instance.json", capture),
    Door("json", "a sample's description", "samples/one/meta.json", sample),
    Door("json", "an index of shards", "weights/all.safetensors.index.json", sharded),
    Door("json", "what peft says of adapters", "weights/adapter_config.json", adapters),
    Door("json", "sizes of a release", "release/transformer/config.json", release_part),
    Door("json", "sizes that are converted", "release/transformer/config.json", to_weights, True),
    Door("npz", "a surface", "recording/seq0/surfaces/tool.npz", recording),
    Door("npz", "a HOT3D recording", "hot3d/Aria/P1/derived_tracks.npz", capture),
    Door("npz", "a sample's tracks", "samples/one/tracks.npz", sample),
    Door("npz", "a sample for export", "samples/one/tracks.npz", exported, True),
    Door("npy", "poses of TACO", SEQUENCE.format(taco.POSES) + "tool_*.npy", taco_sequence),
    Door("pkl", "a hand model", "mano/MANO_RIGHT.pkl", hands),
    Door("pkl", "hand poses of TACO", SEQUENCE.format(taco.HANDS) + "left_hand.pkl", taco_sequence),
    Door("pkl", "a hand's shape", SEQUENCE.format(taco.HANDS) + "*t_hand_shape.pkl", taco_sequence),
    Door("mp4", "a video", "clips/h264.mp4", video),
    Door("mp4", "a video of pictures", "clips/motion.mp4", video),
    Door("mp4", "a frame of a video", "clips/deep.mp4", to_folder, True),
    Door("mp4", "a video of a recording", "recording/seq0/cam1.mp4", to_records, True),
    Door("png", "a view", "views/a.png", views),
    Door("jpg", "a view", "views/b.jpg", views),
    Door("jpg", "an image", "views/b.jpg", picture),
    Door("tiff", "a view", "views/c.tiff", views),
    Door("tiff", "an image", "views/c.tiff", picture),
    Door("obj", "a mesh of TACO", "taco/Object_Models/*.obj", taco_sequence),
    Door("glb", "a scan", "hot3d/object_library/1.glb", capture),
    Door("glb", "a scan that is imported", "hot3d/object_library/1.glb", to_plain, True),
    Door("safetensors", "tensors", "weights/tensors.safetensors", tensors),
    Door("safetensors", "tensors in slices", "weights/tensors.safetensors", sliced),
    Door("safetensors", "adapters", "weights/comfy.safetensors", adapters),
    Door("safetensors", "adapters that are converted", "weights/comfy.safetensors", to_lora, True),
    Door("pth", "a state dict", "weights/tensors.pth", tensors),
    Door("pth", "an autoencoder", "release/vae.pth", release_part),
    Door("pth", "an autoencoder that is converted", "release/vae.pth", to_weights, True),
    Door("prompts", "prompts", "prompts.txt", prompts),
    Door("cameras", "cameras of views", "views/cameras.json", views),
    Door("cameras", "cameras of a recording", "recording/seq0/cameras.json", recording),
    Door("cameras", "cameras of records", "recording/seq0/cameras.json", to_records, True),
    Door("cameras", "cameras of videos", "clips/calibration.json", to_folder, True),
]  # fmt: skip


def check(found: Values) -> None:
    """What holds of every reading.

    Raises:
      AssertionError: it does not.
    """
    assert found, "nothing was read, and nothing was said"
    for key, value in found.items():
        if isinstance(value, str):
            assert "\0" not in value, f"{key} has zero bytes"
            continue
        array = np.asarray(value)
        whole = isinstance(value, int)  # of JSON, of any size
        assert array.dtype != object or value is None or whole, f"{key} is {value!r:.60}"
        if array.dtype.kind in "fc" and not key.startswith(("/meta", "/encoder")):
            assert np.isfinite(array).all(), f"{key} is not finite"
        if key.endswith("extrinsics") and array.ndim == 2:
            turn = array[:, :3]
            assert np.abs(turn @ turn.T - np.eye(3)).max() < 0.02, f"{key} does not turn"
            assert np.linalg.det(turn) > 0, f"{key} mirrors"


def check_surfaces(found: Values) -> None:
    """Surfaces of a recording, by their own check once more."""
    for key in found:
        stem = key.removesuffix("faces")
        if key.endswith("/faces") and stem + "vertices" in found:
            own = surfaces.Surface(
                "x", found[key], found[stem + "vertices"], found.get(stem + "poses")
            )
            surfaces.check(dataclasses.replace(own, kind=surfaces.OCCLUDER), where=stem)


def same(one: Values, other: Values) -> bool:
    """Whether two readings are equal in every bit but the order of bytes."""
    if one.keys() != other.keys():
        return False
    for key in one:
        a, b = np.asarray(one[key]), np.asarray(other[key])
        if not (a.shape == b.shape and (a == b).all()) and a.tobytes() != b.tobytes():
            return False
    return True
