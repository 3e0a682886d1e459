"""The import table of the house: which file may import which, and what no file may import.

A file that no line of FLOORS names fails the test: give it a floor here, and in the design.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "syncmv4d_jax"

# path (regex over "a/b.py", whole) -> floor. The first match counts.
FLOORS = [
    (r"models/__init__\.py", 1),  # models.apply
    (r"(.*/)?__init__\.py", -1),  # package markers: import nothing of ours
    (r"(tree|schema|flop\w+|lora|flow|corruption|cameras|motion\w*|torch_pickle|tokenizer)\.py", 0),
    (r"(pods|bounds|hlo)\.py", 0),
    (r"(nn|points)/.+\.py", 0),
    (r"models/.+\.py", 1),
    (r"(tasks/.+|cycle\w*)\.py", 2),
    (r"(parallel|sharded|optim|checkpoint|writers|configuration|preemption|watchdog)\.py", 3),
    (r"(conversion|data|metrics|viz)/.+\.py", 3),
    (r"(train|sample|evaluate|plan\w*|weights|release|cache|view|embedded|update|pictures)\.py", 4),
    (r"(feature_weights|evaluate_networks)\.py", 4),
    (r"(main|demo)\.py", 5),
]
# (file, imported) pairs allowed on one floor or upwards beside "inside a folder".
SAME_FLOOR = [
    (r"tasks/.+", r"cycle\.py"),
    (r"cycle\.py", r"cycle_plan\.py"),
    (r"tasks/.+", r"configuration\.py"),  # make(config): sections become dataclasses here
    (r"models/__init__\.py", r"models/.+"),
    (r"models/mjd\w*\.py", r"models/wan/.+"),
    (r"models/motion_codec\.py", r"models/wan/vae_layers\.py"),
    (r"models/dpa/.+", r"models/dpa/.+"),
    (r"motion\w*\.py", r"(cameras|motion\w*)\.py"),
    (r"bounds\.py", r"pods\.py"),
    (r"sharded\.py", r"parallel\.py"),
    (r"(lora|schema|flops|torch_pickle|flow|cameras)\.py", r"tree\.py"),
    (r"(nn|points)/.+", r"(tree|nn/.+|points/.+)\.py"),
    (r"plan\.py", r"(train|sample|plan_(report|inputs|memory))\.py"),
    (r"(sample|evaluate|cache)\.py", r"(train|weights)\.py"),
    (r"release\.py", r"weights\.py"),
    (r"train\.py", r"(weights|update)\.py"),
    (r"pictures\.py", r"sample\.py"),
    (r"embedded\.py", r"(cache|weights)\.py"),
    (r"evaluate\.py", r"evaluate_networks\.py"),
    (r"evaluate_networks\.py", r"feature_weights\.py"),
]
# Floor 3 stands on floor 0 only; these may also see what is named.
FLOOR_3 = [(r"metrics/features/.+", r"nn/.+"), (r"data/.+", r"data/.+")]

# third-party module -> where it may be imported (regex over our path); others are free.
OUTSIDE = {
    "torch": r"$^",
    "tensorflow": r"$^",
    "jraph": r"points/.+",
    "clu": r"(train|writers|sample|evaluate)\.py",
    "tensorboard": r"writers\.py",
    "tensorflow_datasets": r"data/.+",
    "absl": r"(main|demo)\.py",
    "ml_collections": r"(main|configuration|train|sample|evaluate|plan\w*|cache|demo)\.py",
    "orbax": r"checkpoint\.py",
    "grain": r"data/.+",
    "safetensors": r"checkpoint\.py|conversion/.+",
    "trimesh": r"data/.+",
}
# Floors 0 and 1: arrays or bytes in, arrays out.
PURE = {"os", "pathlib", "shutil", "tempfile", "ml_collections", "absl", "grain", "orbax", "clu"}

FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def matches(pairs, file, other):
    return any(re.fullmatch(a, file) and re.fullmatch(b, other) for a, b in pairs)


def floor(file):
    return next((level for pattern, level in FLOORS if re.fullmatch(pattern, file)), None)


def imports(file):
    """Returns (third-party top modules, our files) that a file imports, wherever in the file."""
    outside, ours = set(), set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if not name.startswith("syncmv4d_jax"):
                outside.add(name.split(".")[0])
            else:
                ours |= resolve(file, name.split(".")[1:])
    return outside, ours


def resolve(file, parts):
    path = "/".join(parts)
    if not parts:
        return set()
    if (ROOT / path).is_dir():
        return {f"{path}/__init__.py"}
    found = {f"{path}.py", f"{'/'.join(parts[:-1])}.py"} & set(FILES)
    assert found, f"{file} imports {'.'.join(parts)}, which is no file of the package"
    return found


@pytest.mark.parametrize("file", FILES)
def test_file_stands_on_a_floor_and_imports_downwards(file):
    own = floor(file)
    assert own is not None, f"{file} has no floor: name it in FLOORS and in the design"
    outside, ours = imports(file)
    for other in sorted(ours):
        level = floor(other)
        if level == -1:
            continue
        same_folder = "/" in file and file.rsplit("/", 1)[0] == other.rsplit("/", 1)[0]
        allowed = level < own or same_folder or matches(SAME_FLOOR, file, other)
        if own == 3 and level in (1, 2):
            allowed = False
        allowed = allowed or matches(FLOOR_3, file, other)
        assert allowed, f"{file} (floor {own}) must not import {other} (floor {level})"
    for module in sorted(outside):
        where = OUTSIDE.get(module)
        assert where is None or re.fullmatch(where, file), f"{file} must not import {module}"
    if own in (0, 1):
        assert not outside & PURE, f"{file} (floor {own}) must not import {outside & PURE}"


def test_every_rule_names_a_module_once():
    assert len({pattern for pattern, _ in FLOORS}) == len(FLOORS)
