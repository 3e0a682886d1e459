"""The stages of `make demo-more4d` name what is there; its page shows every path."""

import importlib
import re

import numpy as np
import pytest

from demo import more4d as demo
from syncmv4d_jax import configuration
from syncmv4d_jax.data import records
from syncmv4d_jax.results import samples


@pytest.mark.parametrize("flags", [[], ["--short"]])
def test_every_stage_has_flags_and_keys_that_there_are(flags, tmp_path):
    stages = demo.stages(demo.parse([*flags, "--out", str(tmp_path)]))
    scripts = [command for _, command in stages if str(command[0]).startswith("data_prep/")]
    for script, *words in scripts:
        module = importlib.import_module(script.removeprefix("data_prep/").removesuffix(".py"))
        assert callable(module.main)
        if hasattr(module, "parse"):
            assert module.parse([str(word) for word in words])
    runs = [[str(word) for word in command] for _, command in stages if command[0] == "-m"]
    assert len(runs) == 5 and not [x for run in runs for x in configuration.unknown_keys(run)]
    named = {re.search(r"configs/(\w+)", word).group(1) for run in runs for word in run
             if "--config=" in word}  # fmt: skip
    assert named == {"flow_codec", "vism", "strag"}


def test_the_page_has_points_holes_result_and_truth(tmp_path):
    folder = tmp_path / "records" / demo.SIZE
    clip = records.encode(np.full((5, 16, 24, 3), 90, np.uint8))
    records.write_file(folder / "sequences/a.array_record", [{}, {"video": clip}])
    window = {
        "id": "a-0", "sequence": "a", "triplet": ["", "", ""], "split": "test", "text": "x",
        "file": "sequences/a.array_record", "record": 0,
        "views": [{"record": 1, "serial": "orbit", "cluster": 3}],
    }  # fmt: skip
    records.write_json(folder / "settings.json", {"size": [16, 24]})
    records.write_json(folder / "sequences/a.json", {"windows": [window]})
    records.gather_index(folder)
    clips = {key: np.zeros((1, 5, 16, 24, 3)) for key in ("video", "render", "holes")}
    meta = {"fps": 8, "camera_path": "orbit", "covered": 0.75}
    samples.write(tmp_path / "samples/a-0_path", clips, {}, meta)
    samples.write(tmp_path / "samples/a-0", clips, {}, meta)
    text = demo.page(tmp_path).read_text()
    assert text.count("<video") == 4 and "true camera" in text and "orbit, 75% covered" in text
