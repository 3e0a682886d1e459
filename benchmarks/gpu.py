"""One GPU, one command, five minutes: how near the steps at full size come to what it can do.

    python benchmarks/gpu.py [--minutes 5] [--blocks 0] [--batch 1] [--only train vae_decode]
    python benchmarks/gpu.py --list              # what it would measure, and how long that takes
    python benchmarks/gpu.py --rehearse          # the same code, tiny, on any device

Entries, each in a process of its own, so that memory is its own and a failure stops no other:

    attention    a view's tokens, forward and backward; beside torch's scaled_dot_product_attention
    train        training step of the joint transformer (AdamW, rematerialised)
    sample       one guided network call of sampling, bfloat16 weights
    dit          forward and backward of Wan's transformer over three clips; beside diffusers'
                 WanTransformer3DModel, compiled, with checkpoints
    vae_encode, vae_decode     one view's clip of 49 x 480 x 704; beside diffusers' AutoencoderKLWan
    dpa          forward and backward of the aligner, three views of 49 frames and 1600 points
    loop         the training step with the closed loop: autoencoder, matching, painting, aligner
    demo         with --package FILE of demo/package.py, after all others and in five minutes more:
                 the demo's training (demo/train_gpu.py), whose lines tell steps, seconds, TFLOP/s

Training takes as many of the 30 blocks as the card has memory for (`BLOCKS`), unless `--blocks`
says how many. Every entry is compiled and then timed in turn with a large bfloat16 matrix product.
Rows are `name ours peer ratio`:

    gpu_X_tflops     of the model (3 x forward; what is recomputed does not count); the product's
    gpu_X_s          seconds; those that `mode=plan` expects of the same compiled program
    gpu_X_gb         most memory in use; what the plan gives the program
    gpu_X_torch_s    seconds; those of the peer, where torch and diffusers are installed

and, as a comment, the utilisation by the data sheet's peak. What no time is left for is named.
The plan's figures in a rehearsal are those of an H100, whatever the device.
"""

import argparse
import functools
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")  # as plans count (pods.RESERVED)

import gpu_peers  # noqa: E402
import inputs  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import timing  # noqa: E402

from configs import taco  # noqa: E402
from syncmv4d_jax import tree  # noqa: E402
from syncmv4d_jax.machines.planning import gpus, pods, schedule  # noqa: E402
from syncmv4d_jax.models import flops  # noqa: E402
from syncmv4d_jax.models.dpa import aligner  # noqa: E402
from syncmv4d_jax.models.nn import attention, module  # noqa: E402
from syncmv4d_jax.models.wan import config as wan_config  # noqa: E402
from syncmv4d_jax.models.wan import dit  # noqa: E402
from syncmv4d_jax.run import assembly, optim, programs, update  # noqa: E402
from syncmv4d_jax.tasks.syncmv4d import cost as syncmv4d_cost  # noqa: E402
from syncmv4d_jax.tasks.syncmv4d import sampling as task_sampling  # noqa: E402

# GiB of a card -> blocks of a training step without an average, by the estimate of mode=plan.
BLOCKS = {120: 30, 70: 14, 0: 4}
WANTED = "wanted a GPU"
DEMO, DEMO_SECONDS = "demo", 300
PRODUCT = {False: (8192, "bfloat16"), True: (256, "float32")}  # by args.rehearse


class Entry(NamedTuple):
    """compiled: a program. run: calls it. flops: of the model."""

    compiled: Any
    run: Callable[[], Any]
    flops: float


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="in which to be done")
    parser.add_argument("--blocks", type=int, default=0, help="of the transformer; 0: BLOCKS")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--remat", default="full", choices=wan_config.REMAT)
    names = [*ENTRIES, DEMO]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--package", type=Path, help="of demo/package.py, to train the demo from")
    parser.add_argument("--list", action="store_true", help="measure nothing, tell what would be")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on any device")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def blocks(args: argparse.Namespace) -> int:
    """How many of the 30 blocks are trained."""
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", 0) / pods.GIB
    return args.blocks or next(count for least, count in BLOCKS.items() if memory >= least)


def configure(args: argparse.Namespace, entry: str = "closed_loop_step") -> tuple[Any, Any]:
    """Returns the configuration, and the task of a step of it."""
    config = taco.get_config("debug" if args.rehearse else "full")
    with config.unlocked():
        if not args.rehearse:
            layers = 30 if entry == "sample_step" else blocks(args)
            config.task.dit = {**config.task.dit, "layers": layers, "remat": args.remat}
            config.task.vae = {**config.task.vae, "dtype": "bfloat16"}
            config.task.vae_chunk = 1
            config.optim.ema = 0.0  # 23 GiB less
        config.task.guidance = 5.0
    return config, programs.find(config, entry).task


def training(args: argparse.Namespace, entry: str) -> Entry:
    """A training step; its state is donated from call to call."""
    config, task = configure(args, entry)
    settings = assembly.read(config).optim

    @jax.jit
    def begin(key):
        trainable, frozen = tree.split(task.init(key), task.trainable)
        return optim.init(settings, trainable), frozen if task.settings.dpa else {}

    kept = dict(zip(("state", "frozen"), begin(jax.random.key(0)), strict=True))
    batch, key = inputs.batch_of(task, args.batch), jax.random.key(1)
    step = jax.jit(update.make_update(task, settings), donate_argnums=0)
    compiled = step.lower(kept["state"], kept["frozen"], batch, key).compile()

    def run():
        kept["state"], scalars = compiled(kept["state"], kept["frozen"], batch, key)
        return scalars

    return Entry(compiled, run, task.cost(batch)["flops"])


def _forward(function: Callable[..., Any], *arguments: Any, cost: float) -> Entry:
    compiled = jax.jit(function).lower(*arguments).compile()
    return Entry(compiled, lambda: compiled(*arguments), cost)


def sampling(args: argparse.Namespace) -> Entry:
    _, task = configure(args, "sample_step")
    loop, dtype = task.loop, jnp.float32 if args.rehearse else jnp.bfloat16

    @jax.jit
    def begin(key):
        return {"dit": jax.tree.map(lambda x: x.astype(dtype), task.init(key)["dit"])}

    params, batch = begin(jax.random.key(0)), inputs.batch_of(task, args.batch)
    context = loop.context(batch)
    context["text_keys"] = task_sampling.text_keys(loop, params, context, True)
    x, t = batch["video_latents"], jnp.full((args.batch,), 0.7)

    def call(params, x, t, context):
        functions = loop.functions(params, x[:, :, :1], guidance=5.0)
        return functions.mjd(x, x, jnp.zeros_like(x), t, context)

    each = syncmv4d_cost.parts(loop)["mjd"] - syncmv4d_cost.text(loop)
    return _forward(call, params, x, t, context, cost=2 * args.batch * each)


def autoencoder(args: argparse.Namespace, method: str) -> Entry:
    _, task = configure(args)
    o, (v, f, h, w, c) = task.options, task.latent_shape
    params = {"vae": jax.jit(lambda key: task.init(key)["vae"])(jax.random.key(0))}
    shape = (1, 1, o.frames, *o.size, 3) if method == "encode" else (1, 1, f, h, w, c)
    cost = syncmv4d_cost.parts(task.loop)[method] / v
    return _forward(getattr(task.loop.vae, method), params, jnp.full(shape, 0.5), cost=cost)


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

    cost = 3 * args.batch * syncmv4d_cost.parts(task.loop)["dpa"]
    return _forward(jax.grad(loss), params, x, cost=cost)


def transformer(args: argparse.Namespace) -> Entry:
    config, shape = gpu_peers.clips(args)
    dtype = config.dtype

    @jax.jit
    def begin(key):
        return jax.tree.map(lambda x: x.astype(dtype), module.init(dit.DiT, config, key))

    x, t = jnp.ones(shape), jnp.full(shape[:1], 500.0)
    text = jnp.ones((shape[0], config.text_len, config.text_dim))

    def loss(params, x, t, text):
        return jnp.mean(jnp.square(module.bind(dit.DiT, config, params)(x, t, text)))

    tokens = flops.tokens(config, shape[1:4])
    cost = float(shape[0] * flops.train(flops.wan_dit(config, tokens)))
    return _forward(jax.grad(loss), begin(jax.random.key(0)), x, t, text, cost=cost)


def heads(args: argparse.Namespace) -> Entry:
    b, s, h, d = shape = gpu_peers.heads(args)
    q = jax.random.normal(jax.random.key(0), shape).astype(jnp.bfloat16)

    def loss(q, k, v):
        return jnp.sum(attention.attend(q, k, v).astype(jnp.float32))

    cost = (schedule.FORWARD + schedule.BACKWARD) * b * h * s * s * d
    return _forward(jax.grad(loss, (0, 1, 2)), q, q, q, cost=cost)


# name -> how, and the seconds it takes on an H100 with 8 cores beside it, torch's included: guessed
# from compilations on a CPU (40 s for a training step, 60 s for a sampling one), none was measured.
ENTRIES: dict[str, tuple[Callable[[argparse.Namespace], Entry], int]] = {
    "attention": (heads, 20),
    "train": (functools.partial(training, entry="mjd_step"), 45),
    "sample": (sampling, 30),
    "dit": (transformer, 75),
    "vae_encode": (functools.partial(autoencoder, method="encode"), 30),
    "vae_decode": (functools.partial(autoencoder, method="decode"), 30),
    "dpa": (alignment, 20),
    "loop": (functools.partial(training, entry="closed_loop_step"), 50),
}


def measure(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Builds and times one entry; returns what was measured, and what a plan says of it."""
    device = jax.devices()[0]
    if device.platform != "gpu" and not args.rehearse:
        sys.exit(
            f"benchmarks/gpu.py: {WANTED}, JAX sees {device.device_kind}; --rehearse runs the same "
            "code at tiny size, --list tells what would be measured"
        )
    chip = pods.known(device.device_kind)
    product, product_flops = timing.matrix_product(*PRODUCT[args.rehearse])
    entry = ENTRIES[name][0](args)
    expected = schedule.Program(entry.compiled.as_text()).on(
        pods.reached(chip or pods.CHIPS["h100"])
    )
    times = timing.interleaved({"run": entry.run, "product": product}, args.rounds)
    return {
        "device": f"{device.device_kind}, jax {jax.__version__}",
        "seconds": times["run"].best,
        "spread": times["run"].spread,
        "tflops": entry.flops / times["run"].best / 1e12,
        "product_tflops": product_flops / times["product"].best / 1e12,
        "peak_tflops": chip.flops / 1e12 if chip else 0.0,
        "expected_s": expected.seconds,
        "gb": (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e9,
        "planned_gb": gpus.need(entry.compiled.memory_analysis()) / 1e9,
        "blocks": blocks(args) if name in ("train", "loop") and not args.rehearse else 0,
    }


def child(name: str, arguments: list[str], seconds: float) -> dict[str, Any] | str:
    """Runs this script for one entry, or a peer; returns what it found, or why there is nothing."""
    command = [sys.executable, __file__, *arguments, "--child", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s, no time was left"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    return json.loads(done.stdout.splitlines()[-1])


def show(name: str, found: Mapping[str, Any], peer: Mapping[str, Any] | str | None) -> None:
    """Prints the rows of one entry."""
    timing.row(f"gpu_{name}_tflops", found["tflops"], found["product_tflops"])
    timing.row(f"gpu_{name}_s", found["seconds"], found["expected_s"])
    if found["gb"]:
        timing.row(f"gpu_{name}_gb", found["gb"], found["planned_gb"])
    peak = found["peak_tflops"]
    share = f"{found['tflops'] / peak:.1%} of the data sheet's peak" if peak else "peak unknown"
    told = f", {found['blocks']} blocks" if found["blocks"] else ""
    print(f"# {name}: spread {found['spread']:.0%}, {share}{told}", flush=True)
    if isinstance(peer, Mapping):
        timing.row(f"gpu_{name}_torch_s", found["seconds"], peer["seconds"])
    elif peer:
        print(f"# {name}, torch: {peer}", flush=True)


def whole(args: argparse.Namespace, arguments: list[str]) -> int:
    """Measures all entries within the time; returns how many failed."""
    peers = [name for name in ("torch", "diffusers") if not importlib.util.find_spec(name)]
    print("name ours peer ratio", flush=True)
    end, failed, seconds = time.monotonic() + 60 * args.minutes, 0, {}
    if peers:
        print(f"# no rows beside torch: {', '.join(peers)} not installed", flush=True)
    for name in (name for name in args.only if name in ENTRIES):
        left = end - time.monotonic()
        if not args.rehearse and left < ENTRIES[name][1]:
            print(f"# {name}: left out, {left:.0f} s of {args.minutes:g} minutes are left; "
                  f"python benchmarks/gpu.py --only {name}", flush=True)  # fmt: skip
            continue
        found = child(name, arguments, left)
        if isinstance(found, str) and WANTED in found:
            sys.exit(found)
        if isinstance(found, str):
            print(f"# {name}: {found}", flush=True)
            failed += 1
            continue
        if not seconds:
            print(f"# {found['device']}", flush=True)
        seconds[name] = found["seconds"]
        peer = None
        if name in gpu_peers.PEERS and not peers:
            peer = child(f"torch:{name}", arguments, end - time.monotonic())
        show(name, found, peer)
    if {"train", "loop"} <= seconds.keys():
        timing.row("gpu_loop_over_train_s", seconds["loop"], seconds["train"])
    return failed + (DEMO in args.only and trained(args) != 0)


def trained(args: argparse.Namespace) -> int:
    """Trains the demo; returns the exit status."""
    if not args.package and not args.rehearse:
        print("# demo: left out, wanted --package FILE (python demo/package.py makes one)")
        return 0
    given = ["--rehearse"]
    if not args.rehearse:
        given = ["--package", str(args.package.resolve()), "--minutes", f"{DEMO_SECONDS / 60:g}"]
    return subprocess.run([sys.executable, "demo/train_gpu.py", *given], cwd=ROOT).returncode


def main(arguments: list[str]) -> int:
    args = parse(arguments)
    if args.list:
        entries = [name for name in args.only if name in ENTRIES]
        for name in entries:
            beside = f", beside {gpu_peers.PEERS[name][1]}" if name in gpu_peers.PEERS else ""
            print(f"{name}: about {ENTRIES[name][1]} s{beside}")
        print(f"about {sum(ENTRIES[name][1] for name in entries)} s on an H100, by guess")
        if DEMO in args.only:
            print(f"{DEMO}: {DEMO_SECONDS} s more, with --package FILE (demo/package.py)")
        return 0
    if args.child and args.child.startswith("torch:"):
        peer = gpu_peers.PEERS[args.child.removeprefix("torch:")][0](args)
        print(json.dumps({"seconds": gpu_peers.seconds(peer, args.rounds)}))
        return 0
    if args.child:
        print(json.dumps(measure(args, args.child)))
        return 0
    return min(whole(args, arguments), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
