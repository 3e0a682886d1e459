"""The page's files: joined whole, in order, and shipped in the wheel."""

import html.parser
import re
import subprocess
import sys
from pathlib import Path

import pytest

import syncmv4d_jax
from syncmv4d_jax.results.web import pages

ROOT = Path(syncmv4d_jax.__file__).parents[1]
PAGE = ROOT / "syncmv4d_jax/results/web/page"
SCRIPTS = sorted(path.name for path in PAGE.glob("*.js"))
NAMES = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class) ([\w$]+)", re.MULTILINE)


class Reader(html.parser.HTMLParser):
    """Collects ids and checks that tags are closed in order."""

    VOID = {"meta", "link", "input", "br", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.ids = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_is_one_file():
    text = pages.join("report.html", DATA="<i>", COMMAND="b", CONFIG="c")
    assert "<i>" in text and "%%" not in text and "stylesheet" not in text
    assert not re.search(r"^\s*(import|export)\b", text, re.MULTILINE)
    for path in [*PAGE.glob("*.css"), *PAGE.glob("*.js")]:
        head = path.read_text().splitlines()[0]  # the first line says what the file is
        assert text.count(head) == (path.name != "listing.css"), path.name
    with pytest.raises(KeyError, match="CONFIG"):
        pages.join("report.html", DATA="a", COMMAND="b")


def test_what_is_imported_stands_before():
    text = pages.script("start.js")
    place = {name: text.index(pages.read(name).splitlines()[0]) for name in SCRIPTS}
    for name in SCRIPTS:
        for other in pages.IMPORT.findall(pages.read(name)):
            assert place[other] < place[name], f"{name} imports {other}"


def test_a_circle_of_modules_ends(monkeypatch):
    files = {"a.js": 'import {b} from "./b.js";\nconst a = 1;\n',
             "b.js": 'import {a} from "./a.js";\nexport const b = 2;\n'}  # fmt: skip
    monkeypatch.setattr(pages, "read", files.get)
    assert pages.script("a.js") == "const b = 2;\nconst a = 1;\n"


def test_one_name_is_one_thing():
    names = [name for file in SCRIPTS for name in NAMES.findall(pages.read(file))]
    assert len(names) == len(set(names)) > 60
    for file in SCRIPTS:
        assert "</" not in pages.read(file), "would end the page's script"
        assert " as " not in "".join(re.findall("^import .*?;", pages.read(file), re.S | re.M))


@pytest.mark.parametrize("name", ["report.html", "listing.html"])
def test_the_markup_is_whole(name):
    ids = Reader(pages.read(name)).ids
    assert len(ids) == len(set(ids))
    if name == "report.html":
        wanted = set(re.findall(r'\$\("([\w-]+)"\)', pages.script("start.js")))
        assert wanted <= set(ids) and len(wanted) > 30


def test_a_wheel_has_the_page(tmp_path):
    """Built from a copy, put into an empty folder, read from there by a Python without the rest."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_text((ROOT / name).read_text())
    for path in ("syncmv4d_jax/results/web", "syncmv4d_jax/results"):
        (source / path).mkdir(parents=True, exist_ok=True)
    for path in (ROOT / "syncmv4d_jax").rglob("*"):
        own = path.relative_to(ROOT)
        if path.is_file() and (own.name == "__init__.py" or "web" in own.parts):
            (source / own).parent.mkdir(parents=True, exist_ok=True)
            (source / own).write_bytes(path.read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"]
    pip += ["--no-build-isolation", "--no-index", "--target", tmp_path / "target", source]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    code = "from syncmv4d_jax.results.web import pages; import sys; sys.stdout.reconfigure("
    code += "encoding='utf-8'); print(pages.__file__); print(pages.join('listing.html', ROOT='a',"
    code += " RUNS='b') + pages.join('report.html', DATA='c', COMMAND='d', CONFIG='e'))"
    environment = {"PYTHONPATH": str(tmp_path / "target"), "PATH": ""}
    command = [sys.executable, "-S", "-P", "-c", code]
    told = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=60)
    assert told.returncode == 0, told.stderr.decode()
    place, _, text = told.stdout.decode().partition("\n")
    assert place.startswith(str(tmp_path / "target"))
    whole = pages.join("listing.html", ROOT="a", RUNS="b")
    whole += pages.join("report.html", DATA="c", COMMAND="d", CONFIG="e")
    assert text == whole + "\n"
