"""Precision-recall curves as PNG."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from tlcli.results.atomic import replacing
from tlcli.results.detection_curves import Floats, PrecisionRecall
from tlcli.results.drawable_text import legible, shortened
from tlcli.results.picture_fonts import class_labels_to_draw, fonts_for

MAX_NAMED_CLASSES = 10
"""With more classes than this their curves are thin and grey, without names."""

_IOU_50 = 0
_IOU_75 = 5
_MAX_NAME = 28
_DPI = 150


def draw_precision_recall(path: Path, *, curves: PrecisionRecall, title: str) -> None:
    """Draw the mean curves at IoU 0.50 and 0.75, and that of each class at 0.50, as PNG.

    The legend tells the area under each (AP50, AP75). Up to 10 classes have a colour and a name.

    Args:
        path: The file to write.
        curves: Of one split.
        title: The line above.

    Raises:
        MachineError: If the disk refuses.
    """
    figure = Figure(figsize=(9, 5), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_title(legible(title), parse_math=False)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    shown = np.flatnonzero(curves.has_truth())
    if len(shown):
        _draw_classes(axes, curves, shown.tolist())
        _draw_mean(axes, curves, shown.tolist())
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)
        fonts = fonts_for(curves.class_names)
        for text in legend.get_texts():
            text.set(parse_math=False, fontfamily=fonts, fontsize=9)
    else:
        axes.text(0.5, 0.5, "no ground truth", ha="center")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.15)


def _draw_mean(axes: Axes, curves: PrecisionRecall, shown: list[int]) -> None:
    for iou, style, name in ((_IOU_50, "-", "AP50"), (_IOU_75, "--", "AP75")):
        mean = curves.precision[iou][:, shown].mean(axis=1)
        _plot(
            axes, curves, mean, label="mean", area=name, color="black", linewidth=2.2, style=style
        )


def _draw_classes(axes: Axes, curves: PrecisionRecall, shown: list[int]) -> None:
    if len(shown) == 1 and len(curves.class_names) == 1:
        return
    if len(shown) > MAX_NAMED_CLASSES:
        lines = axes.plot(
            curves.recalls, curves.precision[_IOU_50][:, shown], color="0.75", linewidth=0.7
        )
        lines[0].set_label(f"each of {len(shown)} classes")
        return
    names = class_labels_to_draw(curves.class_names)
    colors = matplotlib.color_sequences["tab10"]
    for k, color in zip(shown, colors[: len(shown)], strict=True):
        _plot(
            axes,
            curves,
            curves.precision[_IOU_50, :, k],
            label=shortened(names[k], limit=_MAX_NAME),
            area="AP50",
            color=color,
            linewidth=1.2,
            style="-",
        )


def _plot(
    axes: Axes,
    curves: PrecisionRecall,
    precision: Floats,
    *,
    label: str,
    area: str,
    color: ColorType,
    linewidth: float,
    style: str,
) -> None:
    axes.plot(
        curves.recalls,
        precision,
        style,
        color=color,
        linewidth=linewidth,
        label=f"{area} {precision.mean():.3f}  {label}",
    )
