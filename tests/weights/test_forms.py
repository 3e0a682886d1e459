"""Weights and adapters in the forms in which others hand them round: read equal, or refused."""

import io
import json
import zipfile
from pathlib import Path

import folders
import ml_dtypes
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.weights import encoders, files, lora, release, stated, store, torch_writer
from syncmv4d_jax.weights import folders as layouts

GOLDEN = Path(__file__).parents[1] / "golden/wan_keys/official_keys_full_size.json"
SIZES = folders.CONFIGS["dit"]
OFFICIAL_CONFIG = {
    "dim": SIZES.dim, "eps": SIZES.eps, "ffn_dim": SIZES.ffn_dim, "freq_dim": SIZES.freq_dim,
    "in_dim": SIZES.in_channels, "num_heads": SIZES.heads, "num_layers": SIZES.layers,
    "out_dim": SIZES.out_channels, "text_len": SIZES.text_len,
}  # fmt: skip


def put(path, state, dtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    cast = {k: np.ascontiguousarray(v.astype(dtype or v.dtype)) for k, v in state.items()}
    files.write_safetensors(path, {k: files.entry_of(v) for k, v in cast.items()})
    return path


def dit(path, *, before="", dtype=None, **more):
    """One file of the tiny transformer with official names, its config.json beside it."""
    state = {before + k: v for k, v in folders.reference("dit", "official").items()}
    put(path, state | more, dtype)
    (path.parent / "config.json").write_text(json.dumps(OFFICIAL_CONFIG))
    return path


def same(part, folder, dtype=np.float32):
    got, wanted = (tree.flatten(x) for x in (store.load(part, folder)[1], folders.params(part)))
    assert got.keys() == wanted.keys()
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(np.asarray(got[name]), leaf.astype(dtype), err_msg=name)


def refused(src, tmp_path, message, **options):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        release.convert(src, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_one_name_of_the_tied_table_is_enough(tmp_path):
    folders.write_diffusers(tmp_path / "src", parts=("umt5",))
    state = folders.reference("umt5", "diffusers")
    table = state.pop("shared.weight")
    for name in ("encoder.embed_tokens.weight", "shared.weight"):  # the first alone, then both
        put(tmp_path / "src/text_encoder/model.safetensors", state := state | {name: table})
        release.convert(tmp_path / "src", tmp_path / name, parts=["umt5"])
        same("umt5", tmp_path / name)


def test_a_repackaged_folder(tmp_path):
    root = tmp_path / "src/split_files"
    dit(root / "diffusion_models/wan2.2_ti2v_5B_fp16.safetensors", before="model.diffusion_model.",
        dtype=np.float16)  # fmt: skip
    put(root / "vae/wan2.2_vae.safetensors", folders.reference("vae", "official"))
    spiece = np.frombuffer(folders.tokenizer_bytes(), np.uint8)
    text = folders.reference("umt5", "diffusers") | {"spiece_model": spiece}
    put(root / "text_encoders/umt5_xxl_fp16.safetensors", text)
    release.convert(tmp_path / "src", tmp_path / "w")
    same("dit", tmp_path / "w", np.float16)
    same("vae", tmp_path / "w")
    same("umt5", tmp_path / "w")
    assert encoders.load_tokenizer(tmp_path / "w", max_length=8).encode_batch(["a hand"])
    put(root / "vae/Wan2_2_VAE_bf16.safetensors", folders.reference("vae", "official"))
    refused(tmp_path / "src", tmp_path, "several files of the vae: .*; name one")


@pytest.mark.parametrize("before", ["", "diffusion_model.", "model.diffusion_model.", "module."])
def test_one_file_of_one_part(tmp_path, before):
    path = dit(tmp_path / "src/any name.safetensors", before=before)
    release.convert(path, tmp_path / "w")
    same("dit", tmp_path / "w")
    source = json.loads((tmp_path / "w/dit/index.json").read_text())["source"]
    assert list(source["files"]) == ["any name.safetensors"]
    refused(path, tmp_path, "wanted the vae, it holds dit", parts=["vae"])


def test_one_file_of_all_parts_gives_the_part_asked_for(tmp_path):
    rest = {f"vae.{k}": v for k, v in folders.reference("vae", "official").items()}
    path = dit(tmp_path / "src/all.safetensors", before="model.diffusion_model.", **rest)
    for part in ("dit", "vae"):
        release.convert(path, tmp_path / "w", parts=[part])
        same(part, tmp_path / "w")
    refused(path, tmp_path, r"wanted one part of .*found \['dit', 'vae'\]")


@pytest.mark.parametrize("inside", [None, "state_dict", "generator_ema"])
def test_one_file_that_torch_wrote(tmp_path, inside):
    dit(tmp_path / "src/a.safetensors")
    state = torch_writer.dumps(folders.reference("dit", "official"))
    path = tmp_path / "src/a.pth"
    path.write_bytes(state if inside is None else nested(state, inside))
    release.convert(path, tmp_path / "w")
    same("dit", tmp_path / "w")


def nested(state, key):
    """A file of torch.save whose state dict lies below a key."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(state)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                text = key.encode()
                start = b"\x80\x02}X" + len(text).to_bytes(4, "little") + text
                data = start + data[2:-1] + b"s."
            new.writestr(name, data)
    return out.getvalue()


def test_a_variant_of_diffusers_files(tmp_path):
    folders.write_diffusers(tmp_path / "src", parts=("dit",))
    plain = tmp_path / "src/transformer/diffusion_pytorch_model.safetensors"
    state = folders.reference("dit", "diffusers")
    plain.unlink()
    refused(tmp_path / "src", tmp_path, r"found neither but \['config.json'\]", parts=["dit"])
    half = put(plain.with_name("diffusion_pytorch_model.fp16.safetensors"), state, np.float16)
    release.convert(tmp_path / "src", tmp_path / "w", parts=["dit"])
    same("dit", tmp_path / "w", np.float16)
    release.convert(half, tmp_path / "v")  # the file alone, with its config.json beside it
    same("dit", tmp_path / "v", np.float16)
    put(plain.with_name("diffusion_pytorch_model.bf16.safetensors"), state, ml_dtypes.bfloat16)
    refused(tmp_path / "src", tmp_path, "wanted one variant", parts=["dit"])


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.float64])
def test_types_in_which_nothing_runs_want_another(tmp_path, dtype):
    path = dit(tmp_path / "src/a.safetensors", dtype=dtype)
    refused(path, tmp_path, f"stored in {np.dtype(dtype)}, in which nothing runs; give a dtype")
    release.convert(path, tmp_path / "w", dtype="bfloat16")
    config, params = store.load("dit", tmp_path / "w")
    kernel = params["blocks"]["self_attn"]["q"]["kernel"]
    wanted = folders.params("dit")["blocks"]["self_attn"]["q"]["kernel"].astype(dtype)
    assert config.dtype == "bfloat16"
    np.testing.assert_array_equal(np.asarray(kernel), wanted.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    "key, value",
    [
        ("blocks.0.self_attn.q.scale_weight", np.ones(1, np.float32)),
        ("scaled_fp8", np.zeros(2, ml_dtypes.float8_e4m3fn)),
        ("blocks.0.self_attn.q.weight", np.zeros((SIZES.dim, SIZES.dim), np.int8)),
    ],
)
def test_quantised_weights_are_refused(tmp_path, key, value):
    path = dit(tmp_path / "src/a.safetensors", **{key: value})
    refused(path, tmp_path, f"quantised weights .*e.g. {key}.*take the fp16", dtype="bfloat16")


@pytest.mark.parametrize(
    "start, message",
    [
        (b"GGUF\3\0\0\0", "a GGUF file: .*huggingface-cli download Wan-AI/Wan2.2-TI2V-5B"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page, not the file"),
        (b"", "truncated, or not a safetensors file"),
    ],
)
def test_what_is_no_file_of_tensors_is_named(tmp_path, start, message):
    names = ("wan2.2_ti2v_5B.safetensors", "Wan2.2-TI2V-5B-Q8_0.gguf")
    for name in names:
        src = tmp_path / name
        src.mkdir()
        (src / name).write_bytes(start)
        refused(src, tmp_path, message, parts=["dit"])
        refused(src / name, tmp_path, message)
    with pytest.raises(ValueError, match=message):
        lora.load(tmp_path / names[1] / names[1], alpha=1.0)


def test_sizes_of_the_true_model_are_read_off_its_shapes():
    shapes = {k: tuple(v) for k, v in json.loads(GOLDEN.read_text())["dit"].items()}
    sizes = stated.dit_from_official(stated.dit_config(shapes, GOLDEN), shapes, GOLDEN)
    wanted = {
        "dim": 3072, "ffn_dim": 14336, "heads": 24, "layers": 30, "in_channels": 48,
        "out_channels": 48, "freq_dim": 256, "text_dim": 4096, "patch": (1, 2, 2),
    }  # fmt: skip
    assert wanted.items() <= sizes.items()


RANK, LAYERS, ALPHA = 4, SIZES.layers, 6.0
DIFFUSERS = {"self_attn": "attn1", "cross_attn": "attn2", "ffn.0": "ffn.net.0.proj",
             "ffn.2": "ffn.net.2"}  # fmt: skip
UD = {"A": "down", "B": "up"}


def modules():
    """{official name of a layer: (A [r d_in], B [d_out r])}."""
    rng, d, f = np.random.default_rng(0), SIZES.dim, SIZES.ffn_dim
    sizes = {f"{a}.{m}": (d, d) for a in ("self_attn", "cross_attn") for m in "qkvo"}
    sizes |= {"ffn.0": (d, f), "ffn.2": (f, d)}
    normal = lambda *s: (0.1 * rng.standard_normal(s)).astype(np.float32)  # noqa: E731
    return {
        f"blocks.{n}.{m}": (normal(RANK, a), normal(b, RANK))
        for n in range(LAYERS)
        for m, (a, b) in sizes.items()
    }


MODULES = modules()


def theirs(name):
    """diffusers' name of a layer."""
    for old, new in DIFFUSERS.items():
        name = name.replace(old, new)
    stem, last = name.rsplit(".", 1)
    return f"{stem}.{ {'o': 'to_out.0'}.get(last, 'to_' + last) }" if last in "qkvo" else name


def kohya(name):
    return "lora_unet_" + name.replace(".", "_")


def form(name, *, alpha=None, dtype=np.float32):
    """{name(layer, half): array}, and alphas by `alpha`(layer)."""
    found = {
        name(m, x): t.astype(dtype)
        for m, p in MODULES.items()
        for x, t in zip("AB", p, strict=True)
    }
    return found | ({alpha(m): np.float32(2) for m in MODULES} if alpha else {})


FORMS = {  # tensors, scale of b a
    "kohya": (form(lambda m, x: f"{kohya(m)}.lora_{UD[x]}.weight"), 1),
    "kohya, alpha": (
        form(lambda m, x: f"{kohya(m)}.lora_{UD[x]}.weight", alpha=lambda m: f"{kohya(m)}.alpha"),
        0.5,
    ),
    "diffusers": (form(lambda m, x: f"transformer.{theirs(m)}.lora_{x}.weight"), 1),
    "diffusers of old": (form(lambda m, x: f"transformer.{theirs(m)}.lora.{UD[x]}.weight"), 1),
    "ComfyUI": (form(lambda m, x: f"diffusion_model.{m}.lora_{x}.weight"), 1),
    "ComfyUI, alpha": (
        form(
            lambda m, x: f"diffusion_model.{m}.lora_{UD[x]}.weight",
            alpha=lambda m: f"diffusion_model.{m}.alpha",
        ),
        0.5,
    ),
    "DiffSynth": (form(lambda m, x: f"{m}.lora_{x}.default.weight"), 1),
    "DiffSynth, pipe": (form(lambda m, x: f"pipe.dit.{m}.lora_{x}.default.weight"), 1),
    "peft": (form(lambda m, x: f"base_model.model.{theirs(m)}.lora_{x}.weight"), 1),
    "peft, Wan's names": (form(lambda m, x: f"base_model.model.{m}.lora_{x}.default.weight"), 1),
}


def check_adapters(path, scale, dtype=np.float32):
    read = lora.load(path, alpha=ALPHA)
    for ours, name in (("self_attn/q", "self_attn.q"), ("ffn/linear_2", "ffn.2")):
        own = {k: tree.flatten(read)[f"blocks/{ours}/{k}"] for k in "ab"}
        pairs = [[x.astype(dtype).astype(np.float32) for x in MODULES[f"blocks.{n}.{name}"]]
                 for n in range(LAYERS)]  # fmt: skip
        wanted = np.stack([scale * (b @ a).T for a, b in pairs])
        np.testing.assert_allclose(ALPHA / RANK * own["a"] @ own["b"], wanted, atol=1e-6)


@pytest.mark.parametrize("kind", FORMS)
def test_adapters_of_every_form(tmp_path, kind):
    tensors, scale = FORMS[kind]
    check_adapters(put(tmp_path / "a.safetensors", tensors), scale)


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.bfloat16, np.float16, np.float64, ml_dtypes.float8_e4m3fn]
)
def test_adapters_of_every_type(tmp_path, dtype):
    tensors = {k: x.astype(dtype) for k, x in FORMS["ComfyUI"][0].items()}
    check_adapters(put(tmp_path / "a.safetensors", tensors), 1, dtype)


def test_alpha_that_is_said_beside_the_adapters_counts(tmp_path):
    path = put(tmp_path / "adapter_model.safetensors", FORMS["peft"][0])
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"lora_alpha": 8, "r": 4}))
    check_adapters(path, 8 / 4)
    config.write_text(json.dumps({"lora_alpha": 8, "r": 4, "use_rslora": True}))
    check_adapters(path, 8 / 2)
    config.write_text(json.dumps({"lora_alpha": 8, "r": 4, "use_dora": True}))
    with pytest.raises(ValueError, match="DoRA"):
        lora.load(path, alpha=1.0)
    config.write_text(json.dumps({"lora_alpha": 1e308, "r": 4}))
    with pytest.raises(ValueError, match=r"lora_B.weight times its alpha \(1e\+308\) holds values"):
        lora.load(path, alpha=1.0)


@pytest.mark.parametrize(
    "key, message",
    [
        ("diffusion_model.blocks.0.self_attn.q.dora_scale", "DoRA"),
        ("base_model.model.blocks.0.attn1.to_q.lora_magnitude_vector", "DoRA"),
        ("diffusion_model.blocks.0.norm3.diff", "differences of whole weights"),
        ("diffusion_model.blocks.0.self_attn.q.diff_b", "differences of biases"),
        ("lora_unet_blocks_0_self_attn_q.hada_w1_a", "LoHa"),
        ("lora_unet_blocks_0_self_attn_q.lokr_w1", "LoKr"),
        ("base_model.model.blocks.0.attn1.to_q.lora_B.bias", "biases of adapters"),
        ("lora_te_encoder_block_0.lora_down.weight", "text encoder"),
        ("transformer_2.blocks.0.attn1.to_q.lora_A.weight", "second transformer"),
        ("diffusion_model.blocks.0.img_emb.lora_A.weight", "unknown keys"),
    ],
)
def test_changes_of_other_kinds_are_named(tmp_path, key, message):
    tensors = FORMS["ComfyUI"][0] | {key: np.ones((4, SIZES.dim), np.float32)}
    with pytest.raises(ValueError, match=message):
        lora.load(put(tmp_path / "a.safetensors", tensors), alpha=1.0)


def test_broken_adapters_are_named(tmp_path):
    tensors, key = dict(FORMS["ComfyUI"][0]), "diffusion_model.blocks.0.self_attn.q.lora_A.weight"
    for change, message in (
        (tensors[key].astype(np.int8), "quantised adapters"),
        (tensors[key] * np.nan, "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            lora.load(put(tmp_path / "a.safetensors", tensors | {key: change}), alpha=1.0)
    twice = tensors | {key.replace("diffusion_model.", "transformer."): tensors[key]}
    with pytest.raises(ValueError, match="there twice"):
        lora.load(put(tmp_path / "a.safetensors", twice), alpha=1.0)


def test_names_of_layouts_are_those_that_are_looked_for():
    for (part, layout), mark in layouts.MARKS.items():
        assert mark in folders.reference(part, layout)


def header_of(path, change):
    """A safetensors file whose header was changed."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = change(header)
    text = (text if isinstance(text, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["a"].update(data_offsets=[0, "x"]),
        lambda h: h["a"].update(data_offsets=[0, 8, 16]),
        lambda h: h["a"].update(shape=[-2, -2]),
        lambda h: h["a"].update(shape=[2, 2.0]),
        lambda h: h["a"].update(dtype=["F32"]),
        lambda h: h["b"].update(data_offsets=h["a"]["data_offsets"]),
        lambda h: h["a"].update(data_offsets=[-16, 0]),
        lambda h: h["a"].pop("shape"),
        lambda h: "[" * 50_000,
        lambda h: json.dumps(h).replace('"b"', '"a"'),
    ],
)
def test_a_header_that_cannot_be_is_named(tmp_path, change):
    path = put(tmp_path / "x.safetensors", {"a": np.ones((2, 2)), "b": np.ones((2, 2))})
    header_of(path, change)
    with pytest.raises(ValueError, match="x.safetensors: "):
        files.open_safetensors([path])


def test_tensors_in_another_order_of_names_are_read(tmp_path):
    path = put(tmp_path / "x.safetensors", {"a": np.ones(3), "b": np.zeros(0), "c": np.arange(2)})
    wanted = {key: entry.read() for key, entry in files.open_safetensors([path]).entries.items()}
    header_of(path, lambda h: json.dumps(dict(reversed(h.items()))))
    for key, entry in files.open_safetensors([path]).entries.items():
        np.testing.assert_array_equal(entry.read(), wanted[key])


@pytest.mark.parametrize(
    "text", ["[]", '{"weight_map": []}', '{"weight_map": {"a": "../x"}}', "[" * 50_000]
)
def test_an_index_of_shards_that_cannot_be_is_named(tmp_path, text):
    put(tmp_path / "x.safetensors", {"a": np.ones(2)})
    (tmp_path / "x.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="x.safetensors.index.json: "):
        files.open_sharded(tmp_path, "x")


def test_a_tensor_beyond_its_storage_names_file_and_key(tmp_path):
    data = torch_writer.dumps({"a": np.arange(4, dtype=np.float32)})
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[: 8 if name.endswith("/0") else None])
    (tmp_path / "x.pth").write_bytes(out.getvalue())
    with pytest.raises(ValueError, match=r"x.pth: a: storage of 4 float32"):
        files.open_pth(tmp_path / "x.pth").entries["a"].read()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e5m2"])
def test_values_that_are_not_finite_name_file_and_key(tmp_path, dtype):
    bad = np.array([[1, np.inf, 2], [0, np.nan, 3]]).astype(np.dtype(dtype))
    put(tmp_path / "x.safetensors", {"a": bad, "b": bad[:, :1]})
    said = r"x.safetensors: a \(2, 3\): 2 values are not finite"
    opened = files.open_any(tmp_path / "x.safetensors").entries
    with pytest.raises(ValueError, match=said):
        opened["a"].read()
    np.testing.assert_array_equal(opened["b"].read(), bad[:, :1])
    with pytest.raises(ValueError, match=r"x.safetensors: a \(2,\): 2 values"):
        files.leaves(tmp_path / "x.safetensors")["a"].read(np.s_[:, 1])
    if dtype != "float8_e5m2":
        (tmp_path / "x.pth").write_bytes(torch_writer.dumps({"a": bad}))
        with pytest.raises(ValueError, match=r"x.pth: a \(2, 3\): 2 values are not finite"):
            files.open_pth(tmp_path / "x.pth").entries["a"].read()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_layers", 1e308), ("num_layers", -1), ("ffn_dim", "x"), ("eps", "x"),
        ("patch_size", [1, 2.5, 2]), ("patch_size", [2, 2]), ("num_layers", []), ("ffn_dim", [64]),
        ("attention_head_dim", None), ("freq_dim", 2**40),
    ],
)  # fmt: skip
def test_sizes_that_no_network_has_are_named(tmp_path, key, value):
    folders.write_diffusers(tmp_path / "src", parts=("dit",))
    path = tmp_path / "src/transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    refused(tmp_path / "src", tmp_path, "config.json: no network has", parts=["dit"])
    path.write_text('{"eps": 1, "eps": 2}')
    refused(tmp_path / "src", tmp_path, "config.json: not JSON: the key 'eps' twice", parts=["dit"])
