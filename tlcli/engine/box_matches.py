"""Which detections are right: COCO's greedy matching for all images, classes and settings at once.

The evaluators tell precision and recall of a whole split; resampling images and judging single
images need the matches themselves. The rules are those of `COCOeval.evaluateImg` of pycocotools,
its overlaps are used, and the order of detections is that of `COCOeval.accumulate`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask

from tlcli.engine.coco_settings import AREA_RANGES, IOU_THRESHOLDS, MAX_DETECTIONS
from tlcli.results.coco_documents import BoxPredictions

Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_EFFECTIVE_THRESHOLDS: Floats = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
_BLOCK_VALUES = 1 << 21


@dataclass(frozen=True, kw_only=True)
class BoxMatches:
    """N detections, the best 100 of each image and class, against G ground-truth boxes.

    Detections are ordered by class, then falling score, then image, then their order in the
    predictions. I images and K classes count by growing id, A area ranges and T overlaps as in
    `coco_settings`.
    """

    num_images: int
    num_classes: int
    rows: Integers
    """Row in the predictions, shape (N,)."""
    images: Integers
    """Image index, shape (N,)."""
    classes: Integers
    """Class index, shape (N,)."""
    ranks: Integers
    """How many detections of the same image and class come before it, shape (N,)."""
    scores: Floats
    """Shape (N,)."""
    in_range: Flags
    """Whether the detection's own area lies in the range, shape (N, A)."""
    matched: Flags
    """Whether it found a box, shape (N, A, T)."""
    is_true: Flags
    """Whether it found one that counts, shape (N, A, T); if it found another, it is ignored."""
    truth_images: Integers
    """Image index of each ground-truth box, shape (G,)."""
    truth_classes: Integers
    """Class index, shape (G,)."""
    truth_counts: Flags
    """Whether it is to be found: no crowd, and of that area, shape (G, A)."""

    def counted(self, detections: Integers, *, area: int) -> Flags:
        """Tell which detections count, right or wrong: shape (len(detections), T).

        Left out are those that found a box that does not count, and those that found none and
        are not of the area themselves.
        """
        return np.where(
            self.matched[detections, area],
            self.is_true[detections, area],
            self.in_range[detections, area, None],
        )


@dataclass(frozen=True, kw_only=True)
class _Truth:
    images: Integers
    classes: Integers
    boxes: Floats
    is_crowd: Flags
    counts: Flags


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The detections of one image and class that overlap its boxes enough for some threshold."""

    detections: Integers
    truths: Integers
    overlaps: Floats
    """Shape (detections, truths)."""


def match_boxes(ground_truth: Mapping[str, Any], predictions: BoxPredictions) -> BoxMatches:
    """Match detections to ground-truth boxes as pycocotools does.

    Args:
        ground_truth: A document of `evaluable_ground_truth`.
        predictions: Of the same images and categories.
    """
    image_ids = np.unique([image["id"] for image in ground_truth["images"]])
    category_ids = np.unique([category["id"] for category in ground_truth["categories"]])
    truth = _read_truth(ground_truth, image_ids=image_ids, category_ids=category_ids)
    images = np.searchsorted(image_ids, predictions.image_ids)
    classes = np.searchsorted(category_ids, predictions.category_ids)
    rows, ranks = _best_rows(images, classes, scores=predictions.scores)
    images, classes, boxes = images[rows], classes[rows], predictions.boxes[rows]
    shape = (len(rows), len(AREA_RANGES), len(IOU_THRESHOLDS))
    matched, is_true = np.zeros((2, *shape), dtype=bool)
    pairs = _overlapping_pairs(images, classes, boxes=boxes, truth=truth)
    for block in _blocks(pairs):
        _match_block(block, truth, matched=matched, is_true=is_true)
    return BoxMatches(
        num_images=len(image_ids),
        num_classes=len(category_ids),
        rows=rows,
        images=images,
        classes=classes,
        ranks=ranks,
        scores=predictions.scores[rows],
        in_range=_in_ranges(boxes[:, 2] * boxes[:, 3]),
        matched=matched,
        is_true=is_true,
        truth_images=truth.images,
        truth_classes=truth.classes,
        truth_counts=truth.counts,
    )


def _read_truth(
    ground_truth: Mapping[str, Any], *, image_ids: Integers, category_ids: Integers
) -> _Truth:
    annotations = ground_truth["annotations"]

    def column(name: str, dtype: type) -> npt.NDArray[Any]:
        return np.array([annotation[name] for annotation in annotations], dtype=dtype)

    is_crowd = column("iscrowd", bool)
    return _Truth(
        images=np.searchsorted(image_ids, column("image_id", np.int64)),
        classes=np.searchsorted(category_ids, column("category_id", np.int64)),
        boxes=column("bbox", np.float64).reshape(-1, 4),
        is_crowd=is_crowd,
        counts=_in_ranges(column("area", np.float64)) & ~is_crowd[:, None],
    )


def _in_ranges(areas: Floats) -> Flags:
    low, high = np.array(list(AREA_RANGES.values())).T
    within: Flags = (areas[:, None] >= low) & (areas[:, None] <= high)
    return within


def _best_rows(images: Integers, classes: Integers, *, scores: Floats) -> tuple[Integers, Integers]:
    """Order the rows by class, falling score, image; drop those beyond the limit of detections.

    Returns:
        The rows, and the rank of each within its image and class.
    """
    by_pair = np.lexsort((-scores, images, classes))
    keys = np.stack((classes, images))[:, by_pair]
    starts = np.flatnonzero(np.diff(keys, axis=1, prepend=-1).any(axis=0))
    sizes = np.diff(starts, append=len(by_pair))
    ranks = np.arange(len(by_pair)) - np.repeat(starts, sizes)
    kept = ranks < MAX_DETECTIONS[-1]
    rows, ranks = by_pair[kept], ranks[kept]
    # The rank comes last so that equal scores of one image stay in the order of the predictions.
    order = np.lexsort((ranks, images[rows], -scores[rows], classes[rows]))
    return rows[order], ranks[order]


def _overlapping_pairs(
    images: Integers, classes: Integers, *, boxes: Floats, truth: _Truth
) -> list[_Pair]:
    """Compute the overlaps within each image and class; keep the detections that may match."""
    num_classes = 1 + max(classes.max(initial=0), truth.classes.max(initial=0))
    detections_of = dict(_groups(images * num_classes + classes))
    pairs = []
    for key, truths in _groups(truth.images * num_classes + truth.classes):
        if key not in detections_of:
            continue
        detections = detections_of[key]
        overlaps = mask.iou(boxes[detections], truth.boxes[truths], truth.is_crowd[truths])
        enough = (overlaps >= _EFFECTIVE_THRESHOLDS[0]).any(axis=1)
        if enough.any():
            pairs.append(
                _Pair(detections=detections[enough], truths=truths, overlaps=overlaps[enough])
            )
    return pairs


def _groups(keys: Integers) -> Iterator[tuple[int, Integers]]:
    """Yield each key and its positions in their order."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(order)]):
        yield int(keys[order[start]]), order[start:end]


def _blocks(pairs: list[_Pair]) -> Iterator[list[_Pair]]:
    """Group pairs of like size, as all of a block are padded to its largest."""
    block: list[_Pair] = []
    most_detections = len(AREA_RANGES) * len(IOU_THRESHOLDS)
    for pair in sorted(pairs, key=lambda pair: len(pair.truths)):
        most_detections = max(most_detections, len(pair.detections))
        if block and (len(block) + 1) * len(pair.truths) * most_detections > _BLOCK_VALUES:
            yield block
            block = []
        block.append(pair)
    if block:
        yield block


def _match_block(pairs: list[_Pair], truth: _Truth, *, matched: Flags, is_true: Flags) -> None:
    """Match P pairs of up to D detections and G boxes, the d-th detections of all at a time.

    A detection takes the free box of largest overlap, of equal ones the last; a box that does
    not count (crowd, or of another area) only if no other will do; a crowd stays free.
    """
    pairs = sorted(pairs, key=lambda pair: -len(pair.detections))
    sizes = np.array([len(pair.detections) for pair in pairs])
    overlaps_PDG, detections_PD, truths_PG = _padded(pairs)
    exists = truths_PG >= 0
    counts_PAG = (truth.counts[truths_PG] & exists[..., None]).transpose(0, 2, 1)
    crowd_PG = truth.is_crowd[truths_PG] & exists
    num_boxes = truths_PG.shape[1]
    # Ranks instead of overlaps: no two are equal, and those of boxes that count are lifted above.
    ranks_PDG = overlaps_PDG.argsort(axis=2, kind="stable").argsort(axis=2, kind="stable")
    preference_PAG = counts_PAG * num_boxes
    free_PATG = np.ones((len(pairs), *matched.shape[1:], num_boxes), dtype=bool)
    for step in range(int(sizes[0])):
        p = int((sizes > step).sum())
        enough_PTG = overlaps_PDG[:p, step, None] >= _EFFECTIVE_THRESHOLDS[:, None]
        keys_PATG = np.where(
            free_PATG[:p] & enough_PTG[:, None],
            (ranks_PDG[:p, step, None] + preference_PAG[:p])[:, :, None],
            -1,
        )
        best_PAT = keys_PATG.argmax(axis=3)
        found = np.take_along_axis(keys_PATG, best_PAT[..., None], axis=3)[..., 0] >= 0
        counts = np.take_along_axis(counts_PAG[:p], best_PAT, axis=2)
        rows = detections_PD[:p, step]
        matched[rows], is_true[rows] = found, found & counts
        pair, area, overlap = np.nonzero(found)
        box = best_PAT[pair, area, overlap]
        free_PATG[pair, area, overlap, box] = crowd_PG[pair, box]


def _padded(pairs: list[_Pair]) -> tuple[Floats, Integers, Integers]:
    """Stack overlaps (P, D, G), rows of detections (P, D) and of boxes (P, G); -1 where none."""
    num_boxes = max(len(pair.truths) for pair in pairs)
    num_detections = max(len(pair.detections) for pair in pairs)
    overlaps = np.full((len(pairs), num_detections, num_boxes), -1.0)
    detections = np.full((len(pairs), num_detections), -1)
    truths = np.full((len(pairs), num_boxes), -1)
    for i, pair in enumerate(pairs):
        overlaps[i, : len(pair.detections), : len(pair.truths)] = pair.overlaps
        detections[i, : len(pair.detections)] = pair.detections
        truths[i, : len(pair.truths)] = pair.truths
    return overlaps, detections, truths
