"""Table of Point Transformer V3: the keys of Pointcept's released models (spconv 2 weights)."""

from typing import Any

import einops
import numpy as np

from syncmv4d_jax.weights.engine import TRANSPOSE, Rule, Transform

IGNORED = r".*num_batches_tracked|seg_head\..*"  # counters; the head of another task


def _side(taps: int) -> int:
    return round(np.cbrt(taps))


# spconv 2.x keeps (out, k0, k1, k2, in); ours is (taps, in, out), taps in C order of k0, k1, k2.
CONVOLUTION = Transform(
    lambda x: einops.rearrange(x, "o x y z i -> (x y z) i o"),
    lambda x: einops.rearrange(
        x, "(x y z) i o -> o x y z i", x=_side(x.shape[0]), y=_side(x.shape[0])
    ),
)


def rules(config: Any, layout: str = "official") -> list[Rule]:
    """Returns the table; one layout is known, "official".

    Raises:
      ValueError: another layout.
    """
    del config
    if layout != "official":
        raise ValueError(f"ptv3: wanted the layout 'official', got {layout!r}")
    table = [Rule("embedding.stem.conv.weight", "embedding/conv/kernel", CONVOLUTION)]
    table += _batch_norm("embedding.stem.norm", "embedding/norm")
    for half in ("enc", "dec"):
        theirs, ours = f"{half}.{half}{{s}}.block{{i}}.", f"{half}{{s}}/block{{i}}/"
        table.append(Rule(f"{theirs}cpe.0.weight", f"{ours}cpe/conv/kernel", CONVOLUTION))
        table.append(Rule(f"{theirs}cpe.0.bias", f"{ours}cpe/conv/bias"))
        linears = {"cpe.1": "cpe/linear", "attn.qkv": "attn/qkv", "attn.proj": "attn/proj"}
        linears |= {"mlp.0.fc1": "mlp/fc1", "mlp.0.fc2": "mlp/fc2"}
        for key, path in linears.items():
            table += _linear(theirs + key, ours + path)
        for key, path in {"cpe.2": "cpe/norm", "norm1.0": "norm1", "norm2.0": "norm2"}.items():
            table.append(Rule(f"{theirs}{key}.weight", f"{ours}{path}/scale"))
            table.append(Rule(f"{theirs}{key}.bias", f"{ours}{path}/bias"))
    table += _linear("enc.enc{s}.down.proj", "down{s}/proj")
    table += _batch_norm("enc.enc{s}.down.norm.0", "down{s}/norm")
    for key, path in {"proj": "up", "proj_skip": "skip"}.items():
        table += _linear(f"dec.dec{{s}}.up.{key}.0", f"{path}{{s}}/proj")
        table += _batch_norm(f"dec.dec{{s}}.up.{key}.1", f"{path}{{s}}/norm")
    return table


def _linear(key: str, path: str) -> list[Rule]:
    return [
        Rule(f"{key}.weight", f"{path}/kernel", TRANSPOSE),
        Rule(f"{key}.bias", f"{path}/bias"),
    ]


def _batch_norm(key: str, path: str) -> list[Rule]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return [Rule(f"{key}.{theirs}", f"{path}/{ours}") for theirs, ours in names.items()]
