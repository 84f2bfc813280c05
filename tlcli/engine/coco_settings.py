"""What the COCO challenge measures: overlaps, recalls, areas and numbers of detections."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
"""The T overlaps from which a detection counts as right."""
RECALL_THRESHOLDS: Floats = np.linspace(0.0, 1.0, 101)
"""The R recalls at which precision is read."""
AREA_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""The A ranges of a box's area in square pixels, both ends included."""
MAX_DETECTIONS = (1, 10, 100)
"""The M limits of detections per image and class."""
METRIC_NAMES = (
    *("map", "map50", "map75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)
"""The twelve numbers in the order of `COCOeval.stats`."""
