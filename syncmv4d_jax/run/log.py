"""Where metrics go: metrics.jsonl, TensorBoard through clu, a progress bar, wandb if asked for.

clu.metric_writers imports TensorFlow only for its summary writer. Where TensorFlow is absent (the
base install), `clu_writer` first registers a summary writer on TensorBoard's own event file writer
in its place, so that clu's interface is the one the loop sees either way.
"""

import importlib
import importlib.util
import io
import logging
import sys
import time
import types
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
from PIL import Image

from syncmv4d_jax.machines.planning import pods
from syncmv4d_jax.results import curves

log = logging.getLogger(__name__)


class EventWriter:
    """Scalars and images to a TensorBoard event file, with the methods clu's wrapper calls."""

    def __init__(self, logdir: str | Path) -> None:
        from tensorboard.summary.writer import event_file_writer

        self._file = event_file_writer.EventFileWriter(str(logdir))

    def _add(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        summary = summary_pb2.Summary(value=values)
        self._file.add_event(
            event_pb2.Event(wall_time=time.time(), step=int(step), summary=summary)
        )

    def start(self, step: int) -> None:
        """Marks a (re)start: TensorBoard hides what earlier files hold from `step` on."""
        from tensorboard.compat.proto import event_pb2

        log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._file.add_event(
            event_pb2.Event(wall_time=time.time(), step=int(step), session_log=log)
        )

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto import summary_pb2

        values = [
            summary_pb2.Summary.Value(tag=key, simple_value=float(x)) for key, x in scalars.items()
        ]
        self._add(step, values)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """images: [b h w 3] uint8 or float in 0..1, by tag."""
        from tensorboard.compat.proto import summary_pb2

        values = []
        for tag, batch in images.items():
            for index, picture in enumerate(np.asarray(batch)):
                png = io.BytesIO()
                pixels = picture if picture.dtype == np.uint8 else np.round(picture * 255)
                Image.fromarray(pixels.astype(np.uint8)).save(png, format="png")
                image = summary_pb2.Summary.Image(
                    height=picture.shape[0],
                    width=picture.shape[1],
                    colorspace=picture.shape[2],
                    encoded_image_string=png.getvalue(),
                )
                name = tag if len(batch) == 1 else f"{tag}/{index}"
                values.append(summary_pb2.Summary.Value(tag=name, image=image))
        self._add(step, values)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def clu_writer(logdir: str | Path, *, first_step: int) -> Any:
    """Returns a clu.metric_writers.MetricWriter on `logdir` that needs no TensorFlow."""
    Path(logdir).mkdir(parents=True, exist_ok=True)
    name = "clu.metric_writers.tf"
    if importlib.util.find_spec("tensorflow") is None and name not in sys.modules:
        package, leaf = types.ModuleType(name), types.ModuleType(f"{name}.summary_writer")
        vars(leaf)["SummaryWriter"] = EventWriter
        vars(package).update(__path__=[], summary_writer=leaf)
        sys.modules[name], sys.modules[f"{name}.summary_writer"] = package, leaf
    from clu import metric_writers

    marker = EventWriter(logdir)
    marker.start(first_step)
    marker.close()
    return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(logdir)))


class Wandb:
    """The same rows in Weights & Biases; `pip install wandb`, WANDB_MODE=offline without network.

    Args:
      project: name of the project.
      workdir: holds wandb/ and the run's id, so that a run that starts again goes on as one.

    Raises:
      ValueError: wandb is not installed.
    """

    def __init__(self, project: str, workdir: str | Path) -> None:
        try:
            self._wandb = importlib.import_module("wandb")
        except ModuleNotFoundError as error:
            raise ValueError(
                f"config.train.wandb={project!r} wants the package wandb: pip install wandb"
            ) from error
        identity = Path(workdir) / "wandb_id"
        if not identity.exists():
            identity.write_text(uuid.uuid4().hex[:12])
        self._run = self._wandb.init(
            project=project, dir=str(workdir), id=identity.read_text().strip(), resume="allow"
        )

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Logs one row; steps that the run has already are dropped by wandb."""
        self._run.log(dict(row), step=step)

    def picture(self, step: int, pixels: np.ndarray) -> None:
        """pixels: [h w 3] uint8."""
        self._run.log({"sample": self._wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        self._run.finish()


def progress(total: int, *, initial: int, name: str, quiet: bool) -> tqdm.tqdm:
    """Returns a progress bar with the time left; a line every 10 s where there is no terminal."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm.tqdm(
        total=total, initial=initial, desc=name, disable=quiet, mininterval=interval, unit="step"
    )


class Metrics:
    """One line a logged step to metrics.jsonl and TensorBoard (process 0), and the progress bar.

    Args:
      workdir: holds metrics.jsonl and tensorboard/.
      stage: name, "" where there is one stage.
      offset: steps of earlier stages; steps on disk are counted over all stages.
      start: the step training goes on from.
      steps: the stage's last step.
      wandb: project, "" = off.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        stage: str,
        offset: int,
        start: int,
        steps: int,
        wandb: str = "",
    ) -> None:
        self.workdir, self.stage = Path(workdir), stage
        self.offset, self.start, self.steps = offset, start, steps
        self.first, self._project = jax.process_index() == 0, wandb

    def __enter__(self) -> "Metrics":
        name = self.stage or "train"
        self._bar = progress(self.steps, initial=self.start, name=name, quiet=not self.first)
        if self.first:
            done = self.offset + self.start
            self._jsonl = curves.Jsonl(self.workdir / "metrics.jsonl", last_step=done)
            self._board = clu_writer(self.workdir / "tensorboard", first_step=done + 1)
            self._wandb = Wandb(self._project, self.workdir) if self._project else None
        self._since: tuple[float, int] | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self.first:
            self._jsonl.close()
            self._close_board()
            if self._wandb:
                self._wandb.close()

    def _close_board(self) -> None:
        try:
            if self._board is not None:
                self._board.close()
        except Exception as error:  # noqa: BLE001 - as below
            log.warning("tensorboard: %s", error)

    def _on_board(self, step: int, write: Callable[[Any], Any]) -> None:
        """Writes to TensorBoard; what cannot be written is told and lost, training goes on."""
        try:
            if self._board is None:
                self._board = clu_writer(self.workdir / "tensorboard", first_step=step)
            write(self._board)
            self._board.flush()
        except Exception as error:  # noqa: BLE001 - clu's and TensorBoard's threads raise many kinds
            log.warning("tensorboard: %s; training goes on", error)
            self._board = None

    def picture(self, step: int, pixels: np.ndarray) -> None:
        """Shows a sample's picture [h w 3] uint8: TensorBoard and `pictures/<step>.png`."""
        if self.first:
            place = self.offset + step
            folder = self.workdir / "pictures"
            folder.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{place:08d}.png")
            images = {"sample": pixels[None]}
            self._on_board(place, lambda board: board.write_images(place, images))
            if self._wandb:
                self._wandb.picture(self.offset + step, pixels)

    def until(self, steps: int) -> None:
        """Sets the stage's last step, for the bar, where it is planned on the way."""
        self._bar.total = steps

    def tick(self, done: jax.Array) -> None:
        """Counts a step; the clock starts when the first one, which compiles, is `done`."""
        if self._since is None:
            done.block_until_ready()
            self._since = time.perf_counter(), self._bar.n + 1
        self._bar.update(1)

    def write(self, step: int, scalars: Mapping[str, float], cost: Mapping[str, float]) -> None:
        """Writes one logged step; `cost` has tokens and flops of one step, where known."""
        at = self.offset + step
        row: dict[str, Any] = {
            "step": at,
            "stage": self.stage,
            **scalars,
            **self._speed(step, cost),
        }
        self._bar.set_postfix(loss=f"{scalars['loss']:.4g}", refresh=False)
        if self.first:
            self._jsonl.write(row)
            numbers = {k: x for k, x in row.items() if isinstance(x, float | int) and k != "step"}
            self._on_board(at, lambda board: board.write_scalars(at, numbers))
            if self._wandb:
                self._wandb.write(at, numbers)

    def _speed(self, step: int, cost: Mapping[str, float]) -> dict[str, float]:
        if self._since is None or step <= self._since[1]:
            return {}
        seconds = (time.perf_counter() - self._since[0]) / (step - self._since[1])
        self._since = time.perf_counter(), step
        speed = {"seconds_per_step": seconds}
        if "tokens" in cost:
            speed["tokens_per_second"] = cost["tokens"] / seconds
        if "flops" in cost:
            rate, chip = cost["flops"] / seconds, pods.known(jax.devices()[0].device_kind)
            speed["tflops_per_second"] = rate / 1e12
            if chip:
                speed["mfu"] = rate / (chip.flops * jax.device_count())
        return speed
