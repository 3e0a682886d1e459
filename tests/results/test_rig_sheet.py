"""The picture of a rig: where axes meet, a panel for every view and the plan."""

import fake_samples
import numpy as np
from PIL import Image

from syncmv4d_jax.results import rig_sheet


def test_axes_meet_where_they_were_turned_to():
    _, poses = fake_samples.cameras_of_rig((48, 64))
    point, missed = rig_sheet.meeting(poses.astype(np.float64))
    np.testing.assert_allclose(point, [0, 0, 1], atol=1e-5)
    assert missed.max() < 1e-5
    poses[0, 0, 3] += 0.05  # 5 cm beside it
    _, missed = rig_sheet.meeting(poses.astype(np.float64))
    assert 0.01 < missed[0] < 0.05
    parallel = np.tile(np.eye(3, 4), (3, 1, 1))
    parallel[:, 0, 3] = [0.1, 0, -0.1]
    point, _ = rig_sheet.meeting(parallel)
    np.testing.assert_allclose(point, [0, 0, 1], atol=1e-9)


def test_a_sheet_shows_every_view_and_the_plan(tmp_path):
    intrinsics, poses = fake_samples.cameras_of_rig((48, 64))
    images = np.full((3, 48, 64, 3), 200, np.uint8)
    images[1] = 60
    rig_sheet.write(tmp_path / "rig.png", images, intrinsics, poses[:, None], ["a", "b", "c"])
    sheet = np.asarray(Image.open(tmp_path / "rig.png")).astype(int)
    wide = round(64 * rig_sheet.HIGH / 48)
    assert sheet.shape == (rig_sheet.HIGH + 24, 3 * (wide + 8) + 2 * rig_sheet.HIGH, 3)
    middles = sheet[150, [v * (wide + 8) + wide // 2 for v in range(3)], 0]
    assert middles.tolist() == [200, 60, 200]
    plan = sheet[24:, 3 * (wide + 8) :]
    for ink in rig_sheet.INKS[:3]:
        assert (np.abs(plan - ink).sum(-1) < 20).sum() > 40
