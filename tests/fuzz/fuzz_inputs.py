"""Valid inputs of every door, small, in one folder that all cases copy by links.

recording/   the plain layout        taco/, mano/   TACO's layout and the hand models
hot3d/       a HOT3D sample          views/         a user's pictures and cameras
clips/       videos of other forms, with their calibration
samples/     a finished sample       prompts.txt
weights/     adapters and tensors    release/       a release of a tiny transformer
"""

import fractions
import json
from pathlib import Path

import av
import fake_samples
import folders
import ml_dtypes
import numpy as np
import tiny
from PIL import Image

from syncmv4d_jax.data.scenes import hand, scene
from syncmv4d_jax.data.sources import mano, taco_writer
from syncmv4d_jax.weights import files, torch_writer

SIZE = (36, 48)


def make(root: Path) -> None:
    """Writes all of them; the same bytes every time, but for what encoders do."""
    tiny.write(root / "recording", "seq0", frames=6, views=3)
    hand.write(root / "mano")
    hands = mano.load_hands(root / "mano")
    spec = scene.specify(3, seed=0, held_out=False)
    names = ("22139946", "22139909")
    scene.write_scene(root / "taco", spec, hands, frames=3, size=SIZE, names=names)
    tiny.write_hot3d(root / "hot3d", frames=3)
    pictures(root / "views")
    clips(root / "clips")
    example = fake_samples.truth(0, size=(32, 48), frames=5, points=20)
    fake_samples.write(root / "samples", "one", example)
    (root / "prompts.txt").write_text("A cup is lifted.\n\nEine Hand gießt Wasser.\n杯子\n")
    weights(root / "weights")
    folders.write_diffusers(root / "release", parts=("dit",))
    (root / "release/vae.pth").write_bytes(torch_writer.dumps(folders.reference("vae", "official")))


def pictures(folder: Path) -> None:
    """Three views: PNG, JPEG turned by its EXIF, TIFF of 16 bits."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[:, ::-1].swapaxes(0, 1).copy()).save(folder / "b.jpg", exif=exif)
    grey = rng.integers(0, 65536, SIZE).astype(np.uint16)
    Image.fromarray(grey).save(folder / "c.tiff", compression="tiff_lzw")
    rig = list(tiny.rig(3).values())
    (folder / "cameras.json").write_text(json.dumps(calibration("abc", rig)))


def calibration(names, rig) -> dict:
    k = np.array([[50.0, 0, 23.5], [0, 50, 17.5], [0, 0, 1]])
    return {
        name: {
            "K": k.ravel().tolist(),
            "R": pose[:, :3].ravel().tolist(),
            "T": pose[:, 3].tolist(),
            "imgSize": [SIZE[1], SIZE[0]],
        }
        for name, (_, pose) in zip(names, rig, strict=True)
    }


def clips(folder: Path) -> None:
    """h264: with frames out of order; motion: in mp4 with sound; deep: ten bits, full range."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    frames = [
        np.stack([x * 5, y * 6, (x + y + 20 * n) % 256], -1).astype(np.uint8) for n in range(8)
    ]
    codecs = {
        "h264": ("libx264", "yuv420p", {"bf": "2", "g": "4"}),
        "motion": ("mjpeg", "yuvj420p", {}),
        "deep": ("libx264", "yuv444p", {"preset": "ultrafast"}),
    }
    for name, (codec, pixels, options) in codecs.items():
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream(codec, rate=8, options=options)
            stream.height, stream.width, stream.pix_fmt = *SIZE, pixels
            stream.codec_context.time_base = fractions.Fraction(1, 8)
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    rig = list(tiny.rig(3).values())
    (folder / "calibration.json").write_text(json.dumps(calibration(codecs, rig)))


def weights(folder: Path) -> None:
    """Tensors of several types and three forms of adapters; torch's two containers."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    tensors = {
        "a.weight": rng.normal(size=(4, 6)).astype(np.float32),
        "b.weight": rng.normal(size=(3, 2, 2)).astype(ml_dtypes.bfloat16),
        "c": np.asarray(2.5, np.float16),
        "d.empty": np.zeros((0, 4), np.float32),
        "e": np.arange(7),
    }
    entries = {key: files.entry_of(value) for key, value in tensors.items()}
    files.write_safetensors(folder / "tensors.safetensors", entries)
    (folder / "tensors.pth").write_bytes(torch_writer.dumps(tensors))
    legacy = {key: x.astype(np.float32) for key, x in tensors.items() if x.size}
    (folder / "legacy.pt").write_bytes(taco_writer.pickle_tensors(legacy))
    layers = {f"blocks.{i}.self_attn.{n}": rng for i in range(2) for n in "qk"}
    forms = {
        "comfy": ("diffusion_model.{}.lora_down.weight", "diffusion_model.{}.lora_up.weight"),
        "adapter_model": (
            "base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight",
        ),
    }  # fmt: skip
    for name, (down, up) in forms.items():
        found = {}
        for layer in layers:
            found[down.format(layer)] = rng.normal(size=(2, 8)).astype(np.float32)
            found[up.format(layer)] = rng.normal(size=(8, 2)).astype(np.float32)
        opened = {key: files.entry_of(value) for key, value in found.items()}
        files.write_safetensors(folder / f"{name}.safetensors", opened)
    config = {"r": 2, "lora_alpha": 4, "alpha_pattern": {"q": 8}, "use_rslora": False}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "tensors.safetensors")}
    (folder / "all.safetensors.index.json").write_text(json.dumps(index))
