"""A picture of what is to be sampled: the images as they are cut, and where their cameras stand.

The plan looks along the axis in which the cameras spread least. A dot is the point that all optical
axes pass nearest to; axes that miss it, or cameras that stand on each other, are seen here before
a sample is paid for.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from syncmv4d_jax import disk
from syncmv4d_jax.geometry import cameras

HIGH = 256  # pixels of every picture
MARGIN = 8
INKS = ((31, 119, 180), (214, 96, 20), (44, 140, 60), (170, 50, 120), (110, 90, 190), (90, 90, 90))


def write(
    path: str | Path,
    images: np.ndarray,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
    names: Sequence[str],
) -> None:
    """Writes the picture.

    Args:
      images: [v h w 3] uint8.  intrinsics: [v 3 3] pixels of them.
      extrinsics: [v 3 4] world to camera, metres, or [v n 3 4], whose first frame counts.
      names: of the views.
    """
    poses = np.asarray(extrinsics, np.float64)
    poses = poses[:, 0] if poses.ndim == 4 else poses
    height, width = images.shape[1:3]
    wide = max(1, round(width * HIGH / height))
    sheet = Image.new("RGB", (len(images) * (wide + MARGIN) + 2 * HIGH, HIGH + 24), "white")
    pen = ImageDraw.Draw(sheet)
    for v, (image, name) in enumerate(zip(images, names, strict=True)):
        left = v * (wide + MARGIN)
        sheet.paste(Image.fromarray(image).resize((wide, HIGH)), (left, 24))
        pen.text((left + 2, 6), f"view {v}: {name}"[: wide // 6], fill=INKS[v % len(INKS)])
    plan = _plan(np.asarray(intrinsics, np.float64), poses, (height, width))
    sheet.paste(plan, (len(images) * (wide + MARGIN), 24))
    with disk.whole(path) as partial:
        sheet.save(partial, "PNG")


def meeting(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the optical axes of poses [v 3 4] meet: the point [3] nearest to all of them, and how
    far [v] each passes from it, metres. Parallel axes meet a metre before their middle."""
    eyes = np.stack([cameras.camera_centre(pose) for pose in poses])
    axes = poses[:, 2, :3]
    across = np.eye(3) - axes[:, :, None] * axes[:, None]
    total = across.sum(0)
    if np.linalg.eigvalsh(total)[0] < 1e-3 * len(poses):
        point = eyes.mean(0) + axes.mean(0)
    else:
        point = np.linalg.solve(total, np.einsum("vab,vb->a", across, eyes))
    return point, np.linalg.norm(np.einsum("vab,vb->va", across, point - eyes), axis=-1)


def _plan(intrinsics: np.ndarray, poses: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Cameras, what they see and where they meet, from the side that shows them widest."""
    (height, width), (point, missed) = size, meeting(poses)
    eyes = np.stack([cameras.camera_centre(pose) for pose in poses])
    far = np.linalg.norm(eyes - point, axis=-1)
    edges = np.array([[0, (height - 1) / 2], [width - 1, (height - 1) / 2]])
    fans = []
    for k, pose, depth in zip(intrinsics, poses, far, strict=True):
        ends = cameras.unproject(edges, np.full(2, depth), k, pose)
        fans.append(np.stack([ends[0], cameras.camera_centre(pose), ends[1]]))
    every = np.concatenate([*fans, point[None]])
    _, _, turn = np.linalg.svd(every - every.mean(0), full_matrices=False)
    flat = (every - every.mean(0)) @ turn[:2].T
    reach = max(np.abs(flat).max(), 1e-3)
    place = flat / reach * (HIGH / 2 - 20) * [1.0, -1.0] + [HIGH, HIGH / 2]
    plan = Image.new("RGB", (2 * HIGH, HIGH), "white")
    pen = ImageDraw.Draw(plan)
    for v in range(len(poses)):
        ink = INKS[v % len(INKS)]
        left, eye, right = (tuple(float(x) for x in p) for p in place[3 * v : 3 * v + 3])
        pen.line([left, eye, right], fill=ink, width=2)
        pen.ellipse([eye[0] - 4, eye[1] - 4, eye[0] + 4, eye[1] + 4], fill=ink)
        words = f"{v}: {far[v]:.2f} m away, misses by {1000 * missed[v]:.0f} mm"
        pen.text((4, 4 + 14 * v), words, fill=ink)
    x, y = (float(p) for p in place[-1])
    pen.ellipse([x - 4, y - 4, x + 4, y + 4], outline=(0, 0, 0), width=2)
    pen.text((4, HIGH - 16), f"the picture is {reach * HIGH / (HIGH / 2 - 20):.2f} m high", fill=0)
    return plan
