"""What benchmarks/gpu.py stands beside: torch and diffusers at the same sizes, on the same card.

Each peer is a function of the arguments that returns what is timed; torch is imported there, in a
process that jax does not share the card's memory with.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "support"))  # the autoencoder's names in diffusers

from syncmv4d_jax.models.wan import config as wan_config  # noqa: E402
from syncmv4d_jax.models.wan import vae as wan_vae  # noqa: E402

CLIP = (49, 480, 704)
SMALL_CLIP = (5, 32, 48)
SMALL_VAE = {"z_dim": 8, "dim": 8, "dec_dim": 8, "dim_mult": (1, 2, 2), "num_res_blocks": 1,
             "temporal_downsample": (True, True)}  # fmt: skip


def clips(args: argparse.Namespace) -> tuple[wan_config.DiTConfig, tuple[int, ...]]:
    """Wan's transformer and the latents of three clips, [b f h w c]."""
    if args.rehearse:
        return wan_config.TINY, (2, 2, 4, 4, 4)
    config = wan_config.DiTConfig(layers=args.blocks or 30, remat=args.remat)
    return config, (3, 13, 30, 44, config.in_channels)


def heads(args: argparse.Namespace) -> tuple[int, int, int, int]:
    """Attention of a view's tokens, padded to a multiple of 64: [b s heads d]."""
    return (1, 64, 2, 16) if args.rehearse else (1, 8640, 24, 128)


def _place(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    return {"device": "cpu" if args.rehearse else "cuda", "dtype": torch.bfloat16}


def _done(args: argparse.Namespace) -> None:
    if not args.rehearse:
        import torch

        torch.cuda.synchronize()


def transformer(args: argparse.Namespace) -> Callable[[], None]:
    """Forward and backward of diffusers' transformer, compiled, its blocks run again backward."""
    import torch
    from diffusers import WanTransformer3DModel

    config, (b, f, h, w, c) = clips(args)
    place = _place(args)
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

    def run() -> None:
        model.zero_grad(set_to_none=True)
        out = model(x, t, text, return_dict=False)[0]
        torch.square(out.float()).mean().backward()
        _done(args)

    return run


def attention(args: argparse.Namespace) -> Callable[[], None]:
    """Forward and backward of torch's own attention."""
    import torch

    b, s, h, d = heads(args)
    q, k, v = (torch.randn((b, h, s, d), requires_grad=True, **_place(args)) for _ in range(3))

    def run() -> None:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        torch.autograd.grad(out.float().sum(), (q, k, v))
        _done(args)

    return run


def autoencoder(args: argparse.Namespace, method: str) -> Callable[[], None]:
    """One clip through diffusers' autoencoder, in its chunks."""
    import torch
    import vae_reference

    config = wan_vae.VAEConfig(**SMALL_VAE) if args.rehearse else wan_vae.VAEConfig()
    model, place = vae_reference.build(config, seed=0).to(**_place(args)), _place(args)
    frames, height, width = SMALL_CLIP if args.rehearse else CLIP
    time_stride, pixels = config.stride
    small = (1, config.z_dim, (frames - 1) // time_stride + 1, height // pixels, width // pixels)
    x = torch.zeros((1, 3, frames, height, width) if method == "encode" else small, **place)

    def run() -> None:
        with torch.no_grad():
            model.encode(x) if method == "encode" else model.decode(x)
        _done(args)

    return run


def seconds(run: Callable[[], None], rounds: int) -> float:
    """Returns the seconds of the best run; the first, which compiles, does not count."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


# Of an entry of gpu.py: how, and what it is.
PEERS: dict[str, tuple[Callable[[argparse.Namespace], Callable[[], None]], str]] = {
    "attention": (attention, "torch's scaled_dot_product_attention"),
    "dit": (transformer, "diffusers' WanTransformer3DModel under torch.compile"),
    "vae_encode": (lambda args: autoencoder(args, "encode"), "diffusers' AutoencoderKLWan"),
    "vae_decode": (lambda args: autoencoder(args, "decode"), "diffusers' AutoencoderKLWan"),
}
