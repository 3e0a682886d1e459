"""From files to results at `:debug` sizes, with weights from a seed: SyncMV4D from one image, and
its samples along camera paths. What comes out means nothing; every file is what its reader wants.
"""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from configs import strag, taco, vism
from syncmv4d_jax import main
from syncmv4d_jax.data import records
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import assembly, embedded
from syncmv4d_jax.weights import exports

pytestmark = pytest.mark.slow


def unlocked(module):
    return module.get_config("debug").copy_and_resolve_references().unlock()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, {name: configuration}) with records, texts and weights of all three tasks."""
    root, found = tmp_path_factory.mktemp("limits"), {}
    for name, module in (("vism", vism), ("taco", taco), ("strag", strag)):
        config = unlocked(module)
        if name == "vism":
            embedded.ensure(config, root)
            data = config
        config.data.name, config.data.records = "taco", data.data.records
        config.data.cache, config.data.fields = data.data.cache, ("flow",)
        config.text, config.weights.vae = data.text, data.weights.vae
        params = assembly.task(config).init(jax.random.key(0))
        own = {part: leaves for part, leaves in params.items() if part != "vae"}
        path = root / f"{name}.safetensors"
        exports.write(own, path, metadata={"config": json.loads(config.to_json())})
        for part in own:
            config.weights[part] = str(path)
        found[name] = config
    return root, found


def run(config, workdir, **changes):
    own = config.copy_and_resolve_references()
    for key, value in changes.items():
        section, _, name = key.partition("_")
        if name:
            own[section][name] = value
        else:
            own[section] = value
    main.run(own, workdir)


def one_image(root, config):
    """A first frame of the records with its depth and lens, as a user has them."""
    reader = records.Reader(config.data.records, "test")
    window = reader.windows[0]
    view = reader.view(window, window.views[1])
    Image.fromarray(records.decode_first(view["video"])).save(root / "one.png")
    np.savez(root / "one.npz", depth=view["depth0"], intrinsics=view["intrinsics"])
    return {"sample_images": str(root / "one.png"), "sample_depth": str(root / "one.npz"),
            "sample_prompt": "A person pours water."}  # fmt: skip


def test_one_image_and_its_depth_become_all_views_and_tracks(made):
    root, configs = made
    given = one_image(root, configs["taco"])
    run(configs["taco"], root / "one", mode="sample", sample_rig="taco",
        sample_synthesis=str(root / "vism.safetensors"), **given)  # fmt: skip
    found = samples.read(root / "one/samples/one")
    assert found["video"].shape == (3, 5, 32, 48, 3) and found["tracks"].shape[0] == 5
    assert found["intrinsics"].shape == (3, 3, 3) and found["meta"]["prompt"]


def test_records_are_sampled_from_one_image_and_from_plain_points(made):
    root, configs = made
    for references in ("drawn", "points"):
        workdir = root / references
        run(configs["taco"], workdir, mode="sample", sample_references=references,
            sample_synthesis=str(root / "vism.safetensors"))  # fmt: skip
        run(configs["taco"], workdir, mode="evaluate")
        evaluation = json.loads((workdir / "eval.json").read_text())
        assert {"mv_rpe", "psnr"} <= evaluation["rows"]["model"].keys()
        (path,) = samples.find(workdir / "samples").values()
        assert samples.read(path)["meta"]["references"] == references


def test_a_finished_sample_is_seen_along_a_path_and_judged_by_the_true_camera(made):
    root, configs = made
    run(configs["taco"], root / "given", mode="sample")
    window = records.Reader(configs["vism"].data.records, "test").windows[0]
    sources = {"sample_sources": str(root / "given/samples")}
    run(configs["vism"], root / "orbit", mode="sample", sample_camera_path="orbit:10", **sources)
    found = samples.read(root / "orbit/samples" / window.id)
    assert found["path_extrinsics"].shape == (1, 5, 3, 4) and found["render"].shape[0] == 1
    path = f"record:{window.views[0].serial}"
    run(configs["vism"], root / "own", mode="sample", sample_camera_path=path, **sources)
    run(configs["vism"], root / "own", mode="evaluate")
    evaluation = json.loads((root / "own/eval.json").read_text())
    assert "own_view_correlation" in evaluation["rows"]["model"]
    assert evaluation["checks"][-1]["name"].startswith("E1")


def test_true_points_and_generated_ones_reach_their_bars(made):
    root, configs = made
    run(configs["vism"], root / "points", mode="sample")
    run(configs["vism"], root / "points", mode="evaluate")
    evaluation = json.loads((root / "points/eval.json").read_text())
    rows = evaluation["rows"]
    assert {"splat", "fill_telea", "fill_blur", "autoencoder", "model"} <= set(rows)
    assert rows["model"]["psnr_hole"]["n"] == 1 and rows["autoencoder"]["psnr_seen"]["n"] == 1
    run(configs["strag"], root / "flow", mode="sample", sample_camera_path="static",
        sample_synthesis=str(root / "vism.safetensors"))  # fmt: skip
    run(configs["strag"], root / "flow", mode="evaluate")
    evaluation = json.loads((root / "flow/eval.json").read_text())
    assert {"codec", "held", "mean_path", "nearest", "model"} <= set(evaluation["rows"])
    assert {"flow_epe_mm", "own_view_correlation", "error_mm"} <= set(evaluation["rows"]["model"])
    names = [check["name"][:2] for check in evaluation["checks"]]
    assert names[0] == "C1" and names[-1] == "E1" and len(names) == 16
