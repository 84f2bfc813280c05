"""Bars on a terminal, lines elsewhere: how the command line implements `Talk`."""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from tlcli.cli import output
from tlcli.results.records import EpochReport

if TYPE_CHECKING:
    from tlcli.engine.tasks import Batch

B = TypeVar("B", bound="Batch")


class _ImagesPerSecond(ProgressColumn):
    """Images so far and how fast they go by."""

    def render(self, task: Task) -> Text:
        speed = f"{task.speed:.1f} img/s" if task.speed else "- img/s"
        return Text(f"{task.completed:.0f}/{task.total:.0f}  {speed}")


class TerminalTalk:
    """See `tlcli.recipes.talk.Talk`."""

    def __init__(self, *, quiet: bool, silent: bool = False) -> None:
        self._quiet = quiet or silent
        self._silent = silent  # one of several processes speaks for all
        self._has_header = False

    def note(self, message: str) -> None:
        """Say what is being done."""
        if not self._quiet:
            output.note(message)

    def warn(self, message: str) -> None:
        """Say what the user should look at."""
        if not self._silent:
            output.warn(message)

    def track(self, batches: Iterable[B], *, label: str, num_images: int) -> Iterator[B]:
        """Pass batches on under a bar, which is there on a terminal only."""
        if self._quiet or not sys.stderr.isatty():
            yield from batches
            return
        columns = (
            TextColumn("{task.description:>10}"),
            BarColumn(),
            _ImagesPerSecond(),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=output.console(stderr=True), transient=True) as progress:
            bar = progress.add_task(label, total=num_images)
            for batch in batches:
                yield batch
                progress.advance(bar, len(batch.indices))

    def epoch(self, report: EpochReport, *, epochs: int, is_best: bool) -> None:
        """Print a line per epoch, under a header."""
        if self._quiet:
            return
        shown = [name for name in _SHOWN if name in report.metrics]
        if not self._has_header:
            titles = "".join(_SHOWN[name] for name in shown)
            output.note(
                f"  epoch  phase   lr head  lr backb.  train loss{titles}    img/s   seconds"
            )
            self._has_header = True
        values = "".join(
            _in_words(name, report.metrics[name]).rjust(len(_SHOWN[name])) for name in shown
        )
        output.note(_epoch_line(report, epochs=epochs, values=values, is_best=is_best))


_SHOWN = {
    "loss": "  val loss",
    "top1": "   val top-1",
    "map": "   val AP",
    "map50": "   val AP50",
}
"""Of the metrics of an epoch, with the titles of their columns."""


def _epoch_line(report: EpochReport, *, epochs: int, values: str, is_best: bool) -> str:
    head, backbone = report.lr["head"], report.lr["backbone"]
    seconds = report.seconds_train + report.seconds_eval
    return (
        f"{report.epoch:>4}/{epochs:<4}{report.phase:>5}{_rate(head):>10}{_rate(backbone):>11}"
        f"{report.train_loss:>12.4g}{values}{report.images_per_second:>9.1f}"
        f"{seconds:>10.1f}{'  best' if is_best else ''}"
    )


def _in_words(name: str, value: float) -> str:
    return f"{value:.4g}" if name == "loss" else output.percent(value)


def _rate(lr: float | None) -> str:
    return "frozen" if lr is None else f"{lr:.2e}"
