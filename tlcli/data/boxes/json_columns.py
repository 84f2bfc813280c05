"""Lists of JSON values to typed columns, strictly: a number is no text and true is no 1.

The common case is decided by the set of types, so that a million annotations take no loop.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from tlcli.errors import DataError

_NUMBERS = {int, float}
_LONGEST_SHOWN = 60


def shown(value: object) -> str:
    """Return a value for messages, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def whole_numbers(values: Sequence[Any], *, what: str) -> npt.NDArray[np.int64]:
    """Return integers; 640.0 counts as one.

    Args:
        values: Anything JSON can hold.
        what: What they are, for the message: "image id of FILE".

    Raises:
        DataError: a value is no whole number of at most 63 bits.
    """
    if not set(map(type, values)) <= {int}:
        values = [int(v) if type(v) is float and v.is_integer() else v for v in values]
        for value in values:
            if type(value) is not int:
                raise DataError(f"The {what} is {shown(value)}; it must be a whole number.")
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError as error:
        raise DataError(
            f"The {what} is {shown(max(values, key=abs))}; it must fit 63 bits."
        ) from error


def numbers_or_nan(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Return floats; whatever is no number becomes NaN."""
    return np.array([_float(value) for value in values], dtype=np.float64)


def quadruples(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Return (N, 4) floats; a row that is not four numbers becomes NaN throughout."""
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {4}:
        flat = list(chain.from_iterable(values))
        if set(map(type, flat)) <= _NUMBERS:
            with suppress(OverflowError):  # an integer beyond 1e308: row by row then
                return np.array(flat, dtype=np.float64).reshape(-1, 4)
    rows = [_quadruple(value) for value in values]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _float(value: object) -> float:
    if type(value) not in _NUMBERS:
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf


def _quadruple(value: object) -> list[float]:
    if isinstance(value, list) and len(value) == 4 and set(map(type, value)) <= _NUMBERS:
        return [_float(number) for number in value]
    return [math.nan] * 4
