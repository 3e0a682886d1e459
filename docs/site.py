"""The site: documents and docstrings as pages, joined by Sphinx.

    python docs/site.py [--out out/site]

Documents stay Markdown. Docstrings are read, not imported, and shown as they are typed: they hold
equations and tables in plain text. A link between documents that leads nowhere is an error, and so
is whatever else Sphinx warns of. `tests/test_docs.py` checks what the documents name in the code.
"""

import argparse
import ast
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "syncmv4d_jax"
FIRST = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
BESIDE = ("launch/README.md", "benchmarks/RESULTS.md")
DOCUMENTS = ("architecture", "paper", "demo", "data", "scenes", "real_data", "robots", "viewing",
             "pipeline", "studio", "server", "metrics", "dpa", "wan", "hvg3d", "more4d", "pods",
             "again", "ablations", "speed", "few_steps")  # fmt: skip
CONF = """
project = "syncmv4d_jax"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "syncmv4d_jax"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_heading_anchors = 3
# Headings may begin at any level; a type's name in a signature may be that of several classes.
suppress_warnings = ["myst.header", "ref.python"]
highlight_language = "none"
add_module_names = False
"""


def modules() -> Iterator[tuple[str, Path]]:
    """Yields (dotted name, file) of every module of the package that has something to say."""
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if path.name != "__init__.py" or path.read_text().strip():
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Yields the definitions whose names do not begin with an underscore; calls of a class too."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if node.name == "__call__" or not node.name.startswith("_"):
            yield node


def literal(text: str, indent: str) -> str:
    """A docstring as a literal block; nothing for an empty one."""
    return f"{indent}::\n\n{textwrap.indent(text, indent + '   ')}\n\n" if text else ""


def entry(node: ast.FunctionDef | ast.ClassDef, indent: str = "", owner: str = "") -> str:
    """One definition, and the methods of a class, in the words of Sphinx's Python domain."""
    inside = indent + "   "
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        head = f".. py:class:: {node.name}" + (f"({bases})" if bases and not owner else "")
        made = next((n for n in node.body if getattr(n, "name", "") == "__init__"), None)
        if isinstance(made, ast.FunctionDef):
            head = f".. py:class:: {node.name}({ast.unparse(made.args).removeprefix('self, ')})"
    else:
        kind = "method" if owner else "function"
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        given = ast.unparse(node.args)
        given = given.removeprefix("self").removeprefix(", ") if owner else given
        head = f".. py:{kind}:: {node.name}({given}){returns}"
    text = f"{indent}{head}\n\n" + literal(ast.get_docstring(node) or "", inside)
    if isinstance(node, ast.ClassDef):
        text += "".join(entry(inner, inside, node.name) for inner in public(node.body))
    return text


def page(name: str, path: Path) -> str:
    """The page of a module, reStructuredText."""
    tree = ast.parse(path.read_text())
    text = f"{name}\n{'=' * len(name)}\n\n.. py:module:: {name}\n\n"
    text += literal(ast.get_docstring(tree) or "", "")
    return text + "".join(entry(node) for node in public(tree.body))


def contents(heading: str, names: list[str], *, depth: int = 1) -> str:
    """A table of contents, Markdown."""
    rows = "\n".join(names)
    return f"```{{toctree}}\n:caption: {heading}\n:maxdepth: {depth}\n\n{rows}\n```\n\n"


def gather(folder: Path) -> None:
    """Writes what Sphinx reads: documents where they stand, a page for each module, the index."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in (*FIRST, "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("*.py", "__*"))
    for name in BESIDE:
        (folder / name).parent.mkdir()
        shutil.copy(ROOT / name, folder / name)
    (folder / "api").mkdir()
    rooms: dict[str, list[str]] = {}
    for name, path in modules():
        (folder / f"api/{name}.rst").write_text(page(name, path))
        parts = name.split(".")
        room = parts[1] if len(parts) > 2 or path.name == "__init__.py" and len(parts) > 1 else ""
        rooms.setdefault(room, []).append(f"/api/{name}")
    documents = [f"docs/{name}" for name in DOCUMENTS]
    index = "# syncmv4d_jax\n\n"
    index += contents("Begin", [name.removesuffix(".md") for name in FIRST])
    index += contents("Documents", [*documents, *(name.removesuffix(".md") for name in BESIDE)])
    for room in sorted(rooms):
        index += contents(room or "doors and words", rooms[room])
    (folder / "index.md").write_text(index)
    (folder / "conf.py").write_text(CONF)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=str(ROOT / "out/site"), help="where the pages go")
    args = parser.parse_args()
    from sphinx.cmd import build

    gather(ROOT / "out/site-source")
    options = ["-q", "-W", "--keep-going", "-b", "html"]
    status = build.build_main([*options, str(ROOT / "out/site-source"), args.out])
    if not status:
        print(f"{Path(args.out) / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
