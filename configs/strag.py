"""4D-STraG: one image with its depth -> where each of its pixels goes in three dimensions.

    python -m syncmv4d_jax.main --config=configs/strag.py --workdir=out/strag \\
        --config.data.records=/data/taco_records --config.data.cache=/data/taco_cache \\
        --config.weights.dit=/data/wan --config.weights.vae=/data/wan \\
        --config.weights.flow_stats=/data/flow_stats.safetensors

all weights, from Wan2.2-TI2V-5B, on records prepared with `--with flow`; `:lora` trains adapters of
rank 128, the patch embedding and the motion module. `--config.mode=sample` samples:

    ... --config.mode=sample --config.sample.images=ONE.png --config.sample.depth=ONE.npz \\
        --config.sample.prompt="A person pours water" \\
        --config.weights.flow_decoder=out/flow_codec/weights.safetensors

(docs/more4d.md: depth files, what is written, camera paths.) `:demo` has the sizes of
configs/demo.py, one view, and may start as that of its MJD; `:debug` is tiny.
"""

import ml_collections

from configs import demo, flow_codec, sections, wan_ti2v

LINEAR = r"^blocks/((self|cross)_attn/[qkvo]|ffn/linear_[02])/kernel$"
NEW = r"^perception/|^dit/condition_embedding/"
VARIANTS = ("full", "lora", "demo", "debug")
LATENTS = {"source": "latents", "dtype": "float32"}  # a motion module without a pretrained network


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is of VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/strag.py: wanted one of {VARIANTS}, got {variant!r}")
    config = sections.base()
    config.task = {
        "name": "more4d.strag",
        "size": (480, 704),
        "frames": 49,
        "views": 3,
        "points": 1600,
        "gain": 8.0,
        "flow_form": "depth",
        "depth": True,
        "text_drop": 0.1,
        "sample_steps": 50,
        "sample_shift": 5.0,
        "guidance": 5.0,
        "dit": {"remat": "full"},
        "vae": {},
        "vae_chunk": 1,
        "perception": {"source": "appearance", "channels": 768, "width": 768},
        "lora": {},
    }
    for part in ("flow_stats", "flow_decoder", "codec", "perception", "lora"):
        config.weights[part] = ""
    config.data.fields = ("flow",)
    config.sample.negative_prompt = wan_ti2v.NEGATIVE_PROMPT
    config.optim = sections.optim(learning_rate=2e-5, warmup=200, weight_decay=1e-2, clip=1.0)
    config.train.batch_size, config.train.steps = 8, 20_000
    config.train.new, config.train.export = NEW, "bfloat16"
    if variant == "lora":
        adapters(config)
    if variant == "demo":
        small(config)
        config.task.views, config.train.batch_size, config.train.steps = 1, 16, 1500
        config.task.points, config.task.codec = 256, dict(flow_codec.DEMO)
        config.task.gain = flow_codec.DEMO_GAIN
        config.task.perception = {**LATENTS, "channels": 48, "width": 64}
    if variant == "debug":
        tiny(config)
        config.task.points, config.task.codec = 32, dict(flow_codec.DEBUG)
        config.task.perception = {**LATENTS, "channels": 8, "width": 16}
    return config.lock()


def adapters(config: ml_collections.ConfigDict) -> None:
    """Adapters in place of all weights."""
    config.task.lora = {"ranks": ((LINEAR, 128),), "alpha": 64.0}
    config.optim.learning_rate = 1e-4
    config.train.frozen_dtype, config.train.export = "bfloat16", "float32"


def small(config: ml_collections.ConfigDict) -> None:
    """The sizes, networks and optimiser of the embedded demo."""
    base = demo.get_config()
    for key in ("size", "frames", "views"):
        config.task[key] = base.task[key]
    config.task.dit = demo.transformer()
    config.task.vae = base.task.vae.to_dict()
    config.task.update(
        {"prediction": "data", "time_shift": 8.0, "text_drop": 0.0, "sampler": "euler",
         "sample_steps": 2, "sample_shift": 8.0, "guidance": 1.0, "vae_chunk": 0, "vae_batch": 3}
    )  # fmt: skip
    config.text.max_length, config.data.cameras = 48, "fixed"
    config.sample.negative_prompt, config.sample.exact = "", True
    config.optim = sections.optim(
        name="muon", learning_rate=5e-3, multipliers=demo.RATES[1:], schedule="cosine", warmup=50,
        final_fraction=0.05, clip=1.0, ema=0.99,
    )  # fmt: skip
    config.train.batch_size, config.train.steps, config.train.checkpoint_every = 8, 1000, 200
    config.train.unused = demo.OF_MJD


def tiny(config: ml_collections.ConfigDict) -> None:
    """The same code path in a few tiny steps."""
    config.task.size, config.task.frames = (32, 48), 5
    config.task.sample_steps, config.task.guidance, config.task.vae_chunk = 4, 1.0, 0
    config.task.dit = sections.small_dit(dim=48, layers=2, heads=2)
    config.task.vae = sections.small_vae(dim=8, dec_dim=8, z=8)
    config.text.max_length = config.task.dit.text_len
    config.data.name, config.data.cameras = "embedded", "fixed"
    config.optim.warmup = 1
    config.train.steps, config.train.batch_size, config.train.random_frozen = 4, 1, True
    config.train.log_every = config.train.checkpoint_every = 2
    config.sample.count = 1
