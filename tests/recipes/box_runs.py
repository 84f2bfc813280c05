"""Small pictures with boxes, and detectors trained on them as the commands would."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from toy import CollectedTalk

from recipes.runs import plain_options
from tlcli.config import DetectFinetuneConfig
from tlcli.recipes import detect_finetune as recipe

COLOURS = {"ant": (220, 40, 40), "bee": (40, 200, 60), "cat": (60, 70, 230)}
IDS = {"ant": 7, "bee": 3, "cat": 40}
"""With gaps, and not in the order of the names."""
SIZE = (96, 72)

SMALL: dict[str, Any] = {
    "model": "fasterrcnn",
    "backbone": "timm/test_resnet",
    "weights": "none",
    "image_size": 64,
    "epochs": 2,
    "batch_size": 3,
    "num_workers": 1,
    "device": "cpu",
}


def detect_config(output: Path | None, **options: Any) -> DetectFinetuneConfig:
    return DetectFinetuneConfig.from_options(plain_options({**SMALL, "output": output, **options}))


def detect(output: Path, **options: Any) -> tuple[dict[str, Any], CollectedTalk]:
    """Train as `tlcli detect-finetune` would; return what `--json` prints and what was said."""
    talk = CollectedTalk()
    return recipe.run(detect_config(output, **options), talk=talk), talk


def make_box_folder(
    root: Path,
    *,
    counts: Mapping[str, int],
    ids: Mapping[str, int] = IDS,
    names: Mapping[str, str] | None = None,
    empty: Sequence[str] = (),
    size: tuple[int, int] = SIZE,
    seed: int = 0,
) -> Path:
    """Write a COCO folder of noisy pictures with one to three rectangles in the class's colour.

    Args:
        root: To write to.
        counts: Images of each split.
        ids: Category id of each class; no other classes are drawn.
        names: What to call the classes in the files, where not as here.
        empty: Images without boxes, such as `val/0`.
        size: Width and height in pixels.
        seed: Of pictures and boxes; they depend on the class names, not on the ids.
    """
    (root / "annotations").mkdir(parents=True)
    for number, (split, count) in enumerate(counts.items()):
        (root / split).mkdir()
        images, annotations = [], []
        for index in range(count):
            rng = np.random.default_rng((seed, number, index))
            some = 0 if f"{split}/{index}" in empty else 1 + index % 3
            picture, boxes = scene(rng, boxes=some, size=size, classes=sorted(ids))
            Image.fromarray(picture).save(root / split / f"{index}.png")
            image_id = 10 + 3 * index
            images.append(
                {
                    "id": image_id,
                    "file_name": f"{index}.png",
                    "width": size[0],
                    "height": size[1],
                }
            )
            for name, box in boxes:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": ids[name],
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        document = {
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": number, "name": (names or {}).get(name, name)}
                for name, number in ids.items()
            ],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def scene(
    rng: np.random.Generator, *, boxes: int, size: tuple[int, int], classes: Sequence[str]
) -> tuple[NDArray[np.uint8], list[tuple[str, list[int]]]]:
    """Draw a picture (H, W, 3) and its boxes: class, and x, y, width, height."""
    picture = rng.integers(90, 130, (size[1], size[0], 3), dtype=np.uint8)
    found = []
    for _ in range(boxes):
        name = str(rng.choice(classes))
        width, height = (int(rng.integers(side // 4, side // 2)) for side in size)
        x, y = int(rng.integers(size[0] - width)), int(rng.integers(size[1] - height))
        picture[y : y + height, x : x + width] = COLOURS[name]
        found.append((name, [x, y, width, height]))
    return picture, found
