"""The images that a detector did best and worst on, with their boxes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tlcli.data.boxes.box_table import XYWH, BoxTable
from tlcli.data.images import read_image
from tlcli.engine.box_metrics import BoxEvaluation
from tlcli.engine.box_quality import best_score, image_quality
from tlcli.results.coco_documents import BoxPredictions
from tlcli.results.gallery import GalleryBox, GalleryPicture, draw_gallery, select_gallery

_PICTURES = 8


def draw_galleries(
    folder: Path,
    *,
    evaluation: BoxEvaluation,
    predictions: BoxPredictions,
    table: BoxTable,
    split: str,
) -> None:
    """Draw `gallery_best.png` and `gallery_worst.png` of a split.

    Args:
        folder: Where to write.
        evaluation: Of the split.
        predictions: What was evaluated.
        table: The data.
        split: Which part of it.
    """
    min_score = best_score(evaluation.matches)
    quality = image_quality(evaluation.matches, min_score=min_score)
    f1 = quality.f1()
    drawn = predictions.scored(min_score)
    best, worst = select_gallery(
        f1, num_boxes=quality.truths + quality.right + quality.wrong, count=_PICTURES
    )
    for name, positions in (("best", best), ("worst", worst)):
        pictures = [
            _picture(
                table,
                drawn,
                split=split,
                image_id=int(evaluation.image_ids[position]),
                f1=float(f1[position]),
            )
            for position in positions
        ]
        draw_gallery(
            folder / f"gallery_{name}.png",
            pictures=pictures,
            title=f"{split}: the {len(pictures)} {name} of {len(f1)} images "
            f"(F1 at IoU 0.5 of boxes scored {min_score:.2f} and more, the best choice)",
        )


def _picture(
    table: BoxTable, predictions: BoxPredictions, *, split: str, image_id: int, f1: float
) -> GalleryPicture:
    images = table.images_of(split)
    row = images[images["image_id"] == image_id].iloc[0]
    image = read_image(table.root / row["path"], upright=bool(row["is_upright"])).image
    frame = (int(row["width"]), int(row["height"]))
    return GalleryPicture(
        image=image if image.size == frame else image.resize(frame),
        caption=f"{Path(row['path']).name}  F1 {f1:.2f}",
        truths=_truths(table, row=int(row["row"])),
        detections=_detections(table, predictions, image_id=image_id),
    )


def _truths(table: BoxTable, *, row: int) -> list[GalleryBox]:
    boxes = table.boxes[table.boxes["image"] == row]
    return [
        GalleryBox(
            box=_four(values),
            class_index=int(index),
            name=table.classes[index],
            is_crowd=bool(is_crowd),
        )
        for values, index, is_crowd in zip(
            boxes[XYWH].to_numpy(), boxes["category"], boxes["is_crowd"], strict=True
        )
    ]


def _detections(table: BoxTable, predictions: BoxPredictions, *, image_id: int) -> list[GalleryBox]:
    index_of = {category.id: index for index, category in enumerate(table.categories)}
    return [
        GalleryBox(
            box=_four(predictions.boxes[position]),
            class_index=index_of[int(predictions.category_ids[position])],
            name=table.classes[index_of[int(predictions.category_ids[position])]],
            score=float(predictions.scores[position]),
        )
        for position in np.flatnonzero(predictions.image_ids == image_id)
    ]


def _four(values: Iterable[float]) -> tuple[float, float, float, float]:
    x, y, width, height = (float(value) for value in values)
    return x, y, width, height
