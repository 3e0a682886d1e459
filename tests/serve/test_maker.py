"""A job as a call of the pipeline."""

import numpy as np
from PIL import Image

from syncmv4d_jax.serve import maker


def test_draws_are_more_steps_of_the_job_and_not_of_each(tmp_path, monkeypatch):
    calls, told = [], []

    class Pipe:
        def __call__(self, **settings):
            calls.append(settings)
            settings["on_compile"](None)
            for step in [0, 1, 2] * settings["best_of"]:
                settings["callback_on_step_end"](self, step, 0.0, {})

    (tmp_path / "inputs").mkdir()
    (tmp_path / "job.json").write_text('{"cameras": []}')
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "inputs" / "000.png")
    monkeypatch.setattr(maker, "write", lambda *_: None)
    request = {
        "prompt": "a cup", "negative_prompt": "", "num_inference_steps": 3, "guidance_scale": 1.0,
        "seed": 7, "best_of": 2, "switches": {}, "preview": False,
    }  # fmt: skip
    tell = lambda word, **values: told.append(values)  # noqa: E731
    maker.Made(Pipe())(request, tmp_path, tmp_path / "out", tell)
    (call,) = calls
    assert (call["num_inference_steps"], call["best_of"], call["seed"]) == (3, 2, 7)
    assert [x["done"] for x in told if x.get("phase") == "sampling"] == [1, 2, 3, 4, 5, 6]
    assert {x["steps"] for x in told if "steps" in x} == {6}
