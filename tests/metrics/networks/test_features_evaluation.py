"""Network metrics of samples: tiny networks in the true ones' place, from files to the tables."""

import json
import types

import fake_samples
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from syncmv4d_jax.metrics.networks import evaluators, weights
from syncmv4d_jax.metrics.networks.features import batches, matcher, raft, vit
from syncmv4d_jax.models import lpips
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.run import evaluate
from syncmv4d_jax.weights import engine, files, torch_writer
from syncmv4d_jax.weights.tables import features

CONFIGS = {
    "dino": (vit.ViT, vit.ViTConfig(dim=16, layers=1, heads=2, patch=32)),
    "clip": (vit.ViT, vit.ViTConfig(dim=16, layers=1, heads=2, patch=16, image=32, clip=True,
                                    projection=8)),
    "lpips_alex": (lpips.LPIPS, lpips.LPIPSConfig(((3, 2, 1, 4, 0, True),
                                                   (3, 1, 1, 6, 2, True)))),
}  # fmt: skip


class Colours(nnx.Module):
    """Stands for Inception and I3D: ten functions of a frame's mean colour."""

    def __init__(self, config, *, rngs):
        del config
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (3, 10)))

    def __call__(self, x):
        """x: [b ... 3] -> [b 10]."""
        mean = x.astype(jnp.float32).mean(tuple(range(1, x.ndim - 1)))
        return jnp.sin(mean @ self.kernel[...])


class Flow(nnx.Module):
    """Stands for RAFT: a flow as long as the images differ."""

    def __init__(self, config, *, rngs):
        del config, rngs
        self.gain = nnx.Param(jnp.ones(()))

    def __call__(self, a, b):
        """a, b: [b h w 3] -> [b h w 2]."""
        change = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).mean(-1)
        return self.gain[...] * jnp.stack([change, 0 * change], -1)


CONFIGS |= {"inception": (Colours, 0), "i3d": (Colours, 0), "raft": (Flow, 0)}


def parameters(model, config):
    """Random, also where a layer begins at zero or one."""
    leaves = module.shapes(model, config)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), leaves)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """tiny(names): settings under which these networks are there, small."""

    def load(name, folder):
        network = types.SimpleNamespace(config=CONFIGS[name][1], source="somewhere")
        params = parameters(*CONFIGS[name])
        bind = lambda p: module.bind(*CONFIGS[name], p)  # noqa: E731
        return types.SimpleNamespace(
            network=network, params=params, bind=bind, files={f"{name}.pth": "ab"}, layout="x"
        )

    def there(*names):
        monkeypatch.setattr(weights, "find", lambda name, folder: name in names)
        monkeypatch.setattr(weights, "load", load)
        return settings(features=str(tmp_path))

    return there


def settings(**values):
    return values


def video(frames=17, views=2, size=(40, 56), seed=0, step=3):
    """A noisy square that crosses a wall: [v n h w 3] uint8."""
    rng = np.random.default_rng(seed)
    clip = np.repeat(rng.integers(20, 90, (views, 1, *size, 3)).astype(np.uint8), frames, 1)
    for n in range(frames):
        clip[:, n, 8:24, step * n % 30 : step * n % 30 + 16] = (230, 40 + 5 * n, 120)
    return clip


def evaluated(config, *pairs):
    found = evaluators.run(iter(pairs), count=len(pairs), **config)
    json.dumps(found, allow_nan=False)
    return found


def noisy(clip, seed=1):
    noise = np.random.default_rng(seed).normal(40, 40, clip.shape)
    return np.clip(clip + noise, 0, 255).astype(np.uint8)


def test_distances_are_zero_for_the_truth_and_grow_with_noise(tiny):
    config, true = tiny("inception", "i3d", "lpips_alex"), video()
    same, other = (
        evaluated(config, evaluators.Pair("x", clip, true, 8.0))["rows"]["model"]
        for clip in (true, noisy(true))
    )
    for metric in ("lpips_alex", "lpips_alex_moving", "fid", "fid_moving", "fvd", "fvd_moving"):
        assert same[metric]["value"] == pytest.approx(0, abs=1e-6), metric
        assert abs(other[metric]["value"]) > 1e-4, metric
    assert same["fid"]["n"] == 2 * 16 and same["fvd"]["n"] == 2


def test_similarities_of_views_frames_and_the_truth(tiny):
    true = video()
    clips = {"same": true, "noisy": noisy(true), "frozen": np.repeat(true[:, :1], 17, 1)}
    pairs = [evaluators.Pair(name, clip, true, 8.0) for name, clip in clips.items()]
    one = np.repeat(true[:1], 2, axis=0)
    found = evaluated(tiny("dino", "clip"), *pairs, evaluators.Pair("one", one, one, 8.0))
    model, truth = ({m: cell["per_sample"] for m, cell in found["rows"][row].items()}
                    for row in ("model", "truth"))  # fmt: skip
    assert model["clip_frame"]["same"] == pytest.approx(1)
    assert model["clip_frame"]["noisy"] < 1 - 1e-4 > model["clip_frame"]["frozen"]
    for metric in ("subject_consistency", "clip_v"):
        assert model[metric]["same"] == pytest.approx(truth[metric]["noisy"])
        assert model[metric]["same"] != pytest.approx(model[metric]["noisy"], abs=1e-5)
    assert model["subject_consistency"]["frozen"] == pytest.approx(1)
    assert model["subject_consistency"]["same"] < 1 - 1e-5
    assert model["clip_v"]["one"] == pytest.approx(100)
    assert model["clip_v"]["same"] < 99.999
    assert found["rows"]["model"]["clip_fid"]["value"] > 0


def test_dynamic_degree_looks_at_8_frames_a_second(tiny):
    # By the stand-in a pair's score is the change of the 5% of pixels that change most.
    config, gain = tiny("raft"), abs(float(parameters(Flow, 0)["gain"]))
    frames = np.zeros((1, 12, 128, 128, 3), np.uint8)
    frames[:, 1::2, :20] = 200  # flickers: frames 0, 2, 4, ... are black
    pairs = [evaluators.Pair(str(fps), frames, frames, fps) for fps in (8.0, 16.0)]
    pairs.append(evaluators.Pair("small", frames[:, :, :120], frames[:, :, :120], 8.0))
    pairs.append(evaluators.Pair("one frame", frames[:, :1], frames[:, :1], 8.0))
    model = evaluated(config, *pairs)["rows"]["model"]
    assert model["dynamic_degree"]["per_sample"] == {
        "8.0": 1.0, "16.0": 0.0, "small": None, "one frame": None,
    }  # fmt: skip
    assert model["dynamic_degree"]["n"] == 2 == model["dynamic_degree"]["undefined"]
    assert model["flow_score"]["per_sample"]["8.0"] == pytest.approx(gain * 200, rel=1e-5)
    assert model["flow_score"]["per_sample"]["16.0"] == 0


def test_short_still_small_and_unequal_videos_are_defined(tiny):
    still = np.repeat(video(frames=1, views=1), 5, axis=1)
    cases = {"still": still, "one frame": still[:, :1], "tiny": still[:, :, :2, :2],
             "longer": video(views=1, frames=6)}  # fmt: skip
    pairs = [evaluators.Pair(name, clip, clip, 8.0) for name, clip in cases.items()]
    config = tiny("clip", "lpips_alex", "inception", "i3d")
    model = evaluated(config, *pairs)["rows"]["model"]
    lpips_of = model["lpips_alex"]["per_sample"]
    assert lpips_of["one frame"] is lpips_of["tiny"] is None
    assert abs(lpips_of["still"]) < 1e-9 and abs(lpips_of["longer"]) < 1e-9
    assert [x is None for x in model["lpips_alex_moving"]["per_sample"].values()] == [1, 1, 1, 0]
    assert set(model["clip_v"]["per_sample"].values()) == {None}  # one view
    assert model["clip_frame"]["per_sample"]["one frame"] is None
    assert model["clip_frame"]["per_sample"]["tiny"] == pytest.approx(1)
    assert model["fid"]["n"] == 4 + 0 + 4 + 5 and model["fid_moving"]["n"] == 5
    assert "fvd" not in model  # no 16 frames anywhere


class Blobs:
    """A matcher that finds a match for each bright pixel of both images."""

    name, files, threshold = "blobs 1", {"blobs.bin": "cd"}, 0.5

    def __call__(self, first, second):
        both = np.argwhere((first[..., 0] > 200) & (second[..., 0] > 200)).astype(float)
        confidence = np.where(np.arange(len(both)) % 2, 0.9, 0.1)
        if len(confidence):
            confidence[0] = np.nan
        return matcher.Matches(both, both, confidence)


def test_matching_pixels_of_a_named_matcher():
    clip = video(frames=3, views=3)
    name = f"{__name__}:Blobs"
    found = evaluated(settings(matcher=name), evaluators.Pair("x", clip, clip, 8.0))
    cell = found["rows"]["model"]["matching_pixels"]
    assert cell["value"] == 16 * 16 / 2 and cell["weights"] == Blobs.files
    assert found["rows"]["model"]["matching_pixels_clip"]["value"] == pytest.approx(9 * 0.128)
    assert found["networks"]["computed"]["matcher"]["source"] == "blobs 1"
    assert "matcher" not in found["networks"]["missing"]
    with pytest.raises(ValueError, match=r"points \[k 2\]"):
        matcher.checked(matcher.Matches(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(4)), "x")
    with pytest.raises(ValueError, match="config.evaluate.matcher"):
        evaluated(settings(matcher="nothing"))


def test_evaluate_takes_what_is_there_and_says_what_is_missing(tmp_path, monkeypatch):
    model, config = CONFIGS["lpips_alex"]
    monkeypatch.setattr(features, "ALEX_CONVS", (0, 3))
    network = weights.NETWORKS["lpips_alex"]
    tiny = weights.Network(model, config, "lpips", network.candidates, network.source)
    monkeypatch.setitem(weights.NETWORKS, "lpips_alex", tiny)
    state = engine.to_reference(features.lpips("alex"), parameters(model, config))
    folder = tmp_path / "weights"
    (folder / "lpips").mkdir(parents=True)
    for file, heads in (("alexnet-owt-7be5be79.pth", False), ("lpips/alex.pth", True)):
        own = {k: abs(x) if heads else x for k, x in state.items() if k.startswith("lin") == heads}
        (folder / file).write_bytes(torch_writer.dumps(own))
    scene = fake_samples.truth(0)
    fake_samples.write(tmp_path / "samples", "scene-0", scene)
    wanted = fake_samples.config()
    wanted.evaluate.features = str(folder)
    evaluate.run(wanted, tmp_path, examples=lambda *_: iter([("scene-0", scene)]))
    found = json.loads((tmp_path / "eval.json").read_text())
    cell = found["rows"]["model"]["lpips_alex"]
    assert cell["value"] > 0 and cell["definition"] == "lpips_alex/1" and cell["n"] == 1
    assert cell["weights"]["lpips/alex.pth"] == files.sha256(folder / "lpips/alex.pth")
    assert "no resize" in found["definitions"]["lpips_alex"]["preprocessing"]
    assert found["networks"]["computed"]["lpips_alex"]["layout"] == "alex"
    assert "raft-things.pth" in found["not_computed"]["dynamic_degree"]
    assert "lpips_alex" not in found["not_computed"]
    text = (tmp_path / "eval.md").read_text()
    assert "| LPIPS Alex ↓ |" in text and "dino, not computed: dino_vitbase16" in text
    wanted.evaluate.features = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        evaluate.run(wanted, tmp_path, examples=lambda *_: iter([("scene-0", scene)]))


def test_batches_are_filled_up_and_cut():
    double = batches.Batched(lambda p, x: p * x, jnp.float32(2), size=1)
    for n in (0, 1, 7, 8, 9, 17):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(double(x), 2 * x)


def test_the_lookup_is_linear_sampling_with_zeros_outside():
    rng = np.random.default_rng(0)
    level = rng.normal(size=(1, 2, 2, 5, 6)).astype(np.float32)
    flow = np.array([[[1.25, 0.5], [-9.0, 0.0]], [[0.0, 0.0], [0.0, 2.75]]], np.float32)[None]
    found = np.asarray(jax.jit(raft.lookup)([jnp.asarray(level)], jnp.asarray(flow)))
    wide = np.pad(level, [(0, 0)] * 3 + [(20, 20)] * 2)
    for row, column in np.ndindex(2, 2):
        x, y = flow[0, row, column] + (column, row) + 20
        i, j = int(np.floor(y)), int(np.floor(x))
        fy, fx = y - i, x - j
        image = wide[0, row, column]
        wanted = [
            (1 - fy) * ((1 - fx) * image[i + dy, j + dx] + fx * image[i + dy, j + dx + 1])
            + fy * ((1 - fx) * image[i + dy + 1, j + dx] + fx * image[i + dy + 1, j + dx + 1])
            for dx in range(-4, 5)
            for dy in range(-4, 5)
        ]
        np.testing.assert_allclose(found[0, row, column], wanted, atol=1e-5)


def test_gim_runs_through_vismatch(monkeypatch, tmp_path):
    (tmp_path / "gim_dkm_100h.safetensors").write_bytes(b"x")
    seeds, seen = [], []

    def match(first, second):
        seen.append((first, second))
        points = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
        return {"matched_kpts0": points, "matched_kpts1": points + 1,
                "matched_confidences": np.array([0.9, 0.2])}  # fmt: skip

    def get_matcher(name, *, device, max_num_keypoints):
        assert (name, device, max_num_keypoints) == ("gim-dkm", "cpu", 5000)
        return match

    packages = {
        "vismatch": types.SimpleNamespace(get_matcher=get_matcher, __version__="1.4.0"),
        "huggingface_hub": types.SimpleNamespace(snapshot_download=lambda name: str(tmp_path)),
        "torch": types.SimpleNamespace(manual_seed=seeds.append),
    }
    monkeypatch.setattr(matcher.importlib, "import_module", packages.__getitem__)
    gim = matcher.gim_dkm()
    image = np.full((6, 8, 3), 255, np.uint8)
    assert matcher.checked(gim(image, image), gim.name).tolist() == [0.9, 0.2]
    assert seen[0][0].shape == (3, 6, 8) and seen[0][1].max() == 1 and seeds == [0]
    assert gim.files == {
        "gim_dkm_100h.safetensors": files.sha256(tmp_path / "gim_dkm_100h.safetensors")
    }


def test_gim_without_vismatch_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(matcher.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="pip install vismatch"):
        matcher.gim_dkm()
