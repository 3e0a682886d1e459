"""The network metrics' identities, which network each needs, and their table.

As in definitions.py an id changes whenever its numbers would. A number's cell in `eval.json` also
has the sha256 of the weight files it was made with: numbers of other weights do not compare.
"""

from collections.abc import Mapping
from typing import Any

from syncmv4d_jax.metrics import definitions, tables

_ALL = "decoded mp4 (H.264, 8 bit), all frames, frame 0 included; "
_AFTER = "decoded mp4 against the record's frames, frame 0 left out; "
_REGION = "; black outside of the moving region in both"
DINO = _ALL + "short side to 224, linear, no antialiasing, no crop; ImageNet mean"
RAFT = _ALL + "every round(fps / 8)th; RGB 0..255, edges repeated up to multiples of 8; 20 steps"
CLIP = "short side to 224, PIL bicubic, centre crop 224; CLIP's mean"
LPIPS = _AFTER + "RGB to -1..1, no resize"
FID = _AFTER + "299 x 299 by TensorFlow 1's linear rule; (x - 128) / 128"
FVD = _AFTER + "windows of 16 frames, the rest left out; 224 x 224 linear, no crop; -1..1"


def _network(key, title, unit, better, text):
    return key, definitions.Definition(f"{key}/1", title, unit, better, "network", text)


DEFINITIONS: dict[str, definitions.Definition] = dict(
    [
        _network(
            "subject_consistency", "Subj. Cons.", "", "higher",
            "VBench: DINO similarity to the frame before and to the first, mean over frames, views",
        ),
        _network(
            "dynamic_degree", "Dyn. Deg.", "", "higher",
            "VBench: share of views whose RAFT flow is long in a quarter of the frames or more",
        ),
        _network(
            "flow_score", "Flow", "pixels", "higher",
            "mean over frames of the longest 5% of RAFT's flow: dynamic degree without its bound",
        ),
        _network(
            "clip_v", "CLIP-V", "", "higher",
            "100 x CLIP ViT-B/32 image similarity of each two views at a time",
        ),
        _network(
            "clip_frame", "CLIP", "", "higher", "CLIP ViT-B/32 similarity of frames to true ones"
        ),
        _network(
            "matching_pixels", "Mat. Pix.", "", "higher",
            "matches of confidence above the threshold, mean over frames and pairs of views",
        ),
        _network(
            "matching_pixels_clip", "Mat. Pix. clip", "K", "higher",
            "the same, summed over frames and pairs of views, in thousands",
        ),
        _network("lpips_alex", "LPIPS Alex", "", "lower", "LPIPS 0.1, AlexNet, mean over frames"),
        _network("lpips_alex_moving", "LPIPS Alex moving", "", "lower", "lpips_alex of the region"),
        _network("lpips_vgg", "LPIPS VGG", "", "lower", "LPIPS 0.1, VGG16, mean over frames"),
        _network("lpips_vgg_moving", "LPIPS VGG moving", "", "lower", "lpips_vgg of the region"),
        _network("fid", "FID", "", "lower", "Frechet distance of Inception-v3 (2015) features"),
        _network("fid_moving", "FID moving", "", "lower", "fid of the region"),
        _network("clip_fid", "CLIP-FID", "", "lower", "Frechet distance of CLIP ViT-B/32 features"),
        _network("clip_fid_moving", "CLIP-FID moving", "", "lower", "clip_fid of the region"),
        _network("fvd", "FVD", "", "lower", "Frechet distance of I3D Kinetics-400 logits"),
        _network("fvd_moving", "FVD moving", "", "lower", "fvd of the region"),
    ]
)  # fmt: skip

# metric -> (the network it needs, preprocessing)
NEEDS: dict[str, tuple[str, str]] = {
    "subject_consistency": ("dino", DINO),
    "dynamic_degree": ("raft", RAFT),
    "flow_score": ("raft", RAFT),
    "clip_v": ("clip", _ALL + CLIP),
    "clip_frame": ("clip", _AFTER + CLIP),
    "matching_pixels": ("matcher", _ALL + "no resize"),
    "matching_pixels_clip": ("matcher", _ALL + "no resize"),
    "lpips_alex": ("lpips_alex", LPIPS),
    "lpips_vgg": ("lpips_vgg", LPIPS),
    "fid": ("inception", FID),
    "clip_fid": ("clip", _AFTER + CLIP),
    "fvd": ("i3d", FVD),
}
NEEDS |= {
    f"{key}_moving": (NEEDS[key][0], NEEDS[key][1] + _REGION)
    for key in ("lpips_alex", "lpips_vgg", "fid", "clip_fid", "fvd")
}


def markdown(evaluation: Mapping[str, Any]) -> str:
    """Returns the table of the network metrics of an `eval.json`, weights, and what is missing."""
    networks = evaluation["networks"]
    rows = evaluation["rows"]
    shown = [m for m in DEFINITIONS if any(m in cells for cells in rows.values())]
    lines = ["**Metrics of pretrained networks**", ""]
    if shown:
        have = [row for row, cells in rows.items() if any(m in cells for m in shown)]
        lines += ["| metric | " + " | ".join(have) + " | n |", "|---" * (len(have) + 2) + "|"]
        for metric in shown:
            cells = [rows[row].get(metric) for row in have]
            n = next(cell["n"] for cell in cells if cell)
            d = DEFINITIONS[metric]
            arrow = tables.ARROWS.get(str(d.better), "")
            name = f"{d.title}{f' [{d.unit}]' if d.unit else ''} {arrow}"
            lines.append("| " + " | ".join([name, *map(tables.cell, cells), str(n)]) + " |")
        lines.append("")
    for name, found in networks["computed"].items():
        hashes = ", ".join(f"{file} {sha[:12]}" for file, sha in found["files"].items())
        own = f"{found['source']}; " if name == "matcher" else ""
        lines.append(f"- {name}: {own}{hashes}")
    lines += [f"- {name}, not computed: {why}" for name, why in networks["missing"].items()]
    return "\n".join(lines) + "\n"
