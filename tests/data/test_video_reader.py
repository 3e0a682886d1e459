"""Videos are what their containers say: turned, coloured, timed as shown, or refused by name."""

import json
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from syncmv4d_jax.data import frames, mp4, rigs, user
from syncmv4d_jax.results import video

SHOWN = np.zeros((32, 48, 3), np.uint8)
SHOWN[:16], SHOWN[16:], SHOWN[:, :8] = (200, 40, 40), (40, 60, 200), (40, 180, 60)
BOX, SIZE = (0, 0, 48, 32), (32, 48)
ONE = 0x10000
# Red, green and blue as Y'CbCr, from the tables that the standards print.
RGB = np.diag([255, 255, 255])
CODES = {
    ("bt709", "tv"): ((63, 102, 240), (173, 42, 26), (32, 240, 118)),
    ("smpte170m", "tv"): ((81, 90, 240), (145, 54, 34), (41, 240, 110)),
    ("undef", "tv"): ((81, 90, 240), (145, 54, 34), (41, 240, 110)),
    ("bt709", "pc"): ((54, 99, 255), (182, 30, 12), (18, 255, 116)),
    ("smpte170m", "pc"): ((76, 85, 255), (150, 44, 21), (29, 255, 107)),
    ("bt2020nc", "tv"): ((74, 97, 240), (164, 47, 25), (29, 240, 119)),
}


def write(path, pictures, *, pixels="yuv444p", options=None, stamps=None, fps=30, aspect=None):
    """Writes H.264; pictures: arrays [h w 3], or [3 h w] of Y, Cb and Cr; stamps: in ms."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        planar = pictures[0].shape[0] == 3
        stream.height, stream.width = pictures[0].shape[1:] if planar else pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.options = {"crf": "1", "preset": "ultrafast", "bf": "0"} | (options or {})
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv444p" if planar else "rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = round(stamps[i]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def patch(path, name, offset, values):
    """Overwrites big-endian integers of an atom of an mp4."""
    data = bytearray(path.read_bytes())
    at = data.find(name) + 4 + offset
    data[at : at + 4 * len(values)] = struct.pack(f">{len(values)}i", *values)
    path.write_bytes(data)
    return path


def turn(path, a, b, c, d):
    """Sets the display matrix of an mp4's track: x' = a x + c y, y' = b x + d y."""
    return patch(path, b"tkhd", 40, (a, b, 0, c, d, 0, 0, 0, 1 << 30))


def greys(count):
    return [np.full((32, 48, 3), 20 + 8 * i, np.uint8) for i in range(count)]


def read(path):
    return video.read(path)[0].astype(int)


@pytest.mark.parametrize(
    "matrix, shown",
    [
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
    ],
)
def test_the_display_matrix_is_done(tmp_path, matrix, shown):
    path = write(tmp_path / "a.mp4", [SHOWN] * 2)
    stored = read(path)
    np.testing.assert_allclose(stored, SHOWN, atol=6)
    turn(path, *(ONE * x for x in matrix))
    np.testing.assert_array_equal(read(path), shown(stored))


def test_a_cut_of_a_turned_video_is_the_cut_of_what_is_shown(tmp_path):
    path = write(tmp_path / "a.mp4", [SHOWN] * 2)
    turn(path, 0, ONE, -ONE, 0)
    whole, turned = read(path), frames.Video(path)
    assert turned.size == (48, 32)
    part = turned.read(np.array([1]), (4, 8, 20, 40), (32, 16))[0]
    np.testing.assert_allclose(part, whole[8:40, 4:20], atol=1)


def test_an_angle_between_quarters_is_refused(tmp_path):
    path = turn(write(tmp_path / "a.mp4", [SHOWN] * 2), 56756, 32768, -32768, 56756)
    with pytest.raises(ValueError, match="another angle than quarters"):
        read(path)


@pytest.mark.parametrize("matrix, span", CODES)
def test_colours_follow_matrix_and_range(tmp_path, matrix, span):
    planes = np.repeat(np.array(CODES[matrix, span], np.uint8).T[:, None], 32, 1)  # [3 32 3]
    picture = np.ascontiguousarray(np.repeat(planes, 16, 2))
    options = {"x264-params": f"colormatrix={matrix}:fullrange={'on' if span == 'pc' else 'off'}"}
    path = write(tmp_path / "a.mp4", [picture] * 2, options=options)
    got = read(path)[16, 8::16]
    np.testing.assert_allclose(got, RGB, atol=4)


@pytest.mark.parametrize("span, grey", [("on", 64), ("off", (64 - 16) * 255 / 219)])
def test_greys_follow_the_range(tmp_path, span, grey):
    """Colours at the rim of the cube are cut to it, whatever the range: these are not."""
    planes = np.full((3, 32, 48), 128, np.uint8)
    planes[0] = 64
    options = {"x264-params": f"colormatrix=bt709:fullrange={span}"}
    path = write(tmp_path / "a.mp4", [planes] * 2, options=options)
    np.testing.assert_allclose(read(path), np.full((32, 48, 3), grey), atol=2)


def test_a_matrix_that_is_not_known_is_refused(tmp_path):
    options = {"x264-params": "colormatrix=YCgCo"}
    path = write(tmp_path / "a.mp4", [np.full((3, 32, 48), 90, np.uint8)] * 2, options=options)
    with pytest.raises(ValueError, match="matrix 8 of ITU-T H.273"):
        read(path)


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv422p", "yuv422p10le", "yuv444p10le"])
def test_depths_and_samplings_give_the_picture(tmp_path, pixels):
    path = write(tmp_path / "a.mp4", [SHOWN] * 2, pixels=pixels)
    np.testing.assert_allclose(read(path)[4:12, 20:40], SHOWN[4:12, 20:40], atol=4)


def test_a_picture_is_of_one_instant_and_one_eye(tmp_path):
    options = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    path = write(tmp_path / "a.mp4", [SHOWN] * 3, pixels="yuv420p", options=options)
    with pytest.raises(ValueError, match="fields of two instants; deinterlace"):
        read(path)
    path = write(tmp_path / "b.mp4", [SHOWN] * 3, options={"x264-params": "frame-packing=3"})
    with pytest.raises(ValueError, match="two eyes"):
        read(path)


def test_pixels_that_are_not_square_want_their_own_calibration(tmp_path):
    path = write(tmp_path / "a.mp4", [SHOWN] * 2, aspect=Fraction(4, 3))
    k = np.array([[50.0, 0, 23.5], [0, 50, 15.5], [0, 0, 1]])
    own = rigs.Camera("a", k, np.eye(3, 4), (32, 48))
    np.testing.assert_array_equal(frames.Video(path).intrinsics(own), k)
    with pytest.raises(ValueError, match=r"not square \(4/3\)"):
        frames.Video(path).intrinsics(rigs.Camera("a", k, np.eye(3, 4), (64, 96)))
    with pytest.raises(ValueError, match="not square"):
        read(path)


def test_frames_before_the_edit_are_not_counted(tmp_path):
    path = write(tmp_path / "a.mp4", greys(12), options={"g": "12"})
    unit = frames.Video(path)._stamps[1]
    patch(path, b"elst", 12, (3 * unit,))  # the time of the first frame that is shown
    cut = frames.Video(path)
    assert len(cut.stamps) == 9
    means = cut.read(np.array([0, 5]), BOX, SIZE).mean((1, 2, 3))
    np.testing.assert_allclose(means, (44, 84), atol=2)


def test_frames_go_by_their_time_where_the_rate_varies(tmp_path):
    stamps = np.delete(np.arange(21) * 1000 / 30, 7)  # one was lost
    path = write(tmp_path / "a.mp4", greys(20), stamps=stamps)
    lossy = frames.Video(path)
    poses = np.array([0, 4, 10, 20])
    numbers = lossy.numbers(poses, fps=30, frames=21)
    np.testing.assert_array_equal(numbers, (0, 4, 9, 19))
    means = lossy.read(numbers, BOX, SIZE).mean((1, 2, 3))
    np.testing.assert_allclose(means, 20 + 8 * numbers, atol=2)
    with pytest.raises(ValueError, match="rate varies, and none of its frames is at pose 7"):
        lossy.numbers(np.array([6, 7, 8]), fps=30, frames=21)
    with pytest.raises(ValueError, match="wanted 30 frames, one a pose, got 21"):
        lossy.numbers(poses, fps=30, frames=30)


def test_poses_have_the_rate_and_number_of_the_frames(tmp_path):
    regular = frames.Video(write(tmp_path / "a.mp4", greys(6), fps=Fraction(30000, 1001)))
    np.testing.assert_array_equal(regular.numbers(np.arange(6), fps=30, frames=6), np.arange(6))
    with pytest.raises(ValueError, match=r"29.97 frames a second, the poses 60"):
        regular.numbers(np.arange(3), fps=60, frames=6)
    for poses in (4, 7):
        with pytest.raises(ValueError, match=f"wanted {poses} frames, one a pose, got 6"):
            regular.numbers(np.arange(3), fps=30, frames=poses)


def test_a_part_of_the_picture_is_refused(tmp_path):
    path = write(tmp_path / "a.mp4", [SHOWN] * 2)
    data = bytearray(path.read_bytes())
    start = data.find(b"moov")
    assert start > data.find(b"mdat")  # what is put in moves no sample
    entry = data.find(b"avc1", start)
    for clap, refused in (((40, 24, 2, -1), True), ((48, 32, 0, 0), False)):
        numbers = [n for value in clap for n in (value, 1)]
        box = struct.pack(">I4s8i", 40, b"clap", *numbers)
        changed = data.copy()
        for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
            at = data.find(name, start) - 4
            size = struct.unpack(">I", data[at : at + 4])[0] + 40
            changed[at : at + 4] = struct.pack(">I", size)
        changed[entry + 82 : entry + 82] = box
        path.write_bytes(changed)
        if refused:
            with pytest.raises(ValueError, match="of its 48 x 32 pixels 40 x 24 are shown, 2, -1"):
                read(path)
        else:
            np.testing.assert_allclose(read(path), SHOWN, atol=6)


def test_a_container_of_several_videos_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        streams = [container.add_stream("libx264", rate=30) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(SHOWN, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    with pytest.raises(ValueError, match="it has 2 videos, wanted one"):
        read(tmp_path / "a.mp4")


def test_views_cut_from_videos_are_as_they_are_shown(tmp_path):
    path = write(tmp_path / "down.MP4", [SHOWN] * 2)
    stored = read(path)
    turn(path, -ONE, 0, 0, -ONE)
    camera = {"K": [50, 0, 23.5, 0, 50, 15.5, 0, 0, 1], "R": np.eye(3).ravel().tolist()}
    entry = camera | {"T": [0, 0, 1], "imgSize": [48, 32]}
    (tmp_path / "calibration.json").write_text(json.dumps({"down": entry}))
    user.from_videos(tmp_path, tmp_path / "calibration.json", tmp_path / "out")
    views = user.read(tmp_path / "out", views=1, size=(32, 48))
    np.testing.assert_array_equal(views.images[0], np.rot90(stored, 2))
    turn(path, 0, ONE, -ONE, 0)  # now it stands upright, its camera does not
    with pytest.raises(ValueError, match="video is 32 x 48, its camera 48 x 32: not resized"):
        user.from_videos(tmp_path, tmp_path / "calibration.json", tmp_path / "other")
    entry["imgSize"] = [48, 30]
    turn(path, ONE, 0, 0, ONE)
    (tmp_path / "calibration.json").write_text(json.dumps({"down": entry}))
    with pytest.raises(ValueError, match="not resized but cut"):
        user.from_videos(tmp_path, tmp_path / "calibration.json", tmp_path / "other")


def test_every_writer_of_h264_writes_the_same_on_all_processors():
    """x264 does not say in its files how it chose its code, so the sources are asked."""
    root = Path(video.__file__).parents[2]
    files = [*(root / "syncmv4d_jax").rglob("*.py"), *(root / "data_prep").glob("*.py")]
    writers = {path.stem: text for path in files if '"libx264"' in (text := path.read_text())}
    assert set(writers) == {"video", "lerobot_writer", "taco_writer", "import_metaworld"}
    for name, text in writers.items():
        wanted = (
            '"x264-params": "cpu-independent=1"' if name == "import_metaworld" else "**mp4.X264"
        )
        assert wanted in text, f"{name} lets x264 choose its code by the processor"
    assert mp4.X264 == {"x264-params": "cpu-independent=1"}
