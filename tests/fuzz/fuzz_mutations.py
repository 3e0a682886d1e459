"""Mutations of files: of any bytes, of texts with numbers, and of what formats are made of.

A mutation says in words what it did and what must come of it: EQUAL (the same content in another
form), REFUSED (no reader can mean it), or ANY: equal, refused, or a difference that the reading
tells. Everything is drawn from one generator, so that a seed gives the same bytes again.
"""

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

ANY, EQUAL, REFUSED = "any", "equal", "refused"
NUMBER = re.compile(rb"(?<![\w.\"])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.\"])")
STRANGE = [
    b"NaN", b"nan", b"Infinity", b"-inf", b"1e999", b"1e308", b"-1", b"0", b"null", b"true", b'"x"',
    b"[]", b"{}", b"9" * 5000, b"9223372036854775808", b"-9223372036854775809", b"1e-320", b"0x10",
    b"1_000", b"1.5", b"[[1]]", b'"\\ud800"', b"1000000000000", b"4294967296", b"+1", b"1,5",
]  # fmt: skip
BOXES = re.compile(rb"tkhd|mvhd|mdhd|stts|ctts|stsz|stco|stsc|stsd|stss|elst|avcC|hdlr|colr|pasp")
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1,
            2**63, 2**64 - 1]  # fmt: skip


class Mutant(NamedTuple):
    """data, what was done in words, and what must come of it."""

    data: bytes
    words: str
    wanted: str = ANY


Mutation = Callable[[bytes, np.random.Generator], Mutant]


def place(data: bytes, rng) -> int:
    """A position; half of them in the first 512 bytes, where headers are."""
    limit = len(data) if rng.random() < 0.5 else min(len(data), 512)
    return int(rng.integers(0, max(limit, 1)))


def span(data: bytes, rng) -> tuple[int, int]:
    begin = place(data, rng)
    return begin, min(len(data), begin + int(2 ** rng.uniform(0, 12)))


def flip(data: bytes, rng) -> Mutant:
    found = bytearray(data)
    spots = [place(data, rng) for _ in range(int(rng.integers(1, 9)))]
    for at in spots:
        if found:
            found[at] ^= 1 << int(rng.integers(8))
    return Mutant(bytes(found), f"bits flipped at {spots}")


def extreme(data: bytes, rng) -> Mutant:
    at, width = place(data, rng), int(rng.choice([1, 2, 4, 8]))
    value = EXTREMES[int(rng.integers(len(EXTREMES)))] % 2 ** (8 * width)
    raw = value.to_bytes(width, "little" if rng.random() < 0.5 else "big")
    return Mutant(data[:at] + raw + data[at + width :], f"{value} in {width} bytes at {at}")


def remove(data: bytes, rng) -> Mutant:
    begin, end = span(data, rng)
    return Mutant(data[:begin] + data[end:], f"bytes {begin}..{end} removed")


def repeat(data: bytes, rng) -> Mutant:
    begin, end = span(data, rng)
    return Mutant(data[:end] + data[begin:], f"bytes {begin}..{end} twice")


def insert(data: bytes, rng) -> Mutant:
    at, raw = place(data, rng), rng.bytes(int(2 ** rng.uniform(0, 8)))
    return Mutant(data[:at] + raw + data[at:], f"{len(raw)} random bytes at {at}")


def blank(data: bytes, rng) -> Mutant:
    begin, end = span(data, rng)
    filled = bytes([int(rng.choice([0, 255, 32]))]) * (end - begin)
    return Mutant(data[:begin] + filled + data[end:], f"bytes {begin}..{end} all {filled[:1]!r}")


def cut(data: bytes, rng) -> Mutant:
    end = int(len(data) * rng.uniform(0, 1))
    return Mutant(data[:end], f"cut to {end} of {len(data)} bytes")


def append(data: bytes, rng) -> Mutant:
    return Mutant(data + rng.bytes(int(rng.integers(1, 300))), "random bytes at the end")


def other(data: bytes, rng) -> Mutant:
    kinds = [b"", b"\0" * 1000, b"GIF89a" + data, b"%PDF-1.7\n", rng.bytes(2000),
             b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
             b"<!DOCTYPE html><html>404</html>", b"PK\x05\x06" + bytes(18)]  # fmt: skip
    which = int(rng.integers(len(kinds)))
    held = ANY if data and data in kinds[which] else REFUSED  # some readers find a file in a file
    return Mutant(kinds[which], f"another file: {kinds[which][:12]!r}", held)


BYTES: list[Mutation] = [flip, extreme, remove, repeat, insert, blank, cut, append, other]


def strange_number(data: bytes, rng) -> Mutant:
    found = list(NUMBER.finditer(data))
    if not found:
        return flip(data, rng)
    match, new = found[int(rng.integers(len(found)))], STRANGE[int(rng.integers(len(STRANGE)))]
    text = data[: match.start()] + new + data[match.end() :]
    return Mutant(text, f"{new[:24].decode()} for {match[0].decode()} at {match.start()}")


def marked(data: bytes, rng) -> Mutant:
    """As an editor of another system saves it."""
    text, kind = data.decode(), int(rng.integers(4))
    saved = [
        ("a byte order mark", text.encode("utf-8-sig")),
        ("UTF-16", text.encode("utf-16")),
        ("CRLF", text.replace("\n", "\r\n").encode()),
        ("white space at the end", (text + " \t\n \n").encode()),
    ][kind]
    return Mutant(saved[1], saved[0], EQUAL)


def zeros_inside(data: bytes, rng) -> Mutant:
    at = int(rng.integers(len(data)))
    return Mutant(data[:at] + b"\0" + data[at:], f"a zero byte at {at}", REFUSED)


TEXT: list[Mutation] = [strange_number, strange_number, strange_number, marked, zeros_inside, other]


def deep(data: bytes, rng) -> Mutant:
    """A value so deep that a parser which recurses runs out of stack."""
    count, mark = int(rng.choice([2000, 100_000])), rng.choice([b"[", b'{"a":'])
    found = list(NUMBER.finditer(data))
    at = found[int(rng.integers(len(found)))].span() if found else (0, len(data))
    end = b"]" * count if mark == b"[" else b"0" + b"}" * count
    return Mutant(data[: at[0]] + bytes(mark) * count + end + data[at[1] :], f"{count} deep")


def keys(data: bytes, rng) -> Mutant:
    """Another order, a key twice, or one less."""
    tree = json.loads(data)
    if not isinstance(tree, dict) or not tree:
        return strange_number(data, rng)
    nodes = [tree]
    for node in nodes:
        nodes += [x for x in node.values() if isinstance(x, dict) and x]
    node = nodes[int(rng.integers(len(nodes)))]
    name = str(rng.choice(list(node)))
    kind = int(rng.integers(3))
    if kind == 0:
        node[name] = node.pop(name)
        order = EQUAL if node is not tree else ANY  # the order of cameras is that of the views
        return Mutant(json.dumps(tree, indent=3).encode(), f"{name!r} last in its object", order)
    if kind == 1:
        del node[name]
        return Mutant(json.dumps(tree).encode(), f"no {name!r}")
    text, first = json.dumps(tree).encode(), json.dumps(name).encode() + b": "
    return Mutant(text.replace(first, first + b"0, " + first, 1), f"{name!r} twice", REFUSED)


def number_in_bytes(data: bytes, rng) -> Mutant:
    return strange_number(data, rng)


def zipped(data: bytes, change: Callable[[str, bytes], bytes], method: int = 0) -> bytes:
    """A zip written anew, so that its checksums hold; change: (name, content) -> content."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def member(data: bytes, rng) -> Mutant:
    """One file of a zip mutated, the checksums right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
    name = names[int(rng.integers(len(names)))]
    if any(n.endswith("data.pkl") for n in names) and rng.random() < 0.6:
        name = next(n for n in names if n.endswith("data.pkl"))
    inner = BYTES[int(rng.integers(len(BYTES) - 1))]
    words = []

    def change(own: str, content: bytes) -> bytes:
        if own != name:
            return content
        done = inner(content, rng)
        words.append(done.words)
        return done.data

    return Mutant(zipped(data, change), f"{name}: {words}")


def packed(data: bytes, rng) -> Mutant:
    del rng
    return Mutant(zipped(data, lambda _, c: c, zipfile.ZIP_DEFLATED), "packed by deflate", EQUAL)


def json_in(data: bytes, begin: int, length: int, rng) -> tuple[bytes, str]:
    """The JSON header at a place of a binary file, one number or letter of it changed."""
    header = data[begin : begin + length]
    change = (strange_number, deep, flip, keys)[int(rng.choice(4, p=[0.6, 0.1, 0.2, 0.1]))]
    done = change(header, rng)
    return done.data, done.words


def safetensors_header(data: bytes, rng) -> Mutant:
    length = struct.unpack("<Q", data[:8])[0]
    header, words = json_in(data, 8, length, rng)
    return Mutant(struct.pack("<Q", len(header)) + header + data[8 + length :], f"header: {words}")


def safetensors_form(data: bytes, rng) -> Mutant:
    length = struct.unpack("<Q", data[:8])[0]
    tree = json.loads(data[8 : 8 + length])
    kind = int(rng.integers(3))
    if kind == 0:
        tree = {"__metadata__": {"by": "another program"}} | tree
    elif kind == 1:
        tree = dict(reversed(tree.items()))
    header = json.dumps(tree).encode() + b" " * (int(rng.integers(64)) if kind == 2 else 0)
    return Mutant(
        struct.pack("<Q", len(header)) + header + data[8 + length :], "another header", EQUAL
    )


def safetensors_wrong(data: bytes, rng) -> Mutant:
    """Offsets that no file has: beyond its end, backwards, over each other; a shape below zero."""
    length = struct.unpack("<Q", data[:8])[0]
    tree = json.loads(data[8 : 8 + length])
    names = [n for n in tree if n != "__metadata__" and np.prod(tree[n]["shape"]) > 1]
    entry = tree[names[int(rng.integers(len(names)))]]
    kind = int(rng.integers(5))
    begin, end = entry["data_offsets"]
    if kind == 0:
        entry["data_offsets"] = [begin + 2**40, end + 2**40]
    elif kind == 1:
        entry["data_offsets"] = [end, begin]
    elif kind == 2:
        entry["data_offsets"] = [begin - len(data), end - len(data)]
    elif kind == 3:
        entry["shape"] = [-x for x in entry["shape"]]
    else:
        first = next(n for n in tree if n != "__metadata__" and tree[n] is not entry)
        entry["data_offsets"] = [tree[first]["data_offsets"][0]] * 2
    header = json.dumps(tree).encode()
    header = struct.pack("<Q", len(header)) + header + data[8 + length :]
    return Mutant(header, f"an impossible tensor, {kind}", REFUSED)


def glb_header(data: bytes, rng) -> Mutant:
    length = struct.unpack("<I", data[12:16])[0]
    header, words = json_in(data, 20, length, rng)
    header += b" " * (-len(header) % 4)
    whole = data[20 + length :]
    head = struct.pack("<4sII", b"glTF", 2, 20 + len(header) + len(whole))
    return Mutant(head + struct.pack("<I4s", len(header), b"JSON") + header + whole, words)


def png_chunk(data: bytes, rng) -> Mutant:
    """A chunk changed, its checksum right; or one more."""
    chunks, at = [], 8
    while at < len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    which = int(rng.integers(len(chunks)))
    name, content = chunks[which]
    if rng.random() < 0.3:
        more = {
            b"iCCP": b"x\0\0" + rng.bytes(40),
            b"eXIf": b"II*\0\x08\0\0\0" + rng.bytes(20),
            b"zTXt": b"k\0\0" + zlib.compress(bytes(10**7)),
            b"tRNS": rng.bytes(6),
            b"acTL": struct.pack(">2I", 3, 0),
            b"gAMA": bytes(4),
        }
        new = list(more.items())[int(rng.integers(len(more)))]
        chunks.insert(1, new)
        words = f"one more {new[0].decode()}"
    else:
        done = (extreme, flip, blank)[int(rng.integers(3))](content, rng)
        chunks[which] = name, done.data
        words = f"{name.decode()}: {done.words}"
    raw = b"".join(
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks
    )
    return Mutant(data[:8] + raw, words)


def jpg_segment(data: bytes, rng) -> Mutant:
    """A segment of rubbish behind the start: EXIF, a profile of colours, a thumbnail's index."""
    heads = [(0xE1, b"Exif\0\0II*\0\x08\0\0\0"), (0xE2, b"ICC_PROFILE\0\1\1"), (0xE2, b"MPF\0"),
             (0xEE, b"Adobe\0"), (0xED, b"Photoshop 3.0\0"), (0xE0, b"JFIF\0")]  # fmt: skip
    code, start = heads[int(rng.integers(len(heads)))]
    raw = start + rng.bytes(int(rng.integers(0, 200)))
    segment = struct.pack(">BBH", 0xFF, code, len(raw) + 2) + raw
    wanted = REFUSED if start[:3] == b"ICC" and raw != start else ANY  # an empty profile is none
    return Mutant(data[:2] + segment + data[2:], f"a segment {start[:8]!r} of rubbish", wanted)


def tiff_tag(data: bytes, rng) -> Mutant:
    """A field of the directory changed: tag, type, count or value."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack(order + "I", data[4:8])[0]
    count = struct.unpack(order + "H", data[at : at + 2])[0]
    entry = at + 2 + 12 * int(rng.integers(count))
    tag, kind, length, value = struct.unpack(order + "HHII", data[entry : entry + 12])
    which, big = int(rng.integers(4)), EXTREMES[int(rng.integers(11))] % 2**32
    tag = (tag, int(rng.choice([254, 255, 262, 274, 277, 282, 317, 322, 339, 34675])))[which == 0]
    kind, length, value = (
        (kind, big % 14)[which == 1], (length, big)[which == 2], (value, big)[which == 3]
    )  # fmt: skip
    raw = struct.pack(order + "HHII", tag, kind, length, value)
    return Mutant(data[:entry] + raw + data[entry + 12 :], f"a field is {tag, kind, length, value}")


def opcodes(data: bytes, rng) -> Mutant:
    """What a hostile pickle says: a call, a memo of gigabytes, a value without an end."""
    head = b"\x80\x02"
    kinds = [
        ("a call of the system", b"cposix\nsystem\n(X\x04\0\0\0truetR."),
        ("a call of eval", b"c__builtin__\neval\n(X\x01\0\0\x001tR."),
        ("a memo of gigabytes", b"}r\xf0\xff\xff\x7f."),
        ("a string of exabytes", b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"."),
        ("a frame of exabytes", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}."),
        ("a deep list", b"(" * 200_000 + b"t" * 200_000 + b"."),
        ("a dict without its keys", b"}X\x01\0\0\0aK\x01s."),
        ("a number", b"K\x05."),
    ]
    words, raw = kinds[int(rng.integers(len(kinds)))]
    return Mutant(head + raw, words, REFUSED)


def mp4_box(data: bytes, rng) -> Mutant:
    """Four bytes of a box's content changed."""
    found = list(BOXES.finditer(data))
    match = found[int(rng.integers(len(found)))]
    at = match.end() + 4 * int(rng.integers(0, 20))
    value = EXTREMES[int(rng.integers(11))] % 2**32
    new = data[:at] + struct.pack(">I", value) + data[at + 4 :]
    return Mutant(new, f"{match[0].decode()}: {value} at {at - match.end()}")


def mp4_free(data: bytes, rng) -> Mutant:
    """Unused space before the rest would move what `stco` points to: it goes to the end."""
    return Mutant(data + struct.pack(">I4s", 108, b"free") + rng.bytes(100), "free space", EQUAL)


FORMS: dict[str, list[Mutation]] = {
    "json": [*TEXT, deep, keys, keys],
    "cameras": [*TEXT, deep, keys, keys],
    "obj": TEXT,
    "prompts": [marked, zeros_inside],
    "npz": [member, member, packed],
    "npy": [],
    "pkl": [opcodes],
    "pth": [member, member, member, packed],
    "safetensors": [safetensors_header, safetensors_header, safetensors_form, safetensors_wrong],
    "glb": [glb_header],
    "png": [png_chunk],
    "jpg": [jpg_segment],
    "tiff": [tiff_tag],
    "mp4": [mp4_box, mp4_box, mp4_free],
    "colmap": TEXT,
    "yaml": [*TEXT, deep],
    "xml": [strange_number, strange_number, zeros_inside, other],
    "bin": [],
    "cache": [],
    "parquet": [],
    "xlsx": [member, member, packed],
}
# Formats that say how long they are: what is cut to nine tenths of itself is refused.
SIZED = ("npz", "npy", "pkl", "pth", "safetensors", "glb", "png", "bin", "cache", "parquet", "xlsx")


def mutate(form: str, data: bytes, rng: np.random.Generator) -> Mutant:
    """One mutation of the format or of bytes; of bytes sometimes up to three."""
    own = FORMS[form]
    if own and rng.random() < 0.6:
        return own[int(rng.integers(len(own)))](data, rng)
    mutation = BYTES[int(rng.integers(len(BYTES) - (form == "prompts")))]  # `other` may be one
    done = mutation(data, rng)
    if mutation is cut and form in SIZED and len(done.data) < 0.9 * len(data):
        return done._replace(wanted=REFUSED)
    while mutation is not other and rng.random() < 0.3:
        again = BYTES[int(rng.integers(len(BYTES) - 2))](done.data, rng)
        done = Mutant(again.data, f"{done.words}; {again.words}")
    return done
