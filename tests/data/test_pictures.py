"""Pictures are what their files say: turned, scaled, coloured as shown, or refused by name."""

import io
import json
import struct
import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from syncmv4d_jax.data import pictures, user

SHOWN = np.zeros((16, 24, 3), np.uint8)
SHOWN[:8], SHOWN[8:], SHOWN[:, :4] = (220, 40, 40), (40, 40, 220), (40, 220, 40)
CAMERA = {"K": [30, 0, 11.5, 0, 30, 7.5, 0, 0, 1], "R": np.eye(3).ravel().tolist(), "T": [0, 0, 1]}
GREY = np.linspace(0, 65535, 16 * 24).reshape(16, 24).astype(np.uint16)
# How a picture is stored that EXIF's orientation turns into SHOWN.
STORED = {
    1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud,
    5: lambda x: x.swapaxes(0, 1), 6: np.rot90, 7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}  # fmt: skip


def save(path, pixels, **options):
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)
    return path


def folder(path, name="a", size=(24, 16)):
    path.mkdir(exist_ok=True)
    (path / "cameras.json").write_text(json.dumps({name: CAMERA | {"imgSize": list(size)}}))
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} | ({"lossless": True} if suffix == "webp" else {})
    path = save(tmp_path / f"a.{suffix}", STORED[orientation](SHOWN), **options)
    np.testing.assert_array_equal(pictures.read(path), SHOWN)


def test_a_view_has_the_size_and_turn_that_are_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(SHOWN)
    save(folder(tmp_path / "views") / "a.png", stored, exif=exif)
    views = user.read(tmp_path / "views", views=1, size=(16, 24))
    np.testing.assert_array_equal(views.images[0], SHOWN)
    folder(tmp_path / "views", size=(16, 24))  # the size that is stored
    with pytest.raises(ValueError, match="imgSize is 16 x 24, but its image is 24 x 16"):
        user.read(tmp_path / "views", views=1, size=(16, 24))


@pytest.mark.parametrize("name", ["g.png", "g.tif", "g.ppm", "g.jp2"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, name):
    path = save(tmp_path / name, GREY, **({"irreversible": False} if name == "g.jp2" else {}))
    read = pictures.read(path)
    np.testing.assert_array_equal(read, np.repeat((GREY >> 8)[..., None], 3, -1))


def test_sixteen_bits_of_which_white_is_zero_are_inverted(tmp_path):
    path = save(tmp_path / "g.tif", GREY, tiffinfo={262: 0})
    np.testing.assert_array_equal(pictures.read(path)[..., 0], 255 - (GREY >> 8))


def test_floats_are_shares_of_white_or_refused(tmp_path):
    share = (GREY / 65535).astype(np.float32)
    read = pictures.read(save(tmp_path / "f.tif", share))
    np.testing.assert_array_equal(read[..., 0], np.round(share * 255))
    with pytest.raises(ValueError, match="floats of 0 to 255, wanted 0 to 1"):
        pictures.read(save(tmp_path / "f.tif", share * 255))
    share[3, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        pictures.read(save(tmp_path / "f.tif", share))
    with pytest.raises(ValueError, match="integers of 32 bits"):
        pictures.read(save(tmp_path / "i.tif", GREY.astype(np.int32)))


@pytest.mark.parametrize("mode", ["P", "PA", "RGBA", "LA", "L", "1", "CMYK", "YCbCr"])
def test_colours_are_those_of_diffusers(tmp_path, mode):
    rgba = np.concatenate([SHOWN, np.full((16, 24, 1), 255, np.uint8)], -1)
    rgba[4:8, 6:9, 3] = 0  # hidden, and colour all the same
    image = Image.fromarray(rgba if mode in ("RGBA", "LA") else SHOWN)
    image = (image.convert("P") if mode == "PA" else image).convert(mode)
    suffix = {"CMYK": "tif", "YCbCr": "jpg", "PA": "tif"}.get(mode, "png")
    image.save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    np.testing.assert_array_equal(pictures.read(tmp_path / f"a.{suffix}"), wanted)


def swapped_profile():
    """sRGB's profile with the places of its red and blue exchanged."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", raw[128:132])[0]
    tags = {bytes(raw[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    raw[red : red + 4], raw[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(raw)


def test_a_profile_of_colours_is_applied(tmp_path):
    path = save(tmp_path / "a.png", SHOWN, icc_profile=swapped_profile())
    assert np.abs(pictures.read(path).astype(int) - SHOWN[..., ::-1]).max() <= 2
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = save(tmp_path / "a.png", SHOWN, icc_profile=srgb)
    np.testing.assert_array_equal(pictures.read(path), SHOWN)
    with pytest.raises(ValueError, match=r"profile of colours \(ICC\) cannot be applied"):
        pictures.read(save(tmp_path / "a.png", SHOWN, icc_profile=b"no profile" * 20))


def test_one_picture_is_wanted(tmp_path):
    frames = [Image.fromarray(SHOWN), Image.fromarray(255 - SHOWN)]
    for name in ("a.gif", "a.tif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ValueError, match=f"{name}: has 2 pictures, wanted one"):
            pictures.read(tmp_path / name)
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:], quality=95)
    assert np.abs(pictures.read(tmp_path / "a.jpg").astype(int) - SHOWN).mean() < 12
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG")
    for content in (buffer.getvalue()[:60], b"", b"<html>", b"\0\0\0\x1cftypheic" + bytes(40)):
        (tmp_path / "broken.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken.png: cannot be read as an image"):
            pictures.read(tmp_path / "broken.png")


def test_what_systems_leave_in_a_folder_is_nobodys_picture(tmp_path):
    name = unicodedata.normalize("NFC", "caméra")
    path = folder(tmp_path / "views", name)
    save(path / f"{unicodedata.normalize('NFD', name)}.JPG", SHOWN)
    for litter in (".DS_Store", "Thumbs.db", f"._{name}.JPG", "desktop.ini", f".{name}.png"):
        (path / litter).write_bytes(b"\0\5\x16\7")
    assert user.read(path, views=1, size=(16, 24)).names == (name,)
    assert user.read_image(path, size=(16, 24)).shape == (16, 24, 3)
    save(path / f"{name}.png", SHOWN)
    with pytest.raises(ValueError, match="several of 'cam"):
        user.read(path, views=1, size=(16, 24))
    with pytest.raises(ValueError, match="wanted one image, got 2"):
        user.read_image(path, size=(16, 24))


def test_damage_of_any_kind_is_named(tmp_path):
    path = tmp_path / "a.tiff"
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(path)
    whole = path.read_bytes()
    seen = set()
    for at in range(len(whole)):
        for value in (0, 13, 255):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                assert pictures.read(path).dtype == np.uint8
            except ValueError as error:
                assert str(path) in str(error)
                seen.add(type(error.__cause__).__name__)
    assert len(seen) > 2  # readers raise what they like
