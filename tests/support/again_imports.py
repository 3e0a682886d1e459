"""The importers and converters of tests/support/again.py, each made small."""

import json
import shutil

import arctic_files
import export_lerobot
import fake_samples
import folders
import foreign_rigs
import import_arctic
import import_cameras
import import_hot3d
import import_lerobot
import import_meshes
import import_monocular
import import_taste_rob
import import_trajscene
import lerobot_sets
import make_text_encoder
import mesh_files
import monocular_clips
import numpy as np
import quantise
import tiny
import workbooks
from again_commands import Command
from PIL import Image

from syncmv4d_jax.data import calibrations, one_camera, prepare, reconstructed
from syncmv4d_jax.data.scenes import scene
from syncmv4d_jax.data.sources import lerobot_writer, trajscene
from syncmv4d_jax.weights import files, lora, release, store


def flags(**told) -> list[str]:
    """Flags as on the command line."""
    return [f"--{key.replace('_', '-')}={value}" for key, value in told.items()]


class Weights(Command):
    more = {"name": "b"}
    changes = {"other weights": {"first": 2.5}, "other size": {"dtype": "bfloat16"}}

    def prepare(self):
        self.source = self.home / "in"
        folders.write_diffusers(self.source, parts=("dit",))
        self.counted(store, "write", die=1)

    def run(self, out, *, first=None, dtype=None, name="a"):
        path = self.source / "transformer/diffusion_pytorch_model.safetensors"
        if first is not None:
            data = bytearray(path.read_bytes())
            data[-4:] = np.float32(first).tobytes()
            path.write_bytes(data)
        release.convert(self.source, out / name, parts=["dit"], dtype=dtype)


class Quantised(Command):
    more = {"to": "float8"}
    changes = {"other weights": {"to": "float8"}}

    def prepare(self):
        folders.write_diffusers(self.home / "in", parts=("dit",))
        release.convert(self.home / "in", self.home / "converted", parts=["dit"])
        self.counted(quantise.exports, "write", die=1)

    def run(self, out, *, to="int8"):
        out.mkdir(exist_ok=True)
        told = flags(src=self.home / "converted", out=out / "a.safetensors", to=to)
        self.patch.setattr("sys.argv", ["quantise", *told])
        quantise.main()


class TextEncoder(Command):
    changes = {"other seed": {"seed": 1}, "other size": {"dim": 16}}

    def prepare(self):
        self.counted(store, "save", die=1)

    def run(self, out, *, seed=0, dim=32):
        told = flags(out=out, seed=seed, dim=dim, layers=1)
        self.patch.setattr("sys.argv", ["make_text_encoder", *told])
        make_text_encoder.main()


class Lora(Command):
    more = {"alpha": 4.0}
    changes = {"other weights": {"seed": 1}, "other size": {"alpha": 4.0}}

    def prepare(self):
        self.counted(lora, "save", die=1)

    def run(self, out, *, seed=0, alpha=2.0):
        rng, found = np.random.default_rng(seed), {}
        for layer in ("blocks.0.self_attn.q", "blocks.0.self_attn.k"):
            for half, shape in (("lora_A", (2, 8)), ("lora_B", (8, 2))):
                key = f"diffusion_model.{layer}.{half}.weight"
                found[key] = files.entry_of(rng.normal(size=shape).astype(np.float32))
        files.write_safetensors(self.home / "in.safetensors", found)
        out.mkdir(exist_ok=True)
        adapters = lora.load(self.home / "in.safetensors", alpha=alpha)
        lora.save(out / "a.safetensors", adapters, alpha=alpha, layout="diffusers")


class Cameras(Command):
    more = {"name": "b"}
    changes = {"other records": {"unit": 0.5}, "other size": {"unit": 0.5}}

    def prepare(self):
        (self.home / "in").mkdir()
        self.source = foreign_rigs.nerfstudio(self.home / "in")
        for name in foreign_rigs.NAMES:
            picture = np.full((*foreign_rigs.SIZE, 3), 90, np.uint8)
            Image.fromarray(picture).save(self.home / f"in/{name}.png")
        self.counted(calibrations, "undistort", die=2)

    def run(self, out, *, unit=foreign_rigs.UNIT, name="a"):
        out.mkdir(exist_ok=True)
        told = flags(src=self.source, images=self.home / "in", out=out / name)
        self.patch.setattr("sys.argv", ["import_cameras", *told, f"--metres-per-unit={unit}"])
        import_cameras.main()


class Meshes(Command):
    more = {"text": "another"}
    changes = {
        "other prompt": {"text": "another"},
        "other records": {"unit": 0.9},
        "other size": {"fps": 4.0},
    }

    def prepare(self):
        (self.home / "in").mkdir()
        vertices, faces = tiny.solids()["tool"]
        turned = np.stack([vertices @ x[:3, :3].T + x[:3, 3] for x in tiny.poses(4)["tool"]])
        mesh_files.write_mdd(self.home / "in/a.mdd", turned, faces, np.arange(4) / 8)
        k, pose = tiny.rig(3)["cam1"]
        camera = {"K": k.ravel().tolist(), "R": pose[:, :3].ravel().tolist()}
        camera |= {"T": pose[:, 3].tolist(), "imgSize": [tiny.SIZE[1], tiny.SIZE[0]]}
        (self.home / "in/camera.json").write_text(json.dumps({"front": camera}))
        Image.fromarray(np.full((*tiny.SIZE, 3), 90, np.uint8)).save(self.home / "in/a.png")
        self.counted(import_meshes.surfaces, "write", die=1)

    def run(self, out, *, text="a tool turns", unit=1.0, fps=8.0):
        home = self.home / "in"
        told = flags(image=home / "a.png", camera=home / "camera.json", out=out, text=text)
        told += flags(meshes=home / "a.mdd", unit=unit, fps=fps)
        assert not import_meshes.main(told)


class Arctic(Command):
    more = {"text": "another"}
    changes = {
        "other prompt": {"text": "another"},
        "other records": {"higher": 10.0},
        "other size": {"fps": 15.0},
    }

    def prepare(self):
        self.path = arctic_files.write(self.home / "in")
        self.counted(import_arctic.surfaces, "write", die=1)

    def run(self, out, *, text="a box opens", higher=0.0, fps=30.0):
        _, placed = arctic_files.motion()
        placed[:, 6] += higher
        np.save(self.path.with_name(f"{arctic_files.NAME}.object.npy"), placed)
        (image,) = self.home.glob("in/images/*/*/*/*.jpg")
        told = flags(arctic=self.home / "in", mano=self.home / "in/mano", image=image, out=out)
        assert not import_arctic.main([*told, *flags(text=text, fps=fps)])


class Hot3d(Command):
    more = {"action": "lift"}
    changes = {
        "other prompt": {"action": "lift"},
        "other records": {"cameras": "all"},
        "other size": {"size": "48x64"},
    }

    def prepare(self):
        tiny.write_hot3d(self.home / "in", frames=2)
        self.counted(scene.Renderer, "frame", die=2)

    def run(self, out, *, action="pour", cameras="three", size="32x48"):
        told = flags(hot3d=self.home / "in", out=out, action=action, cameras=cameras, size=size)
        told += flags(recording="P1", tool="box", target="mug_white")
        assert not import_hot3d.main(told)

    def results(self, out):  # bits of a video are its encoder's
        texts = out.glob("*/*.json")
        return {p.name: p.read_text() for p in texts if p.parent.suffix != ".partial"}


class Episodes(Command):
    lock, root, more = "prepare", "32x48", {"seed": 9}
    changes = {
        "other seed": {"seed": 9},
        "other records": {"frames": 9},
        "other size": {"size": "48x64"},
    }

    def prepare(self):
        lerobot_sets.write_3(self.home / "in", images=("right",))
        self.counted(import_lerobot.episodes, "prepare_episode", die=2)

    def run(self, out, *, seed=0, frames=5, size="32x48"):
        told = flags(lerobot=self.home / "in", out=out, seed=seed, frames=frames, size=size)
        told += flags(views="top,right", fps=10, jobs=1, val_share=0, test_share=0)
        self.patch.setattr(prepare.engine, "pool", one_by_one)
        assert not import_lerobot.main(told)


def one_by_one(todo, root, settings, *, jobs, work):
    """engine.pool in this process."""
    for source in todo:
        yield source.id, work(source, root, settings)


class Monocular(Command):
    lock, root, more = "prepare", "48x64", {"seed": 9}
    changes = {
        "other seed": {"seed": 9},
        "other prompt": {"text": "Pour."},
        "other records": {"text": "Pour."},
        "other size": {"size": "32x48"},
    }

    def prepare(self):
        made = monocular_clips.make(self.home / "made")
        for name in "ab":
            monocular_clips.write("SpatialTracker", made, self.home / "in" / name)
        self.counted(reconstructed, "make", die=2)

    def run(self, out, *, seed=0, text="Stir.", size="48x64"):
        path = self.home / "in/a/clip.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"text": text}))
        told = flags(clips=self.home / "in", out=out, seed=seed, size=size, frames=5)
        assert not import_monocular.main([*told, *flags(points=16, cloud=32, test=0)])


class TrajScene(Command):
    lock, root, more = "prepare", "32x48", {"text": "another"}
    changes = {
        "other prompt": {"text": "another"},
        "other records": {"text": "another"},
        "other size": {"size": "48x64"},
    }

    def prepare(self):
        self.patch.setattr(trajscene, "GRID", (48, 64))
        self.counted(one_camera, "values", die=2)

    def run(self, out, *, text="it slides", size="32x48"):
        shutil.rmtree(self.home / "in", ignore_errors=True)
        points = np.zeros((trajscene.FRAMES, 48, 64, 3)) + np.array([0.0, 0, 1.0])
        y, x = np.mgrid[:48, :64]
        points[..., 0], points[..., 1] = (x - 31.5) / 60, (y - 23.5) / 60
        points[:, 16:32, 20:40, 2] -= 0.01 * np.arange(trajscene.FRAMES)[:, None, None]
        video = np.full((trajscene.FRAMES, 48, 64, 3), 120, np.uint8)
        clip = {"video": video, "tracks": points, "valid": np.ones((48, 64), bool)}
        for name in ("000001", "000002"):
            trajscene.write(self.home / "in/0", name, clip, text if name == "000001" else "it")
        told = flags(trajscene=self.home / "in/0", out=out, size=size)
        assert not import_trajscene.main(told)


class Taste(Command):
    changes = {"other prompt": {"caption": "Lift the cup."}}

    def prepare(self):
        folder = self.home / "in/SingleHand/Kitchen"
        folder.mkdir(parents=True)
        tiny.write_video(folder / "17.mp4", [np.full((32, 48, 3), 9, np.uint8)] * 3)
        self.counted(import_taste_rob.taste_rob.os, "symlink")

    def run(self, out, *, caption="the cup."):
        strings = workbooks.STRINGS.replace("the cup.", caption)
        workbooks.write(self.home / "in/captions.xlsx", **{"xl/sharedStrings.xml": strings})
        assert not import_taste_rob.main(flags(taste=self.home / "in", out=out))


class Lerobot(Command):
    more = {"name": "b"}
    changes = {"other prompt": {"first": 1}, "other weights": {"first": 1}}

    def prepare(self):
        self.counted(lerobot_writer, "write", die=1)

    def run(self, out, *, first=0, name="a"):
        out.mkdir(exist_ok=True)
        truth = fake_samples.truth(first, size=(32, 48), frames=3)
        fake_samples.write(self.home / "samples", "one", truth)
        views = ",".join(f"v{i}" for i in range(len(truth["video"])))
        told = flags(samples=self.home / "samples", out=out / name, views=views)
        assert not export_lerobot.main(told)


COMMANDS = {
    "convert_weights.py": Weights,
    "convert_lora.py": Lora,
    "quantise.py": Quantised,
    "make_text_encoder.py": TextEncoder,
    "import_cameras.py": Cameras,
    "import_meshes.py": Meshes,
    "import_arctic.py": Arctic,
    "import_hot3d.py": Hot3d,
    "import_lerobot.py": Episodes,
    "import_monocular.py": Monocular,
    "import_trajscene.py": TrajScene,
    "import_taste_rob.py": Taste,
    "export_lerobot.py": Lerobot,
}
