"""HVG-3D: one image, a moving point cloud and tracks -> a video that follows them.

    python -m syncmv4d_jax.main --config=configs/hvg3d.py --workdir=out/hvg \
        --config.data.records=/data/taco_control --config.data.cache=/data/taco_control_cache \
        --config.weights.dit=/data/wan --config.weights.vae=/data/wan

49 frames of 480 x 704, one view; copies of all 30 blocks of Wan2.2-TI2V-5B are trained (5.2 B
parameters), the backbone is frozen. `:half` and `:third` copy every second and third block: the
third fits one chip of 80 GB. Records are those of prepare_taco.py with `--with points,das`.

    taco     TACO and other calibrated recordings, views by themselves
    taste    clips of one camera at 15 frames a second (TASTE-Rob's form, points up to a scale)
    demo     embedded scenes with several motions of one first frame: control that is given beside
             its backbone, trained some minutes more on a CPU: `make demo-hvg` (docs/hvg3d.md)
    fresh    the same from one view of the demo's MJD: the backbone, then control, about two hours
    ablation control alone, beside a backbone that is given, for a while, which its rows have too
    short    as demo, in a few steps
    debug    the same code, tiny, under a minute on a CPU

Rows of the paper's ablation and other readings change one thing each of `taco`; behind "demo-",
"ablation-" or "debug-" of these:

    no_points, no_tracking      one of the two controls
    no_mask_loss                every cell counts alike
    mask_twice                  hands and objects count twice, not four times, in the squared error
    current_depth               the tracking video has the depth of its own frame
    point_tokens                a cloud as a set of latents without places (point_condition.py)
    colours                     points have the colours that the image shows of them
    warped_image                the tracking video shows the image's own colours, moved
    copied_image                the same, and the branch may copy its latents past the transformer
    published                   none of these: as `taco` is; the demo has all
    control_views               three views that attend to each other, on an MJD (not of the demo)
"""

import ml_collections

from configs import demo, sections
from syncmv4d_jax.geometry import pseudo_video

STRIDES = {"taco": 1, "taste": 1, "half": 2, "third": 3, "debug": 1}
DEMOS = {  # steps of the backbone, of control; the rate of control's
    "demo": (0, 300, 1e-3), "fresh": (600, 2400, 5e-3), "ablation": (0, 300, 5e-3),
    "short": (0, 2, 1e-3),
}  # fmt: skip
ROWS = {
    "no_points": {"controls": ("tracking",)},
    "no_tracking": {"controls": ("points",)},
    "no_mask_loss": {"mask_gain": 0.0},
    "mask_twice": {"mask_power": 1},
    "current_depth": {"tracking": "point_tracks", "copies": False, "details": 0.0},
    "point_tokens": {"encoder": {"reading": "tokens"}},
    "colours": {"colours": True},
    "warped_image": {"copies": False, "details": 0.0, "tracking": pseudo_video.WARPED},
    "copied_image": {"tracking": pseudo_video.WARPED, "copies": True, "details": 0.1},
    "published": {
        "colours": False,
        "copies": False,
        "details": 0.0,
        "tracking": "das_tracking",
    },
    "control_views": {"backbone": "mjd", "views": 3},
}
VARIANTS = (*STRIDES, *DEMOS, *ROWS, *(f"debug-{row}" for row in ROWS),
            *(f"{demo}-{row}" for demo in ("demo", "ablation") for row in ROWS
              if row != "control_views"))  # fmt: skip


def get_config(variant: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/hvg3d.py: wanted one of {VARIANTS}, got {variant!r}")
    base, _, row = variant.rpartition("-")
    if row in ROWS:
        config = get_config(base or "taco").unlock()
        for key, value in ROWS[row].items():
            own = {**config.task[key].to_dict(), **value} if isinstance(value, dict) else value
            with config.unlocked():
                config.task[key] = own
        if base == "debug":
            config.stages = (_tiny_backbone(config.task), {"name": "control"})
        return config.lock()
    if variant in DEMOS:
        return _demo(*DEMOS[variant]).lock()
    config = sections.base()
    config.weights = {"dit": "", "vae": "", "control": "", "points": ""}
    config.task = {
        "name": "hvg3d",
        "size": (480, 704),
        "frames": 49,
        "views": 1,
        "cloud": 2048,
        "backbone": "wan",
        "stride": STRIDES[variant],
        "controls": ("points", "tracking"),
        "colours": False,
        "control_scale": 1.0,
        "control_until": 1.0,
        "tracking": "das_tracking",
        "copies": False,
        "details": 0.0,
        "mask_gain": 1.0,
        "mask_power": 2,
        "sample_steps": 50,
        "sample_shift": 5.0,
        "guidance": 5.0,
        "dit": {"remat": "full"},
        "vae": {},
        "vae_chunk": 1,
        "encoder": {"dtype": "bfloat16"},
    }
    config.optim = sections.optim(learning_rate=1e-4, warmup=500, weight_decay=1e-2, clip=1.0)
    config.train.batch_size = 1 if variant == "third" else 8
    config.train.steps = 20_000
    config.train.frozen_dtype, config.train.export = "bfloat16", "bfloat16"
    if variant == "taste":
        config.data.fps = 15.0
    if variant == "debug":
        config.task.size, config.task.frames, config.task.cloud = (32, 48), 5, 64
        config.task.sample_steps, config.task.guidance = 4, 1.0
        config.task.dit = sections.small_dit(dim=48, layers=2, heads=2)
        config.task.vae = sections.small_vae(dim=8, dec_dim=8, z=8)
        config.task.vae_chunk = 0
        config.task.encoder = _small_encoder(width=16, patch=32, channels=4, cpe=8)
        config.text.max_length = config.task.dit.text_len
        config.optim.warmup = 1
        config.train.steps, config.train.batch_size = 4, 1
        config.train.frozen_dtype, config.train.export = "float32", "float32"
        config.train.log_every = config.train.checkpoint_every = 2
        config.data.name, config.data.cameras, config.data.raw = "embedded", "fixed", True
        config.sample.count = 1
        config.stages = (_tiny_backbone(config.task), {"name": "control"})
    return config.lock()


def _tiny_backbone(task: ml_collections.ConfigDict) -> dict:
    """A stage that trains what control is trained beside; at full size it is Wan, or an MJD."""
    own = {key: task[key] for key in ("size", "frames", "views", "guidance")}
    own |= {"dit": task.dit.to_dict(), "vae": dict(task.vae)}
    if task.backbone == "wan":
        return {"name": "video", "task": {"name": "wan_ti2v", **own}}
    alone = {"points": 32, "dpa": {}, "cycle": {"dpa": False, "cycle": False}}
    return {"name": "video", "task": {"name": "syncmv4d", **own, **alone}}


def _small_encoder(*, width: int, patch: int, channels: int, cpe: int) -> dict:
    return {
        "width": width, "depth": 2, "heads": 4, "cpe_channels": cpe, "patch": patch,
        "channels": channels, "token_width": width, "token_grid": (4, 8), "dtype": "float32",
    }  # fmt: skip


def _demo(backbone_steps: int, control_steps: int, rate: float) -> ml_collections.ConfigDict:
    """The demo's backbone on scenes of several courses, then control beside it.

    The backbone may start as one view of an MJD's (`train.unused`): demo/hvg.py gives the shipped.
    Of 0 steps it is to be given.
    """
    config = demo.get_config("ablation").unlock()
    backbone, *_ = config.stages
    whole = config.task.to_dict()
    dit = {**whole["dit"], **backbone["task"]["dit"]}
    whole |= {**backbone["task"], "dit": dit, "views": 1}
    config.task = {
        "name": "hvg3d",
        "size": config.task.size,
        "frames": config.task.frames,
        "views": 1,
        "cloud": 128,
        "stride": 1,
        "controls": ("points", "tracking"),
        "colours": True,
        "control_scale": 1.0,
        "control_until": 1.0,
        "tracking": pseudo_video.WARPED,
        "copies": True,
        "details": 0.1,
        "mask_gain": 1.0,
        "mask_power": 2,
        "prediction": "data",
        "time_shift": 8.0,
        "text_drop": 0.0,
        "tracking_drop": 0.4,
        "sampler": "euler",
        "sample_steps": 2,
        "sample_shift": 8.0,
        "guidance": 1.0,
        "dit": demo.transformer(),
        "vae": whole["vae"],
        "encoder": _small_encoder(width=64, patch=128, channels=16, cpe=32),
    }
    config.weights = {"dit": "", "prior": "", "vae": "", "control": "", "points": ""}
    config.evaluate.priors = ""
    config.optim.multipliers = ((r"kernel$", 1.0), (r".*", 0.2))
    config.train.unused = demo.OF_MJD
    config.sample.exact = True
    control = {"name": "control", "train": {"steps": control_steps, "batch_size": 8},
               "optim": {"learning_rate": rate}}  # fmt: skip
    video = {**backbone, "train": {"steps": backbone_steps, "batch_size": 16}, "task": whole,
             "optim": {**backbone["optim"], "learning_rate": 3e-3}}  # fmt: skip
    config.stages = (video, control) if backbone_steps else (control,)
    return config
