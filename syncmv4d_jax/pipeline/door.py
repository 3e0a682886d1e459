"""What all pipelines share: `load`, then a call that goes the way of `--config.mode=sample`."""

import dataclasses
import functools
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from syncmv4d_jax import flow
from syncmv4d_jax.data import reading
from syncmv4d_jax.pipeline import given, result
from syncmv4d_jax.run import assembly, compiling, rig, sample, sections
from syncmv4d_jax.run import inputs as run_inputs
from syncmv4d_jax.tasks import base
from syncmv4d_jax.weights import encoders

Result = result.Result
StepEnd = Callable[["Pipeline", int, float, dict[str, Any]], Any]
Preview = Callable[[int, Result], Any]
Views = Callable[[list[str]], Any]


class Hooks(NamedTuple):
    """What a call tells on the way; see `Pipeline.__call__`."""

    step_end: StepEnd | None
    preview: Preview | None
    compiles: compiling.Told | None
    views: Views
    sheet: Path | None


def say(lines: list[str]) -> None:
    """Prints lines where the bar is."""
    for line in lines:
        tqdm.write(line, file=sys.stderr)


class Pipeline:
    """A configuration with its parameters; `load` makes it, a call samples."""

    config = ""  # where `load` is given none

    def __init__(self, config: ml_collections.ConfigDict, workdir: str | Path = "") -> None:
        """Loads the weights that the configuration names, or that were trained in `workdir`.

        Raises:
          FileNotFoundError: a part is neither named nor trained.
          ValueError: a task that makes no videos, or weights of another architecture.
        """
        self._config = config.copy_and_resolve_references().unlock()
        own = assembly.read(self._config)
        self._mesh = assembly.load_mesh(own)
        task = assembly.task(self._config, self._mesh)
        base.serves(task, base.Sampled, "a pipeline")
        # Without a workdir nothing is looked for: a folder that was just made is empty.
        with tempfile.TemporaryDirectory() as nothing:
            where = Path(workdir or nothing)
            self._origins = assembly.origins(own, where)
            self._params = assembly.load_params(task, own, where, self._mesh)
        self._marks = sample.weight_marks(self._params)
        self._texts: encoders.TextEncoder | None = None
        self._times = compiling.Times(workdir)

    @classmethod
    def load(
        cls,
        weights: str | Path | Mapping[str, str | Path] | None = None,
        config: str | Path | ml_collections.ConfigDict | None = None,
        *,
        workdir: str | Path = "",
    ) -> Self:
        """Loads a pipeline.

        Args:
          weights: a folder of converted weights with all parts, or a path by part, the text
            encoder's as "umt5"; None: as the configuration says.
          config: "configs/X.py[:variant]" or what such a file returns.
          workdir: of a training; its parts come before `weights`.

        Raises:
          FileNotFoundError, ValueError: no such configuration; and as `Pipeline`.
        """
        own = given.own_config(config or cls.config)
        shapes = jax.eval_shape(assembly.task(own).init, jax.random.key(0))
        if weights is not None and not isinstance(weights, Mapping):
            weights = dict.fromkeys([*shapes, "umt5"], weights)
        for part, path in (weights or {}).items():
            if part == "umt5":
                own.text.weights = str(path)
            elif part in shapes:
                own.weights[part] = str(path)
            else:
                raise ValueError(
                    f"weights: no part {part!r}, there are {[*sorted(shapes), 'umt5']}"
                )
        return cls(own, workdir)

    def __call__(
        self,
        images: given.Pictures | given.Lay | None = None,
        prompt: str = "",
        *,
        cameras: given.Rig | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        num_videos: int = 1,
        best_of: int | None = None,
        name: str = "sample",
        switches: Mapping[str, float] | None = None,
        callback_on_step_end: StepEnd | None = None,
        preview: Preview | None = None,
        on_compile: compiling.Told | None = None,
        on_views: Views = say,
        sheet: str | Path | None = None,
    ) -> Any:
        """Makes one sample, or `num_videos` of the seeds seed, seed + 1, ...

        Args:
          images: of all views: in the order of the cameras, or by their names; a folder with
            cameras.json; one image where the task wants one, nothing where it wants none. Files
            are read as sampling reads them; arrays are [h w 3] uint8. Or a function that lays down
            inputs of another kind (`given.Lay`).
          cameras: a file in the form of cameras.json, or what it holds (docs/data.md).
          negative_prompt, num_inference_steps, guidance_scale: None: the configuration's.
          best_of: draws of each, of which the one whose views agree best is given.
          name: of the sample; it is part of the seed.
          switches: of the task (`tasks.base.Switched`), by name.
          callback_on_step_end: called as (pipeline, step, timestep, {}) after a run of steps.
          preview: called as (steps done, `Result` of the clean estimate) on the way, of a task that
            has one; decoding it costs what decoding the sample does.
          on_compile: called, before a sample whose programs are to be compiled, with the seconds
            until its first steps were done when they were compiled last, None where not known.
          on_views: called, before images with cameras are sampled, with the lines that say which
            camera is which view and which are left out.
          sheet: a picture to write then: how the images are cut, where their cameras stand and how
            far their axes miss each other.

        Returns:
          A `Result`, or a list of `num_videos` > 1.

        Raises:
          ValueError: what sampling refuses: wrong sizes, numbers or names of images, cameras that
            are none, an empty prompt; draws to be compared of a task without tracks.
        """
        if num_videos < 1:
            raise ValueError(f"num_videos: wanted at least 1, got {num_videos}")
        reading.prompt(prompt, where="prompt")
        own, task = self._settled(num_inference_steps, guidance_scale, switches or {})
        known = {"negative_prompt": negative_prompt, "best_of": best_of}
        changes: dict[str, Any] = {key: x for key, x in known.items() if x is not None}
        changes |= {"prompt": prompt, "prompts": "", "seed": seed, "name": name}
        changes["seeds"] = tuple(range(seed, seed + num_videos)) if num_videos > 1 else ()
        lay = images if callable(images) else functools.partial(given.views, images, cameras)
        told = None if sheet is None else Path(sheet)
        hooks = Hooks(callback_on_step_end, preview, on_compile, on_views, told)
        found = self._samples(own, task, lay, changes, hooks)
        return found if num_videos > 1 else found[0]

    def _samples(
        self,
        own: sections.Sections,
        task: base.Sampled,
        lay: given.Lay,
        changes: dict[str, Any],
        hooks: Hooks,
    ) -> list[Result]:
        """All samples of a call; changes: of `config.sample`."""
        self._texts = self._texts or encoders.TextEncoder(
            own.text.weights, max_length=own.text.max_length, precision=own.text.precision
        )
        with tempfile.TemporaryDirectory() as folder:
            changes |= lay(Path(folder) / "images", task)
            own = dataclasses.replace(own, sample=dataclasses.replace(own.sample, **changes))
            if lines := rig.show(own.sample.images, task, hooks.sheet):
                hooks.views(lines)
            inputs = run_inputs.of_config(own, task, texts=self._texts)
            return [self._made(own, task, *job, hooks) for job in sample.jobs(own.sample, inputs)]

    def _settled(
        self, steps: int | None, guidance: float | None, switches: Mapping[str, float]
    ) -> tuple[sections.Sections, base.Sampled]:
        """Sections and task with these settings."""
        config, values = self._config.copy_and_resolve_references(), {}
        for word, key, value in (
            ("num_inference_steps", "sample_steps", steps),
            ("guidance_scale", "guidance", guidance),
        ):
            if value is not None:
                if key not in config.task:
                    raise ValueError(f"{word}: config.task has no {key}")
                values[key] = value
        config.task.update(values)
        given.switch(config, switches)
        task = base.serves(assembly.task(config, self._mesh), base.Sampled, "a pipeline")
        return assembly.read(config), task

    def _made(
        self,
        own: sections.Sections,
        task: base.Sampled,
        name: str,
        seed: int,
        arrays: dict[str, Any],
        hooks: Hooks,
    ) -> Result:
        how = task.sampling
        times = np.asarray(flow.schedule(how.sampler, how.steps, shift=how.shift).timestep)
        total = how.steps * own.sample.best_of
        with compiling.Progress(total, self._times, hooks.compiles) as bar:
            bar.start(name, compiling.key(own, task, arrays))

            def progress(done: int, steps: int) -> None:
                del steps
                bar.advance(done)
                if hooks.step_end is not None:
                    step = (done - 1) % how.steps
                    hooks.step_end(self, step, float(times[step]), {})

            def look(done: int, estimate: base.Sample) -> None:
                assert hooks.preview is not None  # else this is not called
                found = sample.shown(task.decode(self._params, estimate))
                hooks.preview(done, Result(found, arrays, {"id": name, "fps": own.data.fps}))

            made, meta = sample.make(
                own, task, self._params, name, seed, arrays,
                progress=progress, look=look if hooks.preview is not None else None,
            )  # fmt: skip
        made_from = sample.shared_recipe(own, task, self._marks)
        meta |= {
            "weights": self._origins,
            "command": self._command(),
            "recipe": made_from | sample.own_recipe(own, name, seed, arrays),
        }
        return self._followed(own, task, Result(made, arrays, meta), seed)

    def _command(self) -> str:
        """What meta.json says that made a sample."""
        return f"{type(self).__module__}.{type(self).__qualname__}"

    def _followed(
        self, own: sections.Sections, task: base.Sampled, found: Result, seed: int
    ) -> Result:
        """The result with what this pipeline makes of it besides: here, nothing."""
        del own, task, seed
        return found
