"""The learned motion codec: latents <-> maps of place, depth and mask at a quarter of the size.

    python -m syncmv4d_jax.main --config=configs/motion_codec.py --workdir=out/codec \\
        --config.data.records=/data/taco_records --config.data.cache=/data/taco_cache \\
        --config.weights.vae=/data/wan

writes out/codec/weights.safetensors; configs/readings/learned_codec.py uses it in the closed loop
by `--config.weights.codec=out/codec/weights.safetensors`. The scalar `pixels` (mean error of u0, in
video pixels) is what the tracks depend on. `:demo` is for the demo's autoencoder, `:debug` four
tiny steps.
"""

import ml_collections

from configs import demo, sections

FULL = {"width": 256, "depth": 8, "reduction": 4, "guide": 48, "places": True,
        "dtype": "bfloat16"}  # fmt: skip
DEMO = {"space": 8, "width": 96, "depth": 4, "reduction": 2, "guide": 48, "places": True}
TINY = {"z_dim": 8, "space": 8, "width": 16, "depth": 2, "reduction": 2, "guide": 8,
        "places": True}  # fmt: skip


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is "full", "demo" or "debug"."""
    if variant not in ("full", "demo", "debug"):
        raise ValueError(f"configs/motion_codec.py: wanted full, demo or debug, got {variant!r}")
    config = sections.base()
    config.task = {"name": "motion_codec", "codec": dict(FULL), "vae": {}}
    config.task.size, config.task.frames, config.task.views, config.task.points = (
        (480, 704), 49, 3, 1600,
    )  # fmt: skip
    config.data.raw = config.data.latents = True
    config.optim = sections.optim(learning_rate=3e-4, warmup=100, clip=1.0, ema=0.999)
    config.train.steps, config.train.batch_size, config.train.export = 20_000, 8, "float32"
    if variant == "demo":
        base = demo.get_config()
        config.task.codec, config.task.vae = dict(DEMO), base.task.vae.to_dict()
        for key in ("size", "frames", "views", "points"):
            config.task[key] = base.task[key]
        config.data.cameras = "sample"
        config.optim = sections.optim(
            learning_rate=2e-3, schedule="cosine", warmup=100, final_fraction=0.02, clip=1.0,
            ema=0.995,
        )  # fmt: skip
        config.train.steps, config.train.batch_size = 1800, 4
        config.task.noise = 0.5  # MJD's estimates of frame 0 are off by as much
        config.train.export = "bfloat16"
    if variant == "debug":
        config.task.codec = dict(TINY)
        config.task.vae = sections.small_vae(dim=8, dec_dim=8, z=8)
        config.task.size, config.task.frames, config.task.points = (32, 48), 5, 32
        config.data.name, config.data.cameras = "embedded", "fixed"
        config.optim.warmup = 1
        config.train.steps, config.train.batch_size, config.train.export = 4, 1, ""
        config.train.log_every = config.train.checkpoint_every = 2
    return config.lock()
