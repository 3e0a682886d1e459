"""The simulator's road: meshes of other programs and a picture -> records like a recording's."""

import json

import mesh_files
import numpy as np
import pytest
import tiny
from PIL import Image

from data_prep import import_meshes
from syncmv4d_jax.data import clips, frames, pipeline, prepare, records
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data.sources import recordings

FRAMES = 18
SETTINGS = clips.Settings(
    size=(96, 144), frames=9, fps=15.0, points=64, clusters=1, cameras="first",
    val=0.0, surfaces="none",
    controls=("points", "das"), cloud=200, held_out_tools=("spoon",),
)  # fmt: skip


def worlds():
    """{name: (vertices [n p 3], faces)} of the tiny recording."""
    motion = tiny.poses(FRAMES)
    return {
        name: (
            np.einsum("nij,pj->npi", motion[name][:, :3, :3], v) + motion[name][:, None, :3, 3],
            faces,
        )
        for name, (v, faces) in tiny.solids().items()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A recording, the first frame of its first camera as a picture, that camera's file."""
    root = tmp_path_factory.mktemp("meshes")
    folder = tiny.write(root / "filmed", "seq0", frames=FRAMES, views=3)
    first = frames.read_all(folder / "cam0.mp4")[0]
    Image.fromarray(first).save(root / "photo.png")
    rig = json.loads((folder / "cameras.json").read_text())
    (root / "cameras.json").write_text(json.dumps({"cam0": rig["cam0"]}))
    for name, (vertices, faces) in worlds().items():
        mesh_files.write_sequence(root / "objs", name, vertices, faces)
        mesh_files.write_pc2(root / f"{name}.pc2", vertices, faces)
    return root


def flags(root, *more, out="recordings", meshes=("objs",)):
    return [
        "--meshes", *(str(root / name) for name in meshes), "--image", str(root / "photo.png"),
        "--camera", str(root / "cameras.json"), "--out", str(root / out), "--text", "Stir.", *more,
    ]  # fmt: skip


def cloud(folder, out):
    prepare.run(recordings.folder_sources(folder), out, SETTINGS)
    reader = records.Reader(out)
    window = reader.windows[0]
    return window, reader.tracks(window), reader.view(window, window.views[0])


def test_records_of_meshes_are_those_of_the_recording(root, tmp_path):
    _, filmed, own = cloud(root / "filmed", tmp_path / "filmed")
    names = [f"{name}.pc2" for name in worlds()]
    for out, meshes in (("objs_", ("objs",)), ("caches_", names)):
        assert import_meshes.main(flags(root, out=out, meshes=meshes)) == 0
        window, made, view = cloud(root / out, tmp_path / out)
        assert (window.split, window.provenance, window.filmed) == ("test", "sim", False)
        assert window.text == "Stir."
        assert np.bincount(made["point_labels"]).min() > 30 and filmed["points"].shape == (
            9,
            200,
            3,
        )
        (source,) = recordings.folder_sources(root / out)
        for surface in source.open().surfaces:  # within 0.1 mm
            vertices, faces = worlds()[surface.name]
            np.testing.assert_array_equal(surface.faces, faces)
            np.testing.assert_allclose(surface.vertices, vertices, atol=1e-4)
        moved = records.decode(view["tracking"]).astype(int) - records.decode(own["tracking"])
        assert (np.abs(moved[..., :2]).max(-1) > 1).mean() < 1e-3
        still = records.decode(view["video"])
        np.testing.assert_array_equal(still, np.repeat(still[:1], 9, 0))
        first = records.decode(own["video"])[0].astype(int)
        assert np.abs(first - still[0]).mean() < 3


def test_nothing_is_learned_from_a_picture(root, tmp_path):
    import_meshes.main(flags(root, out="alone"))
    cloud(root / "alone", tmp_path)
    data = data_config.DataConfig(records=str(tmp_path), fps=15.0)
    wanted = data_config.Wanted(size=(96, 144), frames=9, cloud=80, tracking="das_tracking")
    with pytest.raises(ValueError, match="wanted clips of split 'train'"):
        pipeline.train_iterator(data, wanted, batch_size=1, seed=0, shard_index=0, shard_count=1)
    ((_, example),) = pipeline.examples(data, wanted, "test")
    assert example["filmed"] is False and example["points"].shape == (9, 80, 3)


def test_refused_imports(root, tmp_path, capsys):
    two = json.loads((root / "cameras.json").read_text())
    (tmp_path / "two.json").write_text(json.dumps({"a": two["cam0"], "b": two["cam0"]}))
    small = {"cam0": {**two["cam0"], "imgSize": [80, 60]}}
    (tmp_path / "small.json").write_text(json.dumps(small))
    vertices, faces = worlds()["tool"]
    mesh_files.write_pc2(tmp_path / "short.pc2", vertices[:5], faces)
    for more, message in (
        (["--camera", str(tmp_path / "two.json")], "wanted one camera"),
        (["--camera", str(tmp_path / "small.json")], "imgSize is 80 x 60, the picture 160 x 120"),
        (["--unit", "0.001"], "metres"),
        (["--unit", "1000"], "m wide"),
        (["--labels", '{"pan": "object"}'], "no meshes ['pan']"),
        (["--labels", '{"tool": "foot"}'], "wanted some of"),
        (["--meshes", str(root / "objs"), str(tmp_path / "short.pc2")], "different numbers"),
    ):
        with pytest.raises(SystemExit) as stopped:
            import_meshes.main([*flags(root, out="refused"), *more])
        assert message in str(stopped.value), stopped.value
    assert not list(root.glob("refused/*"))
