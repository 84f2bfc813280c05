"""Which stages are trained, and from which epoch on: `--unfreeze` and `--schedule`."""

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from tlcli.backbones.stages import HEAD
from tlcli.errors import ConfigError
from tlcli.results.counted import counted

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of epochs in which the same stages are trained."""

    start: int
    """Epochs done before it begins."""
    trained: tuple[str, ...]
    """Names of all stages trained in it, from the input to the head."""


def parse_unfreeze(text: str, *, stages: Sequence[str]) -> tuple[Phase, ...]:
    """Read `head`, `all`, `last:2`, stage names or globs, separated by commas.

    Args:
        text: The value of `--unfreeze`.
        stages: All stage names from the input to the head.

    Raises:
        ConfigError: If a part of it matches no stage.
    """
    return (Phase(start=0, trained=_select(text.split(","), stages=stages, option="--unfreeze")),)


def parse_schedule(text: str, *, stages: Sequence[str], epochs: int) -> tuple[Phase, ...]:
    """Read `0:head,3:layer4,6:layer3,9:all` or `gradual:3`.

    `3:layer4` lets `layer4` join after three epochs. Names behind it without a number join with it.

    Args:
        text: The value of `--schedule`.
        stages: All stage names from the input to the head.
        epochs: Length of the run; a phase that would never begin is an error.

    Raises:
        ConfigError: If it cannot be honoured word for word.
    """
    joining = _gradual(text, stages=stages, epochs=epochs) or _joining(text, epochs=epochs)
    phases: list[Phase] = []
    trained: set[str] = {HEAD}
    for start, patterns in sorted({0: [HEAD], **joining}.items()):
        new = set(_select(patterns, stages=stages, option="--schedule"))
        if phases and new <= trained:
            raise ConfigError(
                f"--schedule '{text}': '{','.join(patterns)}' after "
                f"{counted(start, 'epoch')} opens nothing new."
            )
        trained |= new
        phases.append(Phase(start=start, trained=_in_order(trained, stages)))
    return tuple(phases)


def phase_of(epoch: int, phases: Sequence[Phase]) -> int:
    """Return the index of the phase in which the epoch after `epoch` done ones lies."""
    return max(index for index, phase in enumerate(phases) if phase.start <= epoch)


def holes(trained: Sequence[str], *, stages: Sequence[str]) -> tuple[str, ...]:
    """Return frozen stages that lie between a trained stage of the body and the head."""
    opened = [index for index, name in enumerate(stages) if name in trained]
    return tuple(name for name in stages[min(opened) :] if name not in trained)


def match_stages(
    patterns: Sequence[str], *, stages: Sequence[str], choices: Sequence[str], option: str
) -> set[str]:
    """Return the stages that the patterns name.

    Args:
        patterns: Stage names, globs, `last:2` or `all`.
        stages: All stage names from the input to the head.
        choices: Those of them that may be named.
        option: What the patterns were given to, for messages.

    Raises:
        ConfigError: If a pattern matches none of the choices.
    """
    chosen: set[str] = set()
    for pattern in (part.strip() for part in patterns):
        matched = _matches(pattern, stages=stages, option=option) & set(choices)
        if not matched:
            raise ConfigError(_no_such_stage(pattern, stages=choices, option=option))
        chosen |= matched
    return chosen


def _joining(text: str, *, epochs: int) -> dict[int, list[str]]:
    """Return the patterns that join after so many epochs."""
    joining: dict[int, list[str]] = {}
    start: int | None = None
    for entry in (part.strip() for part in text.split(",")):
        number, colon, pattern = entry.partition(":")
        if colon and number.strip().isdecimal():
            previous, start = start, int(number)
            if start >= epochs or (previous is not None and start <= previous):
                raise ConfigError(
                    f"--schedule '{text}': epoch {start} must be below --epochs ({epochs}) "
                    "and above the one before it."
                )
        else:
            pattern = entry
        if start is None or not pattern:
            raise ConfigError(
                f"--schedule '{text}' is not understood at '{entry}'. Write EPOCH:STAGES, "
                "for example '0:head,3:layer4,6:all', or 'gradual:3'."
            )
        joining.setdefault(start, []).append(pattern.strip())
    return joining


def _gradual(text: str, *, stages: Sequence[str], epochs: int) -> dict[int, list[str]]:
    """Return one more stage every so many epochs, from the head down; empty if not asked for."""
    kind, _, every = text.partition(":")
    if kind != "gradual":
        return {}
    if not every.isdecimal() or int(every) == 0:
        raise ConfigError(f"--schedule '{text}' needs a number of epochs, for example 'gradual:3'.")
    downwards = [name for name in reversed(stages) if name != HEAD]
    starts = range(int(every), epochs, int(every))
    if not starts:
        raise ConfigError(f"--schedule '{text}' opens nothing within --epochs {epochs}.")
    return {start: [name] for start, name in zip(starts, downwards, strict=False)}


def _select(patterns: Sequence[str], *, stages: Sequence[str], option: str) -> tuple[str, ...]:
    """Return the stages that the patterns name, and the head, in the order of the network."""
    matched = match_stages(patterns, stages=stages, choices=stages, option=option)
    return _in_order({HEAD, *matched}, stages)


def _matches(pattern: str, *, stages: Sequence[str], option: str) -> set[str]:
    kind, colon, count = pattern.partition(":")
    if pattern == ALL:
        return set(stages)
    if kind == "last" and colon:
        available = len(stages) - 1
        if not count.isdecimal() or not 1 <= int(count) <= available:
            raise ConfigError(
                f"{option} '{pattern}': the model has {available} stages before its head; "
                f"use last:1 to last:{available}."
            )
        return set(stages[-1 - int(count) :])
    return {name for name in stages if fnmatch.fnmatchcase(name, pattern)}


def _no_such_stage(pattern: str, *, stages: Sequence[str], option: str) -> str:
    inside = [name for name in stages if pattern.startswith(f"{name}.")]
    near = inside or difflib.get_close_matches(pattern, stages, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return (
        f"{option} '{pattern}' matches no stage of this model.{hint} "
        f"Stages: {', '.join(stages)}; also all, last:N and globs."
    )


def _in_order(chosen: set[str], stages: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in stages if name in chosen)
