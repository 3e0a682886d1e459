"""The demo's floor, and the weights it ships."""

import json
import re

import numpy as np
import pytest

from configs import demo as configuration
from demo import doors, hvg, more4d, shipped
from demo import make as demo
from syncmv4d_jax import pipeline
from syncmv4d_jax.data.scenes import scene
from syncmv4d_jax.models.nn import quantised
from syncmv4d_jax.run import assembly, checkpoint, evaluate, initial, viewpoints
from syncmv4d_jax.weights import exports

pytestmark = pytest.mark.skipif(not demo.SHIPPED.is_dir(), reason="no weights are shipped")


@pytest.mark.parametrize("variant", configuration.VARIANTS)
def test_the_demo_is_not_smaller_than_agreed(variant):
    task = configuration.get_config(variant).task
    assert task.views == 3 and task.frames >= 13 and task.points >= 256
    assert task.size[0] >= 64 and task.size[1] >= 96
    assert task.dit.layers >= 4 and task.dpa.depth >= 2
    made = assembly.task(configuration.get_config(variant))
    assert made.mjd_config.multi_view and made.mjd_config.joint_motion
    assert made.settings.dpa and made.settings.cycle


@pytest.mark.parametrize("system", list(shipped.SYSTEMS))
def test_shipped_weights_fit_their_configuration(system, tmp_path):
    """All parts are there and of its shapes, and belong to each other."""
    own = shipped.SYSTEMS[system]
    config = pipeline.read_config(own.config).copy_and_resolve_references().unlock()
    given = {part: str(file) for part, file in own.parts.items()}
    config.weights.update(given | {"vae": str(demo.SHIPPED)})
    loaded = assembly.load_params(assembly.task(config), assembly.read(config), tmp_path)
    assert loaded.keys() >= own.parts.keys()
    if own.synthesis is not None:  # on a machine that has nothing of its training
        config.sample.synthesis = str(own.synthesis)
        seen = viewpoints.load(assembly.read(config)).params
        kernels = seen["dit"]["blocks"]["ffn"]["linear_0"]["kernel"]
        held = exports.read(own.synthesis)["dit"]["blocks"]["ffn"]["linear_0"]["kernel"]
        np.testing.assert_array_equal(kernels["values"], held["values"])


def test_what_is_shipped_in_8_bits_is_widened_to_train_from(tmp_path):
    """Control still belongs to its backbone; a file that is there is left alone."""
    out = tmp_path / "wide.safetensors"
    shipped.widen(shipped.SYSTEMS["hvg3d"].parts["control"], out)
    parts = {part: initial.weights(part, out) for part in shipped.SYSTEMS["hvg3d"].parts}
    marks = checkpoint.part_marks({"dit": exports.read(out, "dit")}, ["dit"])
    assert parts["control"].beside == parts["points"].beside == marks
    names = [name for source in parts.values() for name in source.shapes]
    assert names and not [name for name in names if re.search(quantised.LEAVES, name)]
    out.write_bytes(b"own")
    shipped.widen(shipped.SYSTEMS["hvg3d"].parts["control"], out)
    assert out.read_bytes() == b"own"


def test_shipped_weights_are_small():
    size = lambda path: path.stat().st_size  # noqa: E731
    others = []
    for system in ("hvg3d", "more4d"):
        own = shipped.SYSTEMS[system]
        files = {*own.parts.values(), own.synthesis} - {None}
        assert sum(map(size, files)) < 8 * 2**20, system
        others += files
    whole = sum(size(path) for path in demo.SHIPPED.rglob("*") if path.is_file())
    assert whole - sum(map(size, others)) < 16 * 2**20


def scores(tmp_path, **changes):
    """An eval.json of 16 scenes whose model has 10 mm and 18 mm of the mean path."""
    rng = np.random.default_rng(0)
    rows = {"model": {"error_mm": 10.0}, "mean_path": {"error_mm": 18.0}}
    noisy = lambda x: x * (1 + rng.normal(0, 0.01))  # noqa: E731
    found = {str(i): {row: {m: noisy(x) for m, x in cells.items()} for row, cells in rows.items()}
             for i in range(16)}  # fmt: skip
    triplets = {name: f"triplet {int(name) % 8}" for name in found}
    evaluation = evaluate.assemble(found, triplets) | {"triplets": triplets} | changes
    (tmp_path / "eval.json").write_text(json.dumps(evaluation))
    return evaluation


def test_scores_are_judged_anew_before_they_are_shipped(tmp_path):
    evaluation = scores(tmp_path)
    verdicts = {c["name"]: c["passed"] for c in evaluation["checks"]}
    assert verdicts["Error: better than mean_path"] and not all(verdicts.values())
    demo.check_scores(tmp_path / "eval.json")
    polished = [{**c, "passed": True, "why_not": ""} for c in evaluation["checks"]]
    scores(tmp_path, checks=polished)
    with pytest.raises(ValueError, match="not what its scenes' values give"):
        demo.check_scores(tmp_path / "eval.json")
    scores(tmp_path, version=evaluate.VERSION - 1)
    with pytest.raises(ValueError, match="evaluate again"):
        demo.check_scores(tmp_path / "eval.json")


def test_the_demo_says_what_its_weights_were_trained_on():
    """Weights of other scenes are not expected to pass; what is shipped says of which they are."""
    version = json.loads((demo.SHIPPED / "scenes.json").read_text())["version"]
    assert isinstance(version, int)
    checks = [{"name": "x", "passed": True}, {"name": "y", "passed": False}]
    assert "not expected to pass" in demo.footing(scene.VERSION - 1, checks)
    assert "passed 1 of 2 checks (not y) then" in demo.footing(scene.VERSION, checks)
    assert "passed all 1 checks then" in demo.footing(scene.VERSION, checks[:1])


def test_shipping_an_unfinished_training_is_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="make demo-train"):
        demo.ship(tmp_path)
    for system, module in (("hvg3d", hvg), ("more4d", more4d)):
        own = shipped.SYSTEMS[system]
        parts = dict.fromkeys(own.parts, tmp_path / "never.safetensors")
        monkeypatch.setitem(shipped.SYSTEMS, system, own._replace(parts=parts))
        with pytest.raises(FileNotFoundError, match=r"wanted a .safetensors file at .*safetensors"):
            module.main(["--out", str(tmp_path), "--ship"])
        with pytest.raises(FileNotFoundError, match=f"never.safetensors: not there; {own.made_by}"):
            doors.weights(tmp_path, system)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "folder"),
    [
        ([], "out/demo"),
        (["--short"], "out/demo-short"),
        (["--train"], "out/demo-train"),
        (["--ship"], "out/demo-train"),
        (["--short", "--out", "x"], "x"),
    ],
)
def test_each_form_of_the_demo_has_a_folder(flags, folder):
    assert str(demo.parse(flags).out) == folder
