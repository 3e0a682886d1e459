"""Pictures of other people, in sRGB's numbers: what the file says of its pixels is done.

As diffusers.utils.load_image does it: turned as EXIF says, colours without their alpha. More than
that: 16 bits are scaled to 8 (value >> 8), floats of 0..1 too, and a profile of colours (ICC) is
applied. Refused by name: several pictures in one file, numbers without a known white, NaN.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from syncmv4d_jax.data import reading

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif", ".gif",
    ".jxl", ".exr", ".dng",
)  # fmt: skip
SCALED = ("PNG", "PPM", "JPEG2000")  # formats whose integers fill 16 bits, however deep they are
INVERTED = 262  # a tag of TIFF; 0: white is zero
OTHERS = "convert it to PNG or JPEG first"


def read(path: str | Path) -> np.ndarray:
    """Reads one picture.

    Returns:
      [h w 3] uint8 RGB, as it is shown.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no picture, several, or pixels that are refused; says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture")
    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1)
            # A phone's JPEG may have smaller copies, or the gain of its highlights, behind it.
            if count > 1 and image.format != "MPO":
                raise ValueError(f"{path}: has {count} pictures, wanted one; cut it out first")
            image.load()
            profile, kind = image.info.get("icc_profile"), str(image.format)
            tags = getattr(image, "tag_v2", {})
            upright = ImageOps.exif_transpose(image)
            return _rgb(_eight_bits(upright, kind, tags, path), profile, path)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}); {OTHERS}") from error
    except Exception as error:  # a damaged header raises whatever its parser runs into
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error


def _eight_bits(image: Image.Image, kind: str, tags: dict, path: Path) -> Image.Image:
    """Brings one channel of more than 8 bits to 8; Pillow has done it where there are several."""
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: has pixels that are not finite (NaN)")
        if values.min() < 0 or values.max() > 1:
            raise ValueError(
                f"{path}: has floats of {values.min():.4g} to {values.max():.4g}, wanted 0 to 1"
            )
        return Image.fromarray(np.round(values * 255).astype(np.uint8))
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in SCALED):
        values = np.asarray(image) >> 8
        values = 255 - values if tags.get(INVERTED) == 0 else values
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if image.mode == "I":
        raise ValueError(
            f"{path}: has integers of 32 bits or with a sign: no known white; {OTHERS}"
        )
    return image


def _rgb(image: Image.Image, profile: bytes | None, path: Path) -> np.ndarray:
    """Colours without alpha, in sRGB."""
    if image.mode in ("P", "PA", "RGBa", "La"):  # a palette is one of RGB; alpha is divided out
        image = image.convert("RGBA" if image.mode != "La" else "LA")
    if image.mode in ("RGBA", "RGBX"):
        image = image.convert("RGB")
    elif image.mode == "LA":
        image = image.convert("L")
    if profile and image.mode in ("RGB", "L", "CMYK", "LAB"):
        image = _profiled(image, profile, path)
    if image.mode not in ("1", "L", "RGB", "CMYK", "YCbCr"):
        raise ValueError(f"{path}: has pixels of the kind {image.mode!r}; {OTHERS}")
    return np.array(image.convert("RGB"))


def _profiled(image: Image.Image, profile: bytes, path: Path) -> Image.Image:
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        step = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), image.mode, "RGB")
        if image.mode == "RGB":  # one that says sRGB in other words changes nothing
            probe = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), -1)
            probe = probe.reshape(-1, 6, 3)
            moved = np.asarray(ImageCms.applyTransform(Image.fromarray(probe), step))
            if np.abs(moved.astype(int) - probe).max() <= 2:
                return image
        return Image.fromarray(np.asarray(ImageCms.applyTransform(image, step)))
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(
            f"{path}: its profile of colours (ICC) cannot be applied ({error}); {OTHERS}"
        ) from error


def named(folder: Path, name: str) -> Path:
    """The picture <name>.png, .jpg, ... of a folder; raises as `reading.named`."""
    return reading.named(folder, name, SUFFIXES)


def single(path: Path) -> Path:
    """The picture at a path: a file, or the one of a folder.

    Raises:
      FileNotFoundError: there is none.
      ValueError: there are several.
    """
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such image or folder")
        return path
    found = [p for p in reading.entries(path) if p.suffix.lower() in SUFFIXES]
    if not found:
        raise FileNotFoundError(f"{path}: wanted one image {SUFFIXES}, found none")
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:5])
        raise ValueError(f"{path}: wanted one image, got {len(found)} ({names}); name the file")
    return found[0]
