"""Pictures to learn boxes from: decoded once, no larger than the detector looks at them, and kept.

The random views of boxes are drawn from the whole picture, so that is what is kept, not the views.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tlcli.config import ImageCacheConfig
from tlcli.data.boxes.box_batches import BoxSample
from tlcli.data.content_ids import content_ids, view_ids
from tlcli.data.images import Picture, read_image
from tlcli.data.transforms import to_pixels
from tlcli.engine.extraction import ViewRequest
from tlcli.engine.view_pass import ViewPass
from tlcli.models.detectors.detector import DetectorBuild
from tlcli.models.detectors.detector_options import longest_side
from tlcli.recipes.bad_images import with_remedy
from tlcli.recipes.row_tiers import rows_in_tier
from tlcli.recipes.talk import Talk
from tlcli.recipes.trunk_places import PIXELS
from tlcli.recipes.trunk_rows import TrunkRows, Views
from tlcli.recipes.trunk_store import key_of_pictures, room_for
from tlcli.results.counted import counted

_HEAD_BYTES = 16
"""Of a row: height and width as int32, the key of the content as uint64."""
_COMPUTED_TOGETHER = 8
_WHERE = {"ram": "in memory", "disk": "on disk"}


@dataclass(frozen=True)
class PictureLimits:
    """How large a detector looks at pictures.

    Args:
        shortest: The short side becomes so many pixels,
        longest: but the long side no more than these.
    """

    shortest: int
    longest: int

    @classmethod
    def of(cls, build: DetectorBuild) -> "PictureLimits":
        """Return those of a detector; one that squashes pictures gets them in their own shape."""
        longest = max(build.max_size, longest_side(build.image_size))
        return cls(build.image_size, longest)

    @property
    def row_bytes(self) -> int:
        """Of any picture within these limits, and its head."""
        return _HEAD_BYTES + 3 * self.shortest * self.longest

    def shrunk(self, pixels: Tensor) -> Tensor:
        """Return uint8 (3, H, W) made smaller as torchvision's detectors do it, or as it is."""
        height, width = pixels.shape[1:]
        scale = min(self.shortest / min(height, width), self.longest / max(height, width))
        if scale >= 1:
            return pixels
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        values = F.interpolate(pixels[None].float(), size, mode="bilinear", align_corners=False)
        return values[0].round().to(torch.uint8)


@dataclass(frozen=True)
class PackedPictures:
    """Reads whole pictures into rows of one length, uint8 (B, `row_bytes`); see `unpacked`."""

    is_upright: Mapping[Path, bool]
    limits: PictureLimits

    def __call__(self, requests: Sequence[ViewRequest]) -> Tensor:
        """Decode, shrink and pack.

        Raises:
            DataError: a file cannot be read or decoded.
        """
        rows = torch.zeros(len(requests), self.limits.row_bytes, dtype=torch.uint8)
        for row, request in zip(rows, requests, strict=True):
            picture = read_image(request.path, upright=self.is_upright[request.path])
            shrunk = self.limits.shrunk(to_pixels(picture.image))
            pixels = shrunk.permute(1, 2, 0).flatten()
            size = np.array(shrunk.shape[1:], dtype=np.int32)
            key = np.array([picture.content_key], dtype=np.uint64)
            head = np.frombuffer(size.tobytes() + key.tobytes(), dtype=np.uint8)
            row[:_HEAD_BYTES] = torch.from_numpy(head.copy())
            row[_HEAD_BYTES : _HEAD_BYTES + len(pixels)] = pixels
        return rows


def unpacked(row: Tensor) -> Picture:
    """Return the picture of a packed row, uint8 (`row_bytes`,)."""
    head = row[:_HEAD_BYTES].numpy().tobytes()
    height, width = np.frombuffer(head[:8], dtype=np.int32).tolist()
    (key,) = np.frombuffer(head[8:], dtype=np.uint64).tolist()
    pixels = row[_HEAD_BYTES : _HEAD_BYTES + 3 * height * width].numpy()
    return Picture(image=Image.fromarray(pixels.reshape(height, width, 3)), content_key=key)


@dataclass(frozen=True, kw_only=True)
class KeptPictures:
    """The train pictures of a run."""

    rows: TrunkRows
    views: Views

    def __call__(self, index: int) -> Picture:
        """Return a picture by its place among the samples."""
        one = self.views.part(np.array([index]))
        return unpacked(self.rows.take(one)[PIXELS][0])

    def record(self) -> dict[str, Any]:
        """Return `image_cache` of `run.json`: pictures that were there, were made, their bytes."""
        counts = self.rows.counts
        hits = len(self.views) - counts.misses
        return {"hits": hits, "misses": counts.misses, "bytes": counts.bytes}


def keep_pictures(
    samples: Sequence[BoxSample],
    *,
    root: Path,
    config: ImageCacheConfig,
    build: DetectorBuild,
    threads: int,
    check_stop: Callable[[], None],
    talk: Talk,
) -> KeptPictures | None:
    """Decode what is not kept yet, if the user wants to keep pictures at all.

    Args:
        samples: To learn from.
        root: Folder of their files.
        config: Where to keep them.
        build: Of the detector.
        threads: How many files are read at once.
        check_stop: Called between a few files.
        talk: Is told what is kept.

    Raises:
        BadImageError: A picture cannot be read.
        ConfigError: There is no room.
        MachineError: The disk refuses, or memory would be too full.
    """
    if config.image_cache == "off":
        return None
    limits = PictureLimits.of(build)
    views = _views(samples, root=root, threads=threads)
    source = ViewPass(
        read=PackedPictures({s.path: s.is_upright for s in samples}, limits),
        compute=lambda rows: {PIXELS: rows},
        threads=threads,
        batch_size=_COMPUTED_TOGETHER,
        check_stop=check_stop,
    )
    rows = _rows(source, views=views, config=config, limits=limits, talk=talk)
    with with_remedy():
        rows.prepare(views, label="pictures")
    size = len(views) * limits.row_bytes / 1e6
    talk.note(
        f"Pictures: {counted(len(views), 'train picture')} kept {_WHERE[config.image_cache]}, at "
        f"most {limits.shortest} x {limits.longest} pixels ({size:,.0f} MB). Evaluation reads the "
        "files."
    )
    return KeptPictures(rows=rows, views=views)


def _rows(
    source: ViewPass, *, views: Views, config: ImageCacheConfig, limits: PictureLimits, talk: Talk
) -> TrunkRows:
    key = key_of_pictures(shortest=limits.shortest, longest=limits.longest)
    room = room_for(
        key,
        views=[views] if config.image_cache == "disk" else [],
        row_bytes=limits.row_bytes,
        limit=config.limit_bytes,
        option="--image-cache",
    )
    return rows_in_tier(
        config.image_cache,
        source=source,
        key=key,
        room=room,
        dtype=torch.uint8,
        row_bytes=limits.row_bytes,
        limit=config.limit_bytes,
        talk=talk,
    )


def _views(samples: Sequence[BoxSample], *, root: Path, threads: int) -> Views:
    names = [str(sample.path) for sample in samples]
    contents = content_ids(names, root=root, threads=threads)
    ids = np.empty_like(contents)
    is_upright = np.array([sample.is_upright for sample in samples], dtype=bool)
    for chosen, level in ((is_upright, "upright"), (~is_upright, "as stored")):
        ids[chosen] = view_ids(contents[chosen], level=level, seed=0, view=0)
    return Views(requests=[ViewRequest(sample.path) for sample in samples], ids=ids)
