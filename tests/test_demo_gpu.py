"""What is sent to a GPU, and how it is trained there in time."""

import io
import json
import tarfile

import fake_records
import jax
import numpy as np
import pytest

from configs import demo_gpu, sections
from configs.readings import learned_codec
from demo import make as demo
from demo import package, train_gpu
from syncmv4d_jax import recipe, schema
from syncmv4d_jax.data import records
from syncmv4d_jax.data.scenes import scene
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.run import assembly
from syncmv4d_jax.weights import exports, store

VAE = vae.VAEConfig(**sections.small_vae(dim=4, dec_dim=4, z=4))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder as demo/make.py --train leaves one: eleven training scenes of six cameras."""
    folder = tmp_path_factory.mktemp("source")
    fake_records.write(folder / "records", sequences=12)
    params = module.init(vae.VAE, VAE, jax.random.key(0))
    params = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params)
    store.save("vae", VAE, params, folder / "weights", source={"by": "a test"})
    for name, content in (
        ("weights/umt5/tokenizer/spiece.model", b"pieces"),
        ("codec/weights.safetensors", b"codec"),
        ("data/scenes.json", json.dumps({"version": scene.VERSION, "seed": 0}).encode()),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("packed") / "package.tar.gz"
    return target, package.make(source, target, megabytes=30)


def test_what_is_packed_comes_out_byte_by_byte(source, packed, tmp_path):
    target, about = packed
    assert package.unpack(target, tmp_path) == about and about["count"] == about["of"] == 11
    for name in ("weights/umt5/tokenizer/spiece.model", package.CODEC, "data/scenes.json"):
        assert (tmp_path / name).read_bytes() == (source / name).read_bytes()
    with tarfile.open(target) as archive:
        there = {member.name: archive.extractfile(member).read() for member in archive}
    assert all((tmp_path / name).read_bytes() == data for name, data in there.items())
    assert there.keys() == {package.ABOUT, *about["files"]}
    was, now = (store.load("vae", folder / "weights")[1] for folder in (source, tmp_path))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, was, now)))
    assert {x.dtype.name for x in jax.tree.leaves(now)} == {"float32"}


def test_packed_scenes_are_theirs_with_one_camera_of_each_cluster(source, packed, tmp_path):
    package.unpack(packed[0], tmp_path)
    was, now = (records.Reader(folder / "records") for folder in (source, tmp_path))
    whole = {window.id: window for window in was.windows}
    drawn = set()
    assert now.settings == was.settings and {w.split for w in now.windows} == {"train"}
    for window in now.windows:
        own = whole[window.id]
        assert window.text == own.text and window.triplet == own.triplet
        assert [view.cluster for view in window.views] == [0, 1, 2]
        drawn.add(tuple(view.serial for view in window.views))
        a, b = was.tracks(own), now.tracks(window)
        assert np.abs(a["tracks"] - b["tracks"]).max() <= package.UNITS["tracks"] / 2 + 1e-6
        assert b["tracks"].dtype == np.float32
        for view in window.views:
            (same,) = (x for x in own.views if x.serial == view.serial)
            a, b = was.view(own, same), now.view(window, view)
            assert np.abs(a["anchors"] - b["anchors"]).max() <= package.UNITS["anchors"] / 2 + 1e-6
            for key in ("extrinsics", "intrinsics", "scale", "visibility", "anchor_valid"):
                np.testing.assert_array_equal(a[key], b[key])
            for key in package.FILMS:
                assert records.decode(b[key]).shape == records.decode(a[key]).shape
    assert len(drawn) > 3


def test_a_package_has_the_size_that_was_asked_for(source, packed, tmp_path):
    size = packed[0].stat().st_size / 1e6
    about = package.make(source, tmp_path / "p", megabytes=0.8 * size)
    assert 0 < about["count"] < 11 and (tmp_path / "p").stat().st_size <= 0.8e6 * size
    assert package.make(source, tmp_path / "q", megabytes=30, cameras=2)["cameras"] == 2
    assert (tmp_path / "q").stat().st_size > 1.3e6 * size
    with pytest.raises(ValueError, match=r"wanted room for a scene in 0.01 MB"):
        package.make(source, tmp_path / "r", megabytes=0.01)
    assert not (tmp_path / "r").exists()


def repacked(target, path, change):
    """Writes a package whose members went through `change`: (name, data) -> data, None: left out"""
    with tarfile.open(target) as archive, tarfile.open(path, "w:gz") as made:
        for member in archive:
            data = change(member.name, archive.extractfile(member).read())
            if data is not None:
                member.size = len(data)
                made.addfile(member, io.BytesIO(data))
    return path


def test_damaged_packages_are_refused(packed, tmp_path):
    target, out = packed[0], tmp_path / "out"
    flipped = lambda data: bytes([data[0] ^ 1]) + data[1:]  # noqa: E731
    for change, says in (
        (lambda name, x: flipped(x) if name == package.CODEC else x, "codec.*not what was packed"),
        (lambda name, x: None if name == package.CODEC else x, r"without \['codec/weights"),
        (lambda name, x: None if name == package.ABOUT else x, "it has no package.json"),
        (
            lambda name, x: x.replace(b"codec/", b"../../") if name == package.ABOUT else x,
            "wanted files of its own folder",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            package.unpack(repacked(target, tmp_path / "p", change), out)
        assert not (out / package.ABOUT).exists()
    for data in (target.read_bytes()[:-2000], b"no package", b""):
        (tmp_path / "p").write_bytes(data)
        with pytest.raises(ValueError, match="damaged, or no package|damaged: without"):
            package.unpack(tmp_path / "p", out)
    with pytest.raises(FileNotFoundError):
        package.unpack(tmp_path / "nothing", out)


@pytest.mark.parametrize(
    ("owner", "says"), [(scene, "scenes"), (schema, "records"), (package, "package")]
)
def test_packages_of_other_versions_are_refused(packed, tmp_path, monkeypatch, owner, says):
    monkeypatch.setattr(owner, "VERSION", owner.VERSION + 1)
    with pytest.raises(ValueError, match=f"{says}: was {owner.VERSION - 1}, is {owner.VERSION}"):
        package.unpack(packed[0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_has_one_package(source, packed, tmp_path):
    package.unpack(packed[0], tmp_path)
    (tmp_path / package.CODEC).unlink()
    package.unpack(packed[0], tmp_path)
    assert not (tmp_path / package.CODEC).exists()  # it was opened before: nothing is done
    other = tmp_path / "other"
    package.make(source, other, megabytes=30, cameras=2)
    with pytest.raises(recipe.Other, match="another package was opened there"):
        package.unpack(other, tmp_path)


def test_an_autoencoder_that_float16_does_not_hold_is_not_sent(source, tmp_path):
    params = module.init(vae.VAE, VAE, jax.random.key(1))
    store.save("vae", VAE, params, tmp_path / "weights", source={"by": "a test"})
    for name in ("records", "data", "codec"):
        (tmp_path / name).symlink_to(source / name)
    with pytest.raises(ValueError, match="wanted an autoencoder that float16 holds"):
        package.make(tmp_path, tmp_path / "p", megabytes=30)


def test_training_gets_what_is_left_of_the_time(tmp_path):
    args = train_gpu.parse(["--package", "p", "--out", str(tmp_path), "--batch", "16"])
    assert (args.minutes, args.batch) == (5.0, 16)
    cached, trained = (train_gpu.stage(args, title, 260.0) for title in train_gpu.TITLES)
    assert cached[0] == "data_prep/cache_latents.py" and trained[1] == "syncmv4d_jax.main"
    assert cached[cached.index("--out") + 1] == tmp_path / "cache"
    assert f"--config.data.cache={tmp_path / 'cache' / demo.SIZE}" in trained
    assert f"--config.weights.codec={tmp_path / package.CODEC}" in trained
    assert "--config=configs/demo_gpu.py:4.000,16" in trained
    late = train_gpu.stage(args, "training", -30.0)  # still it ends with weights
    assert "--config=configs/demo_gpu.py:0.017,16" in late
    for flags in ([], ["--package", "p", "--rehearse"]):
        with pytest.raises(SystemExit):
            train_gpu.parse(flags)


def test_the_gpu_trains_the_stages_of_the_demo_in_their_shares(monkeypatch):
    own, config = learned_codec.get_config("demo-train"), demo_gpu.get_config("2,16")
    found, stages = assembly.stages(config), assembly.stages(own)
    assert [s.name for s in found] == [s.name for s in stages]
    assert sum(s.train.minutes for s in found) == pytest.approx(2)
    assert {s.train.batch_size for s in found} == {16}
    for a, b in zip(found, stages, strict=True):  # another precision, and no other setting
        plain = lambda s: recipe.plain(s.task)  # noqa: E731
        differ = recipe.differences(plain(b), plain(a))
        assert {x.split(":")[0] for x in differ} <= {"dit.dtype", "codec.dtype"}
        assert a.optim.learning_rate == b.optim.learning_rate
        assert a.optim.multipliers == b.optim.multipliers
    with pytest.raises(ValueError, match="wanted MINUTES,BATCH"):
        demo_gpu.get_config("soon")
    monkeypatch.setattr(demo_gpu, "SHARES", {"mjd": 1.0})
    with pytest.raises(ValueError, match=r"wanted stages \['mjd'\], the demo has"):
        demo_gpu.get_config()


def test_speeds_are_told_by_stage(tmp_path):
    rows = [
        {"stage": "aligner", "step": 1},
        {"stage": "aligner", "step": 10, "seconds_per_step": 0.5},
        {"stage": "mjd", "step": 11},
        {"stage": "mjd", "step": 20, "seconds_per_step": 0.25, "tflops_per_second": 20.0},
        {"stage": "mjd", "step": 40, "seconds_per_step": 0.15, "tflops_per_second": 30.0},
    ]
    (tmp_path / "m").write_text("\n".join(json.dumps(row) for row in rows))
    assert train_gpu.speeds(tmp_path / "m", 32) == [
        "# aligner: 10 steps of 32, 0.5 s a step",
        "# mjd: 30 steps of 32, 0.2 s a step, 25 TFLOP/s",
    ]


def test_weights_of_a_gpu_are_sampled_without_training_again(tmp_path):
    args = demo.parse(["--train", "--out", str(tmp_path)])
    titles = [title for title, _ in demo.stages(args)]
    assert "training" in titles
    (tmp_path / "joint.safetensors").touch()
    sent = dict(demo.stages(args))
    assert [*sent] == [title for title in titles if title != "training"]
    assert f"--config.weights.dit={tmp_path / 'joint.safetensors'}" in sent["sampling"]
    (tmp_path / "checkpoints").mkdir()  # trained here
    assert [title for title, _ in demo.stages(args)] == titles


def test_without_a_gpu_nothing_is_trained(packed, tmp_path):
    with pytest.raises(SystemExit, match="wanted a GPU, JAX sees cpu"):
        train_gpu.main(["--package", str(packed[0]), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="train_gpu: FileNotFoundError"):
        train_gpu.main(["--package", str(tmp_path / "p"), "--out", str(tmp_path / "out")])


@pytest.mark.slow
def test_a_rehearsal_ends_with_weights(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")  # one device, as the command by hand has
    assert train_gpu.main(["--rehearse", "--out", str(tmp_path)]) == 0
    told = capfd.readouterr().out
    assert all(f"# {stage}: " in told for stage in (*demo_gpu.SHARES, *train_gpu.TITLES))
    assert {*exports.read(tmp_path / "joint.safetensors")} >= {"dit", "dpa"}
