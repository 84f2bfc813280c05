"""Features of many images, by several threads."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from toy import make_image_folder

from tlcli.data.augment import train_transform
from tlcli.data.preprocessing import Preprocessing
from tlcli.engine.extraction import (
    PLAIN,
    ImageEmbedder,
    ViewReader,
    ViewRequest,
    in_order,
    joined,
    largest_deviation,
    single_threaded_operators,
)
from tlcli.engine.runtime import choose_runtime
from tlcli.errors import BadImageError

SIZE = Preprocessing(input_size=(8, 8), resize_size=(8, 8), mean=(0.5, 0.4, 0.3), std=(0.2,) * 3)


class Corner(nn.Module):
    """The first pixel of each image, and all of them."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"corner": images[:, :, 0, 0], "all": images.flatten(1)}


def embedder(*, seed: int = 0) -> ImageEmbedder:
    runtime = choose_runtime("cpu", amp=False, amp_dtype="auto", channels_last=True, seed=0)
    read = ViewReader(
        preprocessing=SIZE, augmentation=train_transform(SIZE, level="light"), seed=seed
    )
    return ImageEmbedder(extractor=Corner(), read=read, runtime=runtime)


def test_embedder__plain_view_is_resized_and_normalised(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 0, 51)).save(tmp_path / "a.png")
    features = embedder()([ViewRequest(tmp_path / "a.png")])
    expected = [(1 - 0.5) / 0.2, (0 - 0.4) / 0.2, (0.2 - 0.3) / 0.2]
    np.testing.assert_allclose(features["corner"], [expected], rtol=1e-5)
    assert features["all"].shape == (1, 192)
    assert features["all"].dtype == torch.float32


def test_embedder__random_views_depend_on_seed_and_number_only(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path, images_per_class=1)
    path = root / "ant" / "0.png"
    first = embedder()([ViewRequest(path, 0), ViewRequest(path, 1), ViewRequest(path, PLAIN)])
    again = embedder()([ViewRequest(path, 1)])
    other = embedder(seed=1)([ViewRequest(path, 1)])
    assert torch.equal(first["all"][1], again["all"][0])
    assert not torch.equal(first["all"][0], first["all"][1])
    assert not torch.equal(first["all"][1], first["all"][2])
    assert not torch.equal(again["all"], other["all"])


def test_embedder__bad_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"bad\.jpg"):
        embedder()([ViewRequest(tmp_path / "bad.jpg")])


def test_in_order__keeps_the_order_of_slow_and_fast_items() -> None:
    def work(item: int) -> int:
        time.sleep(0.01 * (item % 3))
        return item * item

    found = list(in_order(work, range(40), threads=4, check_stop=lambda: None))
    assert found == [item * item for item in range(40)]


def test_in_order__takes_only_a_few_items_ahead() -> None:
    taken = []

    def items() -> object:
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(lambda item: item, items(), threads=2, check_stop=lambda: None)  # type: ignore[arg-type]
    assert next(results) == 0
    assert len(taken) <= 5
    results.close()


def test_in_order__uses_several_threads_at_once() -> None:
    both = threading.Barrier(2, timeout=20)
    results = in_order(lambda _: both.wait(), range(4), threads=2, check_stop=lambda: None)
    assert sorted(results) == [0, 0, 1, 1]


def test_in_order__error_of_an_item_ends_it() -> None:
    def work(item: int) -> int:
        if item == 5:
            raise BadImageError("five")
        return item

    seen: list[int] = []
    with pytest.raises(BadImageError, match="five"):
        seen.extend(in_order(work, range(1000), threads=2, check_stop=lambda: None))
    assert seen == [0, 1, 2, 3, 4]


def test_in_order__stop_request_passes_through() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_order(lambda item: item, range(10), threads=2, check_stop=stop))


def test_single_threaded_operators__restores_the_number() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with single_threaded_operators():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_joined() -> None:
    parts = [{"a": torch.ones(2, 3)}, {"a": torch.zeros(1, 3)}]
    assert torch.equal(joined(parts)["a"], torch.tensor([[1.0] * 3] * 2 + [[0.0] * 3]))


def test_largest_deviation() -> None:
    fresh = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    stored = torch.tensor([[3.0, 4.5], [0.0, 1.0]])
    assert largest_deviation(stored, fresh) == pytest.approx(0.1)
    assert np.isnan(largest_deviation(torch.tensor([[float("nan")]]), torch.ones(1, 1)))
