"""The decoder of flow maps, before configs/strag.py: latents <-> where frame 0's pixels go.

    python -m syncmv4d_jax.main --config=configs/flow_codec.py --workdir=out/flow_codec \\
        --config.data.records=/data/taco_records --config.weights.vae=/data/wan \\
        --config.weights.flow_stats=/data/flow_stats.safetensors

on records prepared with `--with flow`; data_prep/measure_flow.py writes flow_stats. The release's
decoder, fine-tuned (555 M parameters); `:learned` trains the small learned codec in its place. It
writes out/flow_codec/weights.safetensors. `:demo` is for the embedded demo's autoencoder (about 15
minutes on a core), `:debug` four tiny steps. The scalar `flow` is the mean error of pixels that
move, in widths, heights and parts of their depth.
"""

import ml_collections

from configs import demo, sections

LEARNED = {"width": 256, "depth": 8, "reduction": 4, "guide": 16, "dtype": "bfloat16"}
DEMO = {"space": 8, "width": 96, "depth": 4, "reduction": 1, "guide": 64}
DEMO_GAIN = 20.0  # what fits the embedded scenes, as data_prep/measure_flow.py prints it
DEBUG = {"z_dim": 8, "space": 8, "width": 16, "depth": 2, "reduction": 2, "guide": 16}
VARIANTS = ("full", "learned", "demo", "debug")


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is of VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/flow_codec.py: wanted one of {VARIANTS}, got {variant!r}")
    config = sections.base()
    config.task = {"name": "more4d.flow_codec", "vae": {}, "gain": 8.0, "flow_form": "depth"}
    config.task.size, config.task.frames, config.task.views = (480, 704), 49, 3
    config.task.vae_chunk = 1
    config.weights.flow_stats = config.weights.flow_decoder = config.weights.codec = ""
    config.data.fields = ("flow",)
    config.optim = sections.optim(learning_rate=2e-5, warmup=200, weight_decay=1e-2, clip=1.0)
    config.train.steps, config.train.batch_size, config.train.export = 5000, 8, "float32"
    if variant == "learned":
        config.task.codec = dict(LEARNED)
        config.optim.learning_rate, config.optim.weight_decay = 3e-4, 0.0
        config.optim.ema, config.train.steps = 0.999, 20_000
    if variant == "demo":
        base = demo.get_config()
        config.task.codec, config.task.vae = dict(DEMO), base.task.vae.to_dict()
        config.task.gain, config.task.noise = DEMO_GAIN, 0.3
        config.task.size, config.task.frames = base.task.size, base.task.frames
        config.task.vae_chunk, config.task.views = 0, 1
        config.data.cameras = "fixed"
        config.optim = sections.optim(
            learning_rate=2e-3, warmup=100, clip=1.0, ema=0.99, schedule="cosine",
            final_fraction=0.02,
        )  # fmt: skip
        config.train.steps, config.train.batch_size = 3000, 4
    if variant == "debug":
        config.task.codec = dict(DEBUG)
        config.task.vae = sections.small_vae(dim=8, dec_dim=8, z=8)
        config.task.size, config.task.frames, config.task.vae_chunk = (32, 48), 5, 0
        config.data.name, config.data.cameras = "embedded", "fixed"
        config.optim.warmup = 1
        config.train.random_frozen = True
        config.train.steps, config.train.batch_size = 4, 1
        config.train.log_every = config.train.checkpoint_every = 2
    return config.lock()
