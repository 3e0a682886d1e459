"""The metrics' identities: what `eval.json` says beside each number (docs/metrics.md explains).

A definition's id changes whenever its numbers would: a value is comparable with another of the same
id, resolution, frame rate and data set only.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Definition:
    """One metric.

    Attributes:
      id: name and version.
      title: the table's heading.
      unit: of the value.
      better: "lower", "higher", or a number that is best.
      kind: "tracks", "video", "control" of what follows points (hoi.py), "flow" of where all
        pixels go (flow3d.py), or "views" of what another camera sees (novel_views.py).
      text: the definition in one line.
      alignment: what was fitted to the truth before comparing.
    """

    id: str
    title: str
    unit: str
    better: str | float
    kind: str
    text: str
    alignment: str = "none"


PREPROCESSING = {
    "tracks": "tracks.npz against the truth of the same points; of points that a view sees in "
    "frame 0 (error_hidden_mm: of the others; Chamfer, smoothness, jerk: of all); relative errors "
    "at the frames and in the views that see them; padded frames left out, frame 0 included",
    "video": "decoded mp4 (H.264, 8 bit) against the record's frames, RGB 0..255, no resize; the "
    "given frame 0 left out",
    "control": "as video; masks and points of the record, which the sample was given",
    "flow": "tracks.npz against the record's flow, in the frame of camera 0, at the video's size; "
    "pixels whose truth is known, padded frames left out",
    "views": "decoded mp4 (H.264, 8 bit) against the record's frames of the same camera, RGB "
    "0..255, no resize, frame 0 counts; holes are those of the points as they were drawn; of the "
    "rows that fill them the exact pixels",
}
_ONE = "one scale per clip and view, least squares"
_JOINT = "one scale for all views, least squares"


_CLOUD = ("chamfer", "chamfer_mm", "smoothness", "jerk")  # of all points, as ever


def _tracks(key, title, unit, better, text, alignment="none"):
    version = 1 if key in _CLOUD else 2  # 1: also points that no view sees in frame 0
    return key, Definition(f"{key}/{version}", title, unit, better, "tracks", text, alignment)


def _video(key, title, unit, better, text):
    return key, Definition(f"{key}/1", title, unit, better, "video", text)


def _control(key, title, unit, better, text):
    return key, Definition(f"{key}/1", title, unit, better, "control", text)


def _flow(key, title, unit, better, text):
    return key, Definition(f"{key}/1", title, unit, better, "flow", text)


def _view(key, title, unit, better, text):
    return key, Definition(f"{key}/1", title, unit, better, "views", text)


def _of_cameras(key, title, what):
    hole, seen = "of pixels that no drawn point covers", "of pixels that drawn points cover"
    sure = "of these, where a source sees all the way to the point"
    return (
        _view(f"psnr_view{key}", f"PSNR view{title}", "dB", "higher", f"whole frames of {what}"),
        _view(f"psnr_hole{key}", f"PSNR holes{title}", "dB", "higher", f"{hole}, of {what}"),
        _view(f"psnr_seen{key}", f"PSNR seen{title}", "dB", "higher", f"{seen}, of {what}"),
        _view(f"psnr_sure{key}", f"PSNR surely seen{title}", "dB", "higher", f"{sure}, of {what}"),
        _view(f"ssim_view{key}", f"SSIM view{title}", "", "higher", f"whole frames of {what}"),
        _view(
            f"hole_share{key}", f"Holes{title}", "%", "lower",
            f"share of pixels that no drawn point covers, of {what}; says how hard it is, no score",
        ),
        _view(
            f"sure_share{key}", f"Surely seen{title}", "%", "higher",
            f"share of pixels that a source sees all the way, of {what}; no score either",
        ),
    )  # fmt: skip


DEFINITIONS: dict[str, Definition] = dict(
    [
        _tracks("rpe", "RPE", "%", "lower", "relative point error in each view's camera frame"),
        _tracks("pi", "PI", "%", "higher", "points with relative error below 0.25"),
        _tracks("rpe_aligned", "RPE aligned", "%", "lower", "rpe after alignment", _ONE),
        _tracks("mv_rpe", "MV RPE", "%", "lower", "relative point error in the world frame (A)"),
        _tracks("mv_pi", "MV PI", "%", "higher", "inliers in the world frame (A)"),
        _tracks("mv_rpe_aligned", "MV RPE aligned", "%", "lower", "mv_rpe, aligned", _JOINT),
        _tracks(
            "mv_rpe_cross_truth", "MV RPE cross/truth", "%", "lower",
            "view i's points in camera j against the truth there (B); free of the world's origin",
        ),
        _tracks(
            "mv_rpe_cross", "MV RPE cross", "%", "lower",
            "view i's points in camera j against view j's own (C); agreement only, no truth in it",
        ),
        _tracks("mv_pi_cross", "MV PI cross", "%", "higher", "inliers of mv_rpe_cross"),
        _tracks(
            "error_mm", "Error", "mm", "lower",
            "mean distance of the fused tracks to the truth, points that a view sees in frame 0",
        ),
        _tracks(
            "error_moving_mm", "Error, moving", "mm", "lower",
            "error_mm of those that get more than 2 cm away from their place in frame 0",
        ),
        _tracks(
            "error_hidden_mm", "Error, hidden", "mm", "lower",
            "mean distance of the fused tracks to the truth, points that no view sees in frame 0",
        ),
        _tracks(
            "known_points", "Points known", "%", "higher",
            "share of the query pixels that show a tracked surface; the others have no truth",
        ),
        _tracks("inliers_2cm", "Within 2 cm", "%", "higher", "share of error_mm's below 2 cm"),
        _tracks("inliers_5cm", "Within 5 cm", "%", "higher", "share of error_mm's below 5 cm"),
        _tracks(
            "object_correlation", "Centroid corr.", "", "higher",
            "correlation over time of the object's centroid path with the true one, points seen in "
            "frame 0; a regression on the crop alone can have 0.99: says little by itself",
        ),
        _tracks("chamfer", "CD", "m^2", "lower", "squared Chamfer, sum of both directions"),
        _tracks("chamfer_mm", "CD linear", "mm", "lower", "Chamfer, mean of both directions"),
        _tracks("smoothness", "Smooth", "m/frame^2", "lower", "mean length of the acceleration"),
        _tracks("jerk", "Jerk", "m/frame^3", "lower", "mean length of the third difference"),
        _tracks(
            "acceleration_error", "Accel. error", "m/frame^2", "lower",
            "mean length of the difference of accelerations",
        ),
        _tracks(
            "stretch_mm", "Stretch", "mm", "lower",
            "mean change of the distances between points within 2 cm of each other in frame 0",
        ),
        _video("psnr", "PSNR", "dB", "higher", "peak signal to noise, mean over frames"),
        _video(
            "psnr_moving", "PSNR moving", "dB", "higher",
            "psnr of the moving region's pixels, of frames that are no longer frame 0",
        ),
        _video("ssim", "SSIM", "", "higher", "11 x 11 Gaussian window, RGB"),
        _video("ssim_moving", "SSIM moving", "", "higher", "ssim with zeros outside the region"),
        _video("gmsd", "GMSD", "", "lower", "gradient magnitude similarity deviation"),
        _video(
            "temporal_correlation", "Temporal corr.", "", "higher",
            "correlation over time of luma in the moving region",
        ),
        _video(
            "temporal_std_ratio", "Temporal std", "", 1.0,
            "standard deviation over time in the moving region, relative to the truth's",
        ),
        _video(
            "gradient_energy", "Gradients", "", 1.0,
            "differences of neighbouring pixels in the moving region, relative to the truth's: "
            "below 1 it is blurred, and PSNR rewards that",
        ),
        _video(
            "action_named", "Action named", "%", "higher",
            "videos whose action is told from their changes (metrics/actions.py), taught by true "
            "videos of training scenes; frame 0 included",
        ),
        _control(
            "psnr_hoi", "PSNR HOI", "dB", "higher",
            "of the mask of hands and objects, pooled over a frame's pixels, 64 at least",
        ),
        _control("l1_hoi", "L1 HOI", "", "lower", "mean difference in the mask, of 0..255"),
        _control(
            "ssim_hoi", "SSIM HOI", "", "higher", "ssim of both frames black outside of the mask"
        ),
        _control("st_ssim", "ST-SSIM", "", "higher", "SSIM of lumas in 3D windows, sigma 1.5"),
        _control("ssim_change", "SSIM of change", "", "higher", "ssim of frames' differences"),
        _control("gmsd_t", "GMSD-T", "", "lower", "gmsd of frames' differences"),
        _control(
            "follow", "Follow", "", "higher",
            "correlation over time of luma in the pixels that the mask ever covers",
        ),
        _control(
            "swap_margin", "Swap margin", "", "higher",
            "follow less the correlation with another truth of the same frame 0 and text, both in "
            "the pixels that either mask covers",
        ),
        _control(
            "point_ade", "Point distance", "px", "lower",
            "centroid of what differs from frame 0, from the mean of the control's points",
        ),
        _control(
            "grid_index", "Grid", "", 1.0,
            "energy of luma that repeats every 8, 16 and 32 pixels, over the truth's",
        ),
        _flow(
            "flow_epe_mm", "Flow error", "mm", "lower",
            "mean distance of a pixel's point to its true one, frames from 1 on, of pixels whose "
            "truth ever gets more than 1 mm away from its place in frame 0",
        ),
        _flow(
            "flow_epe_moving_mm", "Flow error, moving", "mm", "lower",
            "flow_epe_mm of those that get more than 2 cm away",
        ),
        _flow(
            "flow_epe_late_mm", "Flow error, late", "mm", "lower",
            "flow_epe_moving_mm of frames from 6 on",
        ),
        _flow(
            "apd3d", "APD 3D", "%", "higher",
            "share of flow_epe_mm's within d Z / f, mean over d = 1, 2, 4, 8, 16 pixels of an "
            "image of 256 columns",
        ),
        _flow(
            "flow_centroid", "Flow centroid corr.", "", "higher",
            "correlation over time of the mean path of a surface's pixels with the true one, mean "
            "over surfaces and views; says little by itself",
        ),
        _flow(
            "flow_accel", "Flow accel. error", "m/frame^2", "lower",
            "mean length of the difference of accelerations of flow_epe_mm's pixels",
        ),
        _flow(
            "background_drift_mm", "Background drift", "mm", "lower",
            "mean distance to its place in frame 0 of a pixel whose truth stays within 1 mm of it",
        ),
        *_of_cameras("", "", "cameras that stand and that no point is from"),
        *_of_cameras("_path", ", path", "cameras that move"),
        _view(
            "own_view_correlation", "Own view corr.", "", "higher",
            "correlation over time of luma in the moving region, of a camera that the points are "
            "from, frames from 1 on",
        ),
    ]
)  # fmt: skip
