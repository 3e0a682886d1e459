"""The files of page/ joined into one page that needs no other file and no network.

A page names its style sheets and its script as a server would send them; here their text takes the
place of the tags. The script is an ES module; it and what it imports become one classic script, as
browsers load no modules from files: imports first, without the words `import` and `export`. So one
name is one thing in all of them, and an import renames nothing (a test holds it).
"""

import importlib.resources
import re

STYLE = re.compile(r'<link rel="stylesheet" href="([\w-]+\.css)">')
SCRIPT = re.compile(r'<script type="module" src="([\w-]+\.js)"></script>')
PLACE = re.compile(r"%%([A-Z]+)%%")
IMPORT = re.compile(r'^import \{[\w$,\s]+\} from "\./([\w-]+\.js)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async |function|const|let|class))", re.MULTILINE)


def join(name: str, **texts: str) -> str:
    """Returns page/`name` with its styles and scripts, and `texts` (HTML) at the %%PLACES%%.

    Raises:
      KeyError: a place without a text.
    """
    page = STYLE.sub(lambda found: f"<style>\n{read(found[1])}</style>", read(name))
    page = SCRIPT.sub(lambda found: f'<script>\n"use strict";\n{script(found[1])}</script>', page)
    return PLACE.sub(lambda found: texts[found[1]], page)


def script(name: str) -> str:
    """Returns the module page/`name` and all that it imports, each once, as one classic script."""
    done: dict[str, str] = {}

    def add(module: str) -> None:
        if module not in done:
            text = read(module)
            done[module] = ""  # met again in a circle, it is on its way
            for imported in IMPORT.findall(text):
                add(imported)
            del done[module]
            done[module] = EXPORT.sub("", IMPORT.sub("", text))

    add(name)
    return "".join(done.values())


def read(name: str) -> str:
    """Returns the text of page/`name`."""
    return importlib.resources.files(__package__).joinpath("page", name).read_text("utf-8")
