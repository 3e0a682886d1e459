"""Frozen encoders from converted weights: text, tokenizer, video."""

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from syncmv4d_jax import models, tree
from syncmv4d_jax.models.nn import quantised
from syncmv4d_jax.weights import store, tokenizer


def weights_hash(folder: str | Path) -> str:
    """Returns the hash of the VAE and umT5 of a converted folder.

    Raises:
      FileNotFoundError: one of them is not there.
    """
    parts = []
    for part in ("vae", "umt5"):
        mark = store.weights_mark(folder, part)
        if not mark:
            raise FileNotFoundError(
                f"{folder}: wanted converted weights ({part}/index.json), found none; "
                "data_prep/convert_weights.py makes them"
            )
        parts.append(f"{part}:{mark}")
    return ",".join(parts)


class VideoEncoder:
    """encode_video for `cache.run`: clips go to this host's devices in turn.

    What is pickled of it is the folder: a process that gets it reads the weights once.
    """

    def __init__(self, folder: str | Path):
        """Loads them.

        Raises:
          FileNotFoundError, ValueError: no VAE there, or one that does not fit its config.
        """
        self._folder = str(folder)
        _video_encoder(self._folder)

    def __call__(self, video: np.ndarray) -> jax.Array:
        """video: [n h w 3] uint8, or of -1..1 -> normalised latents [f h w c]."""
        return _video_encoder(self._folder)(video)


@functools.lru_cache(1)
def _video_encoder(folder: str) -> Callable[[np.ndarray], jax.Array]:
    config, params = store.load("vae", folder)
    devices = jax.local_devices()
    copies = [jax.device_put(params, device) for device in devices]
    turn = itertools.cycle(range(len(devices)))

    def encode(video: np.ndarray) -> jax.Array:
        index = next(turn)
        clip = video[None] if video.dtype == np.float32 else video[None] / np.float32(127.5) - 1
        clip = jax.device_put(clip, devices[index])
        return models.apply("vae", config, copies[index], encode=clip)[0]

    return encode


def text_encoder(
    folder: str | Path, *, max_length: int = 512
) -> Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]:
    """Returns encode_text for `run`, with folder/tokenizer.model where there is one.

    Args:
      max_length: of a text, tokens; longer ones are an error.
    """
    own = Path(folder) / "tokenizer.model"
    tokenizer = own if own.is_file() else None
    return TextEncoder(folder, tokenizer, max_length=max_length)


def load_tokenizer(path: str | Path, *, max_length: int = tokenizer.MAX_LENGTH):
    """Returns the tokenizer of a converted folder.

    Raises:
      FileNotFoundError: the release had no spiece.model.
    """
    folder = store.part_folder("umt5", Path(path)) / "tokenizer"
    model = folder / "spiece.model"
    if not model.exists():
        raise FileNotFoundError(f"{folder}: wanted spiece.model (google/umt5-xxl in the release)")
    return tokenizer.Tokenizer(model.read_bytes(), max_length=max_length)


class TextEncoder:
    """Prompts to features: the tokenizer and the encoder of a converted folder."""

    def __init__(
        self,
        path: str | Path,
        tokenizer_path: str | Path | None = None,
        *,
        max_length: int = tokenizer.MAX_LENGTH,
        precision: str = "",
    ):
        """Loads both.

        Args:
          path: converted folder with umt5.
          tokenizer_path: a spiece.model; None takes the one of the converted folder.
          max_length: rows of the features.
          precision: of the encoder's weights: "" as stored, "bfloat16", "int8" or "float8".
        """
        if tokenizer_path:
            model = Path(tokenizer_path).read_bytes()
            self._tokenizer = tokenizer.Tokenizer(model, max_length=max_length)
        else:
            self._tokenizer = load_tokenizer(path, max_length=max_length)
        dtype = precision if precision and precision not in quantised.LARGEST else None
        self._config, params = store.load("umt5", path, dtype=dtype)
        flat = tree.flatten(params)
        del params
        if precision in quantised.LARGEST:
            quantised.replace(flat, precision)
        self._params = tree.unflatten(flat)
        if self._tokenizer.vocab > self._config.vocab:
            raise ValueError(
                f"{path}: the tokenizer has {self._tokenizer.vocab} pieces, the encoder's table "
                f"{self._config.vocab} rows"
            )

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes b prompts.

        Returns:
          features [b l d] float32, zero beyond the text, and lengths [b] int32.

        Raises:
          ValueError: a prompt of more than max_length tokens.
        """
        ids, mask = self._tokenizer.encode_batch(texts)
        features = models.apply("umt5", self._config, self._params, ids=ids, mask=mask)
        return np.asarray(features, np.float32), mask.sum(axis=1, dtype=np.int32)
