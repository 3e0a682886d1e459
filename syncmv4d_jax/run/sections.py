"""What a run can be told: the sections of a configuration as frozen dataclasses, all defaults.

configs/sections.py fills configurations from these, so that every key can be set on the command
line; run/assembly.py reads them back, once. `config.data` is data/config.py's. Light to import: a
configuration file is read before jax is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from syncmv4d_jax.configuration import at_least, one_of
from syncmv4d_jax.data import config as data_config

DTYPES = ("float32", "bfloat16", "float16")
PRECISIONS = ("", "bfloat16", "int8", "float8")  # of weights while sampling, run/precision.py


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """`config.train`.

    Attributes:
      steps: of this stage.
      minutes: that this stage has, 0 = as long as it takes: what steps these hold is measured, the
        schedule follows, `steps` is the most (run/limit.py).
      batch_size: over all devices.
      log_every, checkpoint_every: in steps; the first and last step are logged, the last one saved.
      keep: number of latest checkpoints that stay.
      keep_every: checkpoints of steps divisible by this stay for good, 0 = none.
      frozen_dtype: of the frozen half's floating leaves.
      new: regex of paths that may be missing in the weights of an earlier stage or of
        `config.weights`.
      unused: regex of paths that these may have and the stage's task has not: an MJD's weights
        start a single view's transformer.
      export: "" or a dtype: at the end write `<stage>.safetensors` with the (averaged) weights.
      random_frozen: allow random values in parts the task wants from weights (debug runs).
      sample_every: steps between pictures of a held-out sample (TensorBoard, `DIR/pictures`), 0 =
        none.
      wandb: project of Weights & Biases, "" = off; its mode is WANDB_MODE.
      silence: seconds without a heartbeat after which a process counts as lost
        (machines/watchdog.py); the first stage's counts for the whole run.
      attention, sequence: kernel and form of sharded attention, see `machines.placement`.
    """

    steps: int = 1000
    minutes: float = 0.0
    batch_size: int = 1
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 2
    keep_every: int = 0
    frozen_dtype: str = "float32"
    new: str = ""
    unused: str = ""
    export: str = ""
    random_frozen: bool = False
    sample_every: int = 0
    wandb: str = ""
    silence: float = 20.0
    attention: str = "auto"
    sequence: str = "ulysses"

    def __post_init__(self) -> None:
        names = ("steps", "batch_size", "log_every", "checkpoint_every", "keep")
        at_least(1, "config.train", self, *names)
        at_least(0, "config.train", self, "minutes", "keep_every", "sample_every")
        one_of("config.train", self, frozen_dtype=DTYPES, export=("", *DTYPES))
        one_of("config.train", self, sequence=("ulysses", "ring"))


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """`config.optim`; run/optim.py does what it says.

    Attributes:
      name: "adamw" or "muon" (matrices by Muon, everything else by Adam).
      learning_rate: peak rate.
      schedule: "constant" or "cosine" (to `final_fraction` of the peak at `steps`).
      warmup: steps of linear warm-up from 0.
      steps: length of the schedule, 0 = the stage's.
      b1, b2: of Adam.
      weight_decay: decoupled, times the learning rate.
      decay: regex of paths that decay.
      stacked: regex of paths whose first axis counts layers (no matrix axis for Muon).
      multipliers: (regex, factor) pairs on the learning rate; the first match counts, else 1.
      clip: global gradient norm, 0 = off.
      ema: decay of the parameter average, 0 = off; ramps as (1 + step) / (10 + step).
      ema_memory: where the average lies between steps, "device" or "host" (pinned): 4 bytes a
        parameter less on the devices, which go to and fro once a step; the same numbers.
      accumulate: micro-batches a step.
      store: dtype of parameters, moments and averages: "float32" or "bfloat16".
      spike_factor: skip a step with a gradient norm this many times the running mean, 0 = off.
      guard_warmup: accepted steps before spikes are judged.
      abort_after: skipped steps in a row after which training stops.
    """

    name: str = "adamw"
    learning_rate: float = 1e-4
    schedule: str = "constant"
    warmup: int = 0
    steps: int = 0
    final_fraction: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.0
    decay: str = r"kernel$"
    stacked: str = r"(^|/)blocks/"
    multipliers: tuple[tuple[str, float], ...] = ()
    clip: float = 1.0
    ema: float = 0.0
    ema_memory: str = "device"
    accumulate: int = 1
    store: str = "float32"
    spike_factor: float = 0.0
    guard_warmup: int = 20
    abort_after: int = 10

    def __post_init__(self) -> None:
        one_of("config.optim", self, name=("adamw", "muon"), schedule=("constant", "cosine"))
        one_of("config.optim", self, store=("float32", "bfloat16"))
        one_of("config.optim", self, ema_memory=("device", "host"))
        at_least(1, "config.optim", self, "accumulate")
        for name in ("b1", "b2", "ema"):
            if not 0 <= getattr(self, name) < 1:
                came = getattr(self, name)
                raise ValueError(f"config.optim.{name}: wanted 0 <= {name} < 1, got {came}")
        pairs = tuple((str(pattern), float(factor)) for pattern, factor in self.multipliers)
        object.__setattr__(self, "multipliers", pairs)

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that what is trained depends on, for recipes: not where averages lie."""
        settings = dataclasses.asdict(self)
        del settings["ema_memory"]
        return settings


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """`config.text`: `weights` is a folder of converted weights with umt5, `max_length` tokens.

    precision: of the weights, as `config.sample.precision`.
    """

    weights: str = ""
    max_length: int = 512
    precision: str = ""

    def __post_init__(self) -> None:
        one_of("config.text", self, precision=PRECISIONS)


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """`config.sample`.

    Attributes:
      split: of the records, where no images and no prompt are given.
      count: first so many examples of the split, 0 = all.
      seed: of one sample an input.
      seeds: one sample of each input for each of these, instead of `seed`.
      best_of: draws of a sample, of which the one whose views agree best about the tracks is kept.
      images: a folder of images with cameras, or an image.
      prompt: of `images`.  prompts: a file with a prompt a line.
      negative_prompt: what guidance steers away from.
      name: of the samples, "" = that of `images`.
      depth: file with the depth of one image in `images` (data/depth.py).
      rig: where its other views are: "taco", a file of cameras, or "" = one camera.
      recording: a folder in the plain layout (docs/data.md), whose picture begins the video and
        whose surfaces are followed, of tasks that are controlled.
      sources: a folder of finished samples to be seen from elsewhere.
      camera_path: a file, a name of geometry/paths.py, or "record:NAME", a camera of the sample's
        own record: finished samples are seen along it.
      synthesis: a file that a training of a task with `tasks.base.Synthesis` exported: draws the
        other views of one image, and what is seen along `camera_path`.
      anchors: query pixels of records: "own" are chosen in one view each, from the given images and
        the model's own frame 0; "matched" by a matcher on the given images; "given" are the
        record's true correspondences, which no user has.
      controls: what is followed, of tasks that are controlled: "own", or "other": that of another
        example of the split, of another first frame.
      point_noise: what points of records are off by, metres (inputs.disturbed).  point_drop: share
        of them that is left out.
      drop_view: the view whose first frame is not given, but generated, -1 for none; of tasks that
        can (`tasks.base.Hiding`).
      references: of records, their first frames: "given" all, or the middle view's alone with its
        depth: the others "drawn" by `synthesis`, or as "points" with holes.
      matcher, features: of "matched": as in `config.evaluate`; features also of an image of one's
        own, where a task reads how it looks.
      precision: of the weights: "" as they are made, "bfloat16", "int8" or "float8"
        (run/precision.py).
      exact: keeps the videos to the last bit too (view_<v>.mkv), and scores are of these.
    """

    split: str = "test"
    count: int = 0
    seed: int = 0
    seeds: tuple[int, ...] = ()
    best_of: int = 1
    images: str = ""
    prompt: str = ""
    prompts: str = ""
    negative_prompt: str = ""
    name: str = ""
    depth: str = ""
    rig: str = ""
    recording: str = ""
    sources: str = ""
    camera_path: str = ""
    synthesis: str = ""
    anchors: str = "own"
    controls: str = "own"
    point_noise: float = 0.0
    point_drop: float = 0.0
    drop_view: int = -1
    references: str = "given"
    matcher: str = "xfeat"
    features: str = ""
    precision: str = ""
    exact: bool = False

    def __post_init__(self) -> None:
        one_of("config.sample", self, precision=PRECISIONS)
        one_of(
            "config.sample", self, anchors=("own", "given", "matched"), controls=("own", "other"),
            references=("given", "drawn", "points"),
        )  # fmt: skip
        at_least(1, "config.sample", self, "best_of")
        at_least(0, "config.sample", self, "count", "point_noise")
        at_least(-1, "config.sample", self, "drop_view")
        if not 0 <= self.point_drop < 1:
            raise ValueError(
                f"config.sample.point_drop: wanted 0 <= share < 1, got {self.point_drop}"
            )


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """`config.evaluate`.

    Attributes:
      samples: a folder, "" = `DIR/samples`.
      split: of the records with the truth, "" = write the page alone.
      features: a folder of pretrained networks' weights, "" = none.
      matcher: "gim_dkm", "xfeat" or "module:function", "" = none.
      priors: how training scenes move: "records" reads them, else the priors.npz of another
        evaluation, "" = without these rows.
    """

    samples: str = ""
    split: str = "test"
    features: str = ""
    matcher: str = ""
    priors: str = "records"


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """`config.plan`; run/plan.py knows which topologies and entries there are.

    Attributes:
      topologies: names of machines, or "local"; commas part names too, as on a command line.
      entries: steps to compile, by the task's names; (): all that it has. Commas as above.
      mesh: sizes of data, fsdp, view, sequence; empty: candidates, best estimate first.
      samples: of the batch for each data x fsdp shard.
      compiled: candidates to compile for each topology and entry, until one fits.
      until: where to stop compiling, "whole" or "memory".
    """

    topologies: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    mesh: tuple[int, ...] = ()
    samples: int = 1
    compiled: int = 2
    until: str = "whole"

    def __post_init__(self) -> None:
        one_of("config.plan", self, until=("whole", "memory"))
        for field in ("topologies", "entries"):
            names = ",".join(getattr(self, field)).split(",")
            object.__setattr__(self, field, tuple(name.strip() for name in names if name.strip()))
        if len(self.mesh) not in (0, 4):
            raise ValueError(
                "config.plan.mesh: wanted sizes of data, fsdp, view and sequence, or none, got "
                f"{self.mesh}"
            )


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """`config.serve`.

    Attributes:
      host, port: to listen at; port 0 is any free one. Another host than this machine's own
        addresses wants token_file: a file with a word of at least 16 characters.
      keep_days: that a job and its result stay after its end.
      seconds: of a job, at most.
      waiting: jobs in the queue, at most.  jobs_per_minute: of one client.
      megabytes: of a request.  images, megapixels: of a request, and of each image.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: str = ""
    keep_days: float = 30.0
    seconds: float = 7200.0
    waiting: int = 200
    jobs_per_minute: float = 60.0
    megabytes: int = 64
    images: int = 16
    megapixels: float = 40.0

    def __post_init__(self) -> None:
        at_least(0, "config.serve", self, "port")
        at_least(1, "config.serve", self, "waiting", "jobs_per_minute", "megabytes", "images")
        for name in ("keep_days", "seconds", "megapixels"):
            if getattr(self, name) <= 0:
                came = getattr(self, name)
                raise ValueError(f"config.serve.{name}: wanted more than 0, got {came}")


@dataclasses.dataclass(frozen=True)
class Sections:
    """A configuration, or one stage of it, read once; see run/assembly.py.

    Attributes:
      name: of the stage, "" where there are none.
      seed: of everything random.
      task: what `tasks.<name>.make` alone reads.
      weights: {part: converted weights or a file of weights/exports.py}, "" = none.
      mesh: {axis: size}, -1 = the rest.
      sharding: (regex over parameter paths, mesh axes of the trailing dimensions) pairs.
      source: the ConfigDict, to be written down beside results.
    """

    name: str
    seed: int
    task: Mapping[str, Any]
    weights: Mapping[str, str]
    data: data_config.DataConfig
    text: TextConfig
    optim: OptimConfig
    train: TrainConfig
    mesh: Mapping[str, int]
    sharding: tuple[tuple[str, tuple[Any, ...]], ...]
    sample: SampleConfig
    evaluate: EvaluateConfig
    plan: PlanConfig
    serve: ServeConfig
    source: Any
