"""A small autoencoder of Wan2.2's form for the embedded scenes.

    python -m syncmv4d_jax.main --config=configs/wan_vae.py:demo --workdir=out/vae

48 channels at 4 x 8 x 8, 2.5 M parameters; trained on random crops of videos and pseudo videos,
with Muon. Afterwards `tasks.wan_vae.statistics` measures latents_mean and latents_std. `:sharp`
adds a term on differences of neighbours, draws most crops about hands and objects, and averages
weights: 20,000 steps, hours on a CPU. LPIPS joins the loss where its weights are installed:
`--config.task.perceptual_weight=0.1 --config.weights.lpips=FOLDER` (docs/metrics.md). `:debug` runs
the same code on a tiny model in a few steps.
"""

import ml_collections

from configs import sections

VARIANTS = ("demo", "sharp", "debug")
PERCEPTUAL = 0.1  # weight of LPIPS where its weights are given (data_prep/make_vae.py)


def get_config(variant: str = "demo") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is of VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/wan_vae.py: wanted one of {VARIANTS}, got {variant!r}")
    config = sections.base()
    config.task = {
        "name": "wan_vae",
        "vae": sections.small_vae(dim=32, dec_dim=28, z=48),
        "clips": 2,
        "crop": (9, 32, 48),
        "foreground_gain": 3.0,
        "moving_gain": 0.0,
        "kl_weight": 0.0,
        "focus": 0.0,
        "gradient_weight": 0.0,
        "perceptual_weight": 0.0,
    }
    config.weights.lpips = ""
    config.optim = sections.optim(
        name="muon",
        learning_rate=5e-4,
        schedule="cosine",
        warmup=100,
        final_fraction=0.02,
        stacked="^$",
        clip=1.0,
    )
    config.train.batch_size = 2
    config.train.steps = 3000
    if variant == "sharp":
        config.task.gradient_weight, config.task.focus = 1.0, 0.8
        config.optim.ema = 0.999
        config.train.steps = 20000
    if variant == "debug":
        config.task.vae = sections.small_vae(dim=8, dec_dim=8, z=4)
        config.task.crop = (5, 16, 16)
        config.data.name, config.data.cameras, config.data.raw = "embedded", "fixed", True
        config.train.steps = 4
        config.train.batch_size = 1
        config.train.log_every = config.train.checkpoint_every = 2
    config.lock()
    return config
