"""The user is told once how long a training takes, if it is long."""

from collections.abc import Iterator, Sequence

import pytest
from toy import CollectedTalk

from tlcli.recipes import time_estimate
from tlcli.recipes.time_estimate import with_estimate


class Clock:
    """Stands still but for what the steps take."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_estimate, "time", clock)
    return clock


def run_epochs(
    clock: Clock,
    *,
    seconds: float,
    steps_per_epoch: int,
    epochs: int,
    first: tuple[int, int] = (0, 0),
    phase_starts: Sequence[int] = (0,),
    slow_start: float = 0.0,
) -> tuple[CollectedTalk, list[list[int]]]:
    """Go through all steps from (epoch, step) on, each of which takes `seconds`."""
    talk = CollectedTalk()

    def steps(epoch: int, done: int) -> Iterator[list[int]]:
        yield from ([epoch, step] for step in range(done, steps_per_epoch))

    timed = with_estimate(
        steps,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        phase_starts=phase_starts,
        remedy="Do less.",
        talk=talk,
    )
    seen = []
    for epoch in range(first[0], epochs):
        done = first[1] if epoch == first[0] else 0
        for number, step in enumerate(timed(epoch, done)):
            clock.now += seconds + (slow_start if number < 2 else 0)
            seen.append(step)
    return talk, seen


def words(span: str) -> str:
    return f"Training will take about {span} on this machine, evaluation aside. Do less."


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (8.9, None),  # 93 steps are left after the first seven: less than 900 s
        (9.7, "15 minutes"),
        (30.0, "46 minutes"),
        (200.0, "5.2 hours"),
    ],
)
def test_with_estimate__tells_of_long_runs_only(
    clock: Clock, seconds: float, said: str | None
) -> None:
    talk, seen = run_epochs(clock, seconds=seconds, steps_per_epoch=20, epochs=5)

    told = [*talk.notes, *talk.warnings]
    assert told == ([words(said)] if said else [])
    assert bool(talk.warnings) is (seconds == 200.0)  # above an hour
    assert seen == [[epoch, step] for epoch in range(5) for step in range(20)]


def test_with_estimate__between_one_and_two_hours_is_a_warning_in_minutes(clock: Clock) -> None:
    talk, _ = run_epochs(clock, seconds=60.0, steps_per_epoch=100, epochs=1)

    assert (talk.notes, talk.warnings) == ([], [words("93 minutes")])


def test_with_estimate__slow_first_steps_do_not_count(clock: Clock) -> None:
    talk, _ = run_epochs(clock, seconds=9.7, steps_per_epoch=20, epochs=5, slow_start=500.0)

    assert talk.notes == [words("15 minutes")]


def test_with_estimate__of_a_resumed_run_is_of_what_is_left(clock: Clock) -> None:
    talk, seen = run_epochs(clock, seconds=60.0, steps_per_epoch=50, epochs=2, first=(1, 10))

    assert seen == [[1, step] for step in range(10, 50)]
    assert talk.notes == [words("33 minutes")]  # 40 steps are left, seven are done


def test_with_estimate__says_it_once_even_of_fast_runs(clock: Clock) -> None:
    talk, _ = run_epochs(clock, seconds=100.0, steps_per_epoch=10, epochs=30)

    assert len(talk.notes) + len(talk.warnings) == 1


def test_with_estimate__epochs_of_few_steps_are_timed_together(clock: Clock) -> None:
    talk, _ = run_epochs(clock, seconds=60.0, steps_per_epoch=2, epochs=30)

    assert talk.notes == [words("53 minutes")]  # 60 steps, seven are done


def test_with_estimate__every_phase_is_timed_anew(clock: Clock) -> None:
    talk, _ = run_epochs(clock, seconds=60.0, steps_per_epoch=20, epochs=3, phase_starts=(0, 1, 2))

    assert talk.notes == [words(f"{left} minutes") for left in (53, 33)]  # 13 are not worth it
