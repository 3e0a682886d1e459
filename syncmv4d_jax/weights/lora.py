"""LoRA files of Wan2.2's transformer: diffusers' names and kohya's, both ways.

    diffusers   transformer.blocks.0.attn1.to_q.lora_A.weight [r d_in], .lora_B.weight [d_out r]
    kohya       lora_unet_blocks_0_self_attn_q.lora_down.weight, .lora_up.weight, .alpha []

diffusers' form has no alpha; it is written into b on the way out (a reader takes alpha = rank). On
the way in, b is scaled so that our alpha gives the file's product.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import numpy as safetensors

from syncmv4d_jax import disk, tree
from syncmv4d_jax.models import lora
from syncmv4d_jax.weights import engine
from syncmv4d_jax.weights.tables import wan_dit

LAYOUTS = ("diffusers", "kohya")
_COLUMN = {"diffusers": 2, "kohya": 1}
_LAST = {"diffusers": ("lora_A", "lora_B"), "kohya": ("lora_down", "lora_up")}


def rules(layout: str) -> list[engine.Rule]:
    """Returns the table of a layout; our side has paths of adapters (``.../a``, ``.../b``)."""
    table = []
    for names in wan_dit.LINEAR:
        theirs = names[_COLUMN[layout]]
        base = _stem(layout, theirs)
        for last, ours in zip(_LAST[layout], "ab", strict=True):
            rule = engine.Rule(f"{base}.{last}.weight", f"{names[0]}/{ours}", engine.TRANSPOSE)
            table.append(rule)
    return table


def _stem(layout: str, name: str) -> str:
    return f"transformer.{name}" if layout == "diffusers" else f"lora_unet_{name}".replace(".", "_")


def save(
    path: str | Path, adapters: dict[str, Any], *, alpha: float, layout: str = "diffusers"
) -> None:
    """Writes adapters of a dit.DiT as one safetensors file, whole or not at all.

    Args:
      path: of the file.
      adapters: dict tree of `lora.init`, paths relative to the transformer.
      alpha: of the adapters.
      layout: of LAYOUTS.

    Raises:
      ValueError: an unknown layout, or an adapter of a layer that Wan's transformer does not have.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"wanted a layout of {LAYOUTS}, got {layout!r}")
    flat = {}
    for name, (a, b) in lora.pairs(adapters).items():
        scale = alpha / a.shape[-1] if layout == "diffusers" else 1.0
        flat[f"{name}/a"] = np.asarray(a, np.float32)
        flat[f"{name}/b"] = scale * np.asarray(b, np.float32)
    tensors = engine.to_reference(rules(layout), tree.unflatten(flat))
    if layout == "kohya":
        for key in [key for key in tensors if ".lora_down." in key]:
            stem = key.partition(".")[0]
            tensors[f"{stem}.alpha"] = np.asarray(alpha, np.float32)
    tensors = {key: np.ascontiguousarray(x).reshape(x.shape) for key, x in tensors.items()}
    with disk.whole(path) as partial:
        safetensors.save_file(tensors, partial, metadata={"format": "pt"})


def load(path: str | Path, *, alpha: float) -> dict[str, Any]:
    """Reads a file of either layout.

    Args:
      path: of the file.
      alpha: that the adapters will be used with; b is scaled to it.

    Returns:
      Adapters as of `lora.init`, numpy float32.

    Raises:
      FileNotFoundError: no such file.
      ValueError: keys that neither layout knows, half an adapter, missing layers, or ranks that
        differ between layers (they are stacked).
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such LoRA file")
    tensors = {k: np.asarray(x, np.float32) for k, x in safetensors.load_file(path).items()}
    layout = "kohya" if any(key.startswith("lora_unet_") for key in tensors) else "diffusers"
    alphas = {k: float(x) for k, x in tensors.items() if k.endswith(".alpha")}
    tensors = {k: x for k, x in tensors.items() if k not in alphas}
    table, last = rules(layout), _LAST[layout][1]
    for key in tensors:
        if f".{last}." in key:
            stem = key.partition(f".{last}.")[0]
            rank = tensors[key].shape[-1]
            tensors[key] = tensors[key] * (alphas.pop(f"{stem}.alpha", rank) / alpha)
    if alphas:
        raise ValueError(f"{path}: alphas of layers that are not there: {tree.sample(alphas)}")
    wanted: dict[str, tuple[int, ...]] = {}
    for key, x in tensors.items():
        for place in engine.locate(table, key):
            inner = engine.laid_out(place.transform.forward, x.shape)
            if place.layer is not None:
                count = wanted.get(place.path, (0,))[0]
                inner = (max(place.layer + 1, count), *inner)
            wanted[place.path] = inner
    ours = engine.to_ours(table, tensors, wanted, source=f"{path} ({layout} LoRA)")
    lora.pairs(ours)
    return ours
