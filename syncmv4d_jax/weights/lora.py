"""LoRA files of Wan2.2's transformer: diffusers' names and kohya's, both ways; others are read.

    diffusers   transformer.blocks.0.attn1.to_q.lora_A.weight [r d_in], .lora_B.weight [d_out r]
    kohya       lora_unet_blocks_0_self_attn_q.lora_down.weight, .lora_up.weight, .alpha []
    peft        base_model.model.<either's name>.lora_A.weight; adapter_config.json beside it
    DiffSynth   blocks.0.self_attn.q.lora_A.default.weight
    ComfyUI     diffusion_model.blocks.0.self_attn.q.lora_down.weight (or lora_A), .alpha []

diffusers' form has no alpha; it is written into b on the way out (a reader takes alpha = rank). On
the way in, b is scaled so that our alpha gives the file's product.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax import tree
from syncmv4d_jax.models import lora
from syncmv4d_jax.weights import engine, files, stated
from syncmv4d_jax.weights.tables import wan_dit

LAYOUTS = ("diffusers", "kohya")
_COLUMN = {"diffusers": 2, "kohya": 1, "official": 1}
_LAST = {"diffusers": ("lora_A", "lora_B"), "kohya": ("lora_down", "lora_up")}
# What writers put before the names of layers; one may stand before another.
_BEFORE = re.compile(
    r"(base_model\.model|model\.diffusion_model|diffusion_model|transformer|pipe\.dit|dit|module)\."
)
# Changes of weights of other kinds -> keys that tell them.
OTHERS = {
    "DoRA (magnitudes)": r"\.(lora_magnitude_vector|dora_scale)\b",
    "differences of whole weights (diff)": r"\.diff$",
    "differences of biases (diff_b)": r"\.diff_b$",
    "replaced weights": r"\.(set_weight|reshape_weight)$",
    "biases of adapters": r"\.lora_(A|B|up|down)\.(\w+\.)?bias$|\.lora_bias\b",
    "LoHa": r"\.hada_", "LoKr": r"\.lokr_", "GLoRA": r"\.(a1|a2|b1|b2)\.weight$",
    "OFT": r"\.(oft_|boft_)", "LoCon's middle": r"\.lora_mid\b", "VeRA": r"\.vera_lambda",
    "adapters of a text encoder": r"^(lora_te|text_encoder|lora_te\d)[._]",
    "a second transformer's (Wan2.2-A14B)": r"^transformer_2\.",
}  # fmt: skip


def rules(layout: str, *, common: bool = False) -> list[engine.Rule]:
    """Returns the table of a layout; our side has paths of adapters (``.../a``, ``.../b``).

    Args:
      common: of keys that went through `plain`: no prefix, diffusers' names of the halves.
    """
    table = []
    for names in wan_dit.LINEAR:
        theirs = names[_COLUMN[layout]]
        base = _stem(layout, theirs) if not common or layout == "kohya" else theirs
        for last, ours in zip(_LAST["diffusers" if common else layout], "ab", strict=True):
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
    files.save(path, tensors, {"format": "pt"})


def load(path: str | Path, *, alpha: float) -> dict[str, Any]:
    """Reads a file of any of the forms above.

    Args:
      path: of the file.
      alpha: that the adapters will be used with; b is scaled to it.

    Returns:
      Adapters as of `lora.init`, numpy float32.

    Raises:
      FileNotFoundError: no such file.
      ValueError: changes of another kind than (alpha / r) b a, named; keys that are not of Wan's
        transformer, half an adapter, missing layers, or ranks that differ between layers (they are
        stacked).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such LoRA file")
    opened = files.open_safetensors([path])
    refuse_others(opened.entries, path)
    given = {}
    for key, entry in opened.entries.items():
        short = plain(key)
        if short in given:
            raise ValueError(f"{path}: {key} is there twice, by two names")
        given[short] = numbers(entry.read(), f"{path}: {key}")
    alphas = {k[: -len(".alpha")]: float(x.sum()) for k, x in given.items() if _is_alpha(k, x)}
    tensors = {k: x for k, x in given.items() if not _is_alpha(k, x)}
    said = _said_alpha(path)
    for key in tensors:
        if key.endswith(".lora_B.weight"):
            stem, rank = key.removesuffix(".lora_B.weight"), tensors[key].shape[-1]
            scale = alphas.pop(stem, said(stem, rank)) / alpha
            with np.errstate(over="ignore"):
                scaled = tensors[key] * scale
            tensors[key] = numbers(scaled, f"{path}: {key} times its alpha ({scale:g})")
    if alphas:
        raise ValueError(f"{path}: alphas of layers that are not there: {tree.sample(alphas)}")
    layout = layout_of(tensors)
    table = rules(layout, common=True)
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


def plain(key: str) -> str:
    """A key without what its writer put before it, with diffusers' names of the two halves."""
    while (match := _BEFORE.match(key)) is not None:
        key = key[match.end() :]
    key = re.sub(r"\.lora_(A|B|down|up)\.\w+\.weight$", r".lora_\1.weight", key)  # peft's adapter
    key = re.sub(r"\.lora\.(down|up)\.weight$", r".lora_\1.weight", key)  # diffusers of old
    return key.replace(".lora_down.", ".lora_A.").replace(".lora_up.", ".lora_B.")


def refuse_others(keys: Iterable[str], path: Path, *, but: Sequence[str] = ()) -> None:
    """Says what else a file holds than (alpha / r) b a; adapters cannot hold it.

    Args:
      but: of OTHERS, what may be there.
    """
    for kind, pattern in OTHERS.items():
        if kind in but:
            continue
        if found := [key for key in keys if re.search(pattern, key)]:
            raise ValueError(
                f"{path}: {kind}, in {len(found)} tensors, e.g. {found[0]}: only LoRA's "
                "(alpha / r) b a is read; data_prep/convert_lora.py --to merged takes differences"
            )


def numbers(array: np.ndarray, where: str) -> np.ndarray:
    """Returns a file's array as float32; refuses integers and what is not finite."""
    if array.dtype.kind in "iub":
        raise ValueError(f"{where} holds {array.dtype}: quantised adapters are not read")
    found = array.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{where} holds values that are not finite")
    return found


def _said_alpha(path: Path) -> Callable[[str, int], float]:
    """(layer, rank) -> alpha by the configuration that peft or diffusers keep with the adapters.

    Raises:
      ValueError: DoRA; it is broken.
    """
    beside, inside = path.parent / "adapter_config.json", files.metadata(path)
    config: dict[str, Any] = {}
    try:
        if "lora_adapter_metadata" in inside:
            raw = json.loads(inside["lora_adapter_metadata"])
            config = {k.removeprefix("transformer."): v for k, v in raw.items()}
        elif path.name.startswith("adapter_model") and beside.is_file():
            config = stated.read_json(beside)
        base, patterns = config.get("lora_alpha"), config.get("alpha_pattern") or {}
        root = bool(config.get("use_rslora"))
        patterns = {k: float(v) for k, v in patterns.items()}
        base = None if base is None else float(base)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: its configuration of adapters is broken: {error}") from error
    if config.get("use_dora"):
        raise ValueError(f"{path}: DoRA (use_dora in its configuration): only LoRA is read")

    def alpha_of(stem: str, rank: int) -> float:
        own = [v for k, v in patterns.items() if re.fullmatch(rf"(.*\.)?({k})", stem)]
        found = own[0] if own else base
        if found is None:
            return float(rank)
        return found * rank**0.5 if root else found

    return alpha_of


def _is_alpha(key: str, x: np.ndarray) -> bool:
    return key.endswith(".alpha") and x.size == 1


def layout_of(tensors: Iterable[str]) -> str:
    """Whose names the layers have: kohya's, Wan's own or diffusers'."""
    keys = list(tensors)
    if any(key.startswith("lora_unet_") for key in keys):
        return "kohya"
    own = re.compile(r"\.(self_attn|cross_attn|ffn\.[02])\.|^(text|time)_(embedd|proj)|^head\.")
    return "official" if any(own.search(key) for key in keys) else "diffusers"
