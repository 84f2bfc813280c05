from pathlib import Path

import pytest

from tlcli.data.boxes.yolo_yaml import YoloYaml, find_yolo_yaml, read_yolo_yaml
from tlcli.errors import DataError


def read(root: Path, text: str) -> YoloYaml:
    (root / "images").mkdir(parents=True, exist_ok=True)
    path = root / "data.yaml"
    path.write_text(text)
    return read_yolo_yaml(path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[no, 1, null, cat]", [(0, "no"), (1, "1"), (2, "null"), (3, "cat")]),
        ("{3: cat, 0: dog}", [(0, "dog"), (3, "cat")]),
    ],
)
def test_read_yolo_yaml__names_are_taken_as_text(
    tmp_path: Path, names: str, expected: list[tuple[int, str]]
) -> None:
    settings = read(tmp_path, f"train: images\nnames: {names}\n")
    assert [(item.id, item.name) for item in settings.categories] == expected


def test_read_yolo_yaml__path_and_parts(tmp_path: Path) -> None:
    (tmp_path / "data/images").mkdir(parents=True)
    text = "path: ../data\ntrain: images\nval: images\nnames: [a]\nnc: 1\n"
    settings = read(tmp_path / "settings", text)
    images = tmp_path / "data/images"
    assert settings.root == tmp_path / "data"
    assert settings.parts == {"train": (images,), "val": (images,)}
    assert settings.notes == ()


def test_read_yolo_yaml__folder_of_another_machine(tmp_path: Path) -> None:
    settings = read(tmp_path, "path: /nowhere/coco8\ntrain: images\nnames: [a]\n")
    assert settings.root == tmp_path
    assert settings.notes == (
        f"data.yaml gives path: /nowhere/coco8, which is not here; {tmp_path} is taken.",
    )
    with pytest.raises(DataError, match="gives path: /nowhere/coco8, and there is no folder"):
        read(tmp_path, "path: /nowhere/coco8\ntrain: pictures\nnames: [a]\n")


def test_read_yolo_yaml__roboflows_paths(tmp_path: Path) -> None:
    (tmp_path / "train/images").mkdir(parents=True)
    settings = read(tmp_path, "train: ../train/images\nnames: [a]\n")
    assert settings.parts == {"train": (tmp_path / "train/images",)}
    assert "'train/images' is taken, which is there." in settings.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a]\n", "names no images"),
        ("train: images\n", "needs names:"),
        ("train: images\nnames: []\n", "needs names:"),
        ("train: images\nnames: {a: 1}\n", "has the class index 'a'"),
        ("train: images\nnames: [a, '']\n", "class 1 has no name"),
        ("train: images\nnames: [[a]]\n", "class 0 has no name"),
        ("train: images\nnames: [a, b]\nnc: 3\n", "says nc: 3 but names 2 classes"),
        ("train: nowhere\nnames: [a]\n", "says 'nowhere', and there is no"),
        ("train: /\nnames: [a]\n", "says '/', which lies outside the data set's folder"),
        ("train: ../\nnames: [a]\n", "lies outside the data set's folder"),
        ("train: {a: b}\nnames: [a]\n", "has train: {'a': 'b'}; it must be a folder"),
        ("path: [a]\ntrain: images\nnames: [a]\n", "needs a folder as path:"),
        ("names: [a\n", "is not valid YAML"),
        ("!!python/object/apply:os.system [ls]\n", "is no YOLO data file"),
        ("", "is no YOLO data file"),
    ],
)
def test_read_yolo_yaml__what_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_find_yolo_yaml__data_yaml_first(tmp_path: Path) -> None:
    assert find_yolo_yaml(tmp_path) is None
    (tmp_path / "a.yaml").write_text("names: [x]")
    (tmp_path / "b.yml").write_text("- 1")
    assert find_yolo_yaml(tmp_path) == tmp_path / "a.yaml"
    (tmp_path / "data.yaml").write_text("names: [x]")
    assert find_yolo_yaml(tmp_path) == tmp_path / "data.yaml"
