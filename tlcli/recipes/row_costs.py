"""What it took to compute the rows of a store, told to the runs that find them there.

A mean over all runs that computed rows, whatever machines and threads they had, kept as long as
the folder, also where its rows are deleted and computed anew: they are the same rows.
"""

import json
import math
from contextlib import suppress
from pathlib import Path

from tlcli.data.store.durable_files import write_durably
from tlcli.errors import MachineError
from tlcli.results.json_text import to_json_text

_FILE = "cost.json"


def read_row_seconds(store: Path) -> float | None:
    """Return the mean seconds of a row, or None where that was never written or is damaged."""
    return _mean(*_read(store))


def add_row_seconds(store: Path, *, rows: int, seconds: float) -> float | None:
    """Add what a run computed, and return the mean; of two runs at the same moment one may be lost.

    Where the disk refuses, nothing is added: an estimate is not worth an error.
    """
    rows_before, seconds_before = _read(store)
    rows, seconds = rows_before + rows, seconds_before + seconds
    text = to_json_text({"rows": rows, "seconds": seconds})
    with suppress(MachineError):
        write_durably(store / _FILE, lambda path: path.write_text(text, encoding="utf-8"))
    return _mean(rows, seconds)


def _mean(rows: int, seconds: float) -> float | None:
    return seconds / rows if rows else None


def _read(store: Path) -> tuple[int, float]:
    """Return rows and seconds; none of either where the file says nothing that can be."""
    try:
        cost = json.loads((store / _FILE).read_text(encoding="utf-8"))
        rows, seconds = int(cost["rows"]), float(cost["seconds"])
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
        return 0, 0.0
    return (rows, seconds) if rows > 0 and seconds >= 0 and math.isfinite(seconds) else (0, 0.0)
