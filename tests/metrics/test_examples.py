"""The examples of docs/metrics.md, computed."""

from pathlib import Path

import dots
import image_metrics
import numpy as np
import pytest

from syncmv4d_jax.metrics import actions, definitions, motion, multiview, scene, video

TEXT = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
TABLE = TEXT[TEXT.index("| key | example | value |") :].split("\n\n")[0]
ROWS = [[c.strip() for c in row.strip("|").split("|")] for row in TABLE.splitlines()[2:]]
STATED = {key: float(value) for key, _, value in ROWS}

# One true point, half a metre from the origin; camera 1 is 2 m away, camera 2 is 2.5 m away.
TRUE = np.array([[[0.5, 0.0, 0.0]]])
AWAY = np.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # from the cameras to the point
POSE = np.stack([np.c_[np.eye(3), -(TRUE[0, 0] - far * way)]
                 for far, way in zip((2.0, 2.5), AWAY, strict=True)])  # fmt: skip
SEEN = np.ones((2, 1, 1), bool)
PAIR = np.stack([TRUE + 0.1 * AWAY[0], TRUE])


def line(*centimetres):
    return np.array([[[x / 100, 0, 0]] for x in centimetres])


def two_points(*errors):
    true = np.tile(TRUE, (1, len(errors), 1))
    return multiview.world((true + np.array(errors)[:, None] * AWAY[0])[None], true,
                           np.ones((1, 1, len(errors)), bool))  # fmt: skip


# Two frames of a point that moves by 4 cm, one that stands, one that is hidden in frame 0, and a
# query pixel that shows no surface.
FOUR = np.zeros((2, 4, 3))
FOUR[1, 0], FOUR[:, 3] = [0.04, 0, 0], np.nan


def four_points():
    off = np.array([0.01, 0.03, 0.5, 0.0])
    valid = np.array([[True, True, False, True]])
    return scene.point_scores(
        FOUR + off[:, None] * AWAY[0], {"tracks": FOUR, "anchor_valid": valid}, 2
    )


def aligned(metric):
    copies = multiview.rescale(np.tile(TRUE, (2, 1, 1, 1)), POSE, 1.05)
    factor = multiview.joint_scale(copies, TRUE, SEEN, POSE)
    copies = multiview.rescale(copies, POSE, factor)
    if metric == "rpe_aligned":
        return multiview.single(copies, TRUE, SEEN, POSE)[0]
    return multiview.world(copies, TRUE, SEEN)[0]


def grey(level, frames=1):
    return np.full((frames, 16, 16, 3), level, np.uint8)


def moving(gain):
    change = np.array([-40, 10, 30]).reshape(1, 3, 1, 1, 1)
    return np.broadcast_to(100 + gain * change, (1, 3, 16, 16, 3)).astype(np.uint8)


def temporal(gain):
    return video.temporal(moving(gain), moving(1.0), np.ones((1, 16, 16), bool))


def psnr_of_region():
    region = np.zeros((16, 16), bool)
    region[4:9, 3:8] = True
    wrong = np.where(region[..., None], 110, 200)[None].astype(np.uint8)
    return image_metrics.psnr(wrong, grey(100), region)[0]


def stripes(high):
    """Columns of 100 and `high` in the region, noise beside it."""
    found = np.random.default_rng(high).integers(0, 255, (1, 2, 16, 16, 3))
    found[:, :, :9, :9] = np.where(np.arange(9) % 2, high, 100)[:, None]
    return found.astype(np.uint8)


def gradient_energy():
    region = np.zeros((1, 16, 16), bool)
    region[:, :8, :8] = True
    return video.gradient_energy(stripes(140), stripes(180), region)


def action_named():
    """A clip of another dot that goes on, under its own name and under the other."""
    clips = [dots.clip(way, row) for way in ("goes on", "comes back") for row in (4, 8, 12)]
    names = ["goes on"] * 3 + ["comes back"] * 3
    namer = actions.Namer(np.stack([actions.signature(clip) for clip in clips]), names)
    shown = dots.clip("goes on", 10)
    found = [scene.named({"video": shown}, {"video": shown, "triplet": (name, "", "")}, namer)
             for name in ("goes on", "comes back")]  # fmt: skip
    return np.mean([rows["model"]["action_named"] for rows in found])


EXAMPLES = {
    "rpe": lambda: multiview.single(PAIR[:1], TRUE, SEEN[:1], POSE[:1])[0],
    "pi": lambda: multiview.single(
        np.array([[[[0, 0, 1.05], [0, 0, 1.3]]]]),
        np.eye(3)[None, [2, 2]],
        np.ones((1, 1, 2), bool),
        np.eye(3, 4)[None],
    )[1],
    "rpe_aligned": lambda: aligned("rpe_aligned"),
    "mv_rpe": lambda: two_points(0.1)[0],
    "mv_pi": lambda: two_points(0.1, 0.2)[1],
    "mv_rpe_aligned": lambda: aligned("mv_rpe_aligned"),
    "mv_rpe_cross_truth": lambda: multiview.cross(PAIR, TRUE, SEEN, POSE)[0],
    "mv_rpe_cross": lambda: multiview.cross(PAIR, None, SEEN, POSE)[0],
    "mv_pi_cross": lambda: multiview.cross(PAIR, None, SEEN, POSE)[1],
    "error_mm": lambda: four_points()["error_mm"],
    "error_moving_mm": lambda: four_points()["error_moving_mm"],
    "error_hidden_mm": lambda: four_points()["error_hidden_mm"],
    "inliers_2cm": lambda: four_points()["inliers_2cm"],
    "inliers_5cm": lambda: four_points()["inliers_5cm"],
    "known_points": lambda: 100 * np.isfinite(FOUR).all((0, 2)).mean(),
    "chamfer": lambda: motion.chamfer_means(line(0), line(10))[0],
    "chamfer_mm": lambda: motion.chamfer_means(line(0), line(10))[1],
    "smoothness": lambda: motion.smoothness(line(0, 1, 4)),
    "jerk": lambda: motion.smoothness(line(0, 1, 4, 10), order=3),
    "stretch_mm": lambda: motion.stretch(np.concatenate([line(0, 0), line(1, 1.4)], 1)),
    "acceleration_error": lambda: motion.acceleration_error(line(0, 1, 4), line(2, 2, 2)),
    "object_correlation": lambda: motion.path_correlation(
        9 + 2 * line(0, 1, 4)[:, 0], line(0, 1, 4)[:, 0]
    ),
    "psnr": lambda: image_metrics.psnr(grey(110), grey(100))[0],
    "psnr_moving": psnr_of_region,
    "ssim": lambda: image_metrics.ssim(grey(110), grey(100))[0],
    "ssim_moving": lambda: image_metrics.ssim(
        *(video.zero_background(grey(x), np.ones((16, 16), bool)) for x in (110, 100))
    )[0],
    "gmsd": lambda: image_metrics.gmsd(np.full((1, 2, 2, 3), 110), np.full((1, 2, 2, 3), 100))[0],
    "temporal_correlation": lambda: temporal(-1.0)[0],
    "temporal_std_ratio": lambda: temporal(0.5)[1],
    "gradient_energy": gradient_energy,
    "action_named": action_named,
}


@pytest.mark.parametrize("metric", EXAMPLES)
def test_the_example_has_the_value_that_the_docs_say(metric):
    assert EXAMPLES[metric]() == pytest.approx(STATED[metric], rel=2e-4, abs=1e-9)


def test_every_track_and_video_metric_has_an_example():
    known = {m for m, d in definitions.DEFINITIONS.items() if d.kind in ("tracks", "video")}
    assert known == set(EXAMPLES) == set(STATED)
