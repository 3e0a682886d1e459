"""The stages of `make demo-more4d` name what is there; its page shows every path."""

import importlib
import itertools
import json
import re

import numpy as np
import pytest

from configs import flow_codec, strag, vism
from demo import more4d as demo
from demo import more4d_ablations as ablations
from syncmv4d_jax import configuration
from syncmv4d_jax.data import records
from syncmv4d_jax.results import samples


@pytest.mark.parametrize(("flags", "count"), [([], 9), (["--short"], 9), (["--fresh"], 10)])
def test_every_stage_has_flags_and_keys_that_there_are(flags, count, tmp_path):
    stages = demo.stages(demo.parse([*flags, "--out", str(tmp_path)]))
    scripts = [command for _, command in stages if str(command[0]).startswith("data_prep/")]
    for script, *words in scripts:
        module = importlib.import_module(script.removeprefix("data_prep/").removesuffix(".py"))
        assert callable(module.main)
        if hasattr(module, "parse"):
            assert module.parse([str(word) for word in words])
    runs = [[str(word) for word in command] for _, command in stages if command[0] == "-m"]
    assert len(runs) == count and not [x for run in runs for x in configuration.unknown_keys(run)]
    named = {re.search(r"configs/(\w+)", word).group(1) for run in runs for word in run
             if "--config=" in word}  # fmt: skip
    assert named == {"vism", "strag"} | ({"flow_codec"} if count == 10 else set())


def test_what_is_shipped_is_trained_on_unless_all_is_to_be_trained(tmp_path):
    """Both trainings start from the widened files; fresh ones from one view of the demo's MJD."""
    for flags, files in (([], ("vism", "strag")), (["--fresh"], ("model", "model"))):
        stages = dict(demo.stages(demo.parse([*flags, "--out", str(tmp_path)])))
        for title, file in zip(("ViSM", "STraG"), files, strict=True):
            starts = [x for x in map(str, stages[title]) if x.startswith("--config.weights.dit=")]
            assert [x.endswith(f"/{file}.safetensors") for x in starts] == [True]
    with pytest.raises(SystemExit):
        demo.parse(["--short", "--fresh"])


def test_the_records_have_what_the_configurations_want(tmp_path):
    stages = dict(demo.stages(demo.parse(["--out", str(tmp_path)])))
    prepare = [str(word) for word in stages["records with the flow of frame 0's pixels"]]
    flags = dict(itertools.pairwise(prepare))
    for config in (flow_codec, strag, vism):
        task = config.get_config("demo").task
        assert "x".join(map(str, task.size)) == flags["--size"]
        assert task.frames == int(flags["--frames"])
        assert task.get("points", 0) <= int(flags["--points"])
        assert task.get("gain", demo.GAIN) == demo.GAIN


def pose(x):
    found = np.eye(3, 4, dtype=np.float32)
    found[0, 3] = x
    return found


LENS = np.array([[20.0, 0, 12], [0, 20, 8], [0, 0, 1]], np.float32)
ORBIT = np.stack([pose(0.1 * n) for n in range(5)])


def write_records(folder):
    """One clip of a camera that stands and one that moves."""
    views = [
        {"video": records.encode(np.full((5, 16, 24, 3), grey, np.uint8)), "intrinsics": LENS,
         "extrinsics": poses}
        for grey, poses in ((50, pose(0.0)), (90, ORBIT))
    ]  # fmt: skip
    records.write_file(folder / "sequences/a.array_record", [{}, *views])
    window = {
        "id": "a-0", "sequence": "a", "triplet": ["", "", ""], "split": "test", "text": "x",
        "file": "sequences/a.array_record", "record": 0,
        "views": [{"record": 1, "serial": "c0", "cluster": 0},
                  {"record": 2, "serial": "orbit", "cluster": 3}],
    }  # fmt: skip
    records.write_json(folder / "settings.json", {"size": [16, 24]})
    records.write_json(folder / "sequences/a.json", {"windows": [window]})
    records.gather_index(folder)


def write_sample(path, **meta):
    """What was made of points, for the camera that moves and for one that no record has."""
    clips = {key: np.zeros((2, 5, 16, 24, 3)) for key in ("video", "render", "holes")}
    clips |= {"drawn": np.zeros((2, 5, 16, 24, 3), np.uint8)}
    covered = np.ones((2, 5, 16, 24), bool)
    covered[0, :, :4] = False
    clips |= {"covered": covered, "path_intrinsics": np.tile(LENS, (2, 5, 1, 1)),
              "path_extrinsics": np.stack([ORBIT, ORBIT + pose(9.0)])}  # fmt: skip
    samples.write(path, clips, {}, {"fps": 8, **meta})


def test_the_page_has_points_holes_result_and_truth(tmp_path):
    for kept in ("records", "single/records"):
        write_records(tmp_path / kept / demo.SIZE)
    write_sample(tmp_path / "samples/a-0_path", camera_path="orbit", source="a-0")
    write_sample(tmp_path / "vism/samples/a-0")
    plain = {"video": np.zeros((1, 5, 16, 24, 3))}
    samples.write(tmp_path / "samples/a-0", plain, {}, {"fps": 8})
    text = demo.page(tmp_path).read_text()
    assert text.count("<video") == 2 * (4 + 3) and text.count("true camera") == 2
    assert text.count("points, 75% covered") == 2 and text.count("<polyline") == 4
    assert "orbit" in text and "the record" in text


def test_the_page_says_of_every_bar_whether_it_is_met(tmp_path):
    for kept in ("records", "single/records"):
        write_records(tmp_path / kept / demo.SIZE)
    one = {"wanted": "<= 2", "value": 1.0, "se": 0.1, "n": 16, "clusters": 8}
    checks = [
        one | {"name": "S4", "passed": True, "why_not": ""},
        one | {"name": "S1", "passed": False, "why_not": "not reached"},
        one | {"name": "S2", "passed": False, "why_not": "2 of 16 scenes, 2 of 8 triplets"},
        one | {"name": "S3", "value": None, "passed": False, "why_not": "not shown: no values"},
    ]  # fmt: skip
    cell = {"value": 12.5, "se": 1.5}
    rows = {"model": {"flow_epe_mm": cell, "psnr": cell}, "truth": {"psnr": cell}}
    (tmp_path / "eval.json").write_text(json.dumps({"checks": checks, "rows": rows}))
    text = demo.page(tmp_path).read_text()
    told = re.findall(r"<tr><td>(S\d)</td>.*?<td>([^<]*)</td></tr>", text)
    assert dict(told) == {
        "S4": "met", "S1": "not met", "S2": "not shown: 2 of 16 scenes, 2 of 8 triplets",
        "S3": "not shown: no values",
    }  # fmt: skip
    assert "12.5 ± 1.5" in text and "PSNR [" not in text and "<td>truth" not in text


def test_every_row_of_the_ablations_differs_by_its_configuration_alone(tmp_path):
    args = ablations.parse(["--out", str(tmp_path), "--steps", "7"])
    stages = dict(ablations.stages(args))
    runs = [[str(word) for word in command] for command in stages.values() if command[0] == "-m"]
    assert len(runs) == 3 * 7 + 1  # seven rows, and the decoder of one
    assert not [x for run in runs for x in configuration.unknown_keys(run)]
    own = {"no_norm": {"weights.flow_stats", "weights.codec"}, "same_view_pairs": {"data.cache"}}
    for name, system in ablations.SYSTEMS.items():
        told = {row: [str(x) for x in stages[f"{name}: {row}"]] for row in system.rows}
        for row in system.rows[1:]:
            differs = {word.split("=")[0].removeprefix("--config.")
                       for word in set(told[row]) ^ set(told["base"])}  # fmt: skip
            assert differs == {"--config", "--workdir"} | own.get(row, set())
    for script, *words in (c for c in stages.values() if str(c[0]).startswith("data_prep/")):
        module = importlib.import_module(script.removeprefix("data_prep/").removesuffix(".py"))
        assert module.parse([str(word) for word in words])
    few = ablations.parse(["--out", str(tmp_path), "--rows", "no_depth"])
    assert [title for title, _ in ablations.stages(few)][0::3] == ["strag: base", "strag: no_depth"]


def test_rows_are_compared_by_scene_and_triplet():
    metric = "flow_epe_moving_mm"

    def cells(*values):
        return {
            metric: {"value": 0.0, "se": None, "per_sample": dict(zip("abcd", values, strict=True))}
        }

    triplets = {"a": "one", "b": "one", "c": "two", "d": "two"}
    found = {
        "base": {"rows": {"model": cells(10.0, 20.0, 10.0, 20.0)}, "triplets": triplets},
        "no_depth": {"rows": {"model": cells(12.0, 22.0, 14.0, 24.0)}, "triplets": triplets},
    }
    text = ablations.compare(found, ablations.System(("base", "no_depth"), (metric,)))
    assert "| base better than no_depth by | 3 ± 1 |" in text
