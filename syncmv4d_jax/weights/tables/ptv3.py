"""Table of Point Transformer V3: the keys of Pointcept's released models (spconv 2 weights).

    config = ptv3.config_of(backbone)       the `backbone` dictionary of a released configuration
    params = ptv3.load("model_best.pth", config)
    features = module.bind(unet.PTv3, config, params)(x, grid, valid)

Layouts: "official", the network alone; "segmentor", as released, the network below `backbone.`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import einops
import numpy as np

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.ptv3 import unet
from syncmv4d_jax.weights import engine, torch_pickle
from syncmv4d_jax.weights.engine import TRANSPOSE, Rule, Transform

PREFIXES = {"official": "", "segmentor": "backbone."}
IGNORED = r".*num_batches_tracked|seg_head\..*"  # counters; the head of another task

# Released name -> our field; what else a released configuration may say, and must say so.
_FIELDS = {
    "in_channels": "in_channels", "enc_depths": "enc_depths", "enc_channels": "enc_channels",
    "enc_num_head": "enc_heads", "enc_patch_size": "patches", "dec_depths": "dec_depths",
    "dec_channels": "dec_channels", "dec_num_head": "dec_heads", "mlp_ratio": "mlp_ratio",
}  # fmt: skip
_FIXED = {
    "type": "PT-v3m1", "order": unet.ORDERS, "qkv_bias": True, "qk_scale": None,
    "pre_norm": True, "enable_rpe": False, "cls_mode": False, "pdnorm_bn": False,
    "pdnorm_ln": False,
}  # fmt: skip
# Training, or another way to the same numbers.
_FREE = r"stride|dec_patch_size|.+_drop|drop_path|shuffle_orders|pdnorm_.+|enable_flash|upcast_.+"


def _side(taps: int) -> int:
    return round(np.cbrt(taps))


# spconv 2.x keeps (out, k0, k1, k2, in); ours is (taps, in, out), taps in C order of k0, k1, k2.
CONVOLUTION = Transform(
    lambda x: einops.rearrange(x, "o x y z i -> (x y z) i o"),
    lambda x: einops.rearrange(
        x, "(x y z) i o -> o x y z i", x=_side(x.shape[0]), y=_side(x.shape[0])
    ),
)


def config_of(backbone: Mapping[str, Any]) -> unet.PTv3Config:
    """Returns our configuration for the `backbone` of a released one.

    Args:
      backbone: e.g. {"type": "PT-v3m1", "in_channels": 6, "enc_patch_size": (1024,) * 5, ...}; what
        it does not say has the published default.

    Raises:
      ValueError: a setting that this network does not have, or a stage whose decoder wants other
        patches than its encoder (the reference then uses the encoder's without saying so).
    """
    tuples = lambda x: tuple(x) if isinstance(x, list | tuple) else x  # noqa: E731
    fields: dict[str, Any] = {}
    problems = []
    for name, value in backbone.items():
        if name in _FIELDS:
            fields[_FIELDS[name]] = tuples(value)
        elif name in _FIXED and tuples(value) != _FIXED[name]:
            problems.append(f"{name}: wanted {_FIXED[name]!r}, got {value!r}")
        elif name not in _FIXED and not re.fullmatch(_FREE, name):
            problems.append(f"{name}: unknown setting")
    config = unet.PTv3Config(**fields)
    halving = (2,) * (len(config.enc_depths) - 1)
    if tuples(backbone.get("stride", halving)) != halving:
        problems.append(f"stride: wanted {halving}, got {backbone['stride']!r}")
    decoder = tuples(backbone.get("dec_patch_size", config.patches[:-1]))
    if decoder != config.patches[:-1]:
        problems.append(
            f"dec_patch_size: wanted the encoder's {config.patches[:-1]}, got {decoder}"
        )
    if problems:
        raise ValueError("ptv3 configuration:\n  " + "\n  ".join(problems))
    return config


def load(path: str | Path, config: unet.PTv3Config) -> dict[str, Any]:
    """Reads a released checkpoint (`model_best.pth`) or a bare state dict; returns parameters.

    Keys may stand below `module.` (written by several processes) and `backbone.` (a segmentor).

    Raises:
      ValueError: lists the keys and shapes that do not fit `config`.
    """
    with Path(path).open("rb") as file:
        content = torch_pickle.lazy(file)
        tensors = torch_pickle.read_all(content.get("state_dict", content))
    tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    released = any(key.startswith(PREFIXES["segmentor"]) for key in tensors)
    table = rules("segmentor" if released else "official")
    shapes = tree.flatten(module.shapes(unet.PTv3, config))
    wanted = {name: tuple(leaf.shape) for name, leaf in shapes.items()}
    return engine.to_ours(table, tensors, wanted, source=str(path), ignore=IGNORED)


def rules(layout: str = "official") -> list[Rule]:
    """Returns the table of a layout of PREFIXES.

    Raises:
      ValueError: another layout.
    """
    if layout not in PREFIXES:
        raise ValueError(f"ptv3: wanted a layout of {tuple(PREFIXES)}, got {layout!r}")
    return [rule._replace(key=PREFIXES[layout] + rule.key) for rule in _official()]


def _official() -> list[Rule]:
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
