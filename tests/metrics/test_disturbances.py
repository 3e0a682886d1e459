"""docs/metrics.md's table of disturbances: which metric goes which way, in every cell."""

from pathlib import Path

import fake_samples
import numpy as np
import pytest
from scipy import ndimage

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import multiview, scene

TEXT = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
TABLE = TEXT[TEXT.index("| metric | one frame late") :].split("\n\n")[0]
HEAD, _, *LINES = ([c.strip() for c in r.strip("|").split("|")] for r in TABLE.splitlines())
WANTED = {line[0]: dict(zip(HEAD[1:], line[1:], strict=True)) for line in LINES}
TRUTH = fake_samples.truth(0)
TRUTH["anchor_valid"][:, :15] = False  # hidden in frame 0


def disturbed(name):
    """Returns videos and points per view of the truth, disturbed."""
    video, pose = TRUTH["video"], TRUTH["extrinsics"][:, 0].astype(float)
    points = np.tile(TRUTH["tracks"].astype(float), (3, 1, 1, 1))
    rng = np.random.default_rng(0)
    as_bytes = lambda x: np.clip(x, 0, 255).astype(np.uint8)  # noqa: E731
    late = lambda x: np.concatenate([x[:, :1], x[:, :-1]], axis=1)  # noqa: E731
    swap = [1, 0, 2]
    return {
        "one frame late": lambda: (late(video), late(points)),
        "frozen": lambda: tuple(np.repeat(x[:, :1], x.shape[1], 1) for x in (video, points)),
        "noise": lambda: (as_bytes(video + rng.normal(0, 20, video.shape)),
                          points + rng.normal(0, 0.01, points.shape)),
        "mirrored": lambda: (video[:, :, :, ::-1], points * [-1, 1, 1]),
        "views swapped": lambda: (
            video[swap], cameras.to_world(cameras.to_camera(points, pose)[swap], pose)),
        "scaled by 1.05": lambda: (video, multiview.rescale(points, pose, 1.05)),
        "3 cm and 20 levels off": lambda: (as_bytes(video + 20.0), points + [0.03, 0, 0]),
        "video blurred": lambda: (
            as_bytes(ndimage.gaussian_filter(video.astype(float), (0, 0, 2, 2, 0))), points),
    }[name]()  # fmt: skip


def scores(video, points):
    sample = {"video": video, "tracks_per_view": points, "tracks": points.mean(0), "meta": {}}
    return scene.score(sample, TRUTH, "x", points=TRUTH)[0]["model"]


@pytest.fixture(scope="module")
def undisturbed():
    return scores(TRUTH["video"], np.tile(TRUTH["tracks"], (3, 1, 1, 1)))


def test_the_table_has_every_metric(undisturbed):
    assert set(WANTED) == set(undisturbed)


@pytest.mark.parametrize("name", HEAD[1:])
def test_metrics_go_where_the_table_says(name, undisturbed):
    found, wrong = scores(*disturbed(name)), []
    for metric, row in WANTED.items():
        before, after = undisturbed[metric], found[metric]
        share = 0.05 if metric == "temporal_std_ratio" else 0.005
        near = abs(after - before) <= (share * abs(before) if before > 1e-4 else 1e-4)
        way = "same" if near else "up" if after > before else "down"
        if way != row[name]:
            wrong.append(f"{metric}: {way} ({before:.4g} -> {after:.4g}), table: {row[name]}")
    assert not wrong, wrong
