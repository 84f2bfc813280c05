"""Pictures of results, drawn without pyplot and its global state."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tlcli.results.atomic import replacing
from tlcli.results.picture_fonts import class_labels_to_draw, fonts_for
from tlcli.results.records import Row

Counts = npt.NDArray[np.integer[Any]]
Shares = npt.NDArray[np.float64]

MAX_COUNTED_CLASSES = 50
"""Above this the cells are too small for numbers; the most confused pairs are listed instead."""
MAX_LABELLED_CLASSES = 100
"""Above this the axes have no class names."""
NUM_LISTED_PAIRS = 20

_DPI = 150
_MAX_LABEL = 30
_INCHES_PER_CHARACTER = 0.085
_LIST_INCHES = 5.0
_MAX_POINTS = 250


def draw_confusion_matrix(path: Path, *, counts: Counts, labels: Sequence[str], title: str) -> None:
    """Draw a confusion matrix as PNG, each row coloured by its share of the true class.

    Up to 50 classes every cell shows its count; above that the most confused pairs are listed
    beside the matrix; above 100 classes the axes have no names, and above 250 a point stands for
    a block of cells. Names longer than 30 characters are shortened in the middle; what stands for
    names that no font of this machine can write is told by `class_labels_to_draw`. A class
    without images is a grey row.

    Args:
        path: The file to write.
        counts: Shape (C, C), rows true, columns predicted.
        labels: The C class names to show.
        title: The line above the matrix.

    Raises:
        MachineError: If the disk refuses.
    """
    fonts = fonts_for(labels)
    names = _short_names(class_labels_to_draw(labels))
    figure, axes, list_axes = _matrix_figure(names)
    axes.set_title(title, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    _draw_shares(axes, counts)
    _label_axes(axes, names, fonts=fonts)
    if list_axes is None:
        _write_counts(axes, counts)
    else:
        _list_confusions(list_axes, counts, names, fonts=fonts)
    _save(figure, path)


def draw_training_curves(path: Path, *, rows: Sequence[Row], metric: str = "val/top1") -> None:
    """Draw the losses there are and one validation metric over the epochs as PNG, phases marked.

    Args:
        path: The file to write.
        rows: The rows of `metrics.csv`; empty values leave a gap in the line.
        metric: The column of the lower panel.

    Raises:
        ValueError: If there are no rows, or none of `metric`.
        MachineError: If the disk refuses.
    """
    if not rows or metric not in rows[0]:
        raise ValueError(f"no epochs with {metric} to draw")
    figure = Figure(figsize=(7, 6), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, columns in ((upper, ("train/loss", "val/loss")), (lower, (metric,))):
        for column in (column for column in columns if column in rows[0]):
            _draw_line(axes, rows, column=column)
        _mark_phases(axes, rows)
        axes.set_ylabel(columns[-1].rpartition("/")[2])
        axes.grid(alpha=0.3)
        axes.legend()
    lower.set_xlabel("epoch")
    lower.set_xlim((rows[0]["epoch"] or 0) - 0.5, (rows[-1]["epoch"] or 0) + 0.5)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def _short_names(labels: Sequence[str]) -> list[str]:
    """Shorten long labels in the middle, but for those that would look like another one."""
    half = (_MAX_LABEL - 1) // 2
    short = [
        label if len(label) <= _MAX_LABEL else f"{label[: half + 1]}…{label[-half:]}"
        for label in labels
    ]
    numbers = Counter(short)
    return [
        name if numbers[name] == 1 else label for name, label in zip(short, labels, strict=True)
    ]


def _width(name: str) -> int:
    """Return the width of a name in letters; those of East Asia count as two."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in name)


def _cell_inches(num_classes: int) -> float:
    if num_classes <= MAX_COUNTED_CLASSES:
        return min(2.6, max(0.42, 7 / num_classes))
    return max(0.15, 10 / num_classes) if num_classes <= MAX_LABELLED_CLASSES else 8 / num_classes


def _matrix_figure(names: Sequence[str]) -> tuple[Figure, Axes, Axes | None]:
    """A figure whose cells are large enough for their numbers, with room for the names."""
    num_classes = len(names)
    longest = max(map(_width, names)) if num_classes <= MAX_LABELLED_CLASSES else 0
    side = num_classes * _cell_inches(num_classes) + longest * _INCHES_PER_CHARACTER + 0.8
    if num_classes <= MAX_COUNTED_CLASSES:
        figure = Figure(figsize=(side + 0.8, side), dpi=_DPI, layout="constrained")
        return figure, figure.add_subplot(), None
    figure = Figure(figsize=(side + 0.8 + _LIST_INCHES, side), dpi=_DPI, layout="constrained")
    axes, list_axes = figure.subplots(1, 2, width_ratios=[side + 0.8, _LIST_INCHES])
    return figure, axes, list_axes


def _draw_shares(axes: Axes, counts: Counts) -> None:
    """Colour the cells; with many classes small shares are lifted and cells are merged."""
    num_classes = len(counts)
    block = -(-num_classes // _MAX_POINTS)
    if block > 1:
        axes.set_xlabel(f"predicted class (each point: the largest of {block} x {block} cells)")
    edge = num_classes - 0.5
    image = axes.imshow(
        merge_cells(row_shares(counts), block=block),
        cmap=matplotlib.colormaps["Blues"].with_extremes(bad="0.88"),
        norm=PowerNorm(1 if num_classes <= MAX_COUNTED_CLASSES else 0.5, vmin=0, vmax=1),
        extent=(-0.5, edge, edge, -0.5),
    )
    axes.figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8, aspect=40)


def row_shares(counts: Counts) -> Shares:
    """Divide each row of counts (C, C) by its sum; NaN in the rows of classes without images."""
    support = counts.sum(axis=1, keepdims=True)
    no_share = np.full(counts.shape, np.nan)
    shares: Shares = np.divide(counts, support, out=no_share, where=support > 0)
    return shares


def merge_cells(shares: Shares, *, block: int) -> Shares:
    """Keep the largest of each block x block cells of (C, C) shares; NaN where all are NaN."""
    starts = np.arange(0, len(shares), block)
    # fmax, unlike maximum, prefers numbers to NaN.
    rows = np.fmax.reduceat(shares, starts, axis=0)
    merged: Shares = np.fmax.reduceat(rows, starts, axis=1)
    return merged


def _label_axes(axes: Axes, names: Sequence[str], *, fonts: list[str]) -> None:
    if len(names) > MAX_LABELLED_CLASSES:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    fontsize = 9 if len(names) <= MAX_COUNTED_CLASSES else 7
    fits = max(map(_width, names)) * _INCHES_PER_CHARACTER < _cell_inches(len(names))
    positions = range(len(names))
    style: dict[str, Any] = {"fontsize": fontsize, "fontfamily": fonts, "parse_math": False}
    axes.set_yticks(positions, names, **style)
    axes.set_xticks(positions, names, **style, rotation=0 if fits else 90)


def _write_counts(axes: Axes, counts: Counts) -> None:
    """Write the counts into the cells; zeros only where there is room for them."""
    shares = row_shares(counts)
    few = len(counts) <= 10
    for i, j in np.ndindex(counts.shape):
        if counts[i, j] or few:
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(
                *(j, i, str(counts[i, j])),
                ha="center",
                va="center",
                color=color,
                fontsize=10 if few else 8,
            )


def _list_confusions(axes: Axes, counts: Counts, names: Sequence[str], *, fonts: list[str]) -> None:
    axes.axis("off")
    axes.set_title("Most frequent confusions", loc="left", fontsize=10)
    lines = [
        f"{counts[i, j]:>5} of {counts[i].sum():<5} {names[i]} → {names[j]}"
        for i, j in most_confused(counts, limit=NUM_LISTED_PAIRS)
    ]
    text = "\n".join(lines) or "none"
    axes.text(
        *(0, 1, text),
        va="top",
        fontsize=8,
        fontfamily=fonts,
        linespacing=1.6,
        parse_math=False,
    )


def most_confused(counts: Counts, *, limit: int) -> list[tuple[int, int]]:
    """Find the (true, predicted) pairs of different classes with the highest counts.

    Args:
        counts: Shape (C, C), rows true, columns predicted.
        limit: How many pairs at most; pairs that never occur are left out.
    """
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(index), len(counts)) for index in order]
    return [(i, j) for i, j in pairs if wrong[i, j]]


def _draw_line(axes: Axes, rows: Sequence[Row], *, column: str) -> None:
    epochs = [row["epoch"] for row in rows]
    values = [row[column] for row in rows]
    gaps_as_nan = np.array([np.nan if value is None else value for value in values])
    axes.plot(np.array(epochs, dtype=float), gaps_as_nan, marker="o", markersize=3, label=column)


def _mark_phases(axes: Axes, rows: Sequence[Row]) -> None:
    for before, row in pairwise(rows):
        if row["phase"] == before["phase"]:
            continue
        border = (float(before["epoch"] or 0) + float(row["epoch"] or 0)) / 2
        axes.axvline(border, color="0.4", linestyle="--", linewidth=1)
        axes.annotate(
            f"phase {row['phase']}",
            (border, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            va="top",
            rotation=90,
            fontsize=7,
            color="0.4",
        )


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.15)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Mean of a metric over repeated draws of so many images per class."""

    shots: int
    mean: float
    low: float
    """Of the 95 % interval; NaN without repeats."""
    high: float
    n: int
    """Repeats."""


def draw_few_shot_curve(path: Path, *, points: Sequence[CurvePoint], split: str) -> None:
    """Draw top-1 over images per class as PNG, with the 95 % interval over the draws.

    Args:
        path: The file to write.
        points: By growing number of shots.
        split: What top-1 was measured on.

    Raises:
        MachineError: If the disk refuses.
    """
    figure = Figure(figsize=(7, 4.5), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    shots = [point.shots for point in points]
    axes.plot(shots, [point.mean for point in points], marker="o", label="mean")
    axes.fill_between(
        shots,
        [point.low for point in points],
        [point.high for point in points],
        alpha=0.25,
        label=f"95 % interval over {points[0].n} draws",
    )
    axes.set_xscale("log")
    axes.set_xticks(shots, labels=[str(count) for count in shots])
    axes.minorticks_off()
    axes.set_xlabel("train images per class")
    axes.set_ylabel(f"{split} top-1")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    _save(figure, path)


def draw_penalty_path(
    path: Path,
    *,
    penalties: Sequence[float],
    top1: Sequence[float],
    loss: Sequence[float],
    name: str,
) -> None:
    """Draw validation top-1 and loss over the penalties as PNG.

    Args:
        path: The file to write.
        penalties: By growing value.
        top1: Of each.
        loss: Of each.
        name: What the penalty is called.

    Raises:
        MachineError: If the disk refuses.
    """
    figure = Figure(figsize=(7, 5), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, values, label in ((upper, top1, "val top-1"), (lower, loss, "val loss")):
        axes.plot(penalties, values, marker="o")
        axes.set_xscale("log")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    lower.set_xlabel(name)
    _save(figure, path)


def draw_lr_range(
    path: Path,
    *,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    chosen: float | None,
) -> None:
    """Draw the loss over the growing learning rate of a range test as PNG.

    Args:
        path: The file to write.
        rates: By growing value.
        losses: Of each.
        smoothed: What the choice was made on.
        chosen: Is marked; None if there was nothing to choose.

    Raises:
        MachineError: If the disk refuses.
    """
    figure = Figure(figsize=(7, 4.5), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="0.7", linewidth=1, label="loss of a step")
    axes.plot(rates, smoothed, label="smoothed")
    if chosen is not None:
        axes.axvline(chosen, color="tab:red", linestyle="--", label=f"steepest: {chosen:g}")
    # the diverging end would press all else flat
    axes.set_ylim(min(losses) * 0.95, max(smoothed[0], losses[0]) * 1.3)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate of the head")
    axes.set_ylabel("train loss")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    _save(figure, path)
