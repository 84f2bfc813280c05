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
    phase_starts: Sequence[int],
    remedy: str,
    talk: Talk,
) -> Callable[[int, int], Iterator[S]]:
    """Return the same steps; after the first few the user is told if the run will be long.

    Args:
        steps: From epochs done and steps done to the remaining steps of the epoch.
        steps_per_epoch: In all.
        epochs: In all.
        phase_starts: Epochs before those from which on more is trained: there it is timed anew.
        remedy: How to make it shorter.
        talk: Is told once per phase, of runs that take above a quarter of an hour from there.
    """
    seconds: list[float] = []

    def timed(epoch: int, done: int) -> Iterator[S]:
        """Yield the steps and look at the clock when each was done."""
        if epoch in phase_starts and done == 0:
            seconds.clear()
        began = time.perf_counter()
        for number, step in enumerate(steps(epoch, done), start=1):
            yield step
            if len(seconds) == _WARM_STEPS + _TIMED_STEPS:
                continue
            now = time.perf_counter()
            seconds.append(now - began)
            began = now
            if len(seconds) == _WARM_STEPS + _TIMED_STEPS:
                left = (epochs - epoch) * steps_per_epoch - done - number
                mean = sum(seconds[_WARM_STEPS:]) / _TIMED_STEPS
                _tell(mean * left, remedy=remedy, talk=talk)

    return timed


def _tell(seconds: float, *, remedy: str, talk: Talk) -> None:
    if seconds < _WORTH_TELLING:
        return
    words = f"{seconds / 60:.0f} minutes" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.1f} hours"
    message = f"Training will take about {words} on this machine, evaluation aside. {remedy}"
    (talk.warn if seconds >= _HOUR else talk.note)(message)
