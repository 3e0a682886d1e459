"""What libtpu's compiler says of the full-size training step, without a TPU.

    python benchmarks/tpu_compile.py --what remat async tiles [--topology v5p-16]

remat   memory and recomputed FLOPs of the rematerialisation policies
async   collectives that may run beside compute, with the default flags and with FLAGS
tiles   blocks of keys in attention: memory, and whether they fit the vector memory

`mjd_step` on a mesh of fsdp alone, bfloat16 residuals, no average of the weights; compiled until
the memory is assigned (a minute each on a calm core), attention alone to the end. Needs
`pip install 'syncmv4d_jax[tpu]'`; no other process of the machine may have loaded libtpu.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for `from configs import ...`

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from configs import taco  # noqa: E402
from syncmv4d_jax.machines.planning import compiler, pods  # noqa: E402
from syncmv4d_jax.machines.planning.pods import GIB  # noqa: E402
from syncmv4d_jax.models import flops  # noqa: E402
from syncmv4d_jax.models.nn import attention  # noqa: E402
from syncmv4d_jax.run import plan, programs, sections  # noqa: E402

POLICIES = ("full", "save_attention", "offload", "none")
FLAGS = (
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
    "--xla_enable_async_all_gather=true",
)
BLOCKS = (512, 3072, 4608)  # of keys, at most
TOKENS = {"a view": 8588, "a latent frame": 1980}


def configured(remat):
    config = taco.get_config("full")
    config.task.dit.update({"remat": remat, "residual_dtype": "bfloat16"})
    config.optim.ema = 0.0
    return config


def planned(topology, config):
    mesh = (1, pods.find(topology).devices, 1, 1)
    settings = sections.PlanConfig(topologies=(topology,), mesh=mesh, until="memory")
    [row] = plan.plan(config, settings, pods.find(topology), [], "mjd_step", [])
    return row


def recomputed(config, policy):
    """FLOPs computed again in the backward pass, as a share of one forward pass."""
    task = programs.find(config, "mjd_step").task
    (v, f, h, w, _), (pf, ph, pw) = task.latent_shape, task.mjd_config.patch
    cost = flops.mjd_block(
        task.mjd_config, views=v, frames=f // pf, positions=(h // ph) * (w // pw)
    )
    cores = cost["intra"] + cost["inter"] + cost["cross"]
    return {"none": 0.0, "full": 1.0}.get(policy, 1 - cores / flops.total(cost))


def remat(topology):
    for policy in POLICIES:
        config = configured(policy)
        row = planned(topology, config)
        sent = sum(x["gigabytes"] for x in row.get("collectives", {}).values())
        print(
            f"remat {topology} {policy}: {row['peak_bytes'] / GIB:.1f} of "
            f"{row['limit_bytes'] / GIB:.1f} GiB, {'fits' if row['fits'] else 'refused'}, "
            f"recomputed {recomputed(config, policy):.2f} forward, sends {sent:.0f} GB",
            flush=True,
        )


def asynchronous(topology):
    for name, flags in (("default", ()), ("flags", FLAGS)):
        os.environ["LIBTPU_INIT_ARGS"] = " ".join(flags)
        row = planned(topology, configured("full"))
        counts = {kind: int(x["count"]) for kind, x in row["collectives"].items()}
        print(
            f"async {topology} {name}: {row['asynchronous']} of {counts}, "
            f"{row['peak_bytes'] / GIB:.1f} GiB",
            flush=True,
        )
    os.environ.pop("LIBTPU_INIT_ARGS")


def kernel(topology, tokens, keys):
    """MiB that attention and its gradient need beside their inputs; the refusal's words if none."""
    attention.SPLASH_KEYS = keys
    _, devices = plan.load_devices(topology)
    mesh = jax.make_mesh((1,), ("a",), devices=devices[:1])
    cut = jax.NamedSharding(mesh, jax.P())
    q = jax.ShapeDtypeStruct((1, tokens, 24, 128), jnp.bfloat16, sharding=cut)

    def loss(q, k, v):
        return jnp.sum(attention.attend(q, k, v, kernel="splash").astype(jnp.float32))

    try:
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, q, q).compile()
    except jax.errors.JaxRuntimeError as error:
        return str(error).splitlines()[0][:120]
    return f"{compiled.memory_analysis().temp_size_in_bytes / 2**20:.0f} MiB"


def tiles(topology):
    for what, tokens in TOKENS.items():
        for keys in BLOCKS:
            attention.SPLASH_KEYS = keys
            block, compute = attention.key_tiles(tokens)
            found = compiler.run(kernel, topology, tokens, keys, names=("none",))
            print(f"tiles {topology} {what}, blocks of {block} by {compute}: {found}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", choices=("remat", "async", "tiles"), required=True)
    parser.add_argument("--topology", default="v5p-16")
    args = parser.parse_args()
    for what in args.what:
        {"remat": remat, "async": asynchronous, "tiles": tiles}[what](args.topology)


if __name__ == "__main__":
    main()
