"""Runs what touches files of others with the oldest or the newest versions that setup.py admits.

    python tests/versions.py oldest [--python 3.11 ...]      (make oldest)
    python tests/versions.py newest [--python 3.13 ...]      (make newest)

For each Python an environment is made in .cache/versions, the parts of the suite in PARTS run in
it, and requirements/<which>-<python>.txt says what was installed and how it ended: the bounds in
setup.py follow these files (tests/test_versions.py). uv finds the versions, since pip knows no
way to ask for the oldest.
"""

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "versions"
RESOLUTION = {"oldest": "lowest-direct", "newest": "highest"}
PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = ("test", "viz", "eval", "convert")
# Data, weights, checkpoints, results and the server: what stands on other people's libraries.
PARTS = (
    "tests/data/test_pictures.py",
    "tests/data/test_video_reader.py",
    "tests/data/test_records.py",
    "tests/data/test_surfaces.py",
    "tests/data/sources/test_mano.py",
    "tests/weights/test_forms.py",
    "tests/weights/test_torch_pickle.py",
    "tests/weights/test_slices.py",
    "tests/results/test_samples.py",
    "tests/results/test_export.py",
    "tests/run/test_checkpoint.py",
    "tests/serve/test_server.py",
    "tests/serve/test_view.py",
)


def interpreter(version: str) -> str:
    """The Python of a version: of the path, or one that pyenv has made.

    Raises:
      FileNotFoundError: there is none.
    """
    made = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if found := shutil.which(f"python{version}"):
        said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
        if said.startswith(f"Python {version}."):  # a shim of pyenv may be another, or none
            return found
    if not made:
        raise FileNotFoundError(f"python{version}: not found; wanted it in PATH or by pyenv")
    return str(made[-1])


def uv() -> Path:
    """The program uv, installed once in an environment of its own."""
    program = CACHE / "uv" / "bin" / "uv"
    if not program.is_file():
        subprocess.run([sys.executable, "-m", "venv", CACHE / "uv"], check=True)
        subprocess.run(
            [program.with_name("python"), "-m", "pip", "-q", "install", "uv"], check=True
        )
    return program


def pins(which: str, python: Path) -> str:
    """The versions that setup.py admits, as lines `name==version`."""
    command = [uv(), "pip", "compile", "--python", python, "--resolution", RESOLUTION[which]]
    command += [part for extra in EXTRAS for part in ("--extra", extra)]
    command += ["--no-annotate", "--no-header", "--quiet", "setup.py"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def run(which: str, version: str) -> bool:
    """Makes an environment, runs PARTS in it and writes down how that ended; True: all passed."""
    folder = CACHE / f"{which}-{version}"
    found = interpreter(version)
    subprocess.run([uv(), "venv", "--quiet", "--clear", "--python", found, folder], check=True)
    python = folder / "bin" / "python"
    lines = pins(which, python)
    wanted = folder / "pins.txt"
    wanted.write_text(lines)
    install = [uv(), "pip", "install", "--quiet", "--python", python, "-r", wanted]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [python, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *PARTS]
    output = ""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            output += line
    ends = re.findall(r"^\d+ (?:passed|failed|error).*", output.replace("=", ""), re.MULTILINE)
    failed = re.findall(r"^(?:FAILED|ERROR) \S+.*", output, re.MULTILINE)
    end = ends[-1] if ends else f"pytest ended with status {process.returncode}"
    exact = subprocess.run([python, "--version"], capture_output=True, text=True).stdout.strip()
    head = [f"{which} that setup.py admits, {exact}, {datetime.date.today()}: {end}", *failed]
    text = "".join(f"# {line}\n" for line in head) + lines
    target = ROOT / "requirements" / f"{which}-{version}.txt"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)
    print(f"{target}: {head[0]}")
    return process.returncode == 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=tuple(RESOLUTION))
    parser.add_argument("--python", nargs="+", default=PYTHONS, help=", ".join(PYTHONS))
    args = parser.parse_args(argv)
    return 0 if all([run(args.which, version) for version in args.python]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
