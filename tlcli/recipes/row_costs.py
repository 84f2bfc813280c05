"""What it took to compute the rows of a store, told to the runs that find them there."""

import json
from pathlib import Path

from tlcli.results.atomic import write_text
from tlcli.results.json_text import to_json_text

_FILE = "cost.json"


def read_row_seconds(store: Path) -> float | None:
    """Return the mean seconds of a row, or None where that was never written or is damaged."""
    rows, seconds = _read(store)
    return seconds / rows if rows > 0 else None


def add_row_seconds(store: Path, *, rows: int, seconds: float) -> None:
    """Add what a run computed; of runs that end at the same moment one may be lost.

    Raises:
        MachineError: If the folder cannot be written to.
    """
    rows_before, seconds_before = _read(store)
    cost = {"rows": rows_before + rows, "seconds": seconds_before + seconds}
    write_text(store / _FILE, to_json_text(cost))


def _read(store: Path) -> tuple[int, float]:
    try:
        cost = json.loads((store / _FILE).read_text(encoding="utf-8"))
        return int(cost["rows"]), float(cost["seconds"])
    except (OSError, ValueError, TypeError, KeyError):  # an estimate is not worth an error
        return 0, 0.0
