"""The points of a sweep and the names of their folders."""

import itertools
import re

LONGEST = 200  # characters of a name; file systems take 255


def points(settings: list[str]) -> list[dict[str, str]]:
    """Returns every combination of "key=a,b" settings, [{}] for none.

    A comma inside of brackets or quotes is part of a value: `data.size=(64,96),(128,192)`.

    Raises:
      ValueError: a setting of another form, a key twice, or an empty value.
    """
    axes: dict[str, list[tuple[str, str]]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        values = split(text)
        if not (key and equals and all(values)):
            raise ValueError(f"--sweep: wanted key=a,b,..., got {setting!r}")
        if key in axes:
            raise ValueError(f"--sweep: {key} is swept twice")
        axes[key] = [(key, value) for value in values]
    return [dict(point) for point in itertools.product(*axes.values())]


def split(text: str) -> list[str]:
    """Splits at the commas that stand in no bracket and no quotes."""
    found, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0 and not quote:
            found.append("")
        else:
            found[-1] += letter
    return found


def named(found: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """Returns {name of a folder: point}; a key is named by its last word where that is enough.

    Raises:
      ValueError: two points of one name, or a name that is too long.
    """
    keys = [key for key in (found[0] if found else {})]
    last = [key.split(".")[-1] for key in keys]
    short = {k: w if last.count(w) == 1 else k for k, w in zip(keys, last, strict=True)}
    names: dict[str, dict[str, str]] = {}
    for point in found:
        name = "_".join(f"{short[key]}={plain(value)}" for key, value in point.items())
        if name in names:
            raise ValueError(f"--sweep: {names[name]} and {point} would share the folder {name!r}")
        if len(name) > LONGEST:
            raise ValueError(f"--sweep: wanted a name of at most {LONGEST} letters, got {name!r}")
        names[name] = point
    return names


def plain(value: str) -> str:
    """A value as part of a folder's name: no separator of folders, no blank, no wild card."""
    return re.sub(r"[^\w.+-]+", "-", value).strip("-")
