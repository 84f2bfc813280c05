import os
import sys
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from tlcli.data.folders import list_images, read_class_folders, read_split_folders, split_folders
from tlcli.errors import DataError


def test_read_class_folders__equals_torchvision(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["1/a.png", "10/b.png", "2/deep/c.png", "2/a.png", "B/x.JPG", "a/y.png"])
    table = read_class_folders(tmp_path)
    oracle = ImageFolder(tmp_path)
    assert list(table.classes) == oracle.classes
    ours = dict(
        zip(map(str, table.paths("unsplit")), table.targets("unsplit").tolist(), strict=True)
    )
    assert ours == dict(oracle.samples)
    assert table.remarks == ()
    assert table.root.is_absolute()


def test_read_class_folders__same_leaf_name_stays_two_classes(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["a/cat/1.png", "b/cat/1.png", "b/dog/2.png"])
    table = read_class_folders(tmp_path)
    assert table.classes == ("a", "b")  # timm would merge a/cat with b/cat
    assert table.counts() == {"unsplit": {"a": 1, "b": 2}}


def test_read_class_folders__hidden_are_skipped_and_others_told(
    tmp_path: Path, write_images
) -> None:
    write_images(
        tmp_path,
        [
            "a/1.png",
            "a/._1.png",
            "a/.ipynb_checkpoints/1-checkpoint.png",
            "b/2.png",
            "__MACOSX/a/3.png",
            "b/@eaDir/thumb.jpg",
            "loose.png",
        ],
    )
    for name in ("a/Thumbs.db", "a/.DS_Store", "README", "a/notes.txt", "b/labels.json"):
        (tmp_path / name).touch()
    table = read_class_folders(tmp_path)
    assert list(table.items["path"]) == ["a/1.png", "b/2.png"]
    assert table.remarks == (
        f"{tmp_path}: 1 image outside class folders, not used: 'loose.png'.",
        f"{tmp_path}: 4 files that are no images, not used:"
        " 'README', 'a/Thumbs.db', 'a/notes.txt' and 1 more.",
    )


def test_read_class_folders__empty_class_is_an_error(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["a/1.png", "b/1.png"])
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match=r"No images in the class folders 'c' of"):
        read_class_folders(tmp_path)


@pytest.mark.parametrize("word", ["val", "valid", "validation", "Validation"])
def test_read_split_folders__words_for_val(tmp_path: Path, write_images, word: str) -> None:
    names = ["train/a/1.png", "train/b/1.png", f"{word}/b/2.png", "test/a/3.png"]
    write_images(tmp_path, names)
    table = read_split_folders(tmp_path)
    assert table.splits == ("train", "val", "test")
    assert list(table.part("val")["path"]) == [f"{word}/b/2.png"]
    assert table.targets("val").tolist() == [1]  # b is class 1 although val has no a
    assert "val has no images of 1 of 2 classes: 'a'." in table.remarks


def test_read_split_folders__class_that_train_lacks(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["train/a/1.png", "train/c/1.png", "val/b/1.png", "val/c/1.png"])
    with pytest.raises(DataError, match=r"The val part of .* has images of 'b', of which train"):
        read_split_folders(tmp_path)


def test_read_split_folders__two_folders_for_val(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["train/a/1.png", "train/b/1.png", "val/a/1.png", "validation/a/2.png"])
    with pytest.raises(DataError, match=r"'val', 'validation', which all mean 'val'; keep one"):
        read_split_folders(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_read_split_folders__empty_class(tmp_path: Path, write_images, split: str) -> None:
    write_images(tmp_path, ["train/a/1.png", "train/b/1.png", "val/a/1.png"])
    (tmp_path / split / "c").mkdir()
    if split == "train":
        with pytest.raises(DataError, match=r"No images in the class folders 'c' of .*train"):
            read_split_folders(tmp_path)
    else:
        assert "val: 1 empty class folder: 'c'." in read_split_folders(tmp_path).remarks


def test_read_split_folders__images_without_class_folders(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["train/a/1.png", "train/b/1.png", "test/1.png", "test/2.png"])
    with pytest.raises(DataError, match=r"test has no images in class folders \(2 images"):
        read_split_folders(tmp_path)


def test_read_split_folders__other_folders_are_told(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["train/a/1.png", "train/b/1.png", "extra/c/1.png"])
    table = read_split_folders(tmp_path)
    assert table.remarks == (f"1 folder beside the splits of {tmp_path} is not used: 'extra'.",)


def test_split_folders__a_class_called_train(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["bus/1.png", "car/1.png", "train/1.png"])
    assert split_folders(tmp_path) == {}
    write_images(tmp_path, ["train/inside/1.png"])
    assert split_folders(tmp_path) == {"train": ["train"]}


def test_list_images__follows_links_but_not_in_circles(tmp_path: Path, write_images) -> None:
    write_images(tmp_path, ["real/1.png", "real/2.PNG"])
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "linked").symlink_to(tmp_path / "real")
    assert list_images(tmp_path / "seen").images == ["linked/1.png", "linked/2.PNG"]
    (tmp_path / "real" / "up").symlink_to(tmp_path / "real")
    with pytest.raises(DataError, match="up is a link to a folder above it"):
        list_images(tmp_path / "real")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_list_images__name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    with pytest.raises(DataError, match=r"name b'caf\\xe9\.png' in .* is not valid UTF-8; rename"):
        list_images(tmp_path)


def test_list_images__folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*gone: No such file"):
        list_images(tmp_path / "gone")


def test_read_split_folders__hymenoptera(shared_data: Path) -> None:
    counts = read_split_folders(shared_data / "hymenoptera").counts()
    assert {split: sum(n.values()) for split, n in counts.items()} == {"train": 245, "val": 153}


def test_read_split_folders__clothing10(shared_data: Path) -> None:
    table = read_split_folders(shared_data / "clothing10")
    assert len(table.classes) == 10
    assert table.classes[-1] == "t-shirt"
    totals = {split: sum(n.values()) for split, n in table.counts().items()}
    assert totals == {"train": 3068, "val": 341, "test": 372}


def test_read_class_folders__brain_mri(shared_data: Path) -> None:
    table = read_class_folders(shared_data / "brain_mri")
    assert table.counts() == {"unsplit": {"no": 98, "yes": 155}}
