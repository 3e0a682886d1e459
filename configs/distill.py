"""Few steps: a sampler of 4 (or 2) steps without guidance, taught by one of many guided steps.

    python -m syncmv4d_jax.main --config=configs/distill.py --workdir=out/distill \
        --config.weights.dit=/data/wan --config.weights.vae=/data/wan \
        --config.data.records=/data/taco_records --config.data.cache=/data/taco_cache

teaches Wan2.2-TI2V-5B 4 steps (48 of the teacher, guidance 5) and writes
out/distill/weights.safetensors, of which `--config.weights.dit` of configs/wan_ti2v.py takes the
part `dit`, with `--config.task.sampler=euler --config.task.sample_steps=4
--config.task.guidance=1`; in the same folder `--config.mode=sample` samples with it.

    :lora       adapters of rank 64 in place of a second transformer (data_prep/convert_lora.py
                writes them for other programs)
    :mjd        MJD in its closed loop, from a run of configs/taco.py:
                --config.weights.dit=out/taco/high.safetensors and the same for dpa, and vae
    :mjd_lora   the same by adapters of rank 64 of the layers that MJD has of Wan
    :demo       that at the sizes of `make demo` and with its codec: 16 steps of the teacher to 4,
                from the shipped weights, --config.weights.codec among them (docs/few_steps.md says
                how long and how well)
    :debug      MJD, tiny, the same code path; :debug_wan the same of Wan

Another number of steps is `--config.task.sample_steps=2`; the teacher takes sample_steps x
distill.points x distill.substeps of its own.
"""

import ml_collections

from configs import sections, taco, wan_ti2v
from configs.readings import learned_codec

VARIANTS = ("full", "lora", "mjd", "mjd_lora", "demo", "debug", "debug_wan")


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is of VARIANTS; "full" is Wan, all weights."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/distill.py: wanted one of {VARIANTS}, got {variant!r}")
    base = {
        "full": lambda: wan_ti2v.get_config("full"),
        "lora": lambda: wan_ti2v.get_config("lora"),
        "debug_wan": lambda: wan_ti2v.get_config("debug"),
        "mjd": lambda: taco.get_config("full"),
        "mjd_lora": lambda: taco.get_config("full"),
        "debug": lambda: taco.get_config("debug"),
        "demo": lambda: learned_codec.get_config("demo"),
    }[variant]()
    with base.unlocked():
        _teach(base)
        _size(base, variant)
    return base.lock()


def _teach(config: ml_collections.ConfigDict) -> None:
    """Turns the configuration of a task into that of its distillation, at full size."""
    config.task.of, config.task.name = config.task.name, "distill"
    config.task.sampler, config.task.sample_steps, config.task.guidance = "euler", 4, 1.0
    config.task.distill = {"guidance": 5.0, "points": 4, "substeps": 3}
    config.optim = sections.optim(learning_rate=5e-6, warmup=100, clip=1.0, ema=0.95)
    config.train.frozen_dtype, config.train.export = "bfloat16", "bfloat16"
    config.train.new, config.train.steps, config.train.batch_size = "", 4000, 8
    config.stages = ()


def _size(config: ml_collections.ConfigDict, variant: str) -> None:
    """What a variant has of its own."""
    if variant in ("lora", "mjd_lora"):
        config.task.lora = {"ranks": ((wan_ti2v.LINEAR, 64),), "alpha": 64.0}
        config.weights.lora = ""
        config.optim.learning_rate, config.train.export = 5e-5, "float32"
        config.train.new = r"^lora/"
    if variant == "demo":
        config.task.distill = {"guidance": 1.0, "points": 1, "substeps": 4}
        config.optim = sections.optim(
            name="muon", learning_rate=1e-3, multipliers=((r"kernel$", 1.0), (r".*", 0.2)),
            schedule="cosine", warmup=10, final_fraction=0.05, clip=1.0, ema=0.98,
        )  # fmt: skip
        config.train.frozen_dtype, config.train.batch_size = "float32", 1
        config.train.steps, config.train.checkpoint_every = 200, 50
    if variant in ("debug", "debug_wan"):
        config.task.distill = {"guidance": 2.0, "points": 2, "substeps": 2}
        config.task.sample_steps = 2
        config.optim.warmup, config.train.random_frozen = 1, True
        config.train.steps, config.train.batch_size = 4, 1
