"""How well single images went, to choose those worth looking at."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tlcli.engine.box_matches import BoxMatches
from tlcli.engine.coco_settings import AREA_RANGES

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_ALL = list(AREA_RANGES).index("all")
_IOU_HALF = 0


@dataclass(frozen=True, kw_only=True)
class ImageQuality:
    """Counts of boxes in each of I images, by growing image id, at an overlap of 0.5."""

    truths: Integers
    """Boxes to find, without crowds, shape (I,)."""
    right: Integers
    """Detections that found one of their class, shape (I,)."""
    wrong: Integers
    """Other detections, but for those on crowds, shape (I,)."""

    def f1(self) -> Floats:
        """F1 over all boxes of each image: 2 right / (truths + right + wrong), shape (I,).

        An image without boxes has 1 if nothing was detected in it, else 0.
        """
        boxes = self.truths + self.right + self.wrong
        return np.where(boxes > 0, 2 * self.right / np.maximum(boxes, 1), 1.0)


def image_quality(matches: BoxMatches, *, min_score: float = 0.5) -> ImageQuality:
    """Count the boxes that were found, and those that are not there, in each image.

    Args:
        matches: Of one split.
        min_score: Detections of lower score are left out. As the better ones choose their boxes
            first, this changes no match of theirs.
    """
    kept = np.flatnonzero(matches.scores >= min_score)
    counted = matches.counted(kept, area=_ALL)[:, _IOU_HALF]
    is_true = matches.is_true[kept, _ALL, _IOU_HALF]

    def per_image(images: Integers) -> Integers:
        return np.bincount(images, minlength=matches.num_images)

    return ImageQuality(
        truths=per_image(matches.truth_images[matches.truth_counts[:, _ALL]]),
        right=per_image(matches.images[kept[is_true]]),
        wrong=per_image(matches.images[kept[counted & ~is_true]]),
    )


def best_score(matches: BoxMatches) -> float:
    """Return the score from which on detections have the highest F1 at an overlap of 0.5.

    Scores mean other things in every architecture, so no fixed one tells what a detector says is
    there. 0.5 where nothing was detected.
    """
    if not len(matches.scores):
        return 0.5
    falling = np.argsort(-matches.scores, kind="stable")
    counted = matches.counted(falling, area=_ALL)[:, _IOU_HALF]
    is_true = matches.is_true[falling, _ALL, _IOU_HALF]
    truths = matches.truth_counts[:, _ALL].sum()
    f1 = 2 * is_true.cumsum() / np.maximum(truths + counted.cumsum(), 1)
    scores = matches.scores[falling]
    is_last = np.append(scores[1:] < scores[:-1], True)  # equal scores go together
    return float(scores[np.where(is_last, f1, -1.0).argmax()])
