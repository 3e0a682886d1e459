"""The house holds: which room may import which, no circle, nothing hidden, few doors at the root.

A room is a folder of the package; the words of the house (flow, schema, ...) are files at its root.
Imports by `importlib.import_module` count like any other, f-strings by their fixed part.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "syncmv4d_jax"

WORDS = ("flow", "schema", "configuration", "tree", "disk", "recipe")
# Floors from the ground up. A room imports what lies below it; rooms of one floor know each other
# only where ARROWS draws it, and these arrows may not close a circle either.
FLOORS = (
    WORDS,
    ("models", "geometry", "data", "weights", "metrics", "results", "machines"),
    ("tasks",),
    ("run",),
    ("pipeline",),
    ("serve",),  # its worker makes samples by the Python door
    ("main", "view"),
)
ARROWS = {
    ("recipe", "disk"),
    ("models", "geometry"),  # units and rays of tracks
    ("machines", "models"),  # the Protocol of a placement, kernels that a mesh wraps
    ("weights", "models"),  # which network a part is
    ("data", "geometry"),
    ("data", "weights"),  # encoders of a cache, pickles
    ("metrics", "geometry"),
    ("metrics", "models"),  # layers of pretrained networks
    ("metrics", "weights"),
    ("results", "geometry"),
    ("results", "data"),  # the one reader of videos
}

# third-party module -> where it may be imported (regex over our path); others are free.
OUTSIDE = {
    "torch": r"$^",
    "tensorflow": r"$^",
    "jraph": r"models/points/.+",
    "clu": r"run/.+",
    "tensorboard": r"run/log\.py",
    "tensorflow_datasets": r"data/.+",
    "absl": r"main\.py|machines/processes\.py",
    "ml_collections": r"(main|configuration)\.py|pipeline/.+|run/.+|serve/maker\.py|data/cache\.py",
    "orbax": r"run/checkpoint\.py",
    "grain": r"data/.+",
    "safetensors": r"run/checkpoint\.py|weights/.+",
    "trimesh": r"data/.+",
    "cv2": r"(data/calibrations|metrics/novel_views)\.py",
    "apache_beam": r"data/engine\.py",
    "pyarrow": r"data/sources/lerobot.*\.py",
    "starlette": r"serve/.+",
    "uvicorn": r"serve/.+",
}
# Models and geometry: arrays in, arrays out.
PURE = {"os", "pathlib", "shutil", "tempfile", "ml_collections", "absl", "grain", "orbax", "clu"}
ROOT_FILES, ROOT_FOLDERS = 10, 12

FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def room(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def named(tree: ast.AST) -> Iterator[str]:
    """Yields every module that a file imports, by statement or by string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"syncmv4d_jax(\.\w+)+(:\w+)?", node.value):
                yield node.value.split(":")[0]
        elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            text = str(node.values[0].value)
            if re.match(r"syncmv4d_jax(\.\w+)*\.$", text):
                yield text.rstrip(".")


def imports(file: str) -> tuple[set[str], set[str]]:
    """Returns (third-party top modules, our files)."""
    outside, ours = set(), set()
    for name in named(ast.parse((ROOT / file).read_text())):
        parts = name.split(".")
        if parts[0] != "syncmv4d_jax":
            outside.add(parts[0])
        elif len(parts) > 1:
            ours.add(resolve(file, parts[1:]))
    return outside, ours - {""}


def resolve(file: str, parts: list[str]) -> str:
    for path in ("/".join(parts), "/".join(parts[:-1])):
        for found in (f"{path}.py", f"{path}/__init__.py"):
            if found in FILES:
                return found
    assert len(parts) == 1, f"{file} imports {'.'.join(parts)}, which is no file of the package"
    return ""  # a name of the package itself


GRAPH = {file: imports(file) for file in FILES}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Returns one circle of the graph, [] where there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if found := walk(other, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def floor(name: str) -> int:
    levels = [level for level, rooms in enumerate(FLOORS) if name in rooms]
    assert len(levels) == 1, f"{name}: give it one floor here, and in the design"
    return levels[0]


@pytest.mark.parametrize("file", [f for f in FILES if f != "__init__.py"])
def test_file_imports_downwards_only(file):
    outside, ours = GRAPH[file]
    own = room(file)
    for other in sorted({room(f) for f in ours if f != "__init__.py"} - {own}):
        allowed = floor(other) < floor(own) or (own, other) in ARROWS
        assert allowed, f"{file}: {own} must not import {other}"
    for module in sorted(outside):
        where = OUTSIDE.get(module)
        assert where is None or re.fullmatch(where, file), f"{file} must not import {module}"
    if own in ("models", "geometry"):
        assert not outside & PURE, f"{file} must not import {outside & PURE}"
        assert "disk.py" not in ours, f"{file} must not write"


def test_no_circle_of_files_or_rooms():
    assert not circle({file: ours for file, (_, ours) in GRAPH.items()})
    rooms: dict[str, set[str]] = {}
    for file, (_, ours) in GRAPH.items():
        rooms.setdefault(room(file), set()).update({room(f) for f in ours} - {room(file)})
    assert not circle(rooms)


def test_every_arrow_is_used():
    used = {(room(file), room(f)) for file, (_, ours) in GRAPH.items() for f in ours}
    assert not (ARROWS) - used


def test_few_doors():
    assert len([f for f in FILES if "/" not in f]) <= ROOT_FILES
    assert len([p for p in ROOT.iterdir() if (p / "__init__.py").is_file()]) <= ROOT_FOLDERS


SYSTEMS = {"syncmv4d", "SyncMV4D", "wan_ti2v", "WanTI2V", "hvg3d", "HVG3D", "more4d", "MoRe4D"}

# Names of a data set and of a program's windows.
PUBLISHED = {"data/tfds_builder.py": {"syncmv4d", "SyncMV4D"}, "results/export.py": {"syncmv4d"}}


def systems(file: str) -> set[str]:
    """Names of systems that a file's code says, and modules of tasks that it imports, but base."""
    open_to_all = {"tasks/base.py", "tasks/__init__.py"}
    said = {f for f in GRAPH[file][1] if f.startswith("tasks/")} - open_to_all
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        words = [getattr(node, part, None) for part in ("id", "attr", "arg", "name", "value")]
        said |= SYSTEMS & {word for word in words if isinstance(word, str)}
    return said


@pytest.mark.parametrize("file", [f for f in FILES if room(f) != "tasks" and f != "__init__.py"])
def test_nobody_outside_tasks_knows_a_system(file):
    known = systems(file) - PUBLISHED.get(file, set())
    assert not known, f"{file}: what it needs of a task is a protocol of tasks/base.py"


def test_no_member_of_a_task_is_asked_for_by_name():
    """Optional members are protocols; a task is made whole and not changed from outside."""
    asked = r"(hasattr|getattr|setattr)\((self\.)?_?task\b|\btask\.\w+ = "
    found = [f for f in FILES if re.search(asked, (ROOT / f).read_text())]
    assert not found


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_imports_by_string_are_seen():
    code = 'import_module("syncmv4d_jax.run.train")\nimport_module(f"syncmv4d_jax.tasks.{name}")'
    assert set(named(ast.parse(code))) == {"syncmv4d_jax.run.train", "syncmv4d_jax.tasks"}
