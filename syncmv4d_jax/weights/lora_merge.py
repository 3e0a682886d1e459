"""LoRA files merged into a transformer's weights, of any layers and ranks, with differences.

Files that were cut out of a fine-tuned checkpoint, as those of few-step samplers are, hold more
than adapters of equal rank: every linear layer (embeddings, head), differences of biases, of norms
and of modulation. They become part of the weights:

    X.lora_A, X.lora_B (.lora_down, .lora_up), X.alpha     W + strength (alpha / r) b a
    X.diff, X.diff_b                                       W + strength diff, bias + strength diff
    X.diff_m                                               modulation of X + strength diff

NOTE: of TI2V-5B such are FastWan's (Wan2_2_5B_FastWanFullAttn_lora_rank_128_bf16: 644.9 MB of its
660.9 are rank 128 of the blocks' ten linear layers, the rest is not) and Turbo's
(Wan22_TI2V_5B_Turbo_lora_rank_64_fp16); by names, sizes and published readers of this family, the
files themselves were not at hand.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax import tree
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.weights import engine, files, lora
from syncmv4d_jax.weights.tables import wan_dit

ALLOWED = ("differences of whole weights (diff)", "differences of biases (diff_b)")
KINDS = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|alpha|diff|diff_b|diff_m)")
KOHYA = "lora_unet_"


def merge(
    path: str | Path,
    config: wan_config.DiTConfig,
    params: Mapping[str, Any],
    *,
    strength: float = 1.0,
) -> dict[str, Any]:
    """Returns the weights with a file's changes.

    Args:
      path: of a safetensors file in any of the namings of weights/lora.py.
      config: of the transformer.
      params: its parameters, a dict tree.
      strength: times all changes.

    Raises:
      FileNotFoundError: no such file.
      ValueError: changes of another kind, half an adapter, layers that the transformer does not
        have, or other shapes; all listed at once.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such LoRA file")
    changes = _changes(path)
    flat = {name: np.array(x, np.float32) for name, x in tree.flatten(params).items()}
    table, spelled = _table(config, changes)
    problems = []
    for stem, given in changes.items():
        for keys, change in _deltas(spelled(stem), given):
            found = [s for key in keys for s in engine.locate(table, key) if s.path in flat]
            if change is None or len(found) != 1:
                problems.append(f"{stem}: {'half an adapter' if change is None else 'no layer'}")
                continue
            whole, layer = flat[found[0].path], found[0].layer
            own = whole[layer:][:1] if layer is not None else whole[None]
            change = found[0].transform.forward(change)[None]
            if own.shape != change.shape:
                problems.append(f"{stem}: wanted {own.shape[1:]}, got {change.shape[1:]}")
                continue
            own += strength * change
    if problems or not changes:
        raise ValueError(
            f"{path} does not fit this transformer: "
            f"{tree.sample(problems, 10) or 'it holds no changes'}"
        )
    return tree.unflatten(flat)


def _changes(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """{layer: {what of KINDS: float32}} of a file."""
    opened = files.open_safetensors([path])
    lora.refuse_others(opened.entries, path, but=ALLOWED)
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, entry in opened.entries.items():
        match = KINDS.fullmatch(lora.plain(key))
        if match is None:
            raise ValueError(f"{path}: {key} is no change of weights that is known here")
        stem, what = match.groups()
        if what in found.setdefault(stem, {}):
            raise ValueError(f"{path}: {key} is there twice, by two names")
        found[stem][what] = lora.numbers(entry.read(), f"{path}: {key}")
    return found


def _table(
    config: wan_config.DiTConfig, changes: Mapping[str, Any]
) -> tuple[list[engine.Rule], Callable[[str], str]]:
    """The table of the layers' naming, and how it spells them; kohya's is the official one, with _
    for a dot."""
    layout = lora.layout_of(f"{stem}." for stem in changes)
    if layout != "kohya":
        return wan_dit.rules(config, layout), lambda stem: stem
    known = {name.removesuffix(".weight").replace(".", "_"): name.removesuffix(".weight")
             for name in _official(config)}  # fmt: skip
    return wan_dit.rules(config, "official"), lambda stem: known.get(stem.removeprefix(KOHYA), stem)


def _official(config: wan_config.DiTConfig) -> list[str]:
    """Official names of all tensors."""
    table = wan_dit.rules(config, "official")
    layers = range(config.layers)
    return [name for rule in table for name in {rule.key.replace("{n}", str(n)) for n in layers}]


def _deltas(
    stem: str, given: Mapping[str, np.ndarray]
) -> Iterator[tuple[tuple[str, ...], np.ndarray | None]]:
    """Yields (reference names, of which one is there; what is added to it, None of half a pair)."""
    weight = (f"{stem}.weight", stem)
    a, b = given.get("lora_A.weight"), given.get("lora_B.weight")
    if (a is None) != (b is None) or (a is None and "alpha" in given):
        yield weight, None
    elif a is not None and b is not None:
        rank = len(a)
        alpha = float(given["alpha"].sum()) if "alpha" in given else rank
        product = (b.reshape(len(b), rank) @ a.reshape(rank, -1)).reshape(len(b), *a.shape[1:])
        yield weight, alpha / rank * product
    for what, keys in (("diff", weight), ("diff_b", (f"{stem}.bias",)),
                       ("diff_m", (f"{stem}.modulation",))):  # fmt: skip
        if what in given:
            yield keys, given[what]
