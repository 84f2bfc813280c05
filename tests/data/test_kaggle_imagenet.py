from pathlib import Path

import pytest

from tlcli.data.kaggle_imagenet import read_kaggle_imagenet
from tlcli.errors import DataError

IMAGES = "ILSVRC/Data/CLS-LOC"
MAPPING = "n03 third, last of all\nn01 first\nn02 second\n"
SOLUTION = "ImageId,PredictionString\nv2,n01 1 1 5 5 \nv1,n03 1 1 5 5 n03 2 2 4 4 \n"


@pytest.fixture
def root(tmp_path: Path, write_images) -> Path:
    write_images(tmp_path, [f"{IMAGES}/val/{name}.JPEG" for name in ("v1", "v2")])
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING)
    (tmp_path / "LOC_val_solution.csv").write_text(SOLUTION)
    return tmp_path


def test_read_kaggle_imagenet__order_and_titles_come_from_the_mapping(root: Path) -> None:
    table = read_kaggle_imagenet(root)
    assert table.classes == ("n03", "n01", "n02")
    assert table.class_titles == {"n03": "third, last of all", "n01": "first", "n02": "second"}
    assert table.items.values.tolist() == [
        [f"{IMAGES}/val/v2.JPEG", "n01", "val", ""],
        [f"{IMAGES}/val/v1.JPEG", "n03", "val", ""],
    ]
    assert table.targets("val").tolist() == [1, 0]


def test_read_kaggle_imagenet__train_folders_and_test(root: Path, write_images) -> None:
    write_images(
        root,
        [f"{IMAGES}/train/{c}/{c}_1.JPEG" for c in ("n01", "n02", "n03")]
        + [f"{IMAGES}/test/t.JPEG"],
    )
    table = read_kaggle_imagenet(root)
    assert table.counts()["train"] == {"n03": 1, "n01": 1, "n02": 1}
    assert f"{IMAGES}/test has no labels and is not used." in table.remarks


def test_read_kaggle_imagenet__train_without_a_class_of_val(root: Path, write_images) -> None:
    write_images(root, [f"{IMAGES}/train/{c}/1.JPEG" for c in ("n01", "n02")])
    with pytest.raises(DataError, match=r"val part of .* has images of 'n03', of which train"):
        read_kaggle_imagenet(root)


def test_read_kaggle_imagenet__image_without_file_and_reverse(root: Path, write_images) -> None:
    (root / IMAGES / "val" / "v1.JPEG").unlink()
    write_images(root, [f"{IMAGES}/val/v9.JPEG"])
    message = r"1 image without a file \('v1'\), 1 file without a label \('v9'\)"
    with pytest.raises(DataError, match=message):
        read_kaggle_imagenet(root)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("LOC_val_solution.csv", SOLUTION + "v3,n99 1\n", "classes that .* lacks: 'n99'"),
        ("LOC_val_solution.csv", SOLUTION + "v2,n02 1\n", "names images twice: 'v2'"),
        ("LOC_val_solution.csv", "Id,Text\nv1,n01\n", "lacks the columns ImageId"),
        ("LOC_synset_mapping.txt", MAPPING + "n01 again\n", "names a class twice"),
    ],
)
def test_read_kaggle_imagenet__refuses(root: Path, name: str, text: str, message: str) -> None:
    (root / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_kaggle_imagenet(root)


def test_read_kaggle_imagenet__no_mapping(root: Path) -> None:
    (root / "LOC_synset_mapping.txt").unlink()
    with pytest.raises(DataError, match=r"LOC_synset_mapping\.txt, which names the classes"):
        read_kaggle_imagenet(root)


def test_read_kaggle_imagenet__unknown_train_folder(root: Path, write_images) -> None:
    write_images(root, [f"{IMAGES}/train/n77/1.JPEG"])
    with pytest.raises(
        DataError, match=r"train has folders that LOC_synset_mapping\.txt lacks: 'n77'"
    ):
        read_kaggle_imagenet(root)


def test_read_kaggle_imagenet__real_sample(shared_data: Path) -> None:
    table = read_kaggle_imagenet(shared_data / "imagenet_kaggle_mini")
    assert table.splits == ("val",)
    assert sorted(table.targets("val").tolist()) == list(range(1000))
    assert table.classes[0] == "n01440764"
    assert table.class_titles["n01440764"] == "tench, Tinca tinca"
    assert list(table.classes) == sorted(table.classes)  # the outputs of ImageNet weights
