"""JSON as the standard has it: no NaN, no infinity."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def without_nan(value: object) -> Any:
    """Copy plain values, with None for every number that JSON does not have (NaN, infinities).

    Mappings become dicts, sequences lists and numpy scalars Python numbers.
    """
    if isinstance(value, np.generic):
        return without_nan(value.item())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [without_nan(item) for item in value]
    return value


def to_json_text(values: object) -> str:
    """Write values as indented JSON with a final line end; NaN and infinities become null.

    Raises:
        TypeError: If a value is neither plain nor a numpy scalar.
    """
    return json.dumps(without_nan(values), allow_nan=False, ensure_ascii=False, indent=2) + "\n"
