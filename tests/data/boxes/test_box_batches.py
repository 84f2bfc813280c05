"""Training batches of boxes: every image once, boxes in the picture's own pixels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_boxes import annotation_record, image_record, write_coco, write_picture

from tlcli.data.boxes.box_batches import (
    BoxBatch,
    BoxDataset,
    BoxSample,
    box_batches,
    box_samples,
    grouped_batches,
)
from tlcli.data.boxes.box_catalog import load_boxes
from tlcli.errors import BadImageError, DataError

ORIENTATION = 6  # stored lying, to be turned by 90 degrees


def sample_of(path: Path = Path("none.png"), **others: Any) -> BoxSample:
    """One box of class 1 in a 40 x 30 frame."""
    plain: dict[str, Any] = {
        "path": path,
        "width": 40,
        "height": 30,
        "is_upright": True,
        "boxes": np.array([[4.0, 6.0, 10.0, 12.0]]),
        "labels": np.array([1]),
    }
    return BoxSample(**{**plain, **others})


def batch_of(samples: Sequence[BoxSample]) -> BoxBatch:
    """Read all samples as one batch without augmentation."""
    references = [[(index, 0) for index in range(len(samples))]]
    (batch,) = box_batches(BoxDataset(samples), references, num_workers=0, pin_memory=False)
    return batch


@pytest.fixture
def samples(tmp_path: Path) -> list[BoxSample]:
    """Seven different pictures of two shapes, each with one or two boxes."""
    found = []
    for number in range(7):
        size = (40, 30) if number % 2 else (24, 48)
        rng = np.random.default_rng(number)
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
        boxes = rng.uniform(1, 10, (1 + number % 2, 4))
        labels = rng.integers(1, 4, len(boxes))
        found.append(sample_of(path, width=size[0], height=size[1], boxes=boxes, labels=labels))
    return found


@given(
    aspects=st.lists(st.floats(0.05, 20), min_size=1, max_size=40),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
def test_grouped_batches__every_image_once(
    aspects: list[float], batch_size: int, seed: int, epoch: int
) -> None:
    samples = [sample_of(width=max(1, round(100 * aspect)), height=100) for aspect in aspects]

    batches = grouped_batches(samples, batch_size=batch_size, seed=seed, epoch=epoch)

    references = sorted(reference for batch in batches for reference in batch)
    assert references == [(index, epoch) for index in range(len(samples))]
    full, left = divmod(len(samples), batch_size)
    sizes = sorted(map(len, batches))
    if left == 1 and full:  # BatchNorm needs company
        assert sizes == [batch_size] * (full - 1) + [batch_size + 1]
    else:
        assert sizes == [left] * (left > 0) + [batch_size] * full
    again = grouped_batches(samples, batch_size=batch_size, seed=seed, epoch=epoch)
    assert again == batches


def test_grouped_batches__single_image_joins_the_nearest_shape() -> None:
    sides = [(30, 90)] * 4 + [(90, 90)] * 4 + [(90, 30)] * 4 + [(30, 80)]
    samples = [sample_of(width=width, height=height) for width, height in sides]

    batches = grouped_batches(samples, batch_size=4, seed=0, epoch=0)

    found = sorted(sorted(index for index, _ in batch) for batch in batches)
    (joined,) = [batch for batch in found if len(batch) == 5]
    tall = {0, 1, 2, 3, 12}
    assert set(joined) == tall


def test_grouped_batches__tall_and_wide_are_kept_apart() -> None:
    samples = [sample_of(width=w, height=h) for w, h in [(90, 60), (60, 90)] * 25]

    batches = grouped_batches(samples, batch_size=4, seed=0, epoch=0)

    is_wide = [[samples[index].width > 60 for index, _ in batch] for batch in batches]
    # each shape has 25 = 6 * 4 + 1 images; only the two that are left may share a batch
    assert sum(any(found) and not all(found) for found in is_wide) == 1


def test_grouped_batches__order_comes_from_seed_and_epoch() -> None:
    samples = [sample_of()] * 30

    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = grouped_batches(samples, batch_size=4, seed=seed, epoch=epoch)
        return [[index for index, _ in batch] for batch in batches]

    torch.manual_seed(5)
    first = order(1, 2)
    np.random.seed(7)
    torch.manual_seed(6)
    assert order(1, 2) == first
    assert order(2, 2) != first
    assert order(1, 3) != first
    assert sorted(map(sorted, order(1, 3))) != sorted(map(sorted, first))  # other companions too


@pytest.mark.parametrize("augment", ["none", "medium"])
def test_box_batches__workers_change_nothing(samples: list[BoxSample], augment: Any) -> None:
    references = grouped_batches(samples, batch_size=2, seed=3, epoch=1)
    dataset = BoxDataset(samples, augment=augment, seed=3)

    here, there = (
        list(box_batches(dataset, references, num_workers=number, pin_memory=False))
        for number in (0, 2)
    )

    assert [b.indices.tolist() for b in here] == [[i for i, _ in batch] for batch in references]
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.indices, other.indices)
        for image, same in zip(one.images, other.images, strict=True):
            assert torch.equal(image, same)
        for target, same in zip(one.targets, other.targets, strict=True):
            assert target.keys() == same.keys() == {"boxes", "labels"}
            assert all(torch.equal(target[name], same[name]) for name in target)


def test_box_batches__pixels_and_boxes_of_a_plain_picture(samples: list[BoxSample]) -> None:
    batch = batch_of(samples)

    for sample, image, target in zip(samples, batch.images, batch.targets, strict=True):
        pixels = np.asarray(Image.open(sample.path).convert("RGB")).transpose(2, 0, 1)
        assert image.dtype is torch.uint8
        assert np.array_equal(image.numpy(), pixels)
        x, y, width, height = sample.boxes.T
        corners = np.stack([x, y, x + width, y + height], axis=1).astype(np.float32)
        assert np.array_equal(target["boxes"].numpy(), corners)
        assert target["labels"].tolist() == sample.labels.tolist()
        assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)


def test_box_batches__boxes_are_scaled_to_the_picture(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "large.png", (120, 60))

    batch = batch_of([sample_of(path, width=40, height=30)])

    assert tuple(batch.images[0].shape) == (3, 60, 120)
    # 4 6 10 12 in 40 x 30: three times as wide, twice as high
    assert batch.targets[0]["boxes"].tolist() == [[12.0, 12.0, 42.0, 36.0]]


@pytest.mark.parametrize(("is_upright", "shape"), [(True, (3, 40, 30)), (False, (3, 30, 40))])
def test_box_batches__turned_only_if_the_frame_is(
    tmp_path: Path, is_upright: bool, shape: tuple[int, int, int]
) -> None:
    path = write_picture(tmp_path / "turned.jpg", (40, 30), orientation=ORIENTATION)
    width, height = shape[2], shape[1]

    batch = batch_of([sample_of(path, width=width, height=height, is_upright=is_upright)])

    assert tuple(batch.images[0].shape) == shape
    assert batch.targets[0]["boxes"].tolist() == [[4.0, 6.0, 14.0, 18.0]]


def test_box_batches__what_hangs_over_the_edge_is_cut_off(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "plain.png")
    boxes = np.array(
        [[-0.5, -0.25, 10, 10], [35.5, 25.5, 5, 5], [-0.5, 3, 0.5, 9], [40, 2, 0.5, 4]]
    )

    batch = batch_of([sample_of(path, boxes=boxes, labels=np.array([3, 2, 1, 4]))])

    assert batch.targets[0]["boxes"].tolist() == [[0, 0, 9.5, 9.75], [35.5, 25.5, 40, 30]]
    assert batch.targets[0]["labels"].tolist() == [3, 2]  # nothing is left of the other two


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("content", "error", "words"),
    [(b"no picture", BadImageError, r"Cannot decode .*3\.png"), (None, DataError, r"3\.png")],
    ids=["broken", "missing"],
)
def test_box_batches__image_that_cannot_be_read_is_named(
    samples: list[BoxSample],
    num_workers: int,
    content: bytes | None,
    error: type[DataError],
    words: str,
) -> None:
    samples[3].path.unlink()
    if content is not None:
        samples[3].path.write_bytes(content)
    references = [[(index, 0)] for index in range(len(samples))]
    batches = box_batches(
        BoxDataset(samples), references, num_workers=num_workers, pin_memory=False
    )

    with pytest.raises(error, match=words):
        list(batches)


def test_box_dataset__view_depends_on_seed_and_number(samples: list[BoxSample]) -> None:
    def image(seed: int, view: int) -> torch.Tensor:
        item = BoxDataset(samples, augment="medium", seed=seed)[(0, view)]
        assert not isinstance(item, DataError)
        return item.image

    first = image(0, 0)
    assert torch.equal(image(0, 0), first)
    assert any(not torch.equal(image(0, view), first) for view in range(1, 4))
    assert any(not torch.equal(image(seed, 0), first) for seed in range(1, 4))


def test_box_samples__rows_of_a_table(tmp_path: Path) -> None:
    categories = [{"id": 9, "name": "zebra"}, {"id": 2, "name": "ant"}]
    annotations = [
        annotation_record(1, image_id=3, category_id=9, bbox=[1, 1, 5, 6]),
        annotation_record(2, image_id=1, category_id=2, bbox=[2.5, 3, 7, 8]),
        annotation_record(3, image_id=3, category_id=2, bbox=[0, 0, 20, 20], iscrowd=1),
        annotation_record(4, image_id=3, category_id=2, bbox=[4, 4, 9.5, 9]),
    ]
    source = write_coco(
        tmp_path / "boxes.json",
        folder=tmp_path,
        images=[image_record(number) for number in (1, 2, 3)],
        annotations=annotations,
        categories=categories,
    )
    table = load_boxes(str(source), on_bad_box="fail")

    samples = box_samples(table, "unsplit")

    assert [sample.path for sample in samples] == [tmp_path / f"{n}.png" for n in (1, 2, 3)]
    assert [(s.width, s.height, s.is_upright) for s in samples] == [(40, 30, True)] * 3
    # classes are numbered by id: ant 1, zebra 2; the crowd is not learned from
    assert [sample.labels.tolist() for sample in samples] == [[1], [], [2, 1]]
    assert [sample.boxes.tolist() for sample in samples] == [
        [[2.5, 3, 7, 8]],
        [],
        [[1, 1, 5, 6], [4, 4, 9.5, 9]],
    ]
    negative = batch_of(samples).targets[1]
    assert (tuple(negative["boxes"].shape), negative["boxes"].dtype) == ((0, 4), torch.float32)
    assert (tuple(negative["labels"].shape), negative["labels"].dtype) == ((0,), torch.int64)


def test_box_samples__of_one_split_only(tmp_path: Path) -> None:
    source = write_coco(
        tmp_path / "boxes.json",
        folder=tmp_path,
        images=[image_record(number) for number in (1, 2)],
        annotations=[annotation_record(1, image_id=1), annotation_record(2, image_id=2)],
    )
    table = load_boxes(str(source), on_bad_box="fail")
    parts = table.images.assign(split=["val", "train"])
    table = replace(table, images=parts)

    assert [sample.path.name for sample in box_samples(table, "train")] == ["2.png"]
    assert [sample.labels.tolist() for sample in box_samples(table, "train")] == [[1]]
    with pytest.raises(DataError, match="has no 'test' part"):
        box_samples(table, "test")


def test_box_samples__crowds_alone_are_not_trained_on(tmp_path: Path) -> None:
    source = write_coco(
        tmp_path / "boxes.json",
        folder=tmp_path,
        images=[image_record(number) for number in (1, 2, 3, 4)],
        annotations=[
            annotation_record(1, image_id=2, iscrowd=1),
            annotation_record(2, image_id=3, iscrowd=1),
            annotation_record(3, image_id=3),
            annotation_record(4, image_id=4),
        ],
    )
    table = load_boxes(str(source), on_bad_box="fail")

    def names(**options: bool) -> list[tuple[str, int]]:
        samples = box_samples(table, "unsplit", **options)
        return [(sample.path.name, len(sample.boxes)) for sample in samples]

    # 1 is a true negative; 2 shows objects that nobody drew boxes around
    assert names(for_training=True) == [("1.png", 0), ("3.png", 1), ("4.png", 1)]
    assert names() == [("1.png", 0), ("2.png", 0), ("3.png", 1), ("4.png", 1)]
