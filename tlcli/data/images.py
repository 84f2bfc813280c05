"""Image files read once: upright 8-bit pictures and a key of their content."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose
from PIL.TiffImagePlugin import TiffImageFile

from tlcli.data.preprocessing import RGB_CHANNELS
from tlcli.errors import BadImageError, DataError

_SUFFIXES = """
    .jpg .jpeg .jpe .jfif .png .bmp .dib .gif .tif .tiff .webp .ppm .pgm .pbm .pnm .jp2 .avif
    .tga .ico .mpo
"""
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
"""Which files of a folder count as images, compared in lower case; the content decides the rest."""

PICTURE_MODES: Mapping[int, str] = {1: "L", RGB_CHANNELS: "RGB", 4: "RGBA"}
"""Pillow's name for pictures of so many channels."""

# EXIF 2.32, tag 0x0112: how the stored pixels must be turned to stand upright
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_BACK = {Transpose.ROTATE_90: Transpose.ROTATE_270, Transpose.ROTATE_270: Transpose.ROTATE_90}
"""What undoes a turn; the others undo themselves."""
# These two hold 16-bit samples whenever Pillow says "I" (32-bit integers)
_SIXTEEN_BIT_FORMATS = frozenset({"PNG", "PPM"})


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded image file."""

    image: Image.Image
    """Mode L, RGB or RGBA, upright unless asked for otherwise.

    Without a channel for transparency the transparent parts are on white.
    """
    content_key: int
    """64 bits of BLAKE2b over the bytes of the file: the same for copies under other names."""


def is_image_name(name: str) -> bool:
    """Tell by its suffix whether a file of this name counts as an image."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def read_image(path: Path, *, upright: bool = True, channels: int = RGB_CHANNELS) -> Picture:
    """Read and decode one image file; safe to call from many threads.

    The first frame is taken, EXIF orientation is applied (an EXIF block that cannot be parsed
    counts as none, as in viewers), transparency is composited on white and 16-bit gray is scaled
    so that 65535 becomes 255. Colours become gray by their luma (ITU-R 601-2, as Pillow has it).

    Args:
        path: The file.
        upright: Turn it as EXIF says; else the pixels stay as they are stored.
        channels: 3 is RGB, 1 gray, 4 RGB with transparency, which is then not composited; what
            has none is opaque.

    Raises:
        DataError: the file cannot be read at all (missing, no permission).
        BadImageError: the bytes are not a whole image of at most `Image.MAX_IMAGE_PIXELS` pixels,
            or hold values that have no defined 8-bit form.
        KeyError: another number of channels.
    """
    mode = PICTURE_MODES[channels]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    image = _decode(data, path=path, upright=upright, mode=mode)
    return Picture(image=image, content_key=content_key(data))


def content_key(data: bytes) -> int:
    """Return the 64-bit BLAKE2b digest (RFC 7693) of `data` as an integer."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _decode(data: bytes, *, path: Path, upright: bool, mode: str) -> Image.Image:
    if not data:
        raise BadImageError(f"Cannot decode {path}: the file is empty (0 bytes).")
    try:
        with Image.open(BytesIO(data)) as image:
            _check_pixels(image.size)
            decoded = _upright(image) if upright else _stored(image)
            return _in_mode(decoded, mode, file_format=image.format)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError(f"Cannot decode {path}: not an image format known here.") from error
    except Exception as error:  # Pillow's plugins fail on broken bytes with nearly any type
        raise BadImageError(f"Cannot decode {path}: {error or type(error).__name__}.") from error


def _check_pixels(size: tuple[int, int]) -> None:
    """Refuse what Pillow only warns of: a small file that unpacks to a huge picture."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        raise ValueError(
            f"{size[0]} x {size[1]} pixels are more than the {limit} allowed"
            " (decompression bomb?); make it smaller"
        )


def _stored(image: Image.Image) -> Image.Image:
    """Decode `image` and return the pixels as they lie in the file."""
    if not isinstance(image, TiffImageFile):
        image.load()
        return image
    turn = _turn(image)
    image.load()  # turns TIFF as EXIF says, of all formats this one only
    return image if turn is None else image.transpose(_BACK.get(turn, turn))


def _upright(image: Image.Image) -> Image.Image:
    """Decode `image` and return it as EXIF turns it."""
    image.load()
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Transpose | None:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a broken EXIF block says nothing about the orientation
        return None
    # Fujifilm and others write 0 or a wrong type for "unknown"
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _in_mode(image: Image.Image, mode: str, *, file_format: str | None) -> Image.Image:
    if mode == "RGBA" and image.has_transparency_data and not image.mode.startswith("I"):
        return image if image.mode == mode else image.convert(mode)
    rgb = _as_rgb(image, file_format=file_format)
    return rgb if mode == "RGB" else rgb.convert(mode)


def _as_rgb(image: Image.Image, *, file_format: str | None) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        return _integers_as_gray(image, file_format=file_format).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; convert it to 8 bit first")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _integers_as_gray(image: Image.Image, *, file_format: str | None) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"its values {low}..{high} do not fit 16 bits; convert it to 8 bit first")
    sixteen_bit = image.mode != "I" or file_format in _SIXTEEN_BIT_FORMATS or high > 255
    if sixteen_bit:
        values = (values + 128) // 257  # rounded, 65535 -> 255
    return Image.fromarray(values.astype(np.uint8))
