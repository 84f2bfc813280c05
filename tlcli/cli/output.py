"""The one place that prints: data to stdout, talk to stderr."""

import csv
import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlcli.results.counted import counted

_TOP_K = 5
_PIPE_WIDTH = 160
"""Columns of a table that goes to a file or another program."""


class _DataConsole(Console):
    """Lets a reader that went away be handled where all errors are."""

    def on_broken_pipe(self) -> None:
        raise  # rich calls this while it handles the BrokenPipeError


def console(*, stderr: bool) -> Console:
    """Return a console on the stream as it is now; rich itself honours NO_COLOR and TERM."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    kind = Console if stderr else _DataConsole
    return kind(file=stream, width=width, highlight=False, soft_wrap=stderr)


def note(message: str) -> None:
    """Say something on stderr."""
    console(stderr=True).print(Text(message))


def warn(message: str) -> None:
    """Say something on stderr that the user should look at."""
    console(stderr=True).print(Text.assemble(("warning: ", "yellow"), message))


def error(message: str) -> None:
    """Say on stderr why the command stops."""
    console(stderr=True).print(Text.assemble(("error: ", "bold red"), message))


def let_libraries_speak() -> None:
    """Show on stderr what the libraries log."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")


def line(text: str) -> None:
    """Print a line of data."""
    sys.stdout.write(f"{text}\n")


def document(values: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    line(json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False))


def lines(texts: Iterable[str]) -> None:
    """Print lines of data."""
    for text in texts:
        line(text)


def comma_separated(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows as CSV with a header."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)


def table(title: str, *, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns whose name ends in a space are aligned to the right."""
    grid = Table(box=None, pad_edge=False)
    for name in columns:
        right = name.endswith(" ")
        grid.add_column(name.strip(), justify="right" if right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    line(title)
    console(stderr=False).print(grid)
    line("")


def results(by_split: Mapping[str, Mapping[str, Any]], *, chosen_by: str) -> None:
    """Print the metrics of every split; `val` is the one that something was chosen by."""
    for split, result in by_split.items():
        chosen = f", chosen by {chosen_by}" if split == "val" else ""
        metrics(
            f"{split}: {counted(result['num_images'], 'image')}{chosen}",
            values=result["metrics"],
            intervals=result["intervals"],
            num_classes=result.get("num_classes"),  # runs of older versions do not say
        )


def metrics(
    title: str,
    *,
    values: Mapping[str, float],
    intervals: Mapping[str, Sequence[float]],
    num_classes: int | None,
) -> None:
    """Print metrics with their intervals; five of five classes are right whatever they are."""
    is_top5_sure = num_classes is not None and num_classes <= _TOP_K
    table(
        title,
        columns=["metric", "value ", "95 % interval "],
        rows=[
            [name, metric(name, value), interval(name, intervals)]
            for name, value in values.items()
            if name != "top5" or not is_top5_sure
        ],
    )


def percent(value: float) -> str:
    """Write a fraction for people: 0.9134 is 91.3 %."""
    return f"{100 * value:.1f} %"


def metric(name: str, value: float | None) -> str:
    """Write a metric for people; losses and calibration errors are no percentages."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.3f}" if name in ("loss", "ece") else percent(value)


def interval(name: str, intervals: Mapping[str, Sequence[float]]) -> str:
    """Write the 95 % interval of a metric for people."""
    if name not in intervals:
        return "-"
    low, high = intervals[name]
    return f"{metric(name, low)} .. {metric(name, high)}"
