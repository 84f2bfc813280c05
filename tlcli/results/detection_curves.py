"""Precision over recall, read at fixed recalls, for every class and overlap."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Curves of K classes at the T overlaps 0.50, 0.55 ... 0.95 and R evenly spaced recalls."""

    class_names: Sequence[str]
    precision: Floats
    """Shape (T, R, K): the best precision at that or a higher recall; -1 without ground truth."""
    recall: Floats
    """Shape (T, K): the highest recall reached; -1 without ground truth."""
    scores: Floats
    """Shape (T, R, K): the score threshold that first reaches the recall."""

    @property
    def ious(self) -> list[float]:
        """The T overlaps."""
        return [round(0.5 + 0.05 * step, 2) for step in range(len(self.precision))]

    @property
    def recalls(self) -> Floats:
        """The R recalls."""
        return np.linspace(0, 1, self.precision.shape[1])

    def has_truth(self) -> npt.NDArray[np.bool_]:
        """Tell which classes have ground truth, shape (K,)."""
        has_truth: npt.NDArray[np.bool_] = self.recall[0] >= 0
        return has_truth

    def rows(self) -> Iterator[tuple[str, float, float, float, float | None]]:
        """Yield class, IoU, recall, precision and score threshold of classes with ground truth.

        The score is None, and the precision 0, at recalls that were not reached.
        """
        recalls = self.recalls
        for k in np.flatnonzero(self.has_truth()).tolist():
            for t, iou in enumerate(self.ious):
                reached = recalls <= self.recall[t, k]
                for r, recall in enumerate(recalls.tolist()):
                    score = float(self.scores[t, r, k]) if reached[r] else None
                    yield self.class_names[k], iou, recall, float(self.precision[t, r, k]), score
