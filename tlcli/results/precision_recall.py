"""Precision-recall curves of classes that exclude no other, as PNG."""

from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tlcli.results.atomic import replacing
from tlcli.results.counted import counted
from tlcli.results.drawable_text import legible, shortened
from tlcli.results.picture_fonts import class_labels_to_draw, fonts_for
from tlcli.results.records import EvalReport

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

MAX_NAMED_CLASSES = 10
"""With more classes than this their curves are thin and grey, without names."""

_MAX_NAME = 28
_DPI = 150


def precision_recall(scores: Floats, has_class: Labels) -> tuple[Floats, Floats]:
    """Return recall and precision at every different score, from the highest on down.

    Args:
        scores: Higher where the class is more likely, shape (N,).
        has_class: Which images have it, shape (N,); one or more do.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], has_class[order].cumsum()
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    return hits[last] / hits[-1], hits[last] / (last + 1)


def draw_precision_recall_curves(
    path: Path, *, labels: Labels, scores: Floats, report: EvalReport
) -> None:
    """Draw a curve per class as steps whose area is the average precision.

    Up to 10 classes have a colour and a name with their AP; classes without images have none.

    Args:
        path: The file to write.
        labels: Which of the C classes each of the images has, shape (N, C).
        scores: Higher where a class is more likely, shape (N, C).
        report: Of these scores; its `per_class` rows tell names and APs.

    Raises:
        MachineError: If the disk refuses.
    """
    figure = Figure(figsize=(9, 5), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    total = report.metrics["map"]
    title = f"{report.split}: {counted(report.num_images, 'image')}, mAP {total:.3f}"
    axes.set_title(legible(title), parse_math=False)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    shown = np.flatnonzero(labels.any(axis=0)).tolist()
    if shown:
        _draw_classes(axes, shown, labels=labels, scores=scores, report=report)
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)
        fonts = fonts_for(str(row["class"]) for row in report.per_class)
        for text in legend.get_texts():
            text.set(parse_math=False, fontfamily=fonts, fontsize=9)
    else:
        axes.text(0.5, 0.5, "no image has any of the classes", ha="center")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.15)


def _draw_classes(
    axes: Axes, shown: list[int], *, labels: Labels, scores: Floats, report: EvalReport
) -> None:
    is_named = len(shown) <= MAX_NAMED_CLASSES
    names = class_labels_to_draw([str(row["class"]) for row in report.per_class])
    colors = matplotlib.color_sequences["tab10"]
    for number, column in enumerate(shown):
        recall, precision = precision_recall(scores[:, column], labels[:, column])
        lines = axes.plot(
            np.append(0.0, recall),
            np.append(precision[0], precision),
            drawstyle="steps-pre",
            color=colors[number] if is_named else "0.75",
            linewidth=1.4 if is_named else 0.7,
        )
        if is_named:
            name = shortened(names[column], limit=_MAX_NAME)
            lines[0].set_label(f"AP {report.per_class[column]['ap']:.3f}  {name}")
        elif number == 0:
            lines[0].set_label(f"each of {len(shown)} classes")
