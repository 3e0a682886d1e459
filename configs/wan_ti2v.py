"""Wan2.2-TI2V-5B by itself: text or image to video, and its fine-tuning.

    python -m syncmv4d_jax.main --config=configs/wan_ti2v.py --workdir=out/wan \
        --config.mode=sample --config.weights.dit=/data/wan --config.weights.vae=/data/wan \
        --config.text.weights=/data/wan --config.sample.images=cat.png \
        --config.sample.prompt="A cat walks along a beach"

writes out/wan/samples/cat/view_0.mp4: 121 frames of 704 x 1280 at 24 fps, the sizes of the release
(docs/wan.md tells what others give); without `sample.images` the video follows from the text
alone. Weights come from data_prep/convert_weights.py. Fine-tuning on records, all weights (5 B
parameters, 80 GB of training state over the mesh) or adapters of rank 32:

    python -m syncmv4d_jax.main --config=configs/wan_ti2v.py:lora --workdir=out/lora \
        --config.weights.dit=/data/wan --config.weights.vae=/data/wan \
        --config.data.records=/data/taco_records --config.task.size="(480,704)" \
        --config.task.frames=49 --config.task.views=3 --config.data.fps=8.0

and the same command with `--config.mode=sample` samples with the adapters;
data_prep/convert_lora.py writes them for other programs. `:debug` runs the same code, tiny, in
under a minute on a CPU.
"""

import ml_collections

from configs import sections

# fmt: off
# The release's own (wan/configs/shared_config.py): what its guidance steers away from.
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，"  # noqa: RUF001
    "最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，"  # noqa: RUF001
    "画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，"  # noqa: RUF001
    "杂乱的背景，三条腿，背景人很多，倒着走"  # noqa: RUF001
)
# fmt: on
VARIANTS = ("full", "lora", "debug")
LINEAR = r"^blocks/((self|cross)_attn/[qkvo]|ffn/linear_[02])/kernel$"  # what adapters adapt


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is "full", "lora" or "debug"."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/wan_ti2v.py: wanted one of {VARIANTS}, got {variant!r}")
    config = sections.base()
    config.task = {
        "name": "wan_ti2v",
        "size": (704, 1280),
        "frames": 121,
        "views": 1,
        "text_drop": 0.1,
        "image_share": 1.0,
        "sample_steps": 50,
        "sample_shift": 5.0,
        "guidance": 5.0,
        "dit": {"remat": "full"},
        "vae": {},
        "vae_chunk": 1,
        "lora": {},
    }
    config.data.fps = 24.0
    config.sample.negative_prompt = NEGATIVE_PROMPT
    config.optim = sections.optim(
        learning_rate=1e-5,
        warmup=100,
        weight_decay=1e-2,
        clip=1.0,
    )
    config.train.batch_size = 8
    config.train.steps = 5000
    if variant == "lora":
        config.task.lora = {"ranks": ((LINEAR, 32),), "alpha": 32.0}
        config.optim.learning_rate, config.optim.weight_decay = 1e-4, 0.0
        config.train.frozen_dtype, config.train.export = "bfloat16", "float32"
        config.weights.lora = ""
    if variant == "debug":
        config.task.size, config.task.frames, config.task.views = (32, 48), 5, 3
        config.task.image_share = 0.5
        config.task.sample_steps, config.task.guidance = 4, 1.0
        config.task.dit = sections.small_dit(dim=48, layers=2, heads=2)
        config.task.vae = sections.small_vae(dim=8, dec_dim=8, z=8)
        config.task.vae_chunk = 0
        config.data.fps, config.text.max_length = 8.0, config.task.dit.text_len
        config.optim.warmup = 1
        config.train.steps, config.train.batch_size = 4, 1
        config.data.name, config.data.cameras, config.data.raw = "embedded", "fixed", True
        config.train.log_every = config.train.checkpoint_every = 2
        config.sample.count = 1
    return config.lock()
