"""Embedded data for a run that names none: scenes, records, text features, small frozen networks.

`config.data.name = "embedded"` (the `:debug` variants) makes, under the working folder and once,
what the commands of data_prep/ make for real data and the task asks for (`tasks.base.Embedded`):
two training scenes and a held-out one, their records, a frozen umT5 from a seed with its tokenizer,
the cached text features and, where `config.weights.vae` is empty, an autoencoder from a seed. It is
not trained: pictures of such a run mean nothing, its code path is the real one.
"""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import jax

from syncmv4d_jax import recipe
from syncmv4d_jax.data import cache, clips, controls, prepare
from syncmv4d_jax.data.scenes import hand, motion, objects, scene
from syncmv4d_jax.data.sources import mano, recordings, taco
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import umt5, vae
from syncmv4d_jax.run import assembly
from syncmv4d_jax.tasks import base
from syncmv4d_jax.weights import encoders, store, tokenizer

SCENES = ((0, False), (1, False), (0, True))  # (index, held out)
PICTURE = (60, 80)


def ensure(config: Any, workdir: str | Path) -> None:
    """Makes the data and points `config.data`, `config.text` and `config.weights` at it.

    Raises:
      ValueError: a task that does not say what it needs, needs scenes that nobody makes, or other
        data than the folder has.
    """
    task = base.serves(assembly.task(config), base.Embedded, 'config.data.name="embedded"')
    wants, root = task.embedded(), Path(workdir) / "embedded"
    if wants.source not in SOURCES:
        raise ValueError(
            f'config.data.name="embedded": task {config.task.name!r} wants scenes '
            f"{wants.source!r}, there are {sorted(SOURCES)}"
        )
    made = recipe.of(wants=wants._asdict(), scenes=SCENES, picture=PICTURE)
    recipe.claim(root / "recipe.json", made, way="use another --workdir")
    settings = clips.Settings(
        size=wants.size,
        frames=wants.frames,
        points=wants.points,
        val=0.0,
        representation=wants.motion,
        held_out_triplets=scene.HELD_OUT,
        controls=controls.WITH if wants.cloud else (),
        cloud=wants.cloud or 1,
        provenance="sim",
        fields=wants.fields,
        paths=wants.paths,
    )
    frames = int(3.75 * (settings.frames - 1)) + 1
    sources = SOURCES[wants.source](root, frames, wants.paths)
    prepare.run(sources, root / "records", settings)
    config.data.name, config.data.records = "taco", str(root / "records")
    if wants.vae is not None and not config.weights.vae:
        config.weights.vae = str(_autoencoder(root / "weights", wants.vae))
    if wants.text is not None:
        _text(config, root, *wants.text)


def _autoencoder(made: Path, sizes: vae.VAEConfig) -> Path:
    if not (made / "vae" / "index.json").is_file():
        params = module.init(vae.VAE, sizes, jax.random.key(1))
        store.save("vae", sizes, params, made, source={"seed": 1})
    return made


def _text(config: Any, root: Path, width: int, rows: int) -> None:
    made = root / "weights"
    if not (made / "umt5" / "index.json").is_file():
        text_encoder(made, dim=width, layers=1, seed=0)
    cache.run(
        root / "records",
        root / "cache",
        encode_video=None,
        encode_text=encoders.text_encoder(made, max_length=rows),
        weights_hash=encoders.weights_hash(made),
    )
    config.text.weights, config.text.max_length = str(made), rows
    config.data.cache = str(root / "cache")


def _tabletop(root: Path, frames: int, paths: tuple[str, ...]) -> list[recordings.Source]:
    """Hands that move objects on a table, of `frames` frames, in TACO's layout."""
    hand.write(root / "mano")
    hands = mano.load_hands(root / "mano")
    for index, held_out in SCENES:
        spec = scene.specify(index, seed=0, held_out=held_out)
        entry = taco.Entry(root / "taco", spec.triplet, spec.sequence_id)
        if not entry.folder(taco.HANDS).is_dir():
            scene.write_scene(
                root / "taco", spec, hands, frames=frames, size=PICTURE, names=scene.THREE,
                moving=paths,
            )  # fmt: skip
    return recordings.taco_sources(root / "taco", root / "mano")


# name in tasks.base.Scenes -> (folder, frames, cameras that move) -> recordings
SOURCES = {"tabletop": _tabletop}


def text_encoder(out: str | Path, *, dim: int, layers: int, seed: int) -> int:
    """Writes `out`/umt5: a random umT5 and a tokenizer of the embedded scenes' sentences.

    Returns:
      The number of pieces of the tokenizer.
    """
    combinations = itertools.product(motion.ACTIONS, objects.TOOLS, objects.TARGETS)
    manners = ("", *motion.SPEEDS)
    sentences = [scene.prompt(one, manner) for one in combinations for manner in manners]
    pieces = tokenizer.train_sentencepiece(sentences)
    vocab = tokenizer.Tokenizer(pieces).vocab
    config = umt5.UMT5Config(
        vocab=vocab,
        dim=dim,
        heads=4,
        d_head=dim // 4,
        ffn_dim=2 * dim,
        layers=layers,
        dtype="float32",
    )
    params = module.init(umt5.UMT5, config, jax.random.key(seed))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spiece.model"
        file.write_bytes(pieces)
        store.save("umt5", config, params, out, source={"seed": seed}, tokenizer_files=[file])
    return vocab
