"""Nothing public is there for tests alone: the package, or one of its command lines, uses it.

A function or class of a module counts as used where another file of USERS names it through its
import, or its own file names it outside of its own body; a method where any file names it. What
DOORS describes is called from outside, by users or by a library.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
USERS = ("syncmv4d_jax", "configs", "data_prep", "benchmarks", "launch", "demo")
# "file of the package:name", as regular expressions.
DOORS = (
    r"tasks/.+:make",  # config.task names the module
    r"run/.+:run",  # config.mode names it
    r"weights/tables/features\.py:[a-z0-9]+",  # a network's table, by its name
    r"weights/tables/ptv3\.py:(config_of|load)",  # docs/dpa.md
    r"models/lora\.py:merge",  # docs/wan.md
    r"results/sheet\.py:(gif|png)",  # docs/viewing.md
    r"schema\.py:check",  # docs/data.md
    r"data/raycast\.py:Scene\.cast",  # a whole picture of rays, for importers
    r"pipeline/(door|named|result)\.py:.+",  # users' Python
    r"tasks/base\.py:.+",  # protocols: what a task may serve
    r"data/tfds_builder\.py:SyncMV4D.*",  # tensorflow_datasets
    r"serve/run\.py:run",  # config.mode names it
    r"serve/limits\.py:Protocol\.connection_(made|lost)",  # asyncio
    r".+:_Unpickler\.\w+",  # pickle
)
STRING = r"syncmv4d_jax(\.\w+)+(:\w+)?"

Definition = ast.FunctionDef | ast.ClassDef
Place = tuple[str, int]  # dotted name, line


def module(path: Path) -> str:
    """Returns the dotted name of a file of the package, "" for any other."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) if parts[0] == "syncmv4d_jax" else ""


def imported(nodes: list[ast.AST]) -> dict[str, str]:
    """Returns {local name: dotted name} of what a file imports of the package."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("syncmv4d_jax"):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def named(nodes: list[ast.AST], own: str) -> Iterator[Place]:
    """Yields the names of the package that a file uses, its own among them, and where."""
    names = imported(nodes)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in names:
                yield f"{names[node.value.id]}.{node.attr}", node.lineno
        elif isinstance(node, ast.Name):
            yield names.get(node.id, f"{own}.{node.id}"), node.lineno
        elif isinstance(node, ast.Constant) and re.fullmatch(STRING, str(node.value)):
            yield node.value.replace(":", "."), node.lineno
            # A module imported by its string: what follows any dot in this file may be of it.
            yield from ((f"{node.value}.{member}", 0) for member in members(nodes))


def members(nodes: list[ast.AST]) -> set[str]:
    """Returns every name that follows a dot, or is a string by itself (getattr, tables)."""
    found = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    strings = (n.value for n in nodes if isinstance(n, ast.Constant))
    return found | {s for s in strings if isinstance(s, str) and s.isidentifier()}


def definitions(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """Yields (name or Class.name, node) of a module's functions, classes and methods."""
    for node in tree.body:
        if isinstance(node, Definition):
            yield node.name, node
        if isinstance(node, ast.ClassDef):
            inner = (n for n in node.body if isinstance(n, Definition))
            yield from ((f"{node.name}.{n.name}", n) for n in inner)


def unused(trees: dict[Path, ast.Module]) -> list[str]:
    """Returns "file:line name" of each definition that no file uses."""
    nodes = {path: list(ast.walk(tree)) for path, tree in trees.items()}
    uses: dict[str, list[tuple[Path, int]]] = {}
    everything: set[str] = set()
    for path, walked in nodes.items():
        everything |= members(walked)
        for name, line in named(walked, module(path) or str(path)):
            uses.setdefault(name, []).append((path, line))
    found = []
    for path, tree in trees.items():
        if not (own := module(path)):
            continue
        file = path.relative_to(ROOT / "syncmv4d_jax").as_posix()
        for name, node in definitions(tree):
            if name.endswith("__") or any(re.fullmatch(d, f"{file}:{name}") for d in DOORS):
                continue
            if "." in name:
                used = name.split(".")[1] in everything
            else:
                body = range(node.lineno, node.end_lineno + 1)
                places = uses.get(f"{own}.{name}", ())
                used = any(other != path or line not in body for other, line in places)
            if not used:
                found.append(f"{file}:{node.lineno} {name}")
    return found


def parsed() -> dict[Path, ast.Module]:
    files = (path for folder in USERS for path in sorted((ROOT / folder).rglob("*.py")))
    return {path: ast.parse(path.read_text()) for path in files}


def test_what_is_public_is_used():
    found = "\n".join(unused(parsed()))
    assert not found, f"used by tests alone; use it, delete it, or name the door:\n{found}"


def test_a_function_that_only_calls_itself_is_found():
    path = ROOT / "syncmv4d_jax/flow.py"
    code = "def again(n):\n  return again(n - 1)\nclass A:\n  def seen(self): ...\nA().seen\n"
    assert unused({path: ast.parse(code)}) == ["flow.py:1 again"]
    user = ast.parse("from syncmv4d_jax import flow\nflow.again(3)")
    assert not unused({path: ast.parse(code), ROOT / "demo/make.py": user})


def test_every_door_is_there():
    places = [
        f"{path.relative_to(ROOT / 'syncmv4d_jax').as_posix()}:{name}"
        for path, tree in parsed().items()
        if module(path)
        for name, _ in definitions(tree)
    ]
    for door in DOORS:
        assert any(re.fullmatch(door, place) for place in places), door


def test_no_test_file_imports_another():
    """What several tests use stands in tests/support."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        found = re.findall(r"^\s*(?:import|from) (test_\w+)", path.read_text(), re.M)
        assert not found, f"{path.relative_to(ROOT)} imports {found}"
