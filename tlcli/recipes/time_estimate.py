"""How long a training will take, told as soon as it can be known."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from tlcli.recipes.talk import Talk

S = TypeVar("S", bound=Sequence[object])

_WARM_STEPS = 2
"""First steps allocate memory and choose algorithms: they are slower than all others."""
_TIMED_STEPS = 5
_WORTH_TELLING = 15 * 60.0
_HOUR = 3600.0


def with_estimate(
    steps: Callable[[int, int], Iterable[S]],
    *,
    steps_per_epoch: int,
    epochs: int,
    remedy: str,
    talk: Talk,
) -> Callable[[int, int], Iterator[S]]:
    """Return the same steps; after the first few the user is told if the run will be long.

    Args:
        steps: From epochs done and steps done to the remaining steps of the epoch.
        steps_per_epoch: In all.
        epochs: In all.
        remedy: How to make it shorter.
        talk: Is told once, of runs above a quarter of an hour.
    """
    is_told = False

    def timed(epoch: int, done: int) -> Iterator[S]:
        """Yield the steps and look at the clock between them."""
        nonlocal is_told
        started = time.perf_counter()
        for number, step in enumerate(steps(epoch, done)):
            if number == _WARM_STEPS:
                started = time.perf_counter()
            if number == _WARM_STEPS + _TIMED_STEPS and not is_told:
                is_told = True
                seconds = (time.perf_counter() - started) / _TIMED_STEPS
                left = (epochs - epoch) * steps_per_epoch - done - number
                _tell(seconds * left, remedy=remedy, talk=talk)
            yield step

    return timed


def _tell(seconds: float, *, remedy: str, talk: Talk) -> None:
    if seconds < _WORTH_TELLING:
        return
    words = f"{seconds / 60:.0f} minutes" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.1f} hours"
    message = f"Training will take about {words} on this machine, evaluation aside. {remedy}"
    (talk.warn if seconds >= _HOUR else talk.note)(message)
