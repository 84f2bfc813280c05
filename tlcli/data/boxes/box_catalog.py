"""From what the user gives as `--data` to a table of images and boxes."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tlcli.data.boxes.box_layouts import box_layout, find_label_file, yaml_lines
from tlcli.data.boxes.box_repair import OnBadBox
from tlcli.data.boxes.box_table import BoxTable
from tlcli.data.boxes.coco_folders import (
    find_coco_files,
    find_loose_coco_files,
    read_coco_file,
    read_coco_folder,
)
from tlcli.data.boxes.digit_scenes import digit_scenes_folder
from tlcli.data.boxes.image_headers import OnBadImage
from tlcli.data.boxes.pascal_voc import is_voc_folder, read_voc_folder
from tlcli.data.boxes.yolo import read_yolo
from tlcli.data.boxes.yolo_yaml import find_yolo_yaml
from tlcli.data.data_spec import load_sample
from tlcli.data.folders import list_images, split_folders, sub_folders
from tlcli.data.table import some_names
from tlcli.errors import DataError

SAMPLES: dict[str, Callable[[], Path]] = {"sample:digits": digit_scenes_folder}
UNDERSTOOD = (
    "For boxes, --data understands a COCO folder (annotations/instances_train*.json and"
    " instances_val*.json beside folders of images); Roboflow's train/_annotations.coco.json; one"
    " COCO .json with its images beside it, in images/ or in a folder near by; a Pascal VOC folder"
    " (Annotations, JPEGImages, ImageSets/Main); a YOLO data.yaml or its folder; and sample:digits."
)


def load_boxes(spec: str, *, on_bad_box: OnBadBox, on_bad_image: OnBadImage = "fail") -> BoxTable:
    """Read the detection data set that `spec` names.

    Args:
        spec: A folder, a .json or .yaml file, or `sample:digits`.
        on_bad_box: What to do with boxes without extent or outside their image; see
            `box_repair.repair_boxes`.
        on_bad_image: "skip" leaves out images whose header cannot be read, with their boxes; they
            are then in `skipped` of the table. Pixels are not looked at.

    Raises:
        DataError: nothing is there, it is laid out in no way understood here, or its files are
            not as they should be.
        BadImageError: an image file is none, and `on_bad_image` is "fail".
    """
    if spec.startswith("sample:"):
        path = load_sample(spec, SAMPLES)
    else:
        path = Path(os.path.abspath(Path(spec).expanduser()))  # noqa: PTH100  (absolute keeps "..")
    if not path.exists():
        raise DataError(f"There is no data at '{spec}'. {UNDERSTOOD}")
    load = _load_folder if path.is_dir() else _load_file
    return replace(load(path, on_bad_box=on_bad_box, on_bad_image=on_bad_image), spec=spec)


def _load_file(path: Path, *, on_bad_box: OnBadBox, on_bad_image: OnBadImage) -> BoxTable:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return read_coco_file(path, on_bad_box=on_bad_box, on_bad_image=on_bad_image)
    if suffix in (".yaml", ".yml"):
        return read_yolo(path, on_bad_box=on_bad_box, on_bad_image=on_bad_image)
    raise DataError(f"{path} is a file of no kind understood here. {UNDERSTOOD}")


def _load_folder(path: Path, *, on_bad_box: OnBadBox, on_bad_image: OnBadImage) -> BoxTable:
    if files := find_coco_files(path):
        return read_coco_folder(path, files, on_bad_box=on_bad_box, on_bad_image=on_bad_image)
    if is_voc_folder(path):
        return read_voc_folder(path, on_bad_box=on_bad_box, on_bad_image=on_bad_image)
    if settings := find_yolo_yaml(path):
        return read_yolo(settings, on_bad_box=on_bad_box, on_bad_image=on_bad_image)
    if files := find_loose_coco_files(path):
        return read_coco_folder(path, files, on_bad_box=on_bad_box, on_bad_image=on_bad_image)
    raise DataError(_not_understood(path))


def _not_understood(path: Path) -> str:
    if label := find_label_file(path):
        lines = ", ".join(f"`{line}`" for line in yaml_lines(path))
        return (
            f"{path} looks like YOLO boxes ({label.relative_to(path).as_posix()}), but data.yaml is"
            " missing, which says where the images are and what the classes are called. Write it"
            f" with lines like {lines}: the classes in the order of their numbers."
        )
    folders = sub_folders(path)
    deeper = [name for name in folders if box_layout(path / name)]
    if deeper:
        them = "folder {} has; give that" if len(deeper) == 1 else "folders {} have; give one"
        return f"{path} has no annotations, but its {them.format(some_names(deeper))}."
    if _has_class_folders(path):
        return (
            f"{path} has folders of images but no boxes: it looks like classification data, which"
            f" `tlcli finetune` takes. {UNDERSTOOD}"
        )
    found = f"it holds {some_names(folders, most=5)}" if folders else "it has no folders"
    return f"{path} has no annotations of a kind understood here: {found}. {UNDERSTOOD}"


def _has_class_folders(path: Path) -> bool:
    names = [name for found in split_folders(path).values() for name in found]
    for folder in [path / name for name in names] or [path]:
        if any(list_images(folder / name).images for name in sub_folders(folder)):
            return True
    return False
