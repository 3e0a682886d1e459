"""Folders and texts of other people: each is listed, read and checked by one function here.

Systems leave things of their own in folders (hidden files, `Thumbs.db`, `__MACOSX`), editors and
shells in texts (a byte order mark, CRLF, UTF-16). None of it is anybody's input.
"""

import codecs
import contextlib
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Names, in lower case, of what operating systems and network disks leave behind.
LITTER = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "$recycle.bin",
    "system volume information", "lost+found",
}  # fmt: skip
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextlib.contextmanager
def parsing(path: str | Path, what: str) -> Iterator[None]:
    """Names the file in whatever a parser of it runs into; errors that name it stay as they are.

    Raises:
      ValueError: `path`: no `what`, or a damaged one, and what the parser said.
    """
    path = Path(path)
    try:
        yield
    except Exception as error:  # a damaged file raises whatever its reader runs into
        if isinstance(error, FileNotFoundError) or f"{path}" in str(error):
            raise
        said = f"{error}" if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: no {what}, or a damaged one ({said[:300]})") from error


def entries(folder: Path) -> list[Path]:
    """What people put into a folder, sorted by name: no hidden files, no LITTER."""
    found = (p for p in folder.iterdir() if p.name[0] != "." and p.name.lower() not in LITTER)
    return sorted(found)


def named(folder: Path, name: str, suffixes: tuple[str, ...]) -> Path:
    """The file <name><suffix> of a folder, the suffix in capitals or not.

    Raises:
      FileNotFoundError: there is none.
      ValueError: there are several.
    """
    plain = unicodedata.normalize("NFC", name)  # as one system has an accented letter, or two
    found = [
        path
        for path in (entries(folder) if folder.is_dir() else [])
        if path.suffix.lower() in suffixes
        and unicodedata.normalize("NFC", path.name[: -len(path.suffix)]) == plain
    ]
    if len(found) > 1:
        raise ValueError(f"{folder}: several of {name!r}: {', '.join(p.name for p in found)}")
    if not found:
        raise FileNotFoundError(f"{folder}: not found: {name} with one of {', '.join(suffixes)}")
    return found[0]


def text(path: str | Path) -> str:
    """Reads a text: UTF-8, or UTF-16 with its mark; lines end with a newline alone.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a text.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found")
    raw = path.read_bytes()
    try:
        found = raw.decode("utf-16" if raw.startswith(UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: wanted a text in UTF-8, got {error}") from error
    if "\0" in found:
        raise ValueError(f"{path}: wanted a text in UTF-8, got zero bytes")
    return found.replace("\r\n", "\n").replace("\r", "\n")


def lines(path: str | Path) -> list[str]:
    """The lines of a text, stripped, without empty ones; raises as `text`."""
    return [line.strip() for line in text(path).split("\n") if line.strip()]


def values(path: str | Path) -> Any:
    """Reads JSON.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, or an object that says a key twice.
    """
    content = text(path)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} twice")
        return found

    try:
        return json.loads(content, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a .npz: numbers, truth values and texts.

    Raises:
      FileNotFoundError: no such file.
      ValueError: damaged, or an array of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
            if not found:
                raise ValueError("no array in it")
    except Exception as error:  # a damaged zip raises whatever its reader runs into
        raise ValueError(f"{path}: unreadable ({type(error).__name__}: {error})") from error
    for key, value in found.items():
        if isinstance(value, bytes):  # what numpy makes of a member without its mark
            raise ValueError(f"{path}: {key} is no array of numpy's")
        if value.dtype.kind not in "fiubUS":
            raise ValueError(f"{path}: {key} holds {value.dtype}, wanted numbers")
    return found


def prompt(words: str, *, where: str) -> str:
    """Returns a prompt in one line.

    Raises:
      ValueError: there is nothing to see in it.
    """
    seen = "".join(" " if c.isspace() else c for c in words)
    seen = "".join(c for c in seen if unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp"))
    if not (found := " ".join(seen.split())):
        raise ValueError(f"{where}: wanted a prompt, got an empty one ({words[:20]!r})")
    return found


def prompts(path: str | Path) -> list[str]:
    """Reads a file with a prompt a line.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a text, or without a prompt.
    """
    found = lines(path)
    if not found:
        raise ValueError(f"{path}: wanted a prompt a line, got none")
    return [prompt(line, where=str(path)) for line in found]
