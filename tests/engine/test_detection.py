"""Losses and boxes of a detector: the network's own, whatever the number of threads."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional as F

from tlcli.data.boxes.box_batches import BoxBatch, BoxSample
from tlcli.engine.detection import DetectionTask, ImagePrediction, predict_boxes, unit_range
from tlcli.engine.runtime import Runtime
from tlcli.errors import BadImageError
from tlcli.models.detectors.detector_catalog import create_detector

CPU = torch.device("cpu")
SIZES = ((70, 50), (48, 64), (64, 64), (90, 40), (40, 44))


class FirstPixels(nn.Module):
    """Stands for a detector: boxes, labels and scores follow from the picture it is given."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        (image,) = images
        height, width = image.shape[-2:]
        return [
            {
                "boxes": torch.tensor([[0.0, 0.0, width, height], [10.0, 5.0, 30.0, 25.0]]),
                "labels": torch.tensor([2, 1]),
                "scores": image[:2, 0, 0],
            }
        ]


def runtime(amp_dtype: torch.dtype | None = None) -> Runtime:
    return Runtime(device=CPU, amp_dtype=amp_dtype, channels_last=False, seed=0)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A Faster R-CNN with random weights; it finds something in every picture."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_detector(
            "fasterrcnn",
            backbone="timm/test_resnet",
            weights="none",
            class_names=("ant", "bee", "cat"),
            image_size=64,
            sampled_boxes=8,
        ).network


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[BoxSample]:
    root = tmp_path_factory.mktemp("pictures")
    return [picture(root / f"{number}.png", size) for number, size in enumerate(SIZES)]


def picture(path: Path, size: tuple[int, int], **others: Any) -> BoxSample:
    rng = np.random.default_rng(size)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    plain: dict[str, Any] = {
        "path": path,
        "width": size[0],
        "height": size[1],
        "is_upright": True,
        "boxes": np.zeros((0, 4)),
        "labels": np.zeros(0, dtype=np.int64),
    }
    return BoxSample(**{**plain, **others})


def batch() -> BoxBatch:
    generator = torch.Generator().manual_seed(3)
    images = [
        torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        for width, height in SIZES[:2]
    ]
    targets = [
        {"boxes": torch.tensor([[5.0, 6.0, 30.0, 40.0]]), "labels": torch.tensor([3])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return BoxBatch(images=images, targets=targets, indices=torch.tensor([4, 1]))


def found_by_hand(network: nn.Module, samples: Sequence[BoxSample]) -> list[dict[str, Tensor]]:
    network.eval()
    found = []
    with torch.no_grad():
        for sample in samples:
            image = F.to_tensor(Image.open(sample.path).convert("RGB"))
            found += network([image])
    return found


def is_equal(one: ImagePrediction, other: ImagePrediction) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_unit_range__is_to_tensor_of_torchvision() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, 16, 16)

    found = unit_range(pixels, device=CPU)

    assert torch.equal(found, F.to_tensor(pixels.permute(1, 2, 0).contiguous().numpy()))
    assert int(pixels[0, -1, -1]) == 255  # the picture itself stays as it was


def test_losses__are_those_of_the_network(network: nn.Module) -> None:
    model = copy.deepcopy(network).train()
    by_hand = copy.deepcopy(network).train()
    images = [F.to_tensor(i.permute(1, 2, 0).contiguous().numpy()) for i in batch().images]

    torch.manual_seed(1)  # a Faster R-CNN draws the boxes it learns from
    losses = DetectionTask(model, runtime=runtime()).losses(batch())
    torch.manual_seed(1)
    expected = by_hand(images, batch().targets)

    assert losses.keys() == expected.keys()
    assert len(losses) == 4
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    assert all(value.item() > 0 for value in expected.values())


def test_losses__of_mixed_precision_are_near(network: nn.Module) -> None:
    def losses(amp_dtype: torch.dtype | None) -> dict[str, float]:
        torch.manual_seed(1)
        task = DetectionTask(copy.deepcopy(network).train(), runtime=runtime(amp_dtype))
        return {name: value.item() for name, value in task.losses(batch()).items()}

    full, mixed = losses(None), losses(torch.bfloat16)

    assert mixed != full
    assert mixed == pytest.approx(full, rel=0.2, abs=0.05)


def test_predict_boxes__equals_the_network_image_by_image(
    network: nn.Module, samples: list[BoxSample]
) -> None:
    expected = found_by_hand(network, samples)

    found = list(predict_boxes(network.train(), samples, runtime=runtime(), threads=1))

    assert not network.training
    assert [one.indices.tolist() for one in found] == [[n] for n in range(len(samples))]
    for one, other in zip(found, expected, strict=True):
        x0, y0, x1, y1 = other["boxes"].double().unbind(dim=1)
        assert len(one.labels) > 0
        assert torch.equal(one.labels, other["labels"])
        assert torch.equal(one.scores, other["scores"].double())
        assert (one.boxes.dtype, one.scores.dtype) == (torch.float64, torch.float64)
        torch.testing.assert_close(
            one.boxes, torch.stack([x0, y0, x1 - x0, y1 - y0], dim=1), rtol=0, atol=1e-12
        )


def test_predict_boxes__threads_change_no_bit(network: nn.Module, samples: list[BoxSample]) -> None:
    alone = list(predict_boxes(network, samples, runtime=runtime(), threads=1))
    threads = torch.get_num_threads()

    together = list(predict_boxes(network, samples, runtime=runtime(), threads=3))

    assert all(map(is_equal, alone, together))
    assert len(together) == len(samples)
    assert torch.get_num_threads() == threads


def test_predict_boxes__speak_of_the_frame_of_the_annotations(tmp_path: Path) -> None:
    sample = picture(tmp_path / "small.png", (40, 30), width=120, height=60)

    (found,) = predict_boxes(FirstPixels(), [sample], runtime=runtime(), threads=1)

    assert found.boxes.tolist() == [[0, 0, 120, 60], [30, 10, 60, 40]]
    assert found.labels.tolist() == [2, 1]


@pytest.mark.parametrize(("is_upright", "size"), [(True, (30, 40)), (False, (40, 30))])
def test_predict_boxes__picture_is_turned_as_its_frame(
    tmp_path: Path, is_upright: bool, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "lying.jpg", exif=exif.tobytes())
    sample = BoxSample(
        path=tmp_path / "lying.jpg",
        width=size[0],
        height=size[1],
        is_upright=is_upright,
        boxes=np.zeros((0, 4)),
        labels=np.zeros(0, dtype=np.int64),
    )

    (found,) = predict_boxes(FirstPixels(), [sample], runtime=runtime(), threads=1)

    assert found.boxes.tolist() == [[0, 0, *size], [10, 5, 20, 20]]


def test_predict_boxes__broken_image_is_named(tmp_path: Path, samples: list[BoxSample]) -> None:
    bad = picture(tmp_path / "bad.png", (40, 30))
    bad.path.write_bytes(b"no picture")

    with pytest.raises(BadImageError, match=r"Cannot decode .*bad\.png"):
        list(predict_boxes(FirstPixels(), [*samples, bad], runtime=runtime(), threads=2))


def test_predict_boxes__can_be_stopped_between_images(samples: list[BoxSample]) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        list(predict_boxes(FirstPixels(), samples, runtime=runtime(), threads=1, check_stop=stop))
