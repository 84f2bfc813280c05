"""Pictures to learn boxes from: decoded once and kept.

The random views of boxes are drawn from the whole picture, so that is what is kept, not the views.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tlcli.config import ImageCacheConfig
from tlcli.data.boxes.box_augment import BoxAugmentLevel
from tlcli.data.boxes.box_batches import BoxSample
from tlcli.data.boxes.image_headers import read_headers
from tlcli.data.boxes.picture_rows import PictureLimits, PictureReader, packed, row_bytes_for
from tlcli.data.content_ids import Ids, content_ids, view_ids
from tlcli.data.images import read_image
from tlcli.data.store.row_ids import first_appearances
from tlcli.engine.extraction import ViewRequest
from tlcli.engine.view_pass import ViewPass
from tlcli.errors import BadImageError
from tlcli.models.detectors.detector import DetectorBuild
from tlcli.models.detectors.torchvision_detectors import is_squashing
from tlcli.recipes.bad_images import with_remedy
from tlcli.recipes.row_tiers import kept_rows
from tlcli.recipes.talk import Talk
from tlcli.recipes.trunk_places import PIXELS
from tlcli.recipes.trunk_rows import KeptRows, StoredTrunkRows, Views
from tlcli.recipes.trunk_store import key_of_pictures, room_for
from tlcli.results.counted import counted, size_text

_MOST_TOGETHER = 8
"""Pictures that a thread decodes before it takes others,"""
_BYTES_TOGETHER = 16 << 20
"""and of large ones fewer."""
_HASHED_TOGETHER = 1024
_WHERE = {"ram": "in memory", "disk": "on disk"}


def limits_of(build: DetectorBuild, *, augment: BoxAugmentLevel) -> PictureLimits | None:
    """Return how large pictures need be; None is as they are.

    Levels that enlarge or cut pictures resize them once more, and detectors do not smooth what they
    make smaller. So views of pictures that were made smaller would be less sharp, even where these
    have several times the pixels that a detector looks at.
    """
    if augment not in ("none", "flip"):
        return None
    return PictureLimits(
        shortest=build.image_size, longest=None if is_squashing(build) else build.max_size
    )


@dataclass(frozen=True, kw_only=True)
class PackedPictures:
    """Reads whole pictures into rows, uint8 (B, `row_bytes`); see `picture_rows`."""

    is_upright: Mapping[Path, bool]
    limits: PictureLimits | None
    row_bytes: int

    def __call__(self, requests: Sequence[ViewRequest]) -> Tensor:
        """Decode, shrink and pack.

        Raises:
            DataError: a file cannot be read or decoded.
        """
        return torch.stack([self._row(request.path) for request in requests])

    def _row(self, path: Path) -> Tensor:
        picture = read_image(path, upright=self.is_upright[path])
        try:
            return packed(picture, limits=self.limits, row_bytes=self.row_bytes)
        except ValueError as error:
            raise BadImageError(
                f"Cannot decode {path}: the picture is larger than its header says ({error})."
            ) from error


@dataclass(frozen=True, kw_only=True)
class KeptPictures:
    """The train pictures of a run."""

    read: PictureReader
    rows: KeptRows | StoredTrunkRows
    distinct: int
    """Pictures of which none equals another byte for byte."""
    copies: int
    """The others."""
    seconds: float
    """That it took until all were there."""
    seconds_decode: float
    """Of all threads together."""

    def record(self) -> dict[str, Any]:
        """Return `image_cache` of `run.json`: pictures that were there, were made, their bytes."""
        counts = self.rows.counts
        return {
            "hits": self.distinct - counts.misses,
            "misses": counts.misses,
            "copies": self.copies,
            "bytes": counts.bytes,
            "seconds": {"decode": self.seconds_decode, "total": self.seconds},
        }


def keep_pictures(
    samples: Sequence[BoxSample],
    *,
    root: Path,
    config: ImageCacheConfig,
    build: DetectorBuild,
    augment: BoxAugmentLevel,
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
        augment: How much views differ from the pictures.
        threads: How many files are read at once.
        check_stop: Called between a few files.
        talk: Is told what will be kept.

    Raises:
        BadImageError: A picture cannot be read.
        ConfigError: There is no room.
        MachineError: The disk refuses, or memory would be too full.
        StopRequested: If `check_stop` raises it.
    """
    if config.image_cache == "off":
        return None
    started = time.perf_counter()
    limits = limits_of(build, augment=augment)
    sizes = _sizes(samples, root=root, limits=limits)
    row_bytes = row_bytes_for(sizes)
    views = _views(samples, root=root, threads=threads, check_stop=check_stop)
    source = _source(
        samples, limits=limits, row_bytes=row_bytes, threads=threads, check_stop=check_stop
    )
    distinct = len(first_appearances(views.ids))
    largest = max(sizes, key=lambda size: size[0] * size[1])
    talk.note(
        f"Pictures: keeping {counted(distinct, 'train picture')} {_WHERE[config.image_cache]}, "
        f"{_extent(distinct * row_bytes, largest=largest, limits=limits)}. Evaluation reads the "
        "files."
    )
    rows = _rows(
        config.image_cache,
        source=source,
        views=views,
        limits=limits,
        row_bytes=row_bytes,
        limit=config.limit_bytes,
        talk=talk,
    )
    return KeptPictures(
        read=PictureReader(rows.access(views), name=PIXELS),
        rows=rows,
        distinct=distinct,
        copies=len(views) - distinct,
        seconds=time.perf_counter() - started,
        seconds_decode=source.seconds.decode,
    )


def _extent(size: int, *, largest: tuple[int, int], limits: PictureLimits | None) -> str:
    """Return how much room pictures take, and why so much."""
    height, width = largest
    origin = " as in its file" if limits is None else ""
    return f"{size_text(size)} in rows as long as the largest, {width} x {height} pixels{origin}"


def _source(
    samples: Sequence[BoxSample],
    *,
    limits: PictureLimits | None,
    row_bytes: int,
    threads: int,
    check_stop: Callable[[], None],
) -> ViewPass:
    """Return what reads pictures into rows."""
    return ViewPass(
        read=PackedPictures(
            is_upright={s.path: s.is_upright for s in samples}, limits=limits, row_bytes=row_bytes
        ),
        compute=lambda rows: {PIXELS: rows},
        threads=threads,
        batch_size=max(1, min(_MOST_TOGETHER, _BYTES_TOGETHER // row_bytes)),
        check_stop=check_stop,
    )


def _rows(
    tier: Literal["ram", "disk"],
    *,
    source: ViewPass,
    views: Views,
    limits: PictureLimits | None,
    row_bytes: int,
    limit: int,
    talk: Talk,
) -> KeptRows | StoredTrunkRows:
    """Return rows that hold all pictures."""
    key = key_of_pictures(sides=vars(limits) if limits else None, row_bytes=row_bytes)
    room = room_for(
        key,
        views=[views] if tier == "disk" else [],
        row_bytes=row_bytes,
        limit=limit,
        option="--image-cache",
        remedy=_remedy(limits),
        talk=talk,
    )
    rows = kept_rows(
        tier,
        source=source,
        key=key,
        room=room,
        dtype=torch.uint8,
        row_bytes=row_bytes,
        expected=len(first_appearances(views.ids)),
        limit=limit,
        talk=talk,
    )
    try:
        with with_remedy():
            rows.prepare(views, label="pictures")
    except BaseException:
        rows.release()
        raise
    return rows


def _remedy(limits: PictureLimits | None) -> str:
    """Return the options that make less of what is kept."""
    if limits is None:
        return "fewer images (--limit), --augment flip, which keeps none larger than is looked at"
    size = "" if limits.longest is None else ", a smaller --image-size"
    return f"fewer images (--limit){size}"


def _sizes(
    samples: Sequence[BoxSample], *, root: Path, limits: PictureLimits | None
) -> list[tuple[int, int]]:
    """Return height and width of every picture as it is kept, by the headers of the files."""
    headers = read_headers(root, [str(sample.path) for sample in samples])
    sizes = []
    for sample, header in zip(samples, headers, strict=True):
        width, height = header.upright if sample.is_upright else header.stored
        sizes.append(limits.size_of(height, width) if limits else (height, width))
    return sizes


def _views(
    samples: Sequence[BoxSample], *, root: Path, threads: int, check_stop: Callable[[], None]
) -> Views:
    names = [str(sample.path) for sample in samples]
    parts: list[Ids] = []
    for start in range(0, len(names), _HASHED_TOGETHER):
        check_stop()
        part = names[start : start + _HASHED_TOGETHER]
        parts.append(content_ids(part, root=root, threads=threads))
    contents = np.concatenate(parts)
    ids = np.empty_like(contents)
    is_upright = np.array([sample.is_upright for sample in samples], dtype=bool)
    for chosen, level in ((is_upright, "upright"), (~is_upright, "as stored")):
        ids[chosen] = view_ids(contents[chosen], level=level, seed=0, view=0)
    return Views(requests=[ViewRequest(sample.path) for sample in samples], ids=ids)
