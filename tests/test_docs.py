"""No document names what is not there: links, files and their symbols, modules, commands.

Checked are code (indented blocks, fences and `backticks`) and links of DOCUMENTS. A path counts as
there where a file of the repository ends so; placeholders (capitals, dots, "*", "{") are skipped.
Of a command are checked: make's target, the script or module, its flags, the configuration's name,
variant and keys, pytest's files and names.
"""

import ast
import functools
import importlib
import itertools
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import ml_collections
import pytest

import syncmv4d_jax

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "launch/README.md", *sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))  # fmt: skip
TOPS = ("syncmv4d_jax", "tests", "configs", "docs", "launch", "benchmarks", "data_prep", "demo")
PLACEHOLDER = re.compile(r"[A-Z]{2,}|\b[A-Z]\b|\.\.\.|[*{<$]")
FILE = re.compile(
    r"(?<![\w./])((?:\w[\w.-]*/)*\w[\w-]*\.(?:py|sh|sbatch|md))(?:::?([\w.]+))?(?![\w/])"
)
WRITTEN = {"eval.md", "plan.md"}  # by a run
MODULE = re.compile(r"(?<![\w/.])syncmv4d_jax((?:\.\w+)+)")
MAKE = re.compile(r"(?<![\w.-])make ([a-z][a-z0-9-]*)")


@functools.cache
def files() -> list[str]:
    """Every file of the working tree that git would keep."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in found.stdout.split("\n") if name and (ROOT / name).is_file()]


@functools.cache
def symbols(file: str) -> set[str]:
    """Names that a Python file defines or imports: top level, and Class.member."""
    found = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef):
                    found.add(f"{node.name}.{inner.name}")
                elif isinstance(inner, ast.AnnAssign):
                    found.add(f"{node.name}.{inner.target.id}")
    return found


def place(path: str) -> str:
    """Returns the repository's file that a document means by `path`, "" where there is none."""
    if path.split("/")[0] in TOPS and "/" in path:
        return path if path in files() else ""
    return next((file for file in files() if f"/{file}".endswith(f"/{path}")), "")


def pieces(text: str) -> Iterator[str]:
    """Yields the code of a document: blocks (continued lines joined) and what is in backticks."""
    fences = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    blocks = re.findall(r"(?:^ {4}\S.*\n|^\n(?= {4}\S))+", text, re.M)
    for block in (*fences, *blocks):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def dead_links(text: str, folder: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"https?:|mailto:", target):
            continue
        file = folder / path if path else None
        if file is not None and not file.exists():
            yield f"link {target}"
        elif anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text() if file else text, re.M)
            slugs = {
                re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads
            }
            if anchor not in slugs:
                yield f"link {target}: no such heading"


def dead_names(code: str) -> Iterator[str]:
    """Files, symbols and modules of one piece of code that are not there."""
    for path, symbol in FILE.findall(code):
        if PLACEHOLDER.search(path) or path in WRITTEN or path.startswith("out/"):
            continue
        file = place(path)
        if not file:
            yield f"{path}: no such file"
        elif not symbol or not file.endswith(".py") or symbol in symbols(file):
            continue
        elif not file.startswith("configs/") or variant(file, symbol):
            yield f"{path}:{symbol}: no such name"
    for dotted in MODULE.findall(code):
        if missing := unresolved(dotted[1:].split(".")):
            yield f"syncmv4d_jax{dotted}: no {missing}"


def unresolved(parts: list[str]) -> str:
    """Returns what a dotted name below the package lacks, "" where it is there."""
    for end in range(len(parts), 0, -1):
        stem = f"syncmv4d_jax/{'/'.join(parts[:end])}"
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if file in files():
                rest = ".".join(parts[end:])
                return "" if not rest or rest in symbols(file) else rest
        if any(file.startswith(f"{stem}/") for file in files()) and end == len(parts):
            return ""
    return ".".join(parts)


def dead_commands(code: str) -> Iterator[str]:
    """What a command line names that is not there."""
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))
    for target in MAKE.findall(code):
        if target not in targets:
            yield f"make {target}: no such target"
    for command in re.split(r"&&|;|\|", code.split("  #")[0]):
        try:
            words = shlex.split(command, comments=True)
        except ValueError:  # a piece of prose with an apostrophe
            continue
        words = [word.strip("[]()") for word in words]
        script = next((w for w in words if w.endswith((".py", ".sh")) and place(w)), "")
        for module in (w for w in words if w.startswith("syncmv4d_jax.")):
            script = place(f"{module.replace('.', '/')}.py")
        if "pytest" in words or any(w.startswith("tests/") for w in words[:1]):
            yield from dead_selection(words)
        elif script == "syncmv4d_jax/main.py" or any(w.startswith("--config") for w in words):
            yield from dead_settings(words)
        elif script:
            known = set(re.findall(r"--[\w-]+", (ROOT / place(script)).read_text()))
            for flag in (w.split("=")[0] for w in words if re.match(r"--[a-z]", w)):
                if flag not in known:
                    yield f"{script}: no flag {flag}"


def dead_selection(words: list[str]) -> Iterator[str]:
    """Names that pytest's -k and files would not find."""
    named = [word.split("::")[0] for word in words if word.startswith("tests/")]
    texts = "".join((ROOT / name).read_text() for name in named if (ROOT / name).is_file())
    for option, value in zip(words, words[1:], strict=False):
        if option == "-k" and texts and value not in texts:
            yield f"-k {value}: nothing of that name in {named}"


@functools.cache
def configuration(name: str, variant: str) -> ml_collections.ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(*([variant] if variant else []))


def variant(file: str, name: str) -> str:
    """Returns why a file of configs/ has no variant of this name, "" where it has one."""
    module = file.removeprefix("configs/").removesuffix(".py").replace("/", ".")
    try:
        configuration(module, name)
    except (ValueError, ImportError) as error:
        return str(error)
    return ""


@functools.cache
def every_key() -> set[str]:
    """Every key, dotted, of every configuration of its own."""
    found = set()

    def walk(node, prefix):
        for key, value in node.items():
            found.add(f"{prefix}{key}")
            if isinstance(value, ml_collections.ConfigDict):
                walk(value, f"{prefix}{key}.")

    for path in (ROOT / "configs").glob("*.py"):
        if hasattr(importlib.import_module(f"configs.{path.stem}"), "get_config"):
            walk(configuration(path.stem, ""), "")
    return found


def dead_settings(words: list[str]) -> Iterator[str]:
    """The configuration of main's flags, and its keys."""
    given = [word.split("=", 1) for word in words if word.startswith("--")]
    keys = every_key()
    for flag, *value in given:
        if flag == "--config" and value and not PLACEHOLDER.search(value[0]):
            file, _, name = value[0].partition(":")
            if why := variant(file, name):
                yield f"{value[0]}: {why}"
        elif flag.startswith("--config.") and not PLACEHOLDER.search(flag) and flag[9:] not in keys:
            yield f"{flag}: no configuration has this key"


def torn(text: str) -> Iterator[str]:
    """Lines of flags that a shell would take for a command: no backslash ends the line before."""
    whole = re.sub(r'^(.*?)("[^"\n]*\n[^"]*")', lambda m: m[1] + "=" * 9, text, flags=re.M)
    for before, line in itertools.pairwise(whole.splitlines()):
        follows = before.startswith("    ") and not before.lstrip().startswith("--")
        if re.match(r"    +--[a-z]", line) and follows and not before.endswith("\\"):
            yield f"{before.strip()}: its next line is no part of it: wanted a backslash"


def dead(text: str, folder: Path) -> list[str]:
    found = [*dead_links(text, folder), *torn(text)]
    for code in pieces(text):
        found += [*dead_names(code), *dead_commands(code)]
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_everything_that_a_document_names_is_there(name):
    found = dead((ROOT / name).read_text(), (ROOT / name).parent)
    assert not found, f"{name}:\n" + "\n".join(dict.fromkeys(found))


DEAD = {
    "[a](docs/nowhere.md)": "link docs/nowhere.md",
    "[a](#no-such-heading)": "link #no-such-heading: no such heading",
    "`flow.py:interpolat`": "flow.py:interpolat: no such name",
    "`tests/test_nothing.py`": "tests/test_nothing.py: no such file",
    "`syncmv4d_jax.flow.interpolat`": "syncmv4d_jax.flow.interpolat: no interpolat",
    "`syncmv4d_jax.flows`": "syncmv4d_jax.flows: no flows",
    "`configs/taco.py:dbug`": "configs/taco.py:dbug: no such name",
    "    make tset\n": "make tset: no such target",
    "    python data_prep/make_scenes.py --outt X\n": "data_prep/make_scenes.py: no flag --outt",
    "    python -m syncmv4d_jax.view D --prot 1\n": "syncmv4d_jax/view.py: no flag --prot",
    "    pytest tests/test_flow.py -k nothing_of_it\n": "-k nothing_of_it: nothing of that name",
    "`--config.mood=plan`": "--config.mood: no configuration has this key",
    "    x --config=configs/taco.py:dbug\n": "configs/taco.py:dbug: ",
    "    python -m a\n        --config.mode=plan\n": "python -m a: its next line is no part of it",
}


@pytest.mark.parametrize("text", DEAD)
def test_what_is_dead_is_found(text):
    assert any(line.startswith(DEAD[text]) for line in dead(text, ROOT)), dead(text, ROOT)


def test_what_is_there_is_not_found():
    text = """# A head
[a](#a-head) [b](docs/paper.md) `flow.py:interpolate` `syncmv4d_jax.flow.interpolate` `X.py`

    python -m syncmv4d_jax.main --config=configs/taco.py:debug --workdir=DIR \\
        --config.mode=plan
    RUN="python -m syncmv4d_jax.main --config=configs/taco.py
        --config.mode=plan"

    --config.mode=plan    or
    --config.mode=train
    make test && pytest tests/test_flow.py -k "first_frame"
"""
    assert not dead(text, ROOT)


def test_the_checks_of_a_change_name_what_is_there():
    for name in (".ci/run", ".pre-commit-config.yaml", ".github/workflows/ci.yml"):
        lines = (ROOT / name).read_text().splitlines()
        after = lambda line, mark: line.partition(mark)[2]  # noqa: E731
        lines = [after(line, "entry: ") or after(line, "run: ") or line for line in lines]
        lines = [re.sub(r"^step \".*?\" \d+ ", "", line) for line in lines]
        found = [x for line in lines for x in (*dead_names(line), *dead_commands(line))]
        assert not found, f"{name}: {found}"
    steps = re.findall(r'^step "(.*?)" (\d+)', (ROOT / ".ci/run").read_text(), re.M)
    assert [name for name, _ in steps][:2] == ["lint and types", "tests"] and len(steps) >= 6


def test_the_citation_has_the_version_and_the_licence():
    text, made = (ROOT / "CITATION.cff").read_text(), (ROOT / "setup.py").read_text()
    assert f"version: {syncmv4d_jax.__version__}\n" in text
    assert "license: Apache-2.0\n" in text and 'license="Apache-2.0"' in made


def test_the_site_has_every_document():
    """docs/site.py names them in its order; Sphinx stops at one that is in no table of contents."""
    named = {f"docs/{name}.md" for name in runpy.run_path(str(ROOT / "docs/site.py"))["DOCUMENTS"]}
    assert named == {name for name in DOCUMENTS if name.startswith("docs/")}
