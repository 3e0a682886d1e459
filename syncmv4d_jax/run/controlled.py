"""A recording in the plain layout as what a controlled sample follows: `config.sample.recording`.

It is prepared as data_prep/prepare_taco.py prepares it (`--with points,das,image`, a camera a view)
and read back as a record is, so that a picture and its meshes are seen as training saw them.
"""

import tempfile
from pathlib import Path
from typing import Any

from syncmv4d_jax.data import clips, controls, pipeline, prepare, records
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data.sources import recordings
from syncmv4d_jax.run import assembly, sections
from syncmv4d_jax.tasks import base


def read(folder: str | Path, settings: sections.Sections, task: base.Sampled) -> dict[str, Any]:
    """Returns the example of a recording, unbatched, of schema.BATCH, with video and prompt.

    Raises:
      FileNotFoundError: no recording there.
      ValueError: a task that follows no points, or a recording that cannot be prepared.
    """
    folder = Path(folder)
    where = f"config.sample.recording={folder}"
    wanted = assembly.wanted(settings)
    if not wanted.cloud:
        raise ValueError(f"{where}: this task follows no points: config.task has no cloud")
    if not (folder / "recording.json").is_file():
        raise FileNotFoundError(
            f"{where}: no recording.json in it (data_prep/import_meshes.py writes one)"
        )
    frames, size, views = task.clip
    own = clips.Settings(
        size=size, frames=frames, fps=settings.data.fps, clusters=views, cameras="first", val=0.0,
        surfaces="none", controls=controls.WITH, cloud=wanted.cloud,
    )  # fmt: skip
    (source,) = [x for x in recordings.folder_sources(folder.parent) if x.id == folder.name]
    with tempfile.TemporaryDirectory() as scratch:
        summary = prepare.run([source], scratch, own)
        if summary["skipped"]:
            raise ValueError(f"{where}: {summary['skipped'][0]['reason']}")
        split = records.Reader(scratch).windows[0].split
        data = data_config.DataConfig(records=scratch, fps=settings.data.fps, cameras="fixed")
        plain = data_config.Wanted(
            size=size, frames=frames, views=views, cloud=wanted.cloud, tracking=wanted.tracking,
            colours=wanted.colours,
        )  # fmt: skip
        ((_, example),) = pipeline.examples(data, plain, split)
    return {key: x for key, x in example.items() if not callable(x)}
