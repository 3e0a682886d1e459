"""A block of the multi-view joint transformer on a CPU beside the same arithmetic in torch.

    python benchmarks/mjd_cpu.py [--rounds 5] [--width 512]

The peer is put together from diffusers' modules (nobody publishes one): WanTransformerBlock behind
an inter-view attention of WanAttention's layers and torch's scaled_dot_product_attention. Three
views, 4 x 8 x 8 tokens of video and of motion each and 8 others, text 512, float32, the same
weights and inputs. Turns of two runs; the least of the second ones counts. Prints
`name ours peer ratio`, seconds; the largest difference of both outputs goes to stderr.
"""

import argparse
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import einops  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import timing  # noqa: E402
import torch  # noqa: E402
from diffusers.models.transformers import transformer_wan as wan  # noqa: E402

from syncmv4d_jax.models.mjd import block as mjd_block  # noqa: E402
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import mjd, tokens
from syncmv4d_jax.models.nn import module  # noqa: E402

VIEWS, GRID = 3, (4, 8, 8)


class Peer(torch.nn.Module):
    """Inter-view attention, then diffusers' block; its tokens are [extra | video | motion]."""

    def __init__(self, config: mjd_config.MJDConfig):
        super().__init__()
        self.norm = wan.FP32LayerNorm(config.dim, config.eps, elementwise_affine=False)
        self.inter = wan.WanAttention(
            config.dim, config.heads, config.d_head, config.eps, processor=wan.WanAttnProcessor()
        )
        self.block = wan.WanTransformerBlock(
            config.dim, config.ffn_dim, config.heads, "rms_norm_across_heads", True, config.eps
        )

    def forward(self, x, text, vectors, intra, inter):
        """x [v s d], text [v l d], vectors [v s 9 d], rotations as diffusers takes them."""
        shift, scale, gate = vectors[:, :, 6:].unbind(2)
        y = self.norm(x) * (1 + scale) + shift
        x = x + gate * self.between(y, inter)
        return self.block(x, text, vectors[:, :, :6] - self.block.scale_shift_table[None], intra)

    def between(self, y, rotation):
        a = self.inter
        q, k, v = a.norm_q(a.to_q(y)), a.norm_k(a.to_k(y)), a.to_v(y)
        q, k, v = (x.unflatten(2, (a.heads, -1)) for x in (q, k, v))
        extra = y.shape[1] - 2 * int(np.prod(GRID))
        pattern = "v (m f p) h d -> f h (v m p) d"
        dense = [einops.rearrange(x[:, extra:], pattern, m=2, f=GRID[0]) for x in (q, k, v)]
        dense[:2] = (turn(x, rotation) for x in dense[:2])
        z = torch.nn.functional.scaled_dot_product_attention(*dense)
        z = einops.rearrange(z, "f h (v m p) d -> v (m f p) h d", v=VIEWS, m=2)
        few = [einops.rearrange(x[:, :extra], "v e h d -> 1 h (v e) d") for x in (q, k, v)]
        e = torch.nn.functional.scaled_dot_product_attention(*few)
        e = einops.rearrange(e, "1 h (v e) d -> v e h d", v=VIEWS)
        return a.to_out[0](torch.cat([e, z], 1).flatten(2))


def turn(x, rotation):
    """x [f h s d] by (cos, sin), each [s d/2]."""
    cos, sin = rotation
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([x1 * cos - x2 * sin, x1 * sin + x2 * cos], -1).flatten(-2)


def fill(peer: Peer, params: dict) -> None:
    """Copies our weights; ours are [d_in d_out]."""

    def put(target, source):
        value = source["kernel"].T if "kernel" in source else source["scale"]
        target.weight.data = torch.tensor(np.array(value))
        if "bias" in source:
            target.bias.data = torch.tensor(np.array(source["bias"]))

    def attention(target, source):
        put(target.to_out[0], source["o"])
        for name in "qkv":
            put(getattr(target, f"to_{name}"), source[name])
        put(target.norm_q, source["norm_q"])
        put(target.norm_k, source["norm_k"])

    attention(peer.inter, params["inter_view_attn"])
    attention(peer.block.attn1, params["self_attn"])
    attention(peer.block.attn2, params["cross_attn"])
    put(peer.block.norm2, params["norm3"])
    put(peer.block.ffn.net[0].proj, params["ffn"]["linear_0"])
    put(peer.block.ffn.net[2], params["ffn"]["linear_2"])
    peer.block.scale_shift_table.data = torch.tensor(np.array(params["modulation"]))


def build(config: mjd_config.MJDConfig):
    """Returns (parameters, inputs x and text, our forward, the peer, its forward)."""
    rng = np.random.default_rng(0)
    shapes = module.shapes(mjd_block.MJDBlock, config)
    params = jax.tree.map(
        lambda s: jnp.asarray(0.05 * rng.standard_normal(s.shape), jnp.float32), shapes
    )
    layout = tokens.Layout(VIEWS, GRID, config.extra_tokens, 2)
    x = rng.standard_normal((VIEWS, layout.tokens, config.dim)).astype(np.float32)
    text = rng.standard_normal((1, config.text_len, config.dim)).astype(np.float32)
    whole = jax.eval_shape(lambda: module.init(mjd.MJD, config, jax.random.key(0)))
    model = module.bind(mjd.MJD, config, whole)
    intra = model._intra_rotation(layout)
    inter = model._inter_rotation(layout, jnp.arange(VIEWS)[None])
    time = [jnp.asarray(rng.standard_normal((1, n, 6, config.dim)), jnp.float32) for n in (2, 1)]
    conditions = mjd_block.Conditions(*time, intra, inter, None)

    def ours(params, x):
        block = module.bind(mjd_block.MJDBlock, config, params)
        return block(x, jnp.asarray(text), conditions=conditions, layout=layout)

    vectors = module.bind(mjd_block.MJDBlock, config, params).vectors(conditions, layout)
    vectors = torch.tensor(np.stack([np.array(a) for a in vectors], 2))
    cos, sin = (torch.tensor(np.repeat(np.array(a), 2, -1))[None, :, None] for a in intra)
    between = [torch.tensor(np.array(a[0])) for a in inter]
    peer = Peer(config)
    fill(peer, params)
    texts = torch.tensor(np.repeat(text, VIEWS, 0))

    def theirs(x):
        return peer(x, texts, vectors, (cos, sin), between)

    return params, x, ours, peer, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=512)
    args = parser.parse_args()
    torch.set_num_threads(timing.cores())
    d = args.width
    config = mjd_config.MJDConfig(dim=d, ffn_dim=4 * d, heads=d // 128, layers=1, dtype="float32")
    params, x, ours, peer, theirs = build(config)
    forward = jax.jit(ours)
    backward = jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.square(ours(p, x))), argnums=(0, 1)))
    tensor = torch.tensor(x, requires_grad=True)

    def peer_forward():
        with torch.no_grad():
            return theirs(tensor).numpy()

    def peer_backward():
        peer.zero_grad()
        torch.square(theirs(tensor)).sum().backward()

    wanted = peer_forward()
    error = np.abs(np.asarray(forward(params, x)) - wanted).max() / np.abs(wanted).max()
    print(f"# largest difference {error:.1e} of the largest output", file=sys.stderr)
    if error > 1e-3:
        sys.exit("the peer computes something else")
    pairs = {
        "mjd_block_forward": (lambda: forward(params, x), peer_forward),
        "mjd_block_forward_backward": (lambda: backward(params, x), peer_backward),
    }
    for name, (own, other) in pairs.items():
        times = timing.interleaved(
            {"ours": own, "peer": lambda o=other: o()}, args.rounds, steady=True
        )
        timing.row(name, times["ours"].best, times["peer"].best)


if __name__ == "__main__":
    main()
