"""Hundreds of requests that are none: each gets a sentence, and leaves nothing behind."""

import io
import json
import random
import struct
import zlib

import fake_maker
import moving_solids
import numpy as np
import pytest
import serving
import two_views as given
from moving_solids import npz, zipped
from PIL import Image

pytestmark = pytest.mark.slow


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height):
    """A PNG that says it is so large, with the zeros to be it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(min(height, 2000) * (width * 3 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def texts_bomb():
    """A small PNG whose text unpacks to 300 MB."""
    head = struct.pack(">IIBBBBB", 48, 32, 8, 2, 0, 0, 0)
    text = b"a\0\0" + zlib.compress(bytes(300_000_000), 9)
    rows = zlib.compress(bytes(32 * (48 * 3 + 1)))
    body = chunk(b"IHDR", head) + chunk(b"zTXt", text) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff_bomb():
    file = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(file, "TIFF", compression="group4")
    return file.getvalue()


def malformed(rng, k):
    """The k-th request: (body, headers)."""
    fields, images = dict(given.FIELDS), list(given.PAIR)
    rig = json.loads(fields["cameras"])
    kind = k % 10
    if kind == 0:  # cut somewhere
        body, headers = serving.form(fields, images)
        return body[: rng.randrange(1, len(body) - 8)], headers
    if kind == 1:  # a number that is none
        key = rng.choice(["K", "R", "T", "imgSize"])
        value = rng.choice([float("nan"), float("inf"), "x", None, {}, [], 1e400])
        rig["left"][key] = [value] * rng.choice([1, 2, 3, 9])
        fields["cameras"] = json.dumps(rig)
    elif kind == 2:  # JSON of other types
        texts = ["null", "[]", "1", '"x"', "{}", '{"a": 1, "b": 2}', "[" * 50_000, "\0", "{",
                 '{"a": [], "b": []}']  # fmt: skip
        fields["cameras"] = rng.choice(texts)
    elif kind == 3:  # pictures that are none
        others = [b"", b"\x89PNG\r\n\x1a\n", bytes(rng.randrange(256) for _ in range(400)),
                  given.png(0)[:-40], b"<svg/>", b"GIF89a" + bytes(40)]  # fmt: skip
        images[0] = ("right.png", rng.choice(others))
    elif kind == 4:  # pictures that are too much
        images[0] = ("right.png", rng.choice([bomb(60_000, 60_000), bomb(7000, 7000), tiff_bomb()]))
    elif kind == 5:  # names
        name = rng.choice(["../../x.png", "/etc/passwd", "..\\x.png", "\u202egnp.x", "a" * 5000])
        rig[name] = rig.pop("left")
        rig[name]["T"] = [float("nan")] * 3
        fields["cameras"], images[1] = json.dumps(rig), (name.replace('"', ""), given.png(0))
    elif kind == 6:  # parameters
        key = rng.choice(["seed", "num_inference_steps", "guidance_scale", "preview", "switches"])
        fields[key] = rng.choice(["-1", "1e99", "nan", "\u0663x", "[[", "{'a'}", "0x10", "--"])
    elif kind == 7:  # fields that there are not, or too many of
        fields |= {f"{rng.random()}": "x" for _ in range(rng.choice([1, 40]))}
    elif kind == 8:  # texts
        fields["prompt"] = rng.choice(["", "\u200b\u200d", "x" * 200_000, "\n\t "])
    else:  # no form, or a boundary that is not its own
        body, headers = serving.form(fields, images)
        kinds = ["text/plain", "multipart/form-data", "multipart/form-data; boundary=",
                 "multipart/form-data; boundary=other", "application/json"]  # fmt: skip
        return body, {"Content-Type": rng.choice(kinds)}
    return serving.form({k: x.encode() for k, x in fields.items()}, images)


def claimed(shape):
    """An .npy whose head says that it is so large, with hardly anything in it."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() + bytes(64)


def gltf(**changes):
    """A glTF of one triangle, with something else than it should have."""
    whole = {
        "asset": {"version": "2.0"}, "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"uri": "data:;base64," + "A" * 48, "byteLength": 36}],
    }  # fmt: skip
    return json.dumps(whole | changes).encode()


def solid(line, faces="f 1 2 3"):
    return f"v 0 0 0\nv 0.1 0 0\n{line}\n{faces}\n".encode()


MESHES = (  # (file name, content)
    ("a.glb", b""), ("a.glb", b"glTF" + bytes(40)), ("a.glb", b"glTF" + b"\xff" * 400),
    ("a.gltf", b"{"), ("a.gltf", b"[" * 50_000), ("a.gltf", b"[]"), ("a.gltf", gltf(nodes=3)),
    ("a.gltf", gltf(buffers=[{"uri": "file:///etc/passwd", "byteLength": 36}])),
    ("a.gltf", gltf(buffers=[{"uri": "../../secret", "byteLength": 36}])),
    ("a.gltf", gltf(bufferViews=[{"buffer": 0, "byteOffset": -9, "byteLength": 10**12}])),
    ("a.gltf", gltf(nodes=[{"mesh": 0, "children": [0]}])),
    ("a.gltf", gltf(accessors=[{"bufferView": 0, "componentType": 5126, "count": 2**40,
                                "type": "VEC3"}])),
    ("a.pc2", struct.pack("<12siiffi", b"POINTCACHE2\0", 1, 2**31 - 1, 0.0, 1.0, 2**31 - 1)),
    ("a.pc2", struct.pack("<12siiffi", b"POINTCACHE2\0", 1, -1, 0.0, float("nan"), -1)),
    ("a.mdd", struct.pack(">ii", 2**31 - 1, 2**31 - 1)), ("a.mdd", b"\0"),
    ("../../x.glb", b"x"), ("/etc/passwd", b"x"), ("a" * 5000 + ".glb", b"x"), ("a.fbx", b"x"),
    ("\u202ebj.x_000.obj", b"x"), ("a_000000.obj", solid("v nan 0 0")),
    ("a_000000.obj", solid("v 1e400 0 0")), ("a_000000.obj", solid("v 0 0.1 0", "f 1 2 9999999")),
    ("a_000000.obj", solid("v 0 0.1 0", "f 0 0 0")), ("a_000000.obj", b"\xff\xfe" * 99),
    ("a.zip", b"PK"), ("a.zip", zipped(("../../a_000.obj", b"v 0"))),
    ("a.zip", zipped(("b.zip", zipped(("a_000.obj", solid("v 0 0.1 0")))))),
    ("a.zip", zipped(("a_000.obj", bytes(600 * 2**20)))),
    ("a.zip", zipped(*((f"a_{i:06d}.obj", b"") for i in range(4097)))),
)  # fmt: skip
SIZE = moving_solids.SIZE
FLAT = np.ones(SIZE, np.float32)
LENS = np.array([[50, 0, 23.5], [0, 50, 15.5], [0, 0, 1]])
DEPTHS = (
    ("a.npz", b""), ("a.npz", b"PK"), ("a.npz", npz(z=FLAT)), ("a.npz", npz(depth=FLAT)),
    ("a.npz", npz(depth=FLAT[1:], K=LENS)), ("a.npz", npz(depth=FLAT * np.nan, K=LENS)),
    ("a.npz", npz(depth=-FLAT, K=LENS)), ("a.npz", npz(depth=FLAT * 0, K=LENS)),
    ("a.npz", npz(depth=FLAT * 5000, K=LENS)), ("a.npz", npz(depth=FLAT, K=LENS * np.nan)),
    ("a.npz", npz(depth=FLAT, K=LENS * 0)), ("a.npz", npz(depth=FLAT, K=LENS[:2])),
    ("a.npz", npz(depth=np.full(SIZE, "x"), K=LENS)), ("a.npz", npz(depth=FLAT * 1j, K=LENS)),
    ("a.npz", npz(depth=np.array([{}, set()], object), K=LENS)),
    ("a.npz", npz(depth=np.zeros((20_000, 20_000), np.float32), K=LENS)),
    ("a.npy", claimed((2**40, 2**20))), ("a.npy", claimed((-1, 3))), ("a.npy", claimed(SIZE)),
    ("../../etc/a.npz", b"x"), ("a" * 5000, b"x"),
)  # fmt: skip
FRAME = {"K": LENS.ravel().tolist(), "R": np.eye(3).ravel().tolist(), "T": [0, 0, 0]}


def drawn(*, size=SIZE, frames=serving.WANTS.frames, **changes):
    return json.dumps({"size": list(size), "frames": [FRAME | changes] * frames})


PATHS = (
    "nowhere", "orbit:,", "orbit:1e9", "orbit:nan", "orbit:x", "to_view:1", "../../etc/passwd",
    "/etc/passwd.json", "{", "{}", '{"size": 3}', "{" * 50_000, drawn(frames=3), drawn(size=(1, 2)),
    drawn(size=(float("nan"), 48)),
    drawn(K=[float("nan")] * 9), drawn(R=[1] * 9), drawn(T=[1e300] * 3), drawn(T="x"),
    drawn(R=None), drawn(K=[0] * 9), "\0",
)  # fmt: skip
NUMBERS = ("-1", "nan", "inf", "1e99", "\u0663x", "[[", "0x10", "--", "true", "0")
LABELS = ("[]", "null", "3", '{"x": "object"}', '{"left": "foot"}', '{"left": ["object"]}', "{",
          '{"left": NaN}', "[" * 50_000, '{"left": {"a": 1}}')  # fmt: skip


def with_meshes(rng, k, whole):
    """A request with something wrong about its meshes: (fields, files)."""
    fields, files = dict(whole[0]), dict(whole[1])
    kind = k % 5
    if kind == 0:
        fields[rng.choice(("fps", "unit"))] = rng.choice(NUMBERS)
    elif kind == 1:
        fields["labels"] = rng.choice(LABELS)
    elif kind == 2:
        fields |= rng.choice(({"up": "x"}, {"camera_path": "orbit"}, {"depth": "x"},
                              {"meshes": "x"}, {"images": "x"}))  # fmt: skip
    elif kind == 3:
        far = json.loads(fields["cameras"])
        far["front"]["T"] = rng.choice(([0, 0, 90.0], [0, 0, -90.0], [1e300] * 3, ["x"] * 3))
        fields["cameras"] = json.dumps(far)
    if kind == 4 or rng.random() < 0.5:
        files["meshes"] = [MESHES[k // 5 % len(MESHES)]] * rng.choice((1, 1, 2, 40))
    if fields == whole[0] and files == whole[1]:
        files["meshes"] = []
    return fields, files


def with_depth(rng, k, whole):
    """A request with something wrong about its depth or its camera path: (fields, files)."""
    fields, files = dict(whole[0]), dict(whole[1])
    kind = k % 4
    if kind == 0:
        fields["field_of_view"] = rng.choice(NUMBERS)
    elif kind == 1:
        fields["camera_path"] = PATHS[k // 4 % len(PATHS)]
    elif kind == 2:
        fields |= rng.choice(({"fps": "3"}, {"cameras": given.FIELDS["cameras"]}, {"meshes": "x"},
                              {"depth": "x"}, {"intrinsics": "[]"}))  # fmt: skip
    else:
        files["depth"] = [DEPTHS[k // 4 % len(DEPTHS)]] * rng.choice((1, 1, 1, 2, 40))
        files["images"] = files["images"] * rng.choice((0, 1, 1, 1, 2))
    return fields, files


@pytest.fixture
def whole_meshes(tmp_path):
    moving_solids.write(tmp_path, 6)
    fields = {"prompt": "stir", "cameras": (tmp_path / "cameras.json").read_text()}
    return fields, {"images": [("front.png", (tmp_path / "front.png").read_bytes())],
                    "meshes": [("s.zip", moving_solids.archive(tmp_path / "objs"))]}  # fmt: skip


@pytest.fixture
def whole_depth(tmp_path):
    moving_solids.write_deep(tmp_path)
    files = {kind: [(name, (tmp_path / name).read_bytes())]
             for kind, name in (("images", "one.png"), ("depth", "one.npz"))}  # fmt: skip
    return {"prompt": "it slides"}, files


@pytest.mark.parametrize(
    "wants, wrong, whole, count",
    [
        (serving.MOVING, with_meshes, "whole_meshes", 160),
        (serving.DEEP, with_depth, "whole_depth", 100),
    ],
    ids=["meshes", "depth"],
)
def test_malformed_requests_with(wants, wrong, whole, count, tmp_path, request):
    rng, whole, root = random.Random(0), request.getfixturevalue(whole), tmp_path / "jobs"
    with serving.studio(root, fake_maker.load, wants=wants) as (port, _):
        before = sorted(path.name for path in root.iterdir())
        for k in range(count):
            fields, files = wrong(rng, k, whole)
            status, answer = serving.send(port, "/v1/videos", fields, **files)
            assert 400 <= status < 500, (k, status, answer, fields, str(files)[:300])
            error = answer["error"]
            assert len(error["message"]) > 10 and str(tmp_path) not in error["message"], (k, error)
            assert error["where"] in (*wants.fields, *wants.files, ""), (k, error)
            if k % 4 == 3:
                status, answer = serving.send(port, "/v1/looks", fields, **files)
                assert status < 500 and str(tmp_path) not in str(answer), (k, answer)
        assert sorted(path.name for path in root.iterdir()) == before
        assert serving.ask(port, "/healthz")[0] == 200
        status, job = serving.send(port, "/v1/videos", whole[0], **whole[1])
        assert status == 202 and serving.until(port, job["id"], "done")["error"] is None


def test_two_hundred_malformed_requests(tmp_path):
    rng = random.Random(0)
    load = fake_maker.load
    with serving.studio(tmp_path / "jobs", load) as (port, _):
        serving.ask(port, "/healthz")
        before = sorted(path.name for path in (tmp_path / "jobs").iterdir())
        for k in range(200):
            body, headers = malformed(rng, k)
            status, text, _ = serving.ask(port, "/v1/videos", "POST", body, headers, timeout=120)
            error = json.loads(text)["error"]
            assert 400 <= status < 500, (k, status, error)
            assert len(error["message"]) > 10 and str(tmp_path) not in error["message"], (k, error)
        assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == before
        body, headers = serving.form(given.FIELDS, [("right.png", texts_bomb()), given.PAIR[1]])
        assert serving.ask(port, "/v1/videos", "POST", body, headers)[0] in (202, 400)
        assert serving.ask(port, "/healthz")[0] == 200
        _, job = serving.submit(port, given.FIELDS, given.PAIR)
        assert serving.until(port, job["id"], "done")["error"] is None
