"""One GPU: how near the steps at full size come to what the chip can multiply.

    python benchmarks/gpu.py [--blocks 30] [--batch 1] [--rounds 3] [--only train vae_decode]
    python benchmarks/gpu.py --rehearse          # the same code, tiny, on any device

Entries, each compiled and then timed in turn with a large bfloat16 matrix product:

    train        training step of the joint transformer (AdamW, rematerialised), `--blocks` of them
    loop         the same with the closed loop: autoencoder, matching, painting, aligner
    sample       one guided network call of sampling
    vae_encode, vae_decode     one view's clip of 49 x 480 x 704
    dpa          forward and backward of the aligner, three views of 49 frames and 1600 points
    dit          forward and backward of Wan's transformer over three clips; where torch and
                 diffusers are installed beside WanTransformer3DModel, compiled, with checkpoints

Prints `name ours peer ratio`: TFLOP/s of the model (3 x forward; what is recomputed does not count)
beside the measured product's, then the utilisation by the data sheet's peak as a comment, and last
the time of `loop` over that of `train`.
"""

import argparse
import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import inputs  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import timing  # noqa: E402

from configs import taco  # noqa: E402
from syncmv4d_jax import tree  # noqa: E402
from syncmv4d_jax.machines.planning import pods  # noqa: E402
from syncmv4d_jax.models import flops  # noqa: E402
from syncmv4d_jax.models.dpa import aligner  # noqa: E402
from syncmv4d_jax.models.nn import module  # noqa: E402
from syncmv4d_jax.models.wan import config as wan_config  # noqa: E402
from syncmv4d_jax.models.wan import dit  # noqa: E402
from syncmv4d_jax.run import assembly, optim, programs, update  # noqa: E402
from syncmv4d_jax.tasks.syncmv4d import cost as syncmv4d_cost  # noqa: E402
from syncmv4d_jax.tasks.syncmv4d import sampling as task_sampling  # noqa: E402

Entry = tuple[Callable[[], Any], float]  # what is timed, its FLOPs


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=30, help="of the transformer's 30")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--remat", default="full", choices=wan_config.REMAT)
    parser.add_argument("--only", nargs="+", choices=list(ENTRIES), default=list(ENTRIES))
    parser.add_argument("--rehearse", action="store_true", help="tiny, on any device")
    return parser.parse_args(arguments)


def configure(args: argparse.Namespace, entry: str = "closed_loop_step") -> tuple[Any, Any]:
    """Returns the configuration, and the task of a step of it."""
    config = taco.get_config("debug" if args.rehearse else "full")
    with config.unlocked():
        if not args.rehearse:
            config.task.dit = {**config.task.dit, "layers": args.blocks, "remat": args.remat}
            config.task.vae = {**config.task.vae, "dtype": "bfloat16"}
            config.optim.ema = 0.0  # 20 GB less
        config.task.guidance = 5.0
    return config, programs.find(config, entry).task


def training(args: argparse.Namespace, entry: str) -> Entry:
    """A training step; its state is donated from call to call."""
    config, task = configure(args, entry)
    trainable, frozen = tree.split(jax.jit(task.init)(jax.random.key(0)), task.trainable)
    if not task.settings.dpa:
        frozen = {}
    settings = assembly.read(config).optim
    kept = {"state": optim.init(settings, trainable)}
    del trainable
    step = jax.jit(update.make_update(task, settings), donate_argnums=0)
    batch, key = inputs.batch_of(task, args.batch), jax.random.key(1)

    def run():
        kept["state"], scalars = step(kept["state"], frozen, batch, key)
        return scalars

    return run, task.cost(batch)["flops"]


def sampling(args: argparse.Namespace) -> Entry:
    _, task = configure(args, "mjd_step")
    loop, params = task.loop, {"dit": jax.jit(task.init)(jax.random.key(0))["dit"]}
    if not args.rehearse:
        params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    batch = inputs.batch_of(task, args.batch)
    context = loop.context(batch)
    context["text_keys"] = task_sampling.text_keys(loop, params, context, True)
    x, t = batch["video_latents"], jnp.full((args.batch,), 0.7)

    @jax.jit
    def call(params, x, context):
        functions = loop.functions(params, x[:, :, :1], guidance=5.0)
        return functions.mjd(x, x, jnp.zeros_like(x), t, context)

    each = syncmv4d_cost.parts(loop)["mjd"] - syncmv4d_cost.text(loop)
    return lambda: call(params, x, context), 2 * args.batch * each


def autoencoder(args: argparse.Namespace, method: str) -> Entry:
    _, task = configure(args)
    o, (v, f, h, w, c) = task.options, task.latent_shape
    params = {"vae": jax.jit(task.init)(jax.random.key(0))["vae"]}
    shape = (1, 1, o.frames, *o.size, 3) if method == "encode" else (1, 1, f, h, w, c)
    x = jnp.full(shape, 0.5)
    run = jax.jit(getattr(task.loop.vae, method))
    return lambda: run(params, x), syncmv4d_cost.parts(task.loop)[method] / v


def alignment(args: argparse.Namespace) -> Entry:
    _, task = configure(args)
    o, config = task.options, task.dpa_config
    shape = (args.batch, o.views, o.frames, o.points)
    x = jax.random.normal(jax.random.key(0), (*shape, 3))
    rays = jnp.concatenate([x / jnp.linalg.norm(x, axis=-1, keepdims=True), x], -1)
    t, valid = jnp.full((args.batch,), 0.5), jnp.ones(shape, bool)
    params = jax.jit(lambda key: module.init(aligner.Aligner, config, key))(jax.random.key(1))

    def loss(params, x):
        model = module.bind(aligner.Aligner, config, params)
        velocity = model(x, x, t, confidence=jnp.ones(shape), valid=valid, rays=rays)
        given = {"target": x, "tracks_t": x, "tracks": x[:, 0], "t": t, "valid": valid}
        return aligner.loss(velocity, **given)[0]

    run = jax.jit(jax.grad(loss))
    return lambda: run(params, x), 3 * args.batch * syncmv4d_cost.parts(task.loop)["dpa"]


def wan_sizes(args: argparse.Namespace) -> tuple[wan_config.DiTConfig, tuple[int, ...]]:
    """Wan's transformer and the latents of three clips."""
    if args.rehearse:
        return wan_config.TINY, (2, 2, 4, 4, 4)
    config = wan_config.DiTConfig(layers=args.blocks, remat=args.remat)
    return config, (3, 13, 30, 44, config.in_channels)


def transformer(args: argparse.Namespace) -> Entry:
    config, shape = wan_sizes(args)
    params = jax.jit(lambda key: module.init(dit.DiT, config, key))(jax.random.key(0))
    params = jax.tree.map(lambda x: x.astype(config.dtype), params)
    x, t = jnp.ones(shape), jnp.full(shape[:1], 500.0)
    text = jnp.ones((shape[0], config.text_len, config.text_dim))

    def loss(params):
        return jnp.mean(jnp.square(module.bind(dit.DiT, config, params)(x, t, text)))

    run, tokens = jax.jit(jax.grad(loss)), flops.tokens(config, shape[1:4])
    return lambda: run(params), float(shape[0] * flops.train(flops.wan_dit(config, tokens)))


def peer(args: argparse.Namespace) -> Callable[[], Any] | None:
    """diffusers' transformer at the same size; None where it is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "diffusers")):
        return None
    import torch
    from diffusers import WanTransformer3DModel

    config, (b, f, h, w, c) = wan_sizes(args)
    place = {"device": "cuda" if torch.cuda.is_available() else "cpu", "dtype": torch.bfloat16}
    model = WanTransformer3DModel(
        patch_size=config.patch, num_attention_heads=config.heads,
        attention_head_dim=config.d_head, in_channels=c, out_channels=c,
        text_dim=config.text_dim, freq_dim=config.freq_dim, ffn_dim=config.ffn_dim,
        num_layers=config.layers,
    ).to(**place)  # fmt: skip
    if not args.rehearse:
        model.enable_gradient_checkpointing()
        model = torch.compile(model)
    x = torch.ones((b, c, f, h, w), **place)
    text = torch.ones((b, config.text_len, config.text_dim), **place)
    t = torch.full((b,), 500, device=place["device"])

    def run():
        model.zero_grad(set_to_none=True)
        out = model(x, t, text, return_dict=False)[0]
        torch.square(out.float()).mean().backward()
        if place["device"] == "cuda":
            torch.cuda.synchronize()

    return run


ENTRIES: dict[str, Callable[[argparse.Namespace], Entry]] = {
    "train": functools.partial(training, entry="mjd_step"),
    "loop": functools.partial(training, entry="closed_loop_step"),
    "sample": sampling,
    "vae_encode": functools.partial(autoencoder, method="encode"),
    "vae_decode": functools.partial(autoencoder, method="decode"),
    "dpa": alignment,
    "dit": transformer,
}


def report(args: argparse.Namespace, name: str) -> float:
    """Builds, times and prints one entry; returns its seconds."""
    product, product_flops = timing.matrix_product(*(256, "float32") if args.rehearse else
                                                   (8192, "bfloat16"))  # fmt: skip
    run, cost = ENTRIES[name](args)
    times = timing.interleaved({"run": run, "product": product}, args.rounds)
    seconds, rate = times["run"].best, cost / times["run"].best / 1e12
    timing.row(f"gpu_{name}_tflops", rate, product_flops / times["product"].best / 1e12)
    chip = pods.known(jax.devices()[0].device_kind)
    share = f"{1e12 * rate / chip.flops:.1%} of the data sheet's peak" if chip else "peak unknown"
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e9
    print(f"# {seconds:.4f} s, spread {times['run'].spread:.0%}, {share}, {memory:.1f} GB at most")
    if name == "dit" and (other := peer(args)):
        del run
        theirs = timing.interleaved({"torch": other}, args.rounds)["torch"].best
        timing.row("gpu_dit_forward_backward_s", seconds, theirs)
    return seconds


def main(arguments: list[str]) -> int:
    args = parse(arguments)
    if jax.default_backend() != "gpu" and not args.rehearse:
        sys.exit(
            f"benchmarks/gpu.py: wanted a GPU, JAX sees {jax.devices()[0].device_kind}; "
            "--rehearse runs the same code at tiny size"
        )
    print(f"# {jax.devices()[0].device_kind}, jax {jax.__version__}\nname ours peer ratio")
    took = {name: report(args, name) for name in args.only}
    if {"train", "loop"} <= took.keys():
        timing.row("gpu_loop_over_train_s", took["loop"], took["train"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
