"""How a recipe speaks to whoever runs it, without knowing terminals."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from tlcli.engine.tasks import Batch
from tlcli.results.records import EpochReport

B = TypeVar("B", bound=Batch)


class Talk(Protocol):
    """Notes, warnings and progress; the command line prints them, tests collect them."""

    def note(self, message: str) -> None:
        """Say what is being done."""

    def warn(self, message: str) -> None:
        """Say what the user should look at."""

    def track(self, batches: Iterable[B], *, label: str, num_images: int) -> Iterator[B]:
        """Pass batches on and show how many of the images went by."""

    def epoch(self, report: EpochReport, *, epochs: int, is_best: bool) -> None:
        """Say how an epoch went."""
