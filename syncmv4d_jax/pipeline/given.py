"""What a pipeline is given: configurations, switches, pictures and cameras."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from PIL import Image, ImageOps

from syncmv4d_jax.data import reading
from syncmv4d_jax.run import assembly
from syncmv4d_jax.tasks import base

Picture = str | Path | Image.Image | np.ndarray
Pictures = str | Path | Picture | Sequence[Picture] | Mapping[str, Picture]
Rig = str | Path | Mapping[str, Any]
# Lays inputs down in a folder that is not there yet; returns what `config.sample` says of them.
Lay = Callable[[Path, base.Sampled], Mapping[str, str]]


def switch(config: ml_collections.ConfigDict, values: Mapping[str, float]) -> None:
    """Sets switches of the task that `config.task` names, by their names.

    Raises:
      ValueError: no such switch, or a value that is not of its range.
    """
    task = assembly.task(config) if values else None
    rows: tuple[base.Switch, ...] = task.switches if isinstance(task, base.Switched) else ()
    known = {row.name: row for row in rows}
    for name, value in values.items():
        if (found := known.get(name)) is None:
            raise ValueError(f"switches: no {name!r}, this task has {sorted(known)}")
        *way, last = found.key.split(".")
        section = config.task
        for step in way:
            section = section[step]
        truth = isinstance(found.least, bool)
        whole = isinstance(value, bool) if truth else type(value) is int
        if not whole or not found.least <= value <= found.most:
            wanted = "true or false" if truth else f"a whole number {found.least}..{found.most}"
            raise ValueError(f"switches, {name}: wanted {wanted}, got {value!r}")
        with section.unlocked():
            section[last] = value


def read_config(path: str | Path) -> ml_collections.ConfigDict:
    """Returns what the get_config of "FILE[:variant]" returns, as --config does.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file without get_config, or what it raises.
    """
    file, _, variant = str(path).partition(":")
    found = Path(file).resolve()
    if not found.is_file():
        raise FileNotFoundError(f"{file}: no such configuration")
    root = str(found.parents[1] if found.parent.name == "configs" else found.parents[2])
    sys.path.insert(0, root)  # configurations import each other from there
    try:
        spec = importlib.util.spec_from_file_location(f"_config_{found.stem}", found)
        assert spec is not None and spec.loader is not None  # a file that is there
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(root)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{file}: wanted a function get_config in it")
    return module.get_config(*[variant] if variant else [])


def own_config(config: str | Path | ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy, unlocked, of a configuration or of what `read_config` reads; raises as that does."""
    found = config if isinstance(config, ml_collections.ConfigDict) else read_config(config)
    return found.copy_and_resolve_references().unlock()


def views(given: Any, cameras: Rig | None, folder: Path, task: base.Sampled) -> Mapping[str, str]:
    """`Lay` of pictures and cameras; raises as `images`."""
    return {"images": images(given, cameras, folder, task)}


def images(given: Any, cameras: Rig | None, folder: Path, task: base.Sampled) -> str:
    """What `config.sample.images` is to name: the user's own folder or file, or `folder`, filled.

    Raises:
      ValueError: names or numbers that do not fit each other, or something that is no picture.
    """
    if given is None:
        return ""
    if isinstance(given, str | Path) and (Path(given).is_dir() or not task.cameras):
        if cameras is not None:
            raise ValueError(f"cameras: {given} has its own; give images one by one, or none")
        return str(given)
    if isinstance(given, str | Path | Image.Image | np.ndarray):
        given = [given]
    folder.mkdir(parents=True)
    rig: dict[str, Any] = {}
    if task.cameras:
        if cameras is None:
            raise ValueError("cameras: wanted a file or a dict of one camera a view, got none")
        rig = reading.values(cameras) if isinstance(cameras, str | Path) else dict(cameras)
        plain = json.dumps(rig, default=lambda x: np.asarray(x).tolist())
        (folder / "cameras.json").write_text(plain, encoding="utf-8")
    if not isinstance(given, Mapping):
        names = list(rig) or [f"{i:03d}" for i in range(len(given))]
        if len(names) != len(given):
            raise ValueError(
                f"images: wanted {len(names)}, one a camera ({names}), got {len(given)}"
            )
        given = dict(zip(names, given, strict=True))
    for name, picture in given.items():
        if Path(name).name != name or name.startswith("."):
            raise ValueError(f"images: a name that is no file's: {name!r}")
        lay(picture, folder / name)
    if not task.cameras and len(given) == 1:
        return str(next(path for path in folder.iterdir()))
    return str(folder)


def lay(picture: Picture, target: Path) -> None:
    """Lays a picture down as `target` with a suffix of its own."""
    if isinstance(picture, str | Path):
        shutil.copyfile(picture, f"{target}{Path(picture).suffix}")
        return
    if isinstance(picture, Image.Image):
        ImageOps.exif_transpose(picture).save(f"{target}.png")
        return
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"images, {target.name}: wanted [h w 3] uint8, a PIL image or a path, got "
            f"{pixels.dtype} {pixels.shape}"
        )
    Image.fromarray(pixels).save(f"{target}.png")
