import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tlcli.data.augment import train_transform
from tlcli.data.loaders import (
    ImageBatch,
    ImageDataset,
    epoch_batches,
    image_batches,
    ordered_batches,
)
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.transforms import eval_transform
from tlcli.errors import BadImageError, ConfigError, DataError, MachineError

P = Preprocessing(input_size=(8, 8), resize_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def paths(tmp_path: Path, write_images) -> list[Path]:
    names = [f"ü {i}.png" for i in range(11)]
    write_images(tmp_path, names)
    return [tmp_path / name for name in names]


def train_set(paths: Sequence[Path], *, seed: int = 3) -> ImageDataset:
    transform = train_transform(P, level="medium")
    return ImageDataset(paths, range(len(paths)), transform=transform, seed=seed)


def read(dataset: ImageDataset, batches: list, *, num_workers: int = 0) -> list[ImageBatch]:
    return list(image_batches(dataset, batches, num_workers=num_workers, pin_memory=False))


def same(a: list[ImageBatch], b: list[ImageBatch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y)
        for one, two in zip(a, b, strict=True)
        for x, y in zip(one, two, strict=True)
    )


def test_image_batches__workers_change_nothing(paths: list[Path]) -> None:
    batches = epoch_batches(11, batch_size=3, seed=3, epoch=2)
    alone = read(train_set(paths), batches)
    assert same(alone, read(train_set(paths), batches, num_workers=2))


def test_image_batches__seed_and_epoch_change_the_pixels(paths: list[Path]) -> None:
    def pixels(seed: int, epoch: int) -> Tensor:
        return torch.cat(
            [b.images for b in read(train_set(paths, seed=seed), [[(i, epoch) for i in range(11)]])]
        )

    base = pixels(3, 0)
    assert torch.equal(base, pixels(3, 0))
    assert not torch.equal(base, pixels(4, 0))
    assert not torch.equal(base, pixels(3, 1))


def test_image_batches__a_resumed_epoch_sees_the_same(paths: list[Path]) -> None:
    batches = epoch_batches(11, batch_size=3, seed=3, epoch=5)
    assert same(read(train_set(paths), batches)[2:], read(train_set(paths), batches[2:]))


def test_image_batches__content_of_a_batch(paths: list[Path]) -> None:
    targets = np.arange(11) * 10
    dataset = ImageDataset(paths, targets, transform=eval_transform(P))
    found = read(dataset, [[(4, 0), (1, 0)]])
    assert len(found) == 1
    assert found[0].images.dtype == torch.uint8
    assert found[0].images.shape == (2, 3, 8, 8)
    assert torch.equal(found[0].images[1], eval_transform(P)(Image.open(paths[1])))
    assert found[0].targets.tolist() == [40, 10]
    assert found[0].indices.tolist() == [4, 1]
    assert found[0].targets.dtype == found[0].indices.dtype == torch.int64


@pytest.mark.parametrize("num_workers", [0, 2])
def test_image_batches__rows_of_any_number_of_classes(paths: list[Path], num_workers: int) -> None:
    labels = np.random.default_rng(0).random((11, 4)) < 0.5
    dataset = ImageDataset(paths, labels, transform=eval_transform(P))
    found = read(dataset, [[(4, 0), (1, 0)], [(10, 0)]], num_workers=num_workers)
    assert found[0].targets.dtype == torch.bool
    assert [batch.targets.tolist() for batch in found] == [
        labels[[4, 1]].tolist(),
        labels[[10]].tolist(),
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_image_batches__bad_image_is_named_and_not_replaced(
    paths: list[Path], num_workers: int
) -> None:
    paths[4].write_bytes(paths[4].read_bytes()[:60])
    dataset = ImageDataset(paths, range(11), transform=eval_transform(P))
    stream = image_batches(
        dataset, ordered_batches(11, batch_size=2), num_workers=num_workers, pin_memory=False
    )
    assert next(stream).indices.tolist() == [0, 1]
    assert next(stream).indices.tolist() == [2, 3]
    with pytest.raises(BadImageError, match=r"^Cannot decode .*ü 4\.png: [^\n]*$"):
        next(stream)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_image_batches__vanished_file(paths: list[Path], num_workers: int) -> None:
    paths[0].unlink()
    dataset = ImageDataset(paths, range(11), transform=eval_transform(P))
    with pytest.raises(DataError, match=r"^Cannot read .*ü 0\.png: No such file or directory\.$"):
        read(dataset, ordered_batches(11, batch_size=2), num_workers=num_workers)


def die(image: Image.Image) -> Tensor:
    os._exit(1)


def count_threads(image: Image.Image) -> Tensor:
    return torch.tensor([torch.get_num_threads()])


def fail(image: Image.Image) -> Tensor:
    raise RuntimeError("a fault of ours")


def test_image_batches__killed_worker(paths: list[Path]) -> None:
    dataset = ImageDataset(paths, range(11), transform=die)
    with pytest.raises(MachineError, match=r"reads images died \(DataLoader worker.*--num-workers"):
        read(dataset, ordered_batches(11, batch_size=2), num_workers=1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_image_batches__our_own_faults_stay_what_they_are(
    paths: list[Path], num_workers: int
) -> None:
    dataset = ImageDataset(paths, range(11), transform=fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        read(dataset, ordered_batches(11, batch_size=2), num_workers=num_workers)


def test_image_batches__workers_have_one_thread(paths: list[Path]) -> None:
    dataset = ImageDataset(paths, range(11), transform=count_threads)
    batches = read(dataset, ordered_batches(11, batch_size=2), num_workers=2)
    assert {int(n) for batch in batches for n in batch.images} == {1}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_image_batches__torchs_generator_does_not_move(paths: list[Path], num_workers: int) -> None:
    before = torch.get_rng_state()
    read(train_set(paths), ordered_batches(11, batch_size=4), num_workers=num_workers)
    assert torch.equal(before, torch.get_rng_state())


def test_image_batches__nothing_to_read(paths: list[Path]) -> None:
    assert read(ImageDataset([], [], transform=eval_transform(P)), []) == []
    with pytest.raises(ConfigError, match="--num-workers -1 is below 0"):
        read(train_set(paths), [], num_workers=-1)


def test_image_dataset__lengths_must_agree(paths: list[Path]) -> None:
    with pytest.raises(ValueError, match="11 paths but 2 targets"):
        ImageDataset(paths, [0, 1], transform=eval_transform(P))
    assert len(train_set(paths)) == 11


@given(
    num_images=st.integers(0, 60),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 100),
)
def test_epoch_batches__every_image_once(
    num_images: int, batch_size: int, seed: int, epoch: int
) -> None:
    batches = epoch_batches(num_images, batch_size=batch_size, seed=seed, epoch=epoch)
    assert sorted(index for batch in batches for index, _ in batch) == list(range(num_images))
    assert {view for batch in batches for _, view in batch} <= {epoch}
    sizes = [len(batch) for batch in batches]
    assert all(size == batch_size for size in sizes[:-1])
    if batch_size > 1 and num_images > 1:
        assert min(sizes) >= 2
        assert max(sizes) <= batch_size + 1


def test_epoch_batches__a_lone_last_image_joins() -> None:
    batches = epoch_batches(9, batch_size=4, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [4, 5]
    assert [len(b) for b in epoch_batches(10, batch_size=4, seed=0, epoch=0)] == [4, 4, 2]
    assert [len(b) for b in epoch_batches(3, batch_size=8, seed=0, epoch=0)] == [3]
    assert epoch_batches(1, batch_size=8, seed=0, epoch=4) == [[(0, 4)]]


def test_epoch_batches__order_comes_from_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = epoch_batches(50, batch_size=7, seed=seed, epoch=epoch)
        return [index for batch in batches for index, _ in batch]

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_ordered_batches__neither_drops_nor_pads() -> None:
    batches = ordered_batches(9, batch_size=4)
    assert [[index for index, _ in batch] for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    with pytest.raises(ConfigError, match="--batch-size 0 is below 1"):
        ordered_batches(9, batch_size=0)
