"""What is said of a user's cameras before anything is sampled: which view each is, and what is left
out; with a picture of how the images are cut and where the cameras stand (results/rig_sheet.py)."""

from pathlib import Path

from syncmv4d_jax.data import reading, user
from syncmv4d_jax.results import rig_sheet
from syncmv4d_jax.tasks import base


def show(images: str | Path, task: base.Sampled, sheet: Path | None) -> list[str]:
    """Writes `sheet`, unless None, and returns the lines to say; none of inputs that are no folder
    with cameras.

    Raises:
      As `user.read`.
    """
    folder = Path(images)
    if not str(images) or not task.cameras or not (folder / "cameras.json").is_file():
        return []
    views = user.read(folder, views=task.clip.views, size=task.clip.size)
    lines = [f"view {v}: {name}" for v, name in enumerate(views.names)]
    if left := list(reading.values(folder / "cameras.json"))[len(views.names) :]:
        lines.append(f"left out: {', '.join(left)} (the model takes {len(views.names)} views)")
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        rig_sheet.write(sheet, views.images, views.intrinsics, views.extrinsics, views.names)
        lines.append(f"{sheet}: how they are cut, and where their cameras stand")
    return lines
