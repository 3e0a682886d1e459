"""What the machinery knows of a model: `Task`, and what a task may serve besides training.

Parameters are one dict of parts, ``{"dit": ..., "dpa": ..., "vae": ...}``. `run/train.py` splits it
once by `Task.trainable`; gradients, optimiser, averages and checkpoints see that half only, the
other half is passed to `loss` as `frozen`. A part keeps its key in every task, so that stages
merge by path.

    Task       init, loss, grow                 train
    Sampled    encode, sample, decode           sample, pictures while training
    Deep       reads_depth, reads_appearance    images with their depth
    Followed   follows_surfaces                 meshes that move
    Hiding     hides_views                      views without a first frame
    Synthesis  fold                             other views of a scene, camera paths
    Rebuilt    rebuild, rebuilt_by              the bound of its latents, beside a sample's scores
    Priced     cost                             tokens/s, TFLOP/s and MFU in the log
    Planned    programs                         plan
    Embedded   embedded                         `:debug` runs that name no data
    Belonging  beside                           hashes of a backbone, kept and compared
    Previewed  watch                            the clean estimate while a sample is made
    Switched   switches                         settings that a call may change
    Compared   compares                         draws of a sample, by their tracks
    Taught     teachers                         parts that only training reads; an average in `loss`
    Judged     judges                           frozen parts that only the loss reads

A task is made whole by `make(config, placement=...)` of its module and does not change afterwards;
with other switches it is another task. `serves` answers a mode that a task does not serve.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, get_type_hints, runtime_checkable

import einops
import jax

from syncmv4d_jax import schema
from syncmv4d_jax.models.nn import protocol

Params = dict[str, Any]
Batch = dict[str, jax.Array]
Scalars = dict[str, jax.Array]
Shapes = Any  # a pytree of jax.ShapeDtypeStruct
Progress = Callable[[int, int], Any]
Look = Callable[[int, "Sample"], Any]
T = TypeVar("T")


@runtime_checkable
class Task(Protocol):
    """A trainable model; `syncmv4d_jax.tasks.<name>.make(config, placement=...)` returns one.

    Attributes:
      name: what `config.task.name` calls it.
      trainable: regex over parameter paths (`re.search`), e.g. ``"^(dit|dpa)/"``.
      frozen_parts: names of the parts that must come from converted weights or from an earlier
        stage (``("vae",)``); the loop refuses to train on their random initial values.
      placement: where arrays live; models get it as their `placement` argument.
    """

    @property
    def name(self) -> str: ...

    @property
    def trainable(self) -> str: ...

    @property
    def frozen_parts(self) -> tuple[str, ...]: ...

    @property
    def placement(self) -> protocol.Placement: ...

    def init(self, rng: jax.Array) -> Params:
        """Returns initial parameters, a dict of parts; runs under jit."""
        ...

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Scalars]:
        """Returns the loss [] float32 and the scalars to log; runs under jit and value_and_grad."""
        ...

    def grow(self, params: Params, given: frozenset[str]) -> Params:
        """Derives parameters that no earlier weights have from those that they have, under jit.

        Args:
          given: paths that came from weights; they stay as they are.
        """
        ...


class Grown:
    """`Task.grow` of a task all of whose parameters are given or drawn."""

    def grow(self, params: Params, given: frozenset[str]) -> Params:
        """Returns `params`: nothing is derived from other weights."""
        del given
        return params


class Clip(NamedTuple):
    """Sizes of what a task samples: video frames, (height, width) in pixels, views."""

    frames: int
    size: tuple[int, int]
    views: int


class Sampling(NamedTuple):
    """How a task samples, as meta.json tells it; `prediction` is "velocity" or "data"."""

    sampler: str
    steps: int
    shift: float
    guidance: float
    prediction: str = "velocity"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sample:
    """What is sampled, the same for every task; None is what a task does not make.

    Attributes:
      latents, motion_latents: [b v f h w c] of the video and of the motion's pseudo video.
      pixels, motion_pixels: [b v n h w 3] in [-1, 1], not clamped; once decoded.
      given: [b v n h w 3] in [-1, 1], a video whose details the pixels take where they agree with
        it (tasks/video.py); given_share: [b v n h w] in 0..1, by how much. None once decoded.
      scale: [b v 2] metres, (nearest, farthest) depth of each view.
      tracks_per_view: [b v n k 3] metres, world frame; confidence: [b v n k] in 0..1.
      anchors: [b v k 2] pixels of the tracks in frame 0; anchor_valid: [b v k] bool;
        anchor_confidence: [b v k] in 0..1; anchor_view: [b k] the view whose pixel was chosen, -1
        where all views' were given.
      coarse: [b v n k 3] metres, what the last generated motion decodes to; coarse_confidence.
      closed_form, network: [b n k 3] metres, the coarse tracks aligned without and with a network.
      reused_steps: [b] sampling steps that did not run the network's blocks.
      flow: [b v n h w 3] where every pixel of frame 0 goes (geometry/flow_map.py); depth0:
        [b v h w] metres, the depth that it was made with.
    """

    latents: jax.Array
    motion_latents: jax.Array | None = None
    pixels: jax.Array | None = None
    motion_pixels: jax.Array | None = None
    given: jax.Array | None = None
    given_share: jax.Array | None = None
    scale: jax.Array | None = None
    tracks_per_view: jax.Array | None = None
    confidence: jax.Array | None = None
    anchors: jax.Array | None = None
    anchor_valid: jax.Array | None = None
    anchor_confidence: jax.Array | None = None
    anchor_view: jax.Array | None = None
    coarse: jax.Array | None = None
    coarse_confidence: jax.Array | None = None
    closed_form: jax.Array | None = None
    network: jax.Array | None = None
    reused_steps: jax.Array | None = None
    flow: jax.Array | None = None
    depth0: jax.Array | None = None


@runtime_checkable
class Sampled(Protocol):
    """A task that makes videos.

    Attributes:
      clip: their sizes.
      cameras: whether inputs must have cameras.
      sampling: how.
    """

    @property
    def clip(self) -> Clip: ...

    @property
    def cameras(self) -> bool: ...

    @property
    def sampling(self) -> Sampling: ...

    def encode(self, params: Params, pixels: jax.Array) -> jax.Array:
        """pixels [b v n h w 3] uint8 -> latents [b v f h w c]; compiled."""
        ...

    def sample(
        self, params: Params, inputs: Batch, rng: jax.Array, *, progress: Progress | None = None
    ) -> Sample:
        """Samples videos; its runs of steps are compiled, it is not to be.

        Args:
          inputs: the keys of schema.CONDITIONS that there are, and `first` [b v 1 h w c], the
            latents of the reference images.
          rng: key.
          progress: called with (steps done, steps) after each run of steps.
        """
        ...

    def decode(self, params: Params, sample: Sample) -> Sample:
        """Returns the sample with the pixels of its latents; compiled."""
        ...


@runtime_checkable
class Previewed(Protocol):
    """A `Sampled` task that shows on the way what it is about to make."""

    def watch(
        self,
        params: Params,
        inputs: Batch,
        rng: jax.Array,
        *,
        progress: Progress | None = None,
        look: Look | None = None,
    ) -> Sample:
        """Returns what `sample` does, the same to the last bit.

        Args:
          look: called with (steps done, the clean estimate, not decoded) now and then.
        """
        ...


class Switch(NamedTuple):
    """A setting of `config.task` that a call may change: `key` below it, from `least` to `most`,
    now `value`; text says in a line what it does. Truth values are a switch that is on or off."""

    name: str
    key: str
    value: float
    least: float
    most: float
    text: str


@runtime_checkable
class Switched(Protocol):
    """A `Sampled` task with settings, beside its steps and guidance, that a call may change."""

    @property
    def switches(self) -> tuple[Switch, ...]: ...


@runtime_checkable
class Compared(Protocol):
    """A `Sampled` task whose draws can be compared by how well their views' tracks agree.

    compares: whether they can, as the task is set: it reads tracks in each of several views.
    """

    @property
    def compares(self) -> bool: ...


def compared(task: Any) -> bool:
    """Whether draws of a task can be compared (`config.sample.best_of`)."""
    return isinstance(task, Compared) and task.compares


@runtime_checkable
class Deep(Protocol):
    """A `Sampled` task whose inputs have the depth of their images, `depth0`; any number of views.

    reads_depth: that it does. reads_appearance: whether it reads features of how the images look
    too (`appearance`).
    """

    @property
    def reads_depth(self) -> bool: ...

    @property
    def reads_appearance(self) -> bool: ...


@runtime_checkable
class Followed(Protocol):
    """A `Sampled` task whose video follows surfaces that move (`config.sample.recording`).

    follows_surfaces: that it does.
    """

    @property
    def follows_surfaces(self) -> bool: ...


@runtime_checkable
class Hiding(Protocol):
    """A `Sampled` task that generates what a view without a reference shows, by the others.

    hides_views: that it does, where its inputs have `hidden` (schema.BATCH).
    """

    @property
    def hides_views(self) -> bool: ...


@runtime_checkable
class Synthesis(Protocol):
    """A `Sampled` task that completes pictures of points: what another camera sees of a scene.

    Its inputs have `render` [b v n h w 3] uint8, points drawn for the cameras, `covered`, `sure`
    and `hole_mask` (geometry/splat.py); where a path starts at the source camera `first` is that
    view's latent.
    """

    def fold(self, trust: jax.Array) -> jax.Array:
        """trust [b v n h w] (splat.trust) -> hole_mask [b v f hl wl 4], means of latent cells."""
        ...


@runtime_checkable
class Rebuilt(Protocol):
    """A `Sampled` task whose latents lose something, which bounds what its samples can be.

    rebuilt_by: the parts of the parameters that `rebuild` reads.
    """

    @property
    def rebuilt_by(self) -> tuple[str, ...]: ...

    def rebuild(self, params: Params, truth: Batch) -> Sample:
        """Returns the truth as the task's latents have it: encoded, and decoded again.

        Args:
          truth: of schema.BATCH, with pixels.
        """
        ...


@runtime_checkable
class Priced(Protocol):
    """A task that knows what a training step costs."""

    def cost(self, batch: Batch) -> dict[str, float]:
        """Returns {"tokens", "flops"} of one global batch, from shapes alone.

        What rematerialisation computes again does not count. 0 FLOPs where nobody has counted.
        """
        ...


class Work(NamedTuple):
    """What a step does to one sample, for bounds on its time and memory.

    flops: {part: FLOPs}, rematerialisation included; parts "encode" and "decode" run a clip a
    device. views: of the sample, whose clips are spread over the devices that share it.
    heads: of the attention that is cut over devices, 1 where none is.
    tokens, width, layers, residual: of the transformer; bytes of a value of its residual stream.
    remat: whether blocks are run again backward. clip: bytes of the autoencoder's largest
    activation, 0 without.
    """

    flops: Mapping[str, float]
    views: int = 1
    heads: int = 1
    tokens: int = 0
    width: int = 0
    layers: int = 1
    residual: int = 4
    remat: bool = False
    clip: float = 0.0


@dataclasses.dataclass(frozen=True)
class Program:
    """A step of a task that can be compiled from shapes alone.

    Attributes:
      task: made with the switches of this step.
      parts: of its parameters, those that the step reads.
      step: (params, *inputs) -> arrays; None is a training step: loss, gradients, optimiser.
      inputs: number of samples -> shapes of the inputs; (batch,) of a training step.
      work: what the step does to one sample.
    """

    task: Task
    parts: tuple[str, ...]
    step: Callable[..., Any] | None
    inputs: Callable[[int], tuple[Shapes, ...]]
    work: Callable[[], Work]


@runtime_checkable
class Planned(Protocol):
    """A task whose steps can be planned."""

    def programs(self) -> dict[str, Program]:
        """Returns the steps by name, the smallest first."""
        ...


@runtime_checkable
class Belonging(Protocol):
    """A task whose trained half belongs to other weights, `beside` which alone it means anything.

    Their hash is kept with what is trained, and others are refused.
    """

    @property
    def beside(self) -> tuple[str, ...]: ...


@runtime_checkable
class Taught(Protocol):
    """A task that learns from parts that only training reads, and perhaps from its own average.

    `loss` finds the average of what is trained as `frozen["average"]`, where one is kept
    (`config.optim.ema`). teachers: these parts; `Task.grow` fills them, no file has them.
    """

    @property
    def teachers(self) -> tuple[str, ...]: ...


@runtime_checkable
class Judged(Protocol):
    """A task whose loss reads networks that nothing else does; files have them.

    judges: these frozen parts.
    """

    @property
    def judges(self) -> tuple[str, ...]: ...


class Scenes(NamedTuple):
    """What embedded data a task asks for.

    source: name of the scenes (run/embedded.py). size, frames, points, motion: of the records;
    motion is a pseudo video's representation. text: (width, rows) of the text features, None
    where the task reads none. vae: configuration of the frozen autoencoder, None without. cloud:
    points of a cloud that controls, 0 without; tracking: the representation of its video. fields:
    of the records beside the usual (clips.FIELDS). paths: cameras that move (scenes.PATHS).
    """

    source: str = "tabletop"
    size: tuple[int, int] = (32, 48)
    frames: int = 5
    points: int = 32
    motion: str = "point_tracks"
    text: tuple[int, int] | None = None
    vae: Any = None
    cloud: int = 0
    tracking: str = ""
    fields: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@runtime_checkable
class Embedded(Protocol):
    """A task that can run on data made here."""

    def embedded(self) -> Scenes:
        """Returns what to make."""
        ...


def serves(task: Any, wanted: type[T], what: str) -> T:
    """Returns `task`, which has the members of the protocol `wanted`.

    Args:
      what: that needs it, for the message, e.g. "mode=sample".

    Raises:
      ValueError: it has not; names the protocol and the tasks that do.
    """
    if isinstance(task, wanted):
        return task
    raise ValueError(
        f"{what}: task {task.name!r} does not serve it, tasks.base.{wanted.__name__} is missing; "
        f"tasks that do: {', '.join(able(wanted))}"
    )


def able(wanted: type) -> list[str]:
    """Returns the names of the tasks that have the members of a protocol."""
    wants = {name for name in (*vars(wanted), *wanted.__annotations__) if name[0] != "_"}
    found = []
    here = str(Path(__file__).parent)
    for name in sorted(x.name for x in pkgutil.walk_packages([here], "syncmv4d_jax.tasks.")):
        module, name = importlib.import_module(name), name.removeprefix("syncmv4d_jax.tasks.")
        if "make" in vars(module):
            made = get_type_hints(module.make)["return"]
            members = {*dir(made), *(field.name for field in dataclasses.fields(made))}
            found += [name] * (wants <= members)
    return found


def check(where: str, arrays: Mapping[str, Any], axes: Mapping[str, str], **sizes: int) -> None:
    """Checks shapes at a door.

    Args:
      where: which, for the message.
      arrays: those of `axes` that are there are checked.
      axes: {name: axes, e.g. "b v n h w 3"}.
      **sizes: of axes that are known; the others agree with each other.

    Raises:
      ValueError: another rank, or another size of an axis.
    """
    known = dict(sizes)
    for name, pattern in axes.items():
        if arrays.get(name) is None:
            continue
        letters, shape = pattern.split(), tuple(arrays[name].shape)
        named = " ".join(axis if axis.isidentifier() else "_" for axis in letters)
        try:
            got = einops.parse_shape(arrays[name], named)
        except RuntimeError:
            raise ValueError(f"{where}: {name} wanted [{pattern}], got {shape}") from None
        for axis, size in got.items():
            known.setdefault(axis, size)
        for axis, size in zip(letters, shape, strict=True):
            if axis.endswith("?"):  # 1 or as many as of the axis
                known[axis] = 1 if size == 1 else known.get(axis[:-1], size)
        wanted = tuple(int(axis) if axis.isdigit() else known[axis] for axis in letters)
        if shape != wanted:
            raise ValueError(f"{where}: {name} wanted [{pattern}] = {list(wanted)}, got {shape}")


def shapes(names: Iterable[str], **sizes: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns keys of schema.BATCH as shapes; sizes: of their axes."""
    made = {}
    for name in names:
        field = schema.BATCH[name]
        axes = ["1" if x.endswith("?") else x for x in field.axes.split()]
        shape = tuple(int(x) if x.isdigit() else sizes[x] for x in axes)
        made[name] = jax.ShapeDtypeStruct(shape, field.dtype)
    return made
