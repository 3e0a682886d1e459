"""LoRA files with embeddings, biases, norms and modulation, merged into the weights."""

import numpy as np
import pytest
from safetensors import numpy as safetensors

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit
from syncmv4d_jax.weights import engine, lora_merge
from syncmv4d_jax.weights.tables import wan_dit

CONFIG = wan_config.TINY
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def params():
    shapes = tree.flatten(module.shapes(dit.DiT, CONFIG))
    return tree.unflatten({k: RNG.standard_normal(x.shape, np.float32) for k, x in shapes.items()})


def changes(reference):
    """Official names -> arrays: what a file of this family holds; ranks differ."""
    made, wanted = {}, {}
    for i, stem in enumerate(("blocks.1.self_attn.q", "blocks.0.ffn.2", "text_embedding.0",
                              "head.head", "patch_embedding")):  # fmt: skip
        weight, rank = reference[f"{stem}.weight"], 2 + i % 3
        a = RNG.standard_normal((rank, *weight.shape[1:]), np.float32)
        b = RNG.standard_normal((len(weight), rank), np.float32)
        made |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}
        wanted[f"{stem}.weight"] = b @ a.reshape(rank, -1)
        if i % 2:
            made[f"{stem}.alpha"] = np.array(3, np.float32)
            wanted[f"{stem}.weight"] = 3 / rank * wanted[f"{stem}.weight"]
        wanted[f"{stem}.weight"] = wanted[f"{stem}.weight"].reshape(weight.shape)
    for stem, kind, key in (
        ("blocks.1.self_attn.q", "diff_b", "blocks.1.self_attn.q.bias"),
        ("blocks.0.norm3", "diff", "blocks.0.norm3.weight"),
        ("blocks.0.norm3", "diff_b", "blocks.0.norm3.bias"),
        ("blocks.1.cross_attn.norm_k", "diff", "blocks.1.cross_attn.norm_k.weight"),
        ("head.modulation", "diff", "head.modulation"),
        ("blocks.1", "diff_m", "blocks.1.modulation"),
    ):
        made[f"{stem}.{kind}"] = RNG.standard_normal(reference[key].shape, np.float32)
        wanted[key] = made[f"{stem}.{kind}"]
    return made, wanted


@pytest.mark.parametrize("spelling", ["comfy", "kohya"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_all_changes_reach_their_weights(spelling, strength, params, tmp_path):
    table = wan_dit.rules(CONFIG, "official")
    reference = engine.to_reference(table, params)
    made, wanted = changes(reference)
    path = tmp_path / "a.safetensors"
    if spelling == "comfy":
        made = {f"diffusion_model.{k}": x for k, x in made.items()}
    else:
        ends = (".lora_down.weight", ".lora_up.weight", ".alpha", ".diff_b", ".diff_m", ".diff")
        kohya = {}
        for key, x in made.items():
            end = next(end for end in ends if key.endswith(end))
            kohya["lora_unet_" + key.removesuffix(end).replace(".", "_") + end] = x
        made = kohya
        # A block's own modulation has no name of a layer there.
        made = {k: x for k, x in made.items() if not k.endswith("diff_m")}
        wanted = {k: x for k, x in wanted.items() if k != "blocks.1.modulation"}
    safetensors.save_file(made, path)
    found = engine.to_reference(table, lora_merge.merge(path, CONFIG, params, strength=strength))
    for key, x in reference.items():
        np.testing.assert_allclose(
            found[key], x + strength * wanted.get(key, np.zeros(())), atol=1e-5, err_msg=key
        )


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blocks.0.ffn.0.lora_down.weight": (2, 48)}, "blocks.0.ffn.0: half an adapter"),
        ({"blocks.9.ffn.0.diff_b": (96,)}, "blocks.9.ffn.0: wanted"),
        ({"blocks.0.other.diff_b": (96,)}, "blocks.0.other: no layer"),
        ({"blocks.0.ffn.0.diff_b": (7,)}, r"blocks.0.ffn.0: wanted \(\d+,\), got \(7,\)"),
        ({"blocks.0.ffn.0.hada_w1_a": (7, 7)}, "LoHa"),
        ({"blocks.0.ffn.0.strange": (7, 7)}, "is no change of weights that is known here"),
        ({}, "it holds no changes"),
    ],
)
def test_what_does_not_fit_is_told(tensors, message, params, tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.save_file({k: np.ones(s, np.float32) for k, s in tensors.items()}, path)
    with pytest.raises(ValueError, match=message):
        lora_merge.merge(path, CONFIG, params)
    with pytest.raises(FileNotFoundError, match="no such LoRA file"):
        lora_merge.merge(tmp_path / "none", CONFIG, params)
