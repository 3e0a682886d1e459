"""4D-ViSM: points drawn for any camera -> the video that this camera sees.

    python -m syncmv4d_jax.main --config=configs/vism.py --workdir=out/vism \\
        --config.data.records=/data/taco_records --config.data.cache=/data/taco_cache \\
        --config.weights.dit=/data/wan --config.weights.vae=/data/wan

adapters of rank 128 and the patch embedding, from Wan2.2-TI2V-5B, on pairs of views that are drawn
on the way (records prepared with `--with flow`); configs/readings/fun_inp_start.py starts from
Wan2.2-Fun-5B-InP. It writes out/vism/weights.safetensors, which `config.sample.synthesis` takes in
other tasks' runs. By itself it sees finished samples along a camera path:

    ... --config.mode=sample --config.sample.sources=out/taco/samples \\
        --config.sample.camera_path=orbit

`:full_parameters` trains all weights. `:demo` has the sizes of configs/demo.py, may start as one
view of its MJD, and gives what a video is more than the drawn points; `:debug` is tiny.
"""

import ml_collections

from configs import sections, strag, wan_ti2v

VARIANTS = ("full", "lora", "full_parameters", "demo", "debug")


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is of VARIANTS; "full" is "lora", as in the paper."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/vism.py: wanted one of {VARIANTS}, got {variant!r}")
    config = sections.base()
    config.task = {
        "name": "more4d.vism",
        "size": (480, 704),
        "frames": 49,
        "views": 3,
        "same_view": 0.25,
        "sources": 3,
        "single_share": 0.2,
        "mask": True,
        "details": 0.0,
        "fill": False,
        "flow_form": "depth",
        "text_drop": 0.1,
        "sample_steps": 50,
        "sample_shift": 5.0,
        "guidance": 5.0,
        "dit": {"remat": "full"},
        "vae": {},
        "vae_chunk": 1,
        "lora": {},
        "corruption": {},
    }
    config.weights.lora = ""
    config.data.raw, config.data.latents, config.data.fields = True, True, ("flow",)
    config.sample.negative_prompt = wan_ti2v.NEGATIVE_PROMPT
    config.optim = sections.optim(learning_rate=1e-4, warmup=200, weight_decay=1e-2, clip=1.0)
    config.train.batch_size, config.train.steps = 8, 10_000
    config.train.new, config.train.export = strag.NEW, "bfloat16"
    if variant in ("full", "lora"):
        strag.adapters(config)
    if variant == "demo":
        strag.small(config)
        config.task.sources, config.task.residual, config.task.details = 2, True, 0.1
        config.task.fill = True
        config.data.pairs = True
        config.train.batch_size, config.train.steps = 4, 2000
    if variant == "debug":
        strag.tiny(config)
    return config.lock()
