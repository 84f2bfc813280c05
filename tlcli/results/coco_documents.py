"""Ground truth and detections as COCO writes them, in the form that evaluators agree on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BoxPredictions:
    """The N boxes that a detector found in one split, with the user's ids."""

    image_ids: Integers
    """Shape (N,)."""
    category_ids: Integers
    """Shape (N,)."""
    boxes: Floats
    """Shape (N, 4): x, y, width and height in pixels of the annotation frame."""
    scores: Floats
    """Shape (N,)."""

    def __post_init__(self) -> None:
        count = len(self.scores)
        shapes = (self.image_ids.shape, self.category_ids.shape, self.boxes.shape)
        if shapes != ((count,), (count,), (count, 4)) or self.scores.ndim != 1:
            raise ValueError(f"{count} scores, but image ids, category ids and boxes {shapes}")

    def __len__(self) -> int:
        return len(self.scores)

    def scored(self, min_score: float) -> "BoxPredictions":
        """Return those of at least a score."""
        kept = self.scores >= min_score
        return BoxPredictions(
            image_ids=self.image_ids[kept],
            category_ids=self.category_ids[kept],
            boxes=self.boxes[kept],
            scores=self.scores[kept],
        )

    def to_coco(self) -> list[dict[str, Any]]:
        """Return the entries of a COCO results file: plain numbers, nothing rounded."""
        columns = (self.image_ids, self.category_ids, self.boxes, self.scores)
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for image_id, category_id, box, score in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ]


def evaluable_ground_truth(document: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a COCO ground truth document with all that pycocotools takes for granted.

    Evaluators mark a detection as unmatched by the annotation id 0, and keep one annotation of
    each id: annotations are numbered anew from 1 if their ids are not positive and unique.
    Missing `area` becomes width times height, missing `iscrowd` 0 and missing `info` empty.

    Args:
        document: With `images`, `annotations` and `categories`; it is left as it is.
    """
    annotations = [_complete(annotation) for annotation in document["annotations"]]
    ids = {annotation["id"] for annotation in annotations}
    if len(ids) != len(annotations) or min(ids, default=1) < 1:
        annotations = [{**values, "id": i} for i, values in enumerate(annotations, start=1)]
    return {
        "info": dict(document.get("info", {})),
        "images": [dict(image) for image in document["images"]],
        "annotations": annotations,
        "categories": [dict(category) for category in document["categories"]],
    }


def _complete(annotation: Mapping[str, Any]) -> dict[str, Any]:
    _, _, width, height = annotation["bbox"]
    return {"id": 0, "area": width * height, "iscrowd": 0, **annotation}
