import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy import CollectedTalk, make_image_folder, make_split_folders

from tlcli.config import DataConfig
from tlcli.data.augment import AugmentLevel, TrainTransform, train_transform
from tlcli.data.catalog import load_table
from tlcli.data.exact_copies import ExactCopies
from tlcli.data.loaders import ImageBatch
from tlcli.data.preprocessing import Preprocessing
from tlcli.engine.runtime import Runtime
from tlcli.errors import ConfigError
from tlcli.recipes.batch_reader import BatchReader, default_workers
from tlcli.recipes.image_data import (
    absolute_spec,
    load_images,
    load_unsplit,
    write_copies,
)

RUNTIME = Runtime(device=torch.device("cpu"), amp_dtype=None, channels_last=False, seed=0)
SMALL = Preprocessing(
    input_size=(16, 16),
    resize_size=(16, 16),
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_split_folders(tmp_path / "photos", counts={"train": 5, "val": 3})


def reader_of(data: Path, *, batch_size: int = 4) -> BatchReader:
    return BatchReader(
        table=load_table(str(data)),
        preprocessing=SMALL,
        batch_size=batch_size,
        num_workers=0,
        runtime=RUNTIME,
        talk=CollectedTalk(),
    )


def view_of(level: AugmentLevel) -> TrainTransform:
    return train_transform(SMALL, level=level)


def rows_of(steps: Iterator[list[ImageBatch]]) -> list[list[list[int]]]:
    return [[batch.indices.tolist() for batch in step] for step in steps]


def test_absolute_spec__means_the_same_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert absolute_spec("photos") == str(tmp_path / "photos")
    assert absolute_spec("sample:digits") == "sample:digits"
    assert absolute_spec("~/photos") == str(Path("~/photos").expanduser())


@pytest.mark.parametrize(
    ("given", "on", "expected"), [(None, "cpu", 0), (3, "cpu", 3), (0, "cuda", 0)]
)
def test_default_workers__none_on_the_cpu(given: int | None, on: str, expected: int) -> None:
    runtime = Runtime(device=torch.device(on), amp_dtype=None, channels_last=False, seed=0)

    assert default_workers(given, runtime=runtime) == expected


def test_evaluation__every_row_once_in_order(data: Path) -> None:
    batches = list(reader_of(data).evaluation("val"))

    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert torch.cat([batch.targets for batch in batches]).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("grad_accum_steps", [1, 3])
def test_training__goes_on_where_it_stopped(data: Path, grad_accum_steps: int) -> None:
    count, steps = reader_of(data).training(
        view_seed=0, transform=view_of("flip"), grad_accum_steps=grad_accum_steps
    )
    whole = rows_of(iter(steps(2, 0)))

    assert len(whole) == count == -(-4 // grad_accum_steps)
    assert sorted(row for step in whole for batch in step for row in batch) == list(range(15))
    for done in range(count + 1):
        assert rows_of(iter(steps(2, done))) == whole[done:]


def test_training__epochs_have_their_own_order_and_views(data: Path) -> None:
    _, steps = reader_of(data).training(
        transform=view_of("medium"), grad_accum_steps=1, view_seed=0
    )
    first, again, second = (list(steps(epoch, 0)) for epoch in (0, 0, 1))

    assert rows_of(iter(first)) == rows_of(iter(again)) != rows_of(iter(second))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one[0].images, other[0].images)

    def picture(epoch: list[list[ImageBatch]], row: int) -> torch.Tensor:
        batch = next(step[0] for step in epoch if row in step[0].indices)
        return batch.images[batch.indices.tolist().index(row)]

    assert any(not torch.equal(picture(first, row), picture(second, row)) for row in range(15))


def test_training__single_image_left_over_joins_a_batch(data: Path) -> None:
    _, steps = reader_of(data, batch_size=7).training(
        transform=view_of("none"), grad_accum_steps=1, view_seed=0
    )

    assert [len(step[0].indices) for step in steps(0, 0)] == [7, 8]


def test_load_images__copies_across_splits_are_warned_of(data: Path) -> None:
    (data / "val" / "ant" / "copy.png").write_bytes((data / "train" / "ant" / "0.png").read_bytes())
    talk = CollectedTalk()

    images = load_images(DataConfig(data=str(data)), seed=0, talk=talk)

    assert images.copies.crossing == 1
    assert images.copies.rows == (("val/ant/copy.png", "val", "train/ant/0.png", "train"),)
    assert talk.warnings == [
        "1 image is an exact copy of another, and 1 of the copied pictures lies in more than one "
        "split: results on val and test are flattered. 'val/ant/copy.png' equals 'train/ant/0.png' "
        "(duplicates.csv of a run folder lists all)."
    ]
    assert talk.notes == [f"Data: {data}: 3 classes, 15 train, 10 val images."]


def test_load_images__copies_in_one_split_are_told(data: Path) -> None:
    (data / "train" / "bee" / "copy.png").write_bytes(
        (data / "train" / "bee" / "0.png").read_bytes()
    )
    talk = CollectedTalk()

    images = load_images(DataConfig(data=str(data)), seed=0, talk=talk)

    assert images.copies.crossing == 0
    assert images.copies.rows == (("train/bee/copy.png", "train", "train/bee/0.png", "train"),)
    assert talk.warnings == [
        "1 image is an exact copy of another in the same split. 'train/bee/copy.png' equals "
        "'train/bee/0.png' (duplicates.csv of a run folder lists all)."
    ]


def test_load_images__few_of_many_copies_are_named_and_all_are_written(
    data: Path, tmp_path: Path
) -> None:
    content = (data / "train" / "ant" / "0.png").read_bytes()
    for number in range(4):
        (data / "train" / "ant" / f"copy{number}.png").write_bytes(content)
    (data / "val" / "ant" / "copy.png").write_bytes(content)
    talk = CollectedTalk()

    copies = load_images(DataConfig(data=str(data)), seed=0, talk=talk).copies
    write_copies(copies, tmp_path)

    (warning,) = talk.warnings
    assert "5 images are exact copies of others, and 1 of the copied pictures lies in" in warning
    assert (
        "flattered. 'val/ant/copy.png' equals 'train/ant/0.png', 'train/ant/copy0.png' " in warning
    )
    assert warning.count("' equals '") == 3
    assert ", … (duplicates.csv of" in warning
    lines = (tmp_path / "duplicates.csv").read_text().splitlines()
    assert lines[0] == "path,split,same_as,same_as_split"
    assert len(lines) == 6
    assert "train/ant/copy3.png,train,train/ant/0.png,train" in lines
    write_copies(ExactCopies(), tmp_path)
    assert not (tmp_path / "duplicates.csv").exists()


def test_load_images__val_split_where_there_is_a_val_part(data: Path) -> None:
    config = DataConfig(data=str(data), val_split=0.3)
    message = "--val-split 0.3 has no effect: .* has a val part already. Leave it out."
    with pytest.raises(ConfigError, match=message):
        load_images(config, seed=0, talk=CollectedTalk())
    sizes = load_images(replace(config, val_split=0.0), seed=0, talk=CollectedTalk()).table.sizes()
    assert sizes == {"train": 15, "val": 9}


def test_load_images__one_image_is_singular(tmp_path: Path) -> None:
    make_split_folders(tmp_path / "photos", counts={"train": 2, "val": 1})
    for name in ("bee", "cat"):
        shutil.rmtree(tmp_path / "photos" / "val" / name, ignore_errors=True)
    talk = CollectedTalk()
    load_images(DataConfig(data=str(tmp_path / "photos")), seed=0, talk=talk)
    assert talk.notes[0].endswith(" train, 1 val image.")


def test_load_images__class_names_without_a_font(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "photos", classes=("ant", "\ue7a1"), images_per_class=3)
    talk = CollectedTalk()
    load_images(DataConfig(data=str(tmp_path / "photos")), seed=0, talk=talk)
    told = r"No font on this machine has \ue7a1: figures show the numbers and letter codes of such"
    assert [warning.startswith(told) for warning in talk.warnings] == [True]


def test_load_images__limit_leaves_the_kept_split_whole(data: Path) -> None:
    images = load_images(DataConfig(data=str(data), limit=6), seed=0, talk=CollectedTalk())

    assert {k: sum(v.values()) for k, v in images.table.counts().items()} == {"train": 6, "val": 6}
    assert len(images.whole.items) == 24


def test_load_unsplit__makes_no_split(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path / "photos", images_per_class=2)

    talk = CollectedTalk()
    table = load_unsplit(DataConfig(data=str(data)), seed=0, talk=talk).table

    assert {k: sum(v.values()) for k, v in table.counts().items()} == {"unsplit": 6}


def test_training__balanced_shows_rare_classes_as_often(tmp_path: Path) -> None:
    data = make_image_folder(tmp_path / "p" / "train", classes=("ant",), images_per_class=7)
    make_image_folder(data, classes=("bee",), images_per_class=2)
    make_image_folder(tmp_path / "p" / "val", classes=("ant", "bee"), images_per_class=1)
    reader = reader_of(tmp_path / "p")

    count, steps = reader.training(
        transform=view_of("light"), grad_accum_steps=1, is_balanced=True, view_seed=0
    )

    targets = [batch.targets for step in steps(3, 0) for batch in step]
    assert count == len(targets) == 3
    assert torch.bincount(torch.cat(targets)).tolist() == [5, 5]
    assert rows_of(iter(steps(3, 1))) == rows_of(iter(steps(3, 0)))[1:]
