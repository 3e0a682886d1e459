"""The demo of control: what its rows are told, and what its page says of bars."""

import importlib
import json

import fake_records
import numpy as np
import pytest

from configs import hvg3d as configuration
from demo import hvg, references, simulated
from syncmv4d_jax import configuration as settings
from syncmv4d_jax.data import clips, controls, prepare, records
from syncmv4d_jax.data.scenes import hand, scene
from syncmv4d_jax.data.sources import mano, recordings
from syncmv4d_jax.metrics import hoi
from syncmv4d_jax.results import samples


def told(command, key):
    """The last value of a flag, "" without it."""
    found = [str(x).partition("=")[2] for x in command if str(x).startswith(f"--{key}=")]
    return found[-1] if found else ""


@pytest.fixture
def stages(tmp_path):
    return dict(hvg.stages(hvg.parse(["--out", str(tmp_path), "--ablations"])))


@pytest.mark.parametrize("flags", [["--ablations"], ["--short"], ["--fresh", "--ablations"]])
def test_every_stage_has_flags_and_keys_that_there_are(flags, tmp_path):
    stages = hvg.stages(hvg.parse([*flags, "--out", str(tmp_path)]))
    runs = [[str(x) for x in command] for _, command in stages if command[0] == "-m"]
    assert not [x for run in runs for x in settings.unknown_keys(run)]
    for _, (script, *words) in stages:
        if script == "-m":
            continue
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        if hasattr(module, "parse"):
            assert module.parse([str(word) for word in words])


def test_every_bar_has_its_rows(stages):
    """Each row is sampled and then evaluated; a bar's rows are sampled, or trivial."""
    names = {title.removeprefix("samples: ") for title in stages if title.startswith("samples")}
    assert names == {*hvg.ROWS, hvg.SIMULATED, *hvg.REFERENCES, *hvg.ABLATIONS}
    order = list(stages)
    assert all(order.index(f"samples: {n}") < order.index(f"evaluation: {n}") for n in names)
    wanted = {row for bar in hoi.BARS for row in (bar.row, bar.other) if row}
    assert wanted <= names | {*hoi.TRIVIAL}
    assert {told(c, "config").partition(":")[2] for c in stages.values()} - {"", "demo"} == {
        "ablation", *(f"ablation-{name}" for name in hvg.ABLATIONS if name != "base")
    } <= set(configuration.VARIANTS)  # fmt: skip


def test_the_simulators_road_is_sampled_without_videos_and_scored_with_them(stages):
    sample, truth = stages["samples: simulated"], stages["evaluation: simulated"]
    assert told(sample, "config.data.records").endswith("simulated/records/64x96")
    assert told(sample, "config.data.cache").endswith("simulated/cache/64x96")
    assert told(truth, "config.data.records").endswith("simulated/truth/records/64x96")
    assert told(truth, "config.data.cache") == ""
    made = [c for c in stages.values() if "--folder" in c]
    assert [c[c.index("--folder") + 1].name for c in made] == ["photos", "filmed"]


def test_control_is_trained_on_from_what_is_shipped(stages, tmp_path):
    whole, sample = stages["control"], stages["samples: full"]
    wide = str(tmp_path.resolve() / hvg.WIDE)
    for part in ("dit", "prior", "control", "points"):
        assert told(whole, f"config.weights.{part}") == wide
    assert told(whole, "config").endswith(":demo") and told(whole, "workdir") == str(tmp_path)
    assert told(sample, "config.weights.dit") == told(sample, "config.weights.prior") == wide
    made = str(tmp_path / "control.safetensors")
    assert told(sample, "config.weights.control") == told(sample, "config.weights.points") == made


@pytest.mark.parametrize("shipped", [True, False])
def test_a_fresh_run_trains_its_own_backbone(tmp_path, monkeypatch, shipped):
    """Asked for, or as nothing is shipped."""
    if not shipped:
        monkeypatch.setattr(hvg, "SHIPPED_CONTROL", tmp_path / "none.safetensors")
    flags = ["--out", str(tmp_path), *["--fresh"] * shipped]
    stages = dict(hvg.stages(hvg.parse(flags)))
    whole, sample = stages["control"], stages["samples: full"]
    assert told(whole, "config").endswith(":fresh")
    assert told(whole, "config.weights.dit") == str(hvg.shipped.MODEL)
    assert told(whole, "config.weights.control") == ""
    assert told(sample, "config.weights.dit") == str(tmp_path / "video.safetensors")
    names = [name for name, _ in settings.stages(configuration.get_config("fresh"))]
    assert names == ["video", "control"]


def test_ablations_train_their_own_control_beside_the_same_backbone(stages, tmp_path):
    trained, sample = stages["ablation: no_mask_loss"], stages["samples: no_mask_loss"]
    own = tmp_path.resolve() / "ablations" / "no_mask_loss"
    assert told(trained, "workdir") == str(own)
    for key in ("dit", "prior", "vae"):
        assert told(trained, f"config.weights.{key}") == told(sample, f"config.weights.{key}") != ""
    assert told(trained, "config.weights.control") == ""
    assert told(sample, "config.weights.control") == f"{own}/control.safetensors"
    assert [n for n, _ in settings.stages(configuration.get_config("ablation"))] == ["control"]


def test_a_short_run_trains_no_ablations(capsys):
    with pytest.raises(SystemExit):
        hvg.parse(["--short", "--ablations"])
    assert "a few steps show nothing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        hvg.parse(["--short", "--fresh"])
    assert "trains for hours" in capsys.readouterr().err


def test_the_page_says_what_is_not_shown(tmp_path):
    """Six scenes of three layouts; goals that fail or were not run are told apart from bars."""
    scenes = [f"20990102_000{i // 2}_{i % 2}-0" for i in range(6)]
    rng = np.random.default_rng(0)

    def row(**means):
        cells = {}
        for metric, mean in means.items():
            values = {s: mean + 0.01 * float(rng.normal()) for s in scenes}
            cells[metric] = {"value": mean, "se": 0.01, "per_sample": values}
        return cells

    trivial = {name: row(psnr_moving=15.0) for name in hoi.TRIVIAL}
    for name in (*hvg.ROWS, hvg.SIMULATED):
        good = name in ("full", "simulated")
        moving = 25.0 if good else 19.9 if name == "points_only" else 20.0
        cells = row(follow=0.9, swap_margin=0.5, psnr_moving=moving,
                    psnr_hoi=20.0 if good else 21.0, grid_index=1.0)  # fmt: skip
        (tmp_path / "rows" / name).mkdir(parents=True)
        content = {"rows": {"model": cells, **trivial}}
        (tmp_path / "rows" / name / "eval.json").write_text(json.dumps(content))
    text = hvg.compare(tmp_path)
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    assert lines["B1: follow, full"].endswith("| 6 | 3 | yes |")
    assert lines["B2: psnr_moving, full - no_control"].endswith("| yes |")
    assert lines["simulator's road: follow, simulated - full"].endswith("| yes |")
    assert lines["B4: psnr_moving, points_only - no_control"].endswith("| no |")
    assert lines["B8: psnr_hoi, full - tracking_only"].endswith("| not shown at this size |")
    assert lines["B10: psnr_hoi, base - no_mask_loss"].endswith("| not shown: not run |")
    assert "B7" in text and len([x for x in lines if x.startswith("B")]) == len(hoi.BARS) - 4


def test_the_ceiling_is_the_truth_through_the_autoencoder(tmp_path, monkeypatch):
    """With one that halves all contrast; a sample that is there is not made again."""
    fake_records.write(tmp_path / "records")
    calls = []
    monkeypatch.setattr(references.store, "load", lambda *a, **k: ("config", "weights"))
    half = lambda codec, weights, x: (x / 127.5 - 1) / 2  # noqa: E731
    monkeypatch.setattr(references.video, "FrozenVAE", lambda config: config)
    monkeypatch.setattr(references.video, "encode", half)
    monkeypatch.setattr(references.video, "decode", lambda c, w, x: calls.append(w) or x)
    flags = [
        "--row",
        "autoencoder",
        "--records",
        str(tmp_path / "records"),
        "--weights",
        "w",
        "--out",
        str(tmp_path),
    ]
    for _ in range(2):
        assert references.main(flags) == 0
    reader = records.Reader(tmp_path / "records", "test")
    (window,) = reader.windows
    found = samples.read(tmp_path / "samples" / window.id)["video"]
    true = [records.decode(reader.view(window, view)["video"]) for view in window.views]
    assert calls == ["weights"] * len(window.views)
    halved = {"video": (np.stack(true) / 127.5 - 1) / 2}
    np.testing.assert_array_equal(found, samples.to_uint8(halved["video"]))
    assert 0.3 < found.std() / np.stack(true).std() < 0.6


def test_the_warped_row_is_frame_0_moved():
    """Of a view's values alone, in -1..1, frame 0 as it is."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 255, (5, 16, 24, 3), np.uint8)
    mask = np.zeros((5, 16, 24), bool)
    mask[:, 4:9, 4:9] = True
    shown = np.repeat(np.where(mask[..., None], np.uint8(200), np.uint8(0)), 3, -1)
    view = {"video": records.encode(video), "warped": records.encode(shown),
            "mask": controls.pack(mask)}  # fmt: skip
    made = references.warped(view)
    np.testing.assert_allclose(made[0], video[0] / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(made[1:][mask[1:]], 200 / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(made[3][~mask[0]], (video[0] / 127.5 - 1)[~mask[0]], atol=1e-6)


@pytest.mark.slow
def test_the_simulators_road_ends_where_the_records_do(tmp_path):
    """A held-out scene through the files of other programs: the same crop, condition and truth."""
    data, out = tmp_path / "data", tmp_path / "simulated"
    hand.write(data / "mano")
    spec = scene.specify(0, seed=0, held_out=True, course=0)
    scene.write_scene(
        data / "taco", spec, mano.load_hands(data / "mano"), frames=46, size=(48, 64),
        names=scene.THREE, drawn=8.0,
    )  # fmt: skip
    own = clips.Settings(
        size=(32, 48), frames=13, points=64, clusters=1, cameras="first", val=0.0,
        surfaces="none", controls=("points", "das", "image"), cloud=256, provenance="sim",
        held_out_triplets=(spec.triplet,), held_out_actions=("follow",),
    )  # fmt: skip
    prepare.run(recordings.taco_sources(data / "taco", data / "mano"), tmp_path / "records", own)
    flags = {"data": data, "records": tmp_path / "records/32x48", "out": out}
    assert simulated.main([str(x) for k, v in flags.items() for x in (f"--{k}", v)]) == 0
    found = {"records": opened(tmp_path / "records")}
    for name in ("photos", "filmed"):
        prepare.run(recordings.folder_sources(out / name), tmp_path / name, own)
        found[name] = opened(tmp_path / name)
    wanted, cloud, window = found.pop("records")
    for name, (view, points, other) in found.items():
        assert other.id == window.id and other.text == window.text and other.split == "test"
        np.testing.assert_allclose(view["intrinsics"], wanted["intrinsics"], rtol=1e-6)
        moved = records.decode(view["tracking"]) != records.decode(wanted["tracking"])
        assert moved.mean() < 1e-3
        assert np.abs(points.mean(1) - cloud.mean(1)).max() < 0.01  # drawn anew
        video, true = records.decode(view["video"]).astype(int), records.decode(wanted["video"])
        assert other.filmed == (name == "filmed")
        if other.filmed:
            np.testing.assert_array_equal(video, true)
        else:  # no later frame is known
            np.testing.assert_array_equal(video, np.repeat(video[:1], 13, 0))
            assert np.abs(video[0] - true[0]).mean() < 2
    assert not list(out.glob("photos/*/*.mp4"))


def opened(root):
    """The view, the cloud and the window of the one clip of records."""
    reader = records.Reader(root)
    (window,) = reader.windows
    return reader.view(window, window.views[0]), reader.tracks(window)["points"], window
