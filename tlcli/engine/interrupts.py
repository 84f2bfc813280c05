"""Ctrl-C and termination as a question that the training loop asks between steps."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(Exception):  # noqa: N818 (not an error: a request)
    """The run was asked to stop; its state is consistent between two steps."""


class StopSignals:
    """Remember the first SIGINT or SIGTERM while the context is open.

    A second SIGINT acts at once, as Python's own handler does.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._also: Callable[[], None] | None = None
        self._former: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._former[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def check(self) -> None:
        """Raise StopRequested if a signal came, or for another reason to stop."""
        if self.received is not None:
            raise StopRequested
        if self._also is not None:
            self._also()

    @contextmanager
    def asking_also(self, check: Callable[[], None]) -> Iterator[None]:
        """Let `check`, which raises StopRequested too, be called by every check of the context."""
        self._also = check
        try:
            yield
        finally:
            self._also = None
