"""Data sets at the edge: thousands of classes, classes of one image, names in any script."""

import csv
import io
import time
from pathlib import Path

import pytest
from PIL import Image

from tlcli.data.catalog import load_table
from tlcli.data.class_file import choose_classes, read_class_file
from tlcli.data.folds import fold_table
from tlcli.data.split_file import read_split, write_split
from tlcli.data.splits import limit_table, split_table
from tlcli.errors import ConfigError, DataError

NAMES = (
    "猫",
    "עברית",
    "العربية",
    "हिन्दी",
    "😀 🐈‍⬛",
    "two words",
    'it\'s "quoted"',
    "semi;colon, comma",
    "Ünïcödé",
    "e\u0301",  # not the same name as \u00e9
    "\u00e9",
    "NA",
    "-1",
    "#1",
    "=1+1",
    "100%",
    " padded ",
)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 classes, of which the first has one image and the others have two."""
    root = tmp_path_factory.mktemp("many")
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "png")
    for number in range(5000):
        folder = root / f"class {number}"
        folder.mkdir()
        for image in range(2 if number else 1):
            (folder / f"{image}.png").write_bytes(buffer.getvalue())
    return root


def test_many_classes__take_seconds(many: Path, tmp_path: Path) -> None:
    started = time.process_time()

    table = load_table(str(many))
    split = split_table(table, val_fraction=0.2, test_fraction=0, seed=0)
    fold = fold_table(table, fold=1, folds=2, test_fraction=0, seed=0)
    limited = limit_table(split, limit=5000, seed=0)
    names = tmp_path / "classes.csv"
    names.write_text("".join(f"class {i},pair {i // 2}\n" for i in range(5000)))
    paired = choose_classes(table, read_class_file(names))

    assert time.process_time() - started < 30  # seconds; about 5 on a slow core
    assert len(table.classes) == 5000
    assert {split: sum(n.values()) for split, n in split.counts().items()} == {
        "train": 5000,
        "val": 4999,
    }
    assert len(fold.part("val")) == 4999
    assert len(limited.items) == 9999
    assert len(paired.classes) == 2500


def test_many_classes__limit_below_their_number(many: Path) -> None:
    table = split_table(load_table(str(many)), val_fraction=0.2, test_fraction=0, seed=0)
    with pytest.raises(ConfigError, match="--limit 4999 is smaller than the 5000 classes of train"):
        limit_table(table, limit=4999, seed=0)


def test_single_images__stay_in_train_and_are_told(tmp_path: Path, write_images) -> None:
    names = [f"many/{i}.png" for i in range(6)] + ["one/1.png", "solo/1.png"]
    table = load_table(str(write_images(tmp_path / "set", names)))

    split = split_table(table, val_fraction=0.5, test_fraction=0, seed=0)

    assert split.counts() == {
        "train": {"many": 3, "one": 1, "solo": 1},
        "val": {"many": 3, "one": 0, "solo": 0},
    }
    assert split.remarks == (
        "2 classes have a single image, which stays in train: 'one', 'solo'.",
        "val has no images of 2 of 3 classes: 'one', 'solo'.",
    )
    limited = limit_table(split, limit=3, seed=0)
    assert limited.counts()["train"] == {"many": 1, "one": 1, "solo": 1}


def test_empty_class_folders__are_told(tmp_path: Path, write_images) -> None:
    root = write_images(tmp_path / "set", ["train/a/1.png", "train/b/1.png", "val/a/2.png"])
    (root / "val" / "b").mkdir()
    table = load_table(str(root))
    assert table.remarks[0] == "val: 1 empty class folder: 'b'."
    (root / "train" / "c").mkdir()
    with pytest.raises(DataError, match=r"No images in the class folders 'c' of .*train; fill or"):
        load_table(str(root))


def test_names__in_any_script(tmp_path: Path, write_images) -> None:
    root = write_images(tmp_path / "set", [f"{n}/{i}.png" for n in NAMES for i in range(4)])

    table = split_table(load_table(str(root)), val_fraction=0.25, test_fraction=0, seed=0)

    assert table.classes == tuple(sorted(NAMES))
    assert table.counts()["val"] == dict.fromkeys(sorted(NAMES), 1)
    write_split(table, tmp_path / "splits.csv")
    again = read_split(load_table(str(root)), tmp_path / "splits.csv")
    assert again.items.equals(table.items)
    assert all(path.is_file() for path in table.paths("train"))
    assert limit_table(table, limit=len(NAMES), seed=0).counts()["train"] == dict.fromkeys(
        sorted(NAMES), 1
    )


def test_names__in_any_script_from_tables_and_class_files(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, [f"{i}.png" for i in range(len(NAMES))])
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("path", "label"), *((f"{i}.png", name) for i, name in enumerate(NAMES))]
        )
    table = load_table(str(tmp_path / "t.csv"))
    stripped = [name.strip() for name in NAMES]  # blanks around labels do not count
    assert table.classes == tuple(sorted(stripped))

    with (tmp_path / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((name, f"{name}!") for name in reversed(stripped))
    chosen = choose_classes(table, read_class_file(tmp_path / "classes.csv"))
    assert chosen.classes == tuple(f"{name}!" for name in reversed(stripped))
