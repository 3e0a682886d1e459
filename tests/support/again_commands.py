"""The commands of tests/support/again.py, each made small, and what may change between runs."""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import time
from pathlib import Path

import fake_records
import fake_samples
import fakes
import jax.numpy as jnp
import make_scenes
import numpy as np
import prepare_taco
import tiny

from configs import sections as config_sections
from configs import taco as taco_config
from syncmv4d_jax import main
from syncmv4d_jax.data import cache, prepare, user
from syncmv4d_jax.machines.planning import pods
from syncmv4d_jax.results import export, gltf
from syncmv4d_jax.run import assembly, checkpoint, evaluate, inputs, plan
from syncmv4d_jax.tasks import base

# Files that tell of runs, and are no results.
TELLS = (
    r"(^|/)(\.[^/]*|metrics\.jsonl|tensorboard/.*|error\.txt|summary\.json|compiled\.json"
    r"|[^/]*\.tells|report/.*)$"
    r"|\d+x\d+/report\.html$"
)


class Command:
    """One command.

    Attributes:
      lock, root: name of its lock and where that lies, "" without.
      changes: {condition: what `run` is told then}; conditions that are not there make no sense.
      more: a change that asks for new work.
      made: how many pieces of work it has done.
    """

    lock, root, more, dying = "", "", {}, None
    changes: dict = {}

    def __init__(self, home, patch):
        self.home, self.patch, self.made = home, patch, 0
        self.prepare()

    def prepare(self):
        """Makes inputs."""

    def settle(self, out):
        """Waits for what a real kill would have stopped too: threads of this process."""

    def counted(self, owner, name, *, die=0):
        """Counts the calls of a function, and gives what dies in its `die`-th call from now."""
        inner, self._error, self._left = getattr(owner, name), None, 0

        def wrap(*arguments, **options):
            if self._error:
                self._left -= 1
                if not self._left:
                    raise self._error
            self.made += 1
            return inner(*arguments, **options)

        self.patch.setattr(owner, name, wrap)
        if not die:
            return

        @contextlib.contextmanager
        def dying(error):
            self._error, self._left = error, die
            yield
            self._error = None

        self.dying = dying

    def results(self, out: Path) -> dict[str, str]:
        """{name: hash} of the results in a folder."""
        found = {}
        for path in sorted(out.rglob("*")):
            name = path.relative_to(out).as_posix()
            if path.is_file() and not re.search(TELLS, name):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


class Train(Command):
    lock, more = "train", {"steps": 9}
    changes = {
        "other seed": {"seed": 99},
        "other weights": {"weights": "b"},
        "other records": {"records": "a clip fewer"},
        "other size": {"width": 64},
    }

    def prepare(self):
        (self.home / "in").mkdir()
        for name in "ab":
            (self.home / f"in/{name}.safetensors").write_text(name)
        self.patch.setattr(assembly.initial, "weights", lambda *_: SimpleShapes())
        self.counted(fakes.Trouble, "__next__", die=5)

    def run(self, out, *, steps=6, seed=3, width=32, records="clips", weights="a"):
        (self.home / "in/index.json").write_text(records)
        config = fakes.config(steps=steps, checkpoint_every=2, keep=9)
        config.seed, config.mesh = seed, {"data": 2, "sequence": 4}
        config.data.records, config.task.width = str(self.home / "in"), width
        config.weights = {"none": str(self.home / f"in/{weights}.safetensors")}
        main.run(config, out)

    def settle(self, out):
        end = time.time() + 60
        while list((out / "checkpoints").glob("*.orbax-checkpoint-tmp")):
            assert time.time() < end, "a save does not end"
            time.sleep(0.05)

    def results(self, out):
        marks = {p.name: checkpoint.meta(p) for p in (out / "checkpoints").glob("[0-9]*")}
        return {name: json.dumps(meta["fingerprints"]) for name, meta in marks.items()}


class SimpleShapes:
    """Weights without a leaf."""

    shapes: dict = {}


class Grey:
    """A task that gives grey videos."""

    name, cameras = "grey", True
    clip = base.Clip(frames=2, size=(16, 32), views=1)
    sampling = base.Sampling("euler", steps=2, shift=1.0, guidance=1.0)

    def init(self, rng):
        return {"dit": {"a": jnp.zeros((2,))}}

    def encode(self, params, pixels):
        return pixels.astype(jnp.float32)

    def decode(self, params, sample):
        return dataclasses.replace(sample, pixels=sample.latents)

    def sample(self, params, given, rng, *, progress):
        progress(2, 2)
        return base.Sample(jnp.zeros((1, 1, 2, 16, 32, 3)))


class Sample(Command):
    lock, more = "sample", {"seed": 7}
    changes = {
        "other seed": {"seed": 7},
        "other prompt": {"prompt": "a cat sleeps"},
        "other weights": {"weights": 1.0},
        "other records": {"image": 255},
        "other size": {"points": 8},
    }

    def prepare(self):
        self.counted(Grey, "sample", die=2)

    def run(self, out, *, seed=0, prompt="a cat runs", weights=0.0, image=0, points=4):
        config = config_sections.base().unlock()
        config.mode, config.sample.seed, config.task = "sample", seed, {"points": points}
        given = {
            "text": np.ones((4, 8), np.float32), "prompt": prompt,
            "images": np.full((1, 16, 32, 3), image, np.uint8),
        }  # fmt: skip
        self.patch.setattr(assembly, "task", lambda *_: Grey())
        self.patch.setattr(inputs, "of_config", lambda *_: [("cat", given), ("dog", given)])
        params = {"dit": {"a": jnp.full((2,), weights)}}
        self.patch.setattr(assembly, "load_params", lambda *_: params)
        main.run(config, out)


class Evaluate(Command):
    lock = "evaluate"
    changes = {"other weights": {"weights": "b"}, "other records": {"first": 1}}

    def prepare(self):
        self.first = 0
        self.patch.setattr(main, "MODES", {"evaluate": "again_commands:evaluated"})
        self.patch.setattr(fakes, "truths", self.truths, raising=False)
        self.counted(evaluate.report, "write", die=1)

    def truths(self, settings, split):
        for i in range(2):
            yield f"scene-{i}", fake_samples.truth(self.first + i)

    def run(self, out, *, weights="a", first=0):
        self.first = first
        for i in range(2):
            if weights != "a" or not (out / f"samples/scene-{i}").is_dir():
                meta = {"recipe": {"weights": weights if i else "a"}}
                truth = fake_samples.truth(i)
                fake_samples.write(out / "samples", f"scene-{i}", truth, meta=meta)
        config = fake_samples.config()
        config.mode = "evaluate"
        main.run(config, out)

    def results(self, out):
        # The samples' own videos may differ in a bit, as may numbers of them.
        if not (out / "report.html").is_file():
            return {}
        evaluation = json.loads((out / "eval.json").read_text())
        return {"eval.json": json.dumps(evaluation["recipe"])}


def evaluated(config, workdir):
    """`evaluate.run` with truths that are made up."""
    evaluate.run(config, workdir, examples=fakes.truths)


class Plan(Command):
    lock, more = "plan", {"ema": 0.0}
    changes = {
        "other seed": {"seed": 99},
        "other weights": {"weights": "a/b"},
        "other records": {"records": "a/b"},
        "other size": {"ema": 0.0},
    }

    def prepare(self):
        chip = pods.Chip(8 * 2**30, 1e12, 1e11, 1e10)
        self.patch.setitem(pods.CHIPS, "cpu", chip)
        self.patch.setattr(plan.plan_report, "show", lambda rows: str(len(rows)))
        done = {"kind": "whole", "fits": True, "compile_s": 1.0}
        self.patch.setattr(plan, "_compiled", lambda *given: given[-1] | done)
        self.counted(plan, "_compiled", die=2)

    def run(self, out, *, seed=0, weights="", records="", ema=0.999):
        config = taco_config.get_config("debug").unlock()
        config.mode, config.seed, config.optim.ema = "plan", seed, ema
        config.data.records, config.weights.vae = records, weights
        config.plan.update({"topologies": ("local",), "mesh": (1, 4, 1, 2), "compiled": 1})
        config.plan.entries = ("mjd_step", "sample_step")
        main.run(config, out)

    def results(self, out):
        path = out / "plan.json"
        rows = json.loads(path.read_text())["entries"] if path.is_file() else []
        return {str(plan.key(row)): json.dumps(row) for row in rows}


class Prepare(Command):
    lock, root, more = "prepare", "32x48", {"text": "another"}
    changes = {
        "other seed": {"seed": 99},
        "other prompt": {"text": "a person pours"},
        "other records": {"mended": True},
        "other size": {"size": "48x64"},
    }

    def prepare(self):
        for name in "ab":
            tiny.write(self.home / "in", name, frames=6, views=3)
        self.counted(prepare, "prepare_sequence", die=2)

    def run(self, out, *, seed=0, text="{action} {tool} {target}", mended=False, size="32x48"):
        path = self.home / "in/a/cameras.json"
        if mended:
            rig = json.loads(path.read_text())
            next(iter(rig.values()))["T"][2] += 0.01
            path.write_text(json.dumps(rig))
        told = {"folder": self.home / "in", "out": out, "size": size, "frames": 5, "fps": 15,
                "points": 24, "val": 0, "jobs": 1, "seed": seed, "text": text}  # fmt: skip
        assert not prepare_taco.main([f"--{key}={value}" for key, value in told.items()])


class Cache(Command):
    lock, root, more = "cache-0-of-1", "16x24", {}
    changes = {"other weights": {"weights": "vae:9"}, "other records": {"sequences": 3}}

    def prepare(self):
        self.patch.setattr(cache, "coded", lambda video: np.ones((2, 1, 1, 4)), raising=False)
        self.counted(cache, "coded", die=20)

    def run(self, out, *, weights="vae:1", sequences=2):
        shutil.rmtree(self.home / "in", ignore_errors=True)
        root = fake_records.write(self.home / "in", sequences=sequences)
        texts = lambda b: (np.ones((len(b), 4, 8), np.float32), np.full(len(b), 2))  # noqa: E731
        clip = lambda video: cache.coded(video)  # noqa: E731
        cache.run(root, out, encode_video=clip, encode_text=texts, weights_hash=weights)


class Scenes(Command):
    lock, more = "scenes", {"seed": 9}
    changes = {
        "other seed": {"seed": 9},
        "other records": {"cameras": "three"},
        "other size": {"size": "48x64"},
    }

    def prepare(self):
        self.patch.setattr(make_scenes.multiprocessing, "get_context", lambda _: Inline())
        self.counted(make_scenes, "one", die=2)

    def run(self, out, *, seed=0, cameras="3", size="36x48"):
        told = {"out": out, "scenes": 2, "frames": 2, "jobs": 1, "seed": seed, "size": size}
        make_scenes.main([f"--{k}={value}" for k, value in told.items()] + [f"--cameras={cameras}"])


class Inline:
    """A pool that works here."""

    def Pool(self, count):  # noqa: N802 - the name of multiprocessing
        return contextlib.nullcontext(self)

    def imap_unordered(self, work, todo):
        return map(work, todo)


class Extract(Command):
    changes = {"other records": {}, "other size": {}}

    def prepare(self):
        tiny.write(self.home / "in", "a", frames=3, views=2)
        self.counted(user.Image, "fromarray", die=2)

    def run(self, out):
        folder = self.home / "in/a"
        user.from_videos(folder, folder / "cameras.json", out / "views")


class Export(Command):
    changes = {"other prompt": {"first": 1}, "other weights": {"first": 1}}

    def prepare(self):
        self.counted(gltf, "write")

    def run(self, out, *, first=0):
        fake_samples.write(self.home / "in", "a", fake_samples.truth(first))
        export.write("glb", self.home / "in/a", out / "a.glb")


COMMANDS = {
    "main, mode=train": Train,
    "main, mode=sample": Sample,
    "main, mode=evaluate": Evaluate,
    "main, mode=plan": Plan,
    "prepare_taco.py": Prepare,
    "cache_latents.py": Cache,
    "make_scenes.py": Scenes,
    "extract_frames.py": Extract,
    "view --export": Export,
}
