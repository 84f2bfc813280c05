"""What the header of an image file says of its size, without decoding the pixels."""

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Literal, NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from tlcli.data.table import some_names
from tlcli.errors import BadImageError, DataError
from tlcli.results.counted import counted

# EXIF 2.32, tag 0x0112; the last four of its eight values swap width and height
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = range(1, 9)
_SIDEWAYS = range(5, 9)
# Opening is short and mostly waiting for the disk
_THREADS = min(32, 4 * (os.cpu_count() or 1))
# Handing a single file to a thread costs as much as reading its header
_BLOCK = 64
_PNG_SIGNATURE_BYTES = 8
_REMEDY = "Repair it, or leave such images out with --on-bad-image skip."

OnBadImage = Literal["fail", "skip"]


class ImageHeader(NamedTuple):
    """Sizes as (width, height) in pixels."""

    upright: tuple[int, int]
    """As the picture is shown, and as `read_image` returns it."""
    stored: tuple[int, int]
    """As the pixels lie in the file."""
    orientation: int
    """EXIF orientation 1..8; 1 = stored upright."""


def read_headers(root: Path, names: Sequence[str]) -> list[ImageHeader]:
    """Read the header of every file, in the order of `names`.

    Raises:
        DataError: files are missing or cannot be read.
        BadImageError: a header is of no image known here.
    """
    found = probe_headers(root, names)
    broken = [header for header in found if isinstance(header, BadImageError)]
    if broken:
        more = counted(len(broken) - 1, "more file is", "more files are")
        others = f" ({more} like that.)" if len(broken) > 1 else ""
        raise BadImageError(f"{broken[0]}{others} {_REMEDY}") from broken[0]
    return [header for header in found if isinstance(header, ImageHeader)]


def probe_headers(root: Path, names: Sequence[str]) -> list[ImageHeader | BadImageError]:
    """Read the header of every file, or say what is wrong with it, in the order of `names`.

    Raises:
        DataError: files are missing or cannot be read.
    """
    blocks = [names[start : start + _BLOCK] for start in range(0, len(names), _BLOCK)]
    with ThreadPoolExecutor(max_workers=_THREADS) as executor:
        read = executor.map(lambda block: [_header(root / name) for name in block], blocks)
        found = [header for block in read for header in block]
    missing = [name for name, header in zip(names, found, strict=True) if header is None]
    if missing:
        raise missing_images(missing, total=len(names), folder=root)
    return [header for header in found if header is not None]


def missing_images(missing: Sequence[str], *, total: int, folder: Path) -> DataError:
    """Return the error for annotated images, `total` in all, some of which have no file."""
    verb = "is" if len(missing) == 1 else "are"
    return DataError(
        f"{len(missing)} of {counted(total, 'annotated image')} {verb} not in {folder}:"
        f" {some_names(missing)}. Put them there, or remove them from the annotations;"
        " --on-bad-image skip leaves out files that cannot be read, not files that are missing."
    )


def _header(path: Path) -> ImageHeader | BadImageError | None:
    """Return the header, what is wrong with the file, or None if it is not there."""
    try:
        with Image.open(path) as image:
            return _sizes(image)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        reason = "the file is empty (0 bytes)" if empty else "not an image format known here"
        return BadImageError(f"Cannot decode {path}: {reason}.")
    except MemoryError:
        raise
    except OSError as error:
        if error.filename is not None:
            raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
        return BadImageError(f"Cannot decode {path}: {error}.")
    except Exception as error:  # Pillow's plugins fail on broken bytes with nearly any type
        return BadImageError(f"Cannot decode {path}: {error or type(error).__name__}.")


def _sizes(image: Image.Image) -> ImageHeader:
    width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(f"{width} x {height} pixels are more than the {limit} allowed")
    orientation = _orientation(image)
    if isinstance(image, TiffImageFile):  # Pillow tells the size of some as if turned already
        width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    turned = (height, width) if orientation in _SIDEWAYS else (width, height)
    return ImageHeader(upright=turned, stored=(width, height), orientation=orientation)


def _orientation(image: Image.Image) -> int:
    try:
        if isinstance(image, PngImageFile):
            if image.fp is not None and _has_late_text(image.fp):
                image.load()  # EXIF may stand behind the pixels
            exif = Image.Image.getexif(image)  # PngImageFile's own decodes every time
        else:
            exif = image.getexif()
        value = exif.get(_ORIENTATION_TAG)
    except Exception:  # as in read_image: a broken EXIF block says nothing
        return 1
    return value if isinstance(value, int) and value in _ORIENTATIONS else 1


def _has_late_text(file: IO[bytes]) -> bool:
    """Say whether a PNG has EXIF or text chunks behind its pixels; `file` stays where it was."""
    start = file.tell()
    position, seen_pixels, found = _PNG_SIGNATURE_BYTES, False, False
    while not found:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        seen_pixels |= kind == b"IDAT"
        found = seen_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
        position += length + 12
    file.seek(start)
    return found
