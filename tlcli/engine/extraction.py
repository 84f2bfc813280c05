"""Features of many images, as fast as the machine allows.

On the CPU every thread reads, resizes and embeds its own small batches with single-threaded
operators. Reading then overlaps with computing without any extra process, no operator waits for
the slowest of its threads, and the numbers do not depend on how many threads or processes share
the work.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tlcli.data.augment import TrainTransform, view_generator
from tlcli.data.images import read_image
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.transforms import eval_transform, normalize
from tlcli.engine.runtime import Runtime

PLAIN = -1
"""Number of the view that is not random: the one of evaluation."""

Features = Mapping[str, Tensor]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ViewRequest:
    """A view of an image file: `PLAIN`, or the number of a random one."""

    path: Path
    view: int = PLAIN


@dataclass(frozen=True)
class ViewReader:
    """Turns views of image files into pixels; many threads may call it at once.

    Args:
        preprocessing: What a network wants to see.
        augmentation: Of the random views.
        seed: Of the random views.
    """

    preprocessing: Preprocessing
    augmentation: TrainTransform
    seed: int

    def __call__(self, requests: Sequence[ViewRequest]) -> Tensor:
        """Return uint8 (B, C, H, W), in channels-last format as Pillow holds them.

        Raises:
            DataError: a file cannot be read or decoded.
        """
        views = [self._view(request).permute(1, 2, 0) for request in requests]
        return torch.stack(views).permute(0, 3, 1, 2)

    def _view(self, request: ViewRequest) -> Tensor:
        picture = read_image(request.path, channels=self.preprocessing.channels)
        if request.view == PLAIN:
            return eval_transform(self.preprocessing)(picture.image)
        generator = view_generator(
            seed=self.seed, content_key=picture.content_key, view=request.view
        )
        return self.augmentation(picture.image, generator)


@dataclass(frozen=True)
class ImageEmbedder:
    """Turns views of image files into features; many threads may call it at once.

    Args:
        extractor: On the device of `runtime`, in eval mode; images (B, C, H, W) -> features.
        read: Views as its network wants to see them.
        runtime: Device and precision.
    """

    extractor: nn.Module
    read: ViewReader
    runtime: Runtime

    def __call__(self, requests: Sequence[ViewRequest]) -> dict[str, Tensor]:
        """Return float32 features on the CPU by name, each of shape (B, ...).

        Raises:
            DataError: a file cannot be read or decoded.
        """
        return self.features(self.read(requests))

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return float32 features on the CPU by name, each of shape (B, ...)."""
        mean, std = self.read.preprocessing.mean, self.read.preprocessing.std
        with torch.inference_mode(), self.runtime.autocast():
            inputs = normalize(self.runtime.images(pixels), mean=mean, std=std)
            features: dict[str, Tensor] = self.extractor(inputs)
        return {name: tensor.float().cpu() for name, tensor in features.items()}


def in_order(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, check_stop: Callable[[], None]
) -> Iterator[R]:
    """Apply a function in threads and yield the results in order, a few items ahead at most.

    Args:
        function: Called by several threads at once.
        items: Taken one by one as threads become free.
        threads: How many.
        check_stop: Called before each result is waited for.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(max_workers=threads) as executor:
        try:
            for item in items:
                waiting.append(executor.submit(function, item))
                if len(waiting) > 2 * threads:
                    check_stop()
                    yield waiting.popleft().result()
            while waiting:
                check_stop()
                yield waiting.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)


@contextmanager
def single_threaded_operators() -> Iterator[None]:
    """Let every operator on the CPU run in the thread that calls it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def joined(parts: Sequence[Features]) -> dict[str, Tensor]:
    """Put batches of features behind each other."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def largest_deviation(stored: Tensor, fresh: Tensor) -> float:
    """Return the largest |stored - fresh| / |fresh| of all rows (Euclidean norms).

    Args:
        stored: Shape (N, ...), any float dtype.
        fresh: Shape (N, ...), float32.
    """
    want, have = fresh.flatten(1).double(), stored.flatten(1).double()
    norms = want.norm(dim=1).clamp_min(np.finfo(np.float32).tiny)
    return float(((have - want).norm(dim=1) / norms).max())
