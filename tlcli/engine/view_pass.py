"""What is made of views of images, always in the same way for each of them.

On the CPU every thread reads and computes small batches with single-threaded operators, whether
the results are used at once or stored. So a value depends on its image and view alone, to the bit:
not on what stands beside it in a batch, nor on how many threads there are.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.engine.extraction import (
    Features,
    in_order,
    joined,
    single_threaded_operators,
)


class TrunkValues(nn.Module):
    """The trunk of a split network, as an extractor of named features."""

    def __init__(self, trunk: nn.Module, *, names: Sequence[str]) -> None:
        super().__init__()
        self.trunk = trunk
        self.names = tuple(names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return what crosses the boundary, by name, each (B, ...)."""
        return dict(zip(self.names, self.trunk(images), strict=True))


@dataclass(frozen=True, kw_only=True)
class ValueBatch:
    """What was made of some of the requested views."""

    indices: Tensor
    """int64 (B,), which requests."""
    values: Features
    """By name, each (B, ...)."""


@dataclass(kw_only=True)
class ViewSeconds:
    """Where the time goes."""

    decode: float = 0.0
    """Reading files, all threads together."""
    trunk: float = 0.0
    """Computing values, all threads together."""
    images: int = 0
    """Read, and computed."""
    tail: float = 0.0
    """Steps of training, on values or pixels that are there."""
    evaluation: float = 0.0
    """Judging, on values or pixels that are there."""


@dataclass(frozen=True, kw_only=True)
class ViewPass:
    """Makes values of views of image files."""

    read: Callable[[Any], Tensor]
    """`ViewReader`, or what else gives a row for each of some requests."""
    compute: Callable[[Tensor], Features]
    """From what was read to values on the CPU by name, each (B, ...)."""
    threads: int
    batch_size: int
    """Images that a thread computes together."""
    check_stop: Callable[[], None]
    """Called between batches; raises `StopRequested` to stop."""
    seconds: ViewSeconds = field(default_factory=ViewSeconds)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def values(self, requests: Sequence[Any]) -> dict[str, Tensor]:
        """Return values by name, (N, ...), in the order of the requests.

        Raises:
            DataError: a file cannot be read or decoded.
        """
        with single_threaded_operators():
            return joined([batch.values for batch in self.batches(requests)])

    def batches(self, requests: Sequence[Any]) -> Iterator[ValueBatch]:
        """Yield the values of `batch_size` requests after the other; see `values`.

        The caller sees to `single_threaded_operators` as long as it takes batches.
        """
        size = self.batch_size
        parts = [range(n, min(n + size, len(requests))) for n in range(0, len(requests), size)]
        yield from in_order(
            lambda part: ValueBatch(
                indices=torch.arange(part.start, part.stop),
                values=self._timed(requests[part.start : part.stop]),
            ),
            parts,
            threads=self.threads,
            check_stop=self.check_stop,
        )

    def _timed(self, requests: Sequence[Any]) -> Features:
        started = time.perf_counter()
        pixels = self.read(requests)
        decoded = time.perf_counter()
        values = self.compute(pixels)
        with self._lock:
            self.seconds.decode += decoded - started
            self.seconds.trunk += time.perf_counter() - decoded
            self.seconds.images += len(requests)
        return values
