"""Small detection data sets made on the spot."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

WriteCoco = Callable[..., Path]


@pytest.fixture
def write_coco(tmp_path: Path) -> WriteCoco:
    """Write a json and, for every image in it, a gray 40 x 30 picture below `folder`."""

    def write(
        name: str = "annotations/instances_train2017.json",
        *,
        folder: str = "train2017",
        images: Sequence[dict[str, Any]] | None = None,
        annotations: Sequence[dict[str, Any]] | None = None,
        categories: Sequence[dict[str, Any]] | None = None,
        size: tuple[int, int] = (40, 30),
    ) -> Path:
        document = {
            "images": [image(1)] if images is None else images,
            "annotations": [annotation(1)] if annotations is None else annotations,
            "categories": [{"id": 7, "name": "cat"}] if categories is None else categories,
        }
        for row in document["images"]:
            path = tmp_path / folder / str(row.get("file_name", "none.png"))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", size).save(path)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
        return path

    return write


def image(number: int, **others: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.png", "width": 40, "height": 30, **others}


def annotation(number: int, **others: Any) -> dict[str, Any]:
    plain = {"id": number, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20]}
    return {**plain, "area": 150.5, "iscrowd": 0, **others}


def without(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}
