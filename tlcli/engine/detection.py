"""Detection as a task: the losses of torchvision's detectors, and their boxes for whole splits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from tlcli.data.boxes.box_batches import BoxBatch, BoxSample
from tlcli.data.images import read_image
from tlcli.data.transforms import to_pixels
from tlcli.engine.extraction import in_order, single_threaded_operators
from tlcli.engine.runtime import Runtime


class DetectionTask:
    """A detector and its losses (see `Task`).

    Args:
        model: Called as torchvision's detectors are; on the device of `runtime`.
        runtime: Device and precision.
    """

    def __init__(self, model: nn.Module, *, runtime: Runtime) -> None:
        self.model = model
        self.runtime = runtime

    def losses(self, batch: BoxBatch) -> Mapping[str, Tensor]:
        """Return the losses of the detector's parts, means over the images of a batch."""
        device = self.runtime.device
        images = [unit_range(image, device=device) for image in batch.images]
        targets = [
            {name: value.to(device, non_blocking=True) for name, value in target.items()}
            for target in batch.targets
        ]
        with self.runtime.autocast():
            losses: Mapping[str, Tensor] = self.model(images, targets)
        return losses


class ImagePrediction(NamedTuple):
    """What a detector found in one image."""

    indices: Tensor
    """int64 (1,): the position of the image."""
    boxes: Tensor
    """float64 (N, 4): x, y, width, height in the frame of the annotations."""
    labels: Tensor
    """int64 (N,)."""
    scores: Tensor
    """float64 (N,), falling."""


def predict_boxes(
    model: nn.Module,
    samples: Sequence[BoxSample],
    *,
    runtime: Runtime,
    threads: int,
    check_stop: Callable[[], None] = lambda: None,
) -> Iterator[ImagePrediction]:
    """Yield what a detector finds in each image, in order.

    Every thread reads and detects in one image at a time, so that no image is padded to the size
    of another, and on the CPU with single-threaded operators, so that the numbers do not depend on
    the number of threads.

    Args:
        model: Called as torchvision's detectors are; put into eval mode.
        samples: The images; their boxes are not looked at.
        runtime: Device and precision.
        threads: How many images are worked on at once.
        check_stop: Called before each image is waited for.

    Raises:
        DataError: an image cannot be read or decoded.
    """
    model.eval()

    def predict(index: int) -> ImagePrediction:
        return _predict(model, samples[index], index=index, runtime=runtime)

    is_cpu = runtime.device.type == "cpu"
    with single_threaded_operators() if is_cpu else nullcontext():
        yield from in_order(predict, range(len(samples)), threads=threads, check_stop=check_stop)


def unit_range(image: Tensor, *, device: torch.device) -> Tensor:
    """Return a uint8 image as float32 in 0..1 on a device, as torchvision's ToTensor does."""
    return image.to(device, non_blocking=True).float().div_(255)


def _predict(
    model: nn.Module, sample: BoxSample, *, index: int, runtime: Runtime
) -> ImagePrediction:
    picture = read_image(sample.path, upright=sample.is_upright).image
    pixels = unit_range(to_pixels(picture), device=runtime.device)
    with torch.inference_mode(), runtime.autocast():
        (found,) = model([pixels])
    boxes = box_convert(found["boxes"].cpu().double(), "xyxy", "xywh")
    boxes *= boxes.new_tensor([sample.width / picture.width, sample.height / picture.height] * 2)
    return ImagePrediction(
        indices=torch.tensor([index]),
        boxes=boxes,
        labels=found["labels"].cpu(),
        scores=found["scores"].cpu().double(),
    )
