"""Average precision of single classes, of all images and of resampled ones."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.uint8 | np.uint16]
"""How often each of N images is in each of R resamples, shape (N, R); small, so that it is fast."""


class RankedClass:
    """The images ranked by their score for one class.

    Args:
        scores: Higher where the class is more likely, shape (N,).
        has_class: Which images have it, shape (N,).
    """

    def __init__(self, scores: Floats, has_class: npt.NDArray[np.bool_]) -> None:
        order = np.argsort(-scores, kind="stable").astype(np.int32)
        ranked = scores[order]
        is_last = np.append(ranked[1:] != ranked[:-1], True)  # of those with equal scores
        ends = np.flatnonzero(is_last)
        self._hits = np.flatnonzero(has_class[order])
        # the images that are counted with a hit reach as far as scores are equal
        self._ends, self._end_of_hit = np.unique(
            ends[np.searchsorted(ends, self._hits)], return_inverse=True
        )
        self._order = order[: self._ends[-1] + 1] if len(self._ends) else order[:0]
        self._last_hits = np.searchsorted(self._hits, self._ends, side="right") - 1

    def average_precision(self, weights: Weights) -> Floats:
        """Return the average precision in R resamples of the images, shape (R,).

        The mean, over the images that have the class, of the precision among all images with a
        score as high: what scikit-learn's `average_precision_score` computes, without
        interpolation (Manning, Raghavan & Schütze, "Introduction to Information Retrieval", 2008,
        sec. 8.4). NaN where no image has the class.

        Args:
            weights: How often each image is in each resample, shape (N, R).
        """
        if not len(self._hits):
            return np.full(weights.shape[1], np.nan)
        ranked = weights.take(self._order, axis=0)
        starts = np.append(0, self._ends[:-1] + 1)
        images = np.add.reduceat(ranked, starts, axis=0, dtype=np.int64).cumsum(axis=0)
        hits = ranked[self._hits]
        hits_so_far = hits.cumsum(axis=0, dtype=np.int64)
        precisions = hits_so_far[self._last_hits] / np.maximum(images, 1)
        with np.errstate(invalid="ignore"):  # 0 / 0: no image of the class was drawn
            found: Floats = (hits * precisions[self._end_of_hit]).sum(axis=0) / hits_so_far[-1]
        return found
