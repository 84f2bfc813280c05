"""Small detection data sets made on the spot."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

Record = dict[str, Any]


def image_record(number: int, **others: Any) -> Record:
    return {"id": number, "file_name": f"{number}.png", "width": 40, "height": 30, **others}


def annotation_record(number: int, **others: Any) -> Record:
    plain = {"id": number, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20]}
    return {**plain, "area": 150.5, "iscrowd": 0, **others}


def without(record: Record, *keys: str) -> Record:
    return {key: value for key, value in record.items() if key not in keys}


def write_picture(path: Path, size: tuple[int, int] = (40, 30), *, orientation: int = 1) -> Path:
    """Write a gray picture whose EXIF block says how it is to be turned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    Image.new("L", size).save(path, exif=exif.tobytes())
    return path


def write_coco(
    path: Path,
    *,
    folder: Path | None = None,
    images: Sequence[Record] | None = None,
    annotations: Sequence[Record] | None = None,
    categories: Sequence[Record] | None = None,
) -> Path:
    """Write a COCO json and, where `folder` is given, a 40 x 30 picture per image into it."""
    document = {
        "images": [image_record(1)] if images is None else list(images),
        "annotations": [annotation_record(1)] if annotations is None else list(annotations),
        "categories": [{"id": 7, "name": "cat"}] if categories is None else list(categories),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    for record in document["images"] if folder else ():
        write_picture(folder / record["file_name"])
    return path


def write_voc(root: Path, objects: dict[str, Sequence[tuple[str, Sequence[Any]]]]) -> Path:
    """Write a 40 x 30 picture and an xml file for every name, with (class, corners) objects."""
    for name, rows in objects.items():
        write_picture(root / "JPEGImages" / f"{name}.jpg")
        body = "".join(
            f"<object><name>{kind}</name><bndbox>"
            + "".join(
                f"<{tag}>{value}</{tag}>"
                for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
            )
            + "</bndbox></object>"
            for kind, corners in rows
        )
        path = root / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = "<size><width>40</width><height>30</height></size>"
        path.write_text(f"<annotation>{size}{body}</annotation>")
    return root


def write_voc_list(root: Path, name: str, lines: Sequence[str]) -> None:
    path = root / "ImageSets" / "Main" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_yolo(root: Path, labels: dict[str, str | None], *, yaml: str) -> Path:
    """Write `images/NAME.png` (40 x 30), `labels/NAME.txt` where given, and `data.yaml`."""
    for name, text in labels.items():
        write_picture(root / "images" / f"{name}.png")
        if text is not None:
            path = root / "labels" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (root / "data.yaml").write_text(yaml)
    return root
