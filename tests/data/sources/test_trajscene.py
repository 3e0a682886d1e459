"""TrajScene's archives: read without executing, refused by name, written and read again."""

import dataclasses
import pickle
import tarfile

import numpy as np
import pytest

from syncmv4d_jax import recipe
from syncmv4d_jax.data import one_camera, pixel_flow, records
from syncmv4d_jax.data.sources import dense, trajscene
from syncmv4d_jax.geometry import cameras, flow_map
from syncmv4d_jax.weights import torch_writer

SIZE = (48, 64)  # of the videos
GRID = (48, 64)  # of the tracks: an eighth of theirs
COUNT = GRID[0] * GRID[1]


def clip(frames=trajscene.FRAMES):
    """A wall of which a part slides, in camera 0's frame."""
    depth = np.full(SIZE, 1.0, np.float32)
    depth[16:32, 20:44] = 0.8
    view = flow_map.Camera(depth, trajscene.lens_of(SIZE).astype(np.float32), np.eye(3, 4))
    tracks = np.repeat(flow_map.start(view)[None], frames, 0)
    tracks[:, depth < 0.9] += np.arange(frames)[:, None, None] * np.array([0.004, 0.0, -0.001])
    video = np.full((frames, *SIZE, 3), 120, np.uint8)
    video[:, 16:32, 20:44] = (200, 60, 40)
    return {"video": video, "tracks": tracks, "valid": np.ones(SIZE, bool)}


@pytest.fixture(scope="module", autouse=True)
def _smaller():
    assert trajscene.GRID == (384, 512)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajscene, "GRID", GRID)
        yield


def made(root):
    trajscene.write(root / "000001_000050", "000001", clip(), "A red block slides")
    return root / "000001_000050"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made(tmp_path_factory.mktemp("traj"))


def test_what_is_written_comes_back_from_folder_and_archive(folder, tmp_path):
    archive = tmp_path / "000001_000050.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, arcname=folder.name)
    for source in (folder, archive):
        ((name, found),) = list(trajscene.samples(source))
        assert name == "000001" and found.text == "A red block slides" and not found.metric
        tracks, known = dense.dense(found)
        assert known.all()
        ways, true = tracks[-1] - tracks[0], clip()["tracks"]
        np.testing.assert_allclose(ways[24, 32], (true[-1] - true[0])[24, 32], atol=1e-4)
        np.testing.assert_allclose(ways[4, 4], 0, atol=1e-5)
        np.testing.assert_allclose(found.depth, np.where(true[0, ..., 2] < 0.9, 0.8, 1.0),
                                   atol=1e-4)  # fmt: skip


def test_records_of_it_have_its_flow(folder, tmp_path):
    settings = one_camera.Settings((32, 44), 49, 8.0, points=16, camera_motion=True)
    index = one_camera.write(tmp_path, trajscene.samples(folder), settings)
    assert not index["skipped"] and index["settings"]["camera_motion"]
    reader = records.Reader(tmp_path)
    values = reader.view(reader.windows[0], reader.windows[0].views[0])
    fields = pixel_flow.unpack(values)
    camera = flow_map.Camera(fields["depth0"], values["intrinsics"], values["extrinsics"])
    world = flow_map.inverse(fields["flow"].astype(np.float32), camera)
    way = (world[48] - world[0])[16, 22]
    np.testing.assert_allclose(way, 48 * np.array([0.004, 0, -0.001]), atol=2e-3)
    pixels, _ = cameras.project(world[0, 16, 22], values["intrinsics"], values["extrinsics"])
    np.testing.assert_allclose(pixels, [22, 16], atol=1e-3)


def test_a_clip_that_has_changed_is_written_again(tmp_path):
    settings = one_camera.Settings((48, 64), 9, 8.0, camera_motion=True)
    ((name, one),) = list(trajscene.samples(made(tmp_path / "in")))
    write = lambda clips, **more: one_camera.write(  # noqa: E731
        tmp_path / "out", clips, dataclasses.replace(settings, **more)
    )
    first = write([(name, one)])
    file = tmp_path / "out/48x64" / first["windows"][0]["file"]
    before = file.stat().st_mtime_ns
    assert write([(name, one)]) == first and file.stat().st_mtime_ns == before
    again = write([(name, dataclasses.replace(one, text="Another"))])
    assert again["windows"][0]["text"] == "Another" and file.stat().st_mtime_ns > before
    twice = write([(name, one), (name, one)])
    assert len(twice["windows"]) == 1 and "there twice" in twice["skipped"][0]["reason"]
    gone = write([(name, ValueError("damaged"))])
    assert not gone["windows"] and gone["left_out"] == [name]
    with pytest.raises(recipe.Other, match="settings.fps: was 8, is 4"):
        write([(name, one)], fps=4.0)
    with recipe.Lock(tmp_path / "out/48x64", "prepare"), pytest.raises(recipe.Held):
        write([(name, one)])


def change(folder, tmp_path, **changes):
    """The sample with another pickle."""
    made = tmp_path / "x"
    made.mkdir()
    for file in folder.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    coords = np.zeros((49, COUNT, 3), np.float32) + [0, 0, 1]
    content = {"coords": coords.astype(np.float32)} | changes
    if "raw" in changes:
        (made / "000001_dt3d_pred.pkl").write_bytes(changes["raw"])
    else:
        (made / "000001_dt3d_pred.pkl").write_bytes(torch_writer.dumps(content))
    return made


class Hostile:
    def __reduce__(self):
        return print, ("this must not run",)


def wild():
    coords = np.zeros((49, COUNT, 3), np.float32) + np.float32([0, 0, 1])
    coords[1:, :, 0] = 9.0
    return coords.astype(np.float32)


def holes():
    coords = np.zeros((49, COUNT, 3), np.float32) + np.float32([0, 0, 1])
    coords[:, ::20] = np.nan
    return coords.astype(np.float32)


BAD = {
    "hostile": ({"raw": pickle.dumps(Hostile())}, "refused the global builtins.print"),
    "short": ({"coords": np.ones((20, COUNT, 3), np.float32)}, "wanted .49 3072 3."),
    "grid": ({"coords": np.ones((49, COUNT - 7, 3), np.float32)}, "wanted .49 3072 3."),
    "nan": ({"coords": holes()}, "5.0% of the coordinates are not finite"),
    "wild": ({"coords": wild()}, "median way is"),
}


@pytest.mark.parametrize("name", BAD)
def test_samples_that_cannot_be_are_named(folder, tmp_path, name, capsys):
    changes, message = BAD[name]
    ((found, why),) = list(trajscene.samples(change(folder, tmp_path, **changes)))
    assert found == "000001" and isinstance(why, ValueError)
    with pytest.raises(ValueError, match=message):
        raise why
    assert capsys.readouterr().out == ""


def test_places_without_samples(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such archive"):
        list(trajscene.samples(tmp_path / "none.tar.gz"))
    with pytest.raises(ValueError, match="not of TrajScene-60K"):
        list(trajscene.samples(tmp_path))
    (tmp_path / "a.tar.gz").write_bytes(b"hello")
    with pytest.raises(ValueError, match="not an archive"):
        list(trajscene.samples(tmp_path / "a.tar.gz"))
