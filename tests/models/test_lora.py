"""Adapters: zero at the start, merged equals unmerged, gradients, memory, files of both layouts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import wan_reference as reference
from safetensors import numpy as safetensors

from syncmv4d_jax import tree
from syncmv4d_jax.models import lora
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit
from syncmv4d_jax.weights import lora as files

CONFIG = wan_config.TINY
ADAPTED = lora.LoRAConfig(
    ranks=((r"cross_attn/[qkvo]/kernel$", 2), (r"self_attn/[qkvo]/kernel$|ffn/.*kernel$", 4),
           (r"^text_embedding/.*kernel$", 3)),
    alpha=6.0,
)  # fmt: skip
LAYERS = CONFIG.layers


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = module.shapes(dit.DiT, CONFIG)
    return tree.map_named(
        lambda _, x: jnp.asarray(rng.standard_normal(x.shape) * (x.shape[-1] ** -0.5), x.dtype),
        shapes,
    )


@pytest.fixture(scope="module")
def adapters(params):
    """Adapters whose b is not zero."""
    made = lora.init(ADAPTED, params, jax.random.key(0))
    rng = np.random.default_rng(1)
    return tree.map_named(
        lambda path, x: jnp.asarray(0.2 * rng.standard_normal(x.shape), x.dtype), made
    )


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(2)
    latents = rng.standard_normal((2, 2, 4, 4, CONFIG.in_channels), np.float32)
    context = rng.standard_normal((2, CONFIG.text_len, CONFIG.text_dim), np.float32)
    return jnp.asarray(latents), jnp.array([700.0, 30.0]), jnp.asarray(context)


def run(params, adapters, inputs):
    model = module.bind(dit.DiT, CONFIG, params)
    if adapters is not None:
        lora.attach(model, adapters, alpha=ADAPTED.alpha)
    return model(*inputs)


def test_first_matching_rank_counts_and_stacks_follow_the_kernels(params):
    made = tree.flatten(lora.init(ADAPTED, params, jax.random.key(0)))
    d, wide = CONFIG.dim, CONFIG.ffn_dim
    assert made["blocks/cross_attn/q/a"].shape == (LAYERS, d, 2)
    assert made["blocks/self_attn/q/b"].shape == (LAYERS, 4, d)
    assert made["blocks/ffn/linear_0/b"].shape == (LAYERS, 4, wide)
    assert made["text_embedding/linear_0/a"].shape == (CONFIG.text_dim, 3)
    assert len(made) == 2 * (8 + 2 + 2)


def test_zero_b_changes_nothing(params, inputs):
    fresh = lora.init(ADAPTED, params, jax.random.key(1))
    wanted = jax.jit(run)(params, None, inputs)
    np.testing.assert_array_equal(jax.jit(run)(params, fresh, inputs), wanted)


def test_merged_equals_unmerged(params, adapters, inputs):
    apart = jax.jit(run)(params, adapters, inputs)
    merged = lora.merge(params, adapters, alpha=ADAPTED.alpha)
    together = jax.jit(run)(merged, None, inputs)
    scale = np.abs(np.asarray(together)).max()
    np.testing.assert_allclose(apart / scale, together / scale, atol=1e-6, rtol=0)
    assert np.abs(together - jax.jit(run)(params, None, inputs)).max() > 0.01 * scale
    tree.check_same(params, merged, wanted_from="the base", got_from="the merged tree")


def test_every_adapter_has_a_gradient(params, adapters, inputs):
    grads = jax.jit(jax.grad(lambda a: jnp.sum(jnp.square(run(params, a, inputs)))))(adapters)
    tree.check_same(adapters, grads, wanted_from="adapters", got_from="gradients")
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))


def products(function, *arguments):
    """Shapes of everything the unoptimised program computes, data movement apart."""
    text = jax.jit(function).lower(*arguments).as_text()
    moving = (
        r"slice|reshape|transpose|while|return|func|call|case|constant|broadcast_in_dim|bitcast"
    )
    found = set()
    for line in text.splitlines():
        if "stablehlo" in line and not re.search(rf"stablehlo\.({moving})", line):
            found |= set(re.findall(r"tensor<([\dx]+)xf32>", line.rpartition("->")[2] or line))
    return found


def test_no_stacked_product_is_formed(params, adapters, inputs):
    def training(adapters):
        return jax.grad(lambda a: jnp.sum(jnp.square(run(params, a, inputs))))(adapters)

    def naive(adapters):
        flat = tree.flatten(params)
        for path, (a, b) in lora.pairs(adapters).items():
            flat[f"{path}/kernel"] = flat[f"{path}/kernel"] + ADAPTED.alpha / a.shape[-1] * a @ b
        return run(tree.unflatten(flat), None, inputs)

    full = f"{LAYERS}x{CONFIG.dim}x{CONFIG.dim}"
    assert full not in products(training, adapters)
    assert full in products(naive, adapters), "the probe does not see a product where there is one"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lora.LoRAConfig(ranks=(("no_such_layer", 4),)), "adapt nothing"),
        (lora.LoRAConfig(ranks=(("self_attn/q", 4),)), "self_attn/q/bias"),
        (lora.LoRAConfig(ranks=((r"self_attn/q/kernel", 4096),)), "is above that of"),
    ],
)
def test_bad_ranks(params, config, message):
    with pytest.raises(ValueError, match=message):
        lora.init(config, params, jax.random.key(0))


def test_bad_adapters(params, adapters, inputs):
    flat = tree.flatten(adapters)
    half = {k: x for k, x in flat.items() if k != "blocks/self_attn/q/b"}
    with pytest.raises(ValueError, match="self_attn/q/b"):
        run(params, tree.unflatten(half), inputs)
    strange = {k.replace("ffn", "mlp"): x for k, x in flat.items()}
    with pytest.raises(ValueError, match="no such linear layer"):
        run(params, tree.unflatten(strange), inputs)
    with pytest.raises(ValueError, match="mlp/linear_0/kernel"):
        lora.merge(params, tree.unflatten(strange), alpha=1.0)
    narrow = flat | {"blocks/self_attn/q/a": flat["blocks/self_attn/q/a"][:, 1:]}
    with pytest.raises(ValueError, match="wanted a and b for a kernel"):
        run(params, tree.unflatten(narrow), inputs)
    with pytest.raises(ValueError, match="rank >= 1"):
        lora.LoRAConfig(ranks=(("x", 0),))
    with pytest.raises(ValueError, match="positive"):
        lora.LoRAConfig(alpha=0.0)


@pytest.mark.parametrize("layout", files.LAYOUTS)
def test_files(params, adapters, tmp_path, layout):
    path = tmp_path / "lora.safetensors"
    files.save(path, adapters, alpha=ADAPTED.alpha, layout=layout)
    again = files.load(path, alpha=ADAPTED.alpha)
    for name, leaf in tree.flatten(adapters).items():
        np.testing.assert_allclose(tree.flatten(again)[name], leaf, rtol=1e-6, err_msg=name)
    other = files.load(path, alpha=1.0)  # another alpha, the same product
    wanted = tree.flatten(lora.merge(params, adapters, alpha=ADAPTED.alpha))
    for name, leaf in tree.flatten(lora.merge(params, other, alpha=1.0)).items():
        np.testing.assert_allclose(leaf, wanted[name], atol=1e-6, rtol=1e-5, err_msg=name)
    keys = safetensors.load_file(path)
    if layout == "diffusers":
        assert keys["transformer.blocks.1.attn1.to_out.0.lora_A.weight"].shape == (4, CONFIG.dim)
        assert keys["transformer.blocks.0.ffn.net.0.proj.lora_B.weight"].shape[0] == CONFIG.ffn_dim
    else:
        assert keys["lora_unet_blocks_1_self_attn_o.lora_down.weight"].shape == (4, CONFIG.dim)
        assert keys["lora_unet_blocks_1_self_attn_o.alpha"] == ADAPTED.alpha


def test_bad_files(adapters, tmp_path):
    path = tmp_path / "lora.safetensors"
    with pytest.raises(FileNotFoundError, match="no such LoRA file"):
        files.load(path, alpha=1.0)
    with pytest.raises(ValueError, match="wanted a layout"):
        files.save(path, adapters, alpha=1.0, layout="peft")
    files.save(path, adapters, alpha=1.0)
    tensors = safetensors.load_file(path)
    key = "transformer.blocks.0.attn1.to_q.lora_A.weight"
    for change, message in (
        ({"transformer.blocks.0.norm2.lora_A.weight": tensors[key]}, "unknown keys"),
        ({key: tensors[key][:2].copy()}, "wrong shapes"),
    ):
        safetensors.save_file(tensors | change, path)
        with pytest.raises(ValueError, match=message):
            files.load(path, alpha=1.0)
    safetensors.save_file({k: x for k, x in tensors.items() if k != key}, path)
    with pytest.raises(ValueError, match="missing keys"):
        files.load(path, alpha=1.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lora.safetensors"]


@pytest.mark.parity
@pytest.mark.parametrize("layout", files.LAYOUTS)
def test_diffusers_with_the_file_equals_ours(inputs, tmp_path, layout):
    """A saved file, read by diffusers' own converter, added to its modules: the same output."""
    torch = pytest.importorskip("torch")
    conversion = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    theirs = reference.build(CONFIG, seed=0)
    params = tree.unflatten(reference.from_diffusers(reference.arrays(theirs)))
    params = jax.tree.map(jnp.array, params)
    config = lora.LoRAConfig(ranks=((r"^blocks/.*(_attn/.|linear_\d)/kernel$", 3),), alpha=6.0)
    rng = np.random.default_rng(5)
    made = lora.init(config, params, jax.random.key(0))
    made = jax.tree.map(lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), x.dtype), made)
    files.save(tmp_path / "lora.safetensors", made, alpha=6.0, layout=layout)
    state = safetensors.load_file(tmp_path / "lora.safetensors")
    state = {key: torch.tensor(x) for key, x in state.items()}
    if layout == "kohya":
        state = conversion._convert_musubi_wan_lora_to_diffusers(state)
    with torch.no_grad():
        for key in [key for key in state if key.endswith("lora_A.weight")]:
            down, up = state.pop(key), state.pop(key.replace("lora_A", "lora_B"))
            name = key.removesuffix(".lora_A.weight").removeprefix("transformer.")
            theirs.get_submodule(name).weight += up @ down
        assert not state
        wanted = reference.run(theirs, *(np.array(x) for x in inputs)).numpy()
    np.testing.assert_allclose(run(params, made, inputs), wanted, atol=1e-4, rtol=0)
