"""Builds the wheel, installs it in an empty environment outside of the checkout, and uses it.

    python tests/wheel.py [--folder DIR]      (make wheel)

From a folder that has nothing of the checkout but configs/: `main` trains a step on embedded data
and draws a sample, `view` serves its page and exports its tracks. What the package needs beside
its code (the page's HTML, CSS and JavaScript) must come out of the wheel.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "syncmv4d_jax")
PAGE = ("<html", "<style", "<script")


def build(folder: Path) -> Path:
    """Builds the wheel of a copy of the sources, so that nothing is left in the checkout."""
    copy = folder / "sources"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, copy]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Installs the wheel with all it needs; returns the environment's Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True)
    return python


def use(python: Path, folder: Path) -> None:
    """Samples, serves and exports from an empty folder.

    Raises:
      subprocess.CalledProcessError: a command failed.
      RuntimeError: a page that lacks a part, or a package that is not the wheel's.
    """
    folder.mkdir()
    shutil.copytree(ROOT / "configs", folder / "configs")  # files of one's own, as a user has them
    names = ("PYTHONPATH", "PYTHONHOME")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    # The programs run once: compiling them well takes longer than running them.
    environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}

    def call(*words: str | Path) -> str:
        command = [python, *map(str, words)]
        return subprocess.run(
            command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    where = call("-c", "import syncmv4d_jax; print(syncmv4d_jax.__file__)").strip()
    if not Path(where).is_relative_to(python.parent.parent):
        raise RuntimeError(f"wanted the package of the wheel, got {where}")
    main = ("-m", "syncmv4d_jax.main", "--config=configs/taco.py:debug", "--workdir=run")
    call(*main, "--config.train.steps=1", "--config.train.checkpoint_every=1")
    call(*main, "--config.mode=sample", "--config.sample.count=1")
    serve(python, folder, environment)
    call("-m", "syncmv4d_jax.view", "run", "--export", "glb", "--out", "tracks.glb")
    if (folder / "tracks.glb").read_bytes()[:4] != b"glTF":
        raise RuntimeError("tracks.glb is no glTF")


def serve(python: Path, folder: Path, environment: dict[str, str]) -> None:
    """Starts the server and asks for its pages."""
    command = [python, "-u", "-m", "syncmv4d_jax.view", "run", "--port", "0", "--no-browser"]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = next(w for w in process.stdout.readline().split() if w.startswith("http"))
            (sample,) = (path.parent.name for path in folder.glob("run/samples/*/meta.json"))
            for name in ("", f"samples/{sample}/"):
                with urllib.request.urlopen(address + name) as answer:
                    page = answer.read().decode()
                print(f"{address}{name}: {len(page)} bytes")
                if name and (lost := [part for part in PAGE if part not in page]):
                    raise RuntimeError(f"{address}{name}: the page lacks {lost}")
        finally:
            process.terminate()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="is kept; default: one that is removed")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="wheel-") as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        wheel = build(folder)
        use(install(wheel, folder / "environment"), folder / "elsewhere")
    print(f"{wheel.name}: installed, sampled, served and exported")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
