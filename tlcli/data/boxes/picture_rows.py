"""Whole pictures as rows of one length: made smaller where that loses nothing, packed, unpacked."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tlcli.data.images import Picture
from tlcli.data.store.row_access import RowAccess
from tlcli.data.transforms import to_pixels

_HEAD_BYTES = 16
"""Of a row: height and width as int32, the key of the content as uint64."""
_STEPS = 8
"""Lengths of rows per doubling, so that sets whose largest pictures are much alike share rows."""


@dataclass(frozen=True, kw_only=True)
class PictureLimits:
    """How large pictures need be for a detector that looks at them as they are, or mirrored.

    They are then made smaller as torchvision's detectors would do it, to the bit but for rounding
    to 8 bit: what the detector does to them after that changes nothing.
    """

    shortest: int
    """Pixels that the short side becomes; both sides where `longest` is None."""
    longest: int | None
    """Pixels that the long side has at most; None squashes pictures to a square."""

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of a picture that was made smaller, never larger."""
        if self.longest is None:
            return min(height, self.shortest), min(width, self.shortest)
        short, long = sorted((height, width))
        scale = min(self.shortest / short, self.longest / long)
        if scale >= 1:
            return height, width
        if scale == self.shortest / short:
            sides = (self.shortest, max(self.shortest, floor(long * scale)))
        else:
            sides = (max(1, floor(short * scale)), self.longest)
        return sides if height <= width else (sides[1], sides[0])

    def shrunk(self, pixels: Tensor) -> Tensor:
        """Return uint8 (3, H, W) made smaller, or as it is."""
        height, width = pixels.shape[1:]
        size = self.size_of(height, width)
        if size == (height, width):
            return pixels
        values = F.interpolate(pixels[None].float(), size, mode="bilinear", align_corners=False)
        return values[0].round().to(torch.uint8)


def row_bytes_for(sizes: Iterable[tuple[int, int]]) -> int:
    """Return a length of rows, in bytes, that holds RGB pictures of these heights and widths."""
    least = _HEAD_BYTES + 3 * max(height * width for height, width in sizes)
    step = max(1, (1 << least.bit_length()) // (2 * _STEPS))
    return -(-least // step) * step


def packed(picture: Picture, *, limits: PictureLimits | None, row_bytes: int) -> Tensor:
    """Return a picture as a row, uint8 (`row_bytes`,); see `unpacked`.

    Args:
        picture: In RGB.
        limits: Make it smaller; None leaves it as it is.
        row_bytes: From `row_bytes_for`.

    Raises:
        ValueError: The picture is too large for the row.
    """
    pixels = to_pixels(picture.image)
    shrunk = limits.shrunk(pixels) if limits else pixels
    values = shrunk.permute(1, 2, 0).flatten()
    if _HEAD_BYTES + len(values) > row_bytes:
        raise ValueError(f"{shrunk.shape[2]} x {shrunk.shape[1]} pixels are more than {row_bytes}")
    size = np.array(shrunk.shape[1:], dtype=np.int32)
    key = np.array([picture.content_key], dtype=np.uint64)
    row = torch.zeros(row_bytes, dtype=torch.uint8)
    head = np.frombuffer(size.tobytes() + key.tobytes(), dtype=np.uint8)
    row[:_HEAD_BYTES] = torch.from_numpy(head.copy())
    row[_HEAD_BYTES : _HEAD_BYTES + len(values)] = values
    return row


def unpacked(row: Tensor) -> Picture:
    """Return the picture of a packed row, uint8 (N,)."""
    head = row[:_HEAD_BYTES].numpy().tobytes()
    height, width = np.frombuffer(head[:8], dtype=np.int32).tolist()
    (key,) = np.frombuffer(head[8:], dtype=np.uint64).tolist()
    pixels = row[_HEAD_BYTES : _HEAD_BYTES + 3 * height * width].numpy()
    return Picture(image=Image.fromarray(pixels.reshape(height, width, 3)), content_key=key)


@dataclass(frozen=True)
class PictureReader:
    """Pictures by the number of their row; worker processes are sent it."""

    rows: RowAccess
    name: str
    """Of the tensor that holds packed pictures."""

    def __call__(self, number: int) -> Picture:
        """Return a picture.

        Raises:
            DataError: It is not there any more.
        """
        return unpacked(self.rows(number)[self.name])
