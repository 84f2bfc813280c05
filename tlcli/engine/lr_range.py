"""The learning rate range test: which rate lowers the loss fastest.

Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3: train for a few
steps while the learning rate grows, and look where the loss falls. It grows exponentially here, so
that every order of magnitude gets the same number of steps.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt
import torch

from tlcli.engine.loop import NonFiniteLoss, train_one_epoch
from tlcli.engine.runtime import Runtime
from tlcli.engine.tasks import Batch, Task
from tlcli.engine.training_state import TrainingState

Floats = npt.NDArray[np.float64]

MAX_STEPS = 100
_DECADES = 6
_DIVERGED = 4.0
"""Times the lowest loss, and more than at the start."""
_WIDTH = 3.0
"""Standard deviation of the smoothing, in steps."""
_FEWEST_STEPS = 10
"""In which the rates are too low to change anything: their losses vary by chance alone."""
_RISE = 0.01
"""Share of the loss that counts as a change."""


@dataclass(frozen=True, kw_only=True)
class RangeCurve:
    """The loss while the learning rate grew, one value per step."""

    rates: Floats
    losses: Floats

    @property
    def smoothed(self) -> Floats:
        """The losses averaged over the neighbouring steps, without a delay."""
        steps = np.arange(len(self.losses))
        weights = np.exp(-0.5 * ((steps[:, None] - steps) / _WIDTH) ** 2)
        smoothed: Floats = (weights * self.losses).sum(axis=1) / weights.sum(axis=1)
        return smoothed

    def steepest(self) -> float | None:
        """Return the rate at which the smoothed loss falls fastest over the logarithm of the rate.

        The loss may fall again after it went up: a rate so high that it first spoils the network
        is not meant, so only steps before it rises above its start count, up to the minimum of
        these. Rounded to two digits; None if there are too few steps or the loss does not fall by
        more than it varies from step to step.
        """
        if len(self.rates) < _FEWEST_STEPS:
            return None
        start, noise = self.losses[:_FEWEST_STEPS].mean(), self.losses[:_FEWEST_STEPS].std()
        risen = self.smoothed > start * (1 + _RISE) + 2 * noise
        smoothed = self.smoothed[: int(risen.argmax()) if risen.any() else None]
        if len(smoothed) < _FEWEST_STEPS or smoothed.min() > start * (1 - _RISE) - noise:
            return None
        slopes = np.gradient(smoothed, np.log(self.rates[: len(smoothed)]))
        step = int(slopes[: int(smoothed.argmin()) + 1].argmin())
        return float(f"{self.rates[step]:.2g}")


def rates_around(default: float) -> Floats:
    """Return the learning rates of a test: from a thousandth to a thousand times of the usual."""
    rates: Floats = default * np.logspace(-_DECADES / 2, _DECADES / 2, MAX_STEPS)
    return rates


def try_rates(
    task: Task,
    state: TrainingState,
    *,
    rates: Floats,
    train_steps: Callable[[int, int], Iterable[Sequence[Batch]]],
    runtime: Runtime,
    clip_grad: float,
    check_stop: Callable[[], None],
) -> RangeCurve:
    """Train a step with each learning rate, until the loss diverges.

    Args:
        task: Of the model in `state`.
        state: Of a copy of the model: it is spoilt. Its scheduler sets the rates.
        rates: What the scheduler gives the head.
        train_steps: From epochs done and steps done to the remaining steps of the epoch.
        runtime: Device, precision and seed.
        clip_grad: Largest norm of all gradients together; 0 does not clip.
        check_stop: Called between steps.

    Raises:
        NonFiniteLoss: If that of the first step is not: no rate has done that.
    """
    state.enter_phase()
    try:
        train_one_epoch(
            task,
            state,
            steps=_until_divergence(state, train_steps, most=len(rates)),
            runtime=runtime,
            clip_grad=clip_grad,
            check_stop=check_stop,
        )
    except NonFiniteLoss:  # the end of the range: what came before is the answer
        if not np.isfinite(_losses(state)[0]):
            raise
    losses = _losses(state)
    is_finite = np.isfinite(losses)
    end = len(losses) if is_finite.all() else int(is_finite.argmin())
    return RangeCurve(rates=rates[:end], losses=losses[:end])


def _until_divergence(
    state: TrainingState,
    train_steps: Callable[[int, int], Iterable[Sequence[Batch]]],
    *,
    most: int,
) -> Iterator[Sequence[Batch]]:
    """Yield steps, over several epochs if need be."""
    steps = (batches for epoch in count() for batches in train_steps(epoch, 0))
    for batches in steps:
        if state.step == most or _has_diverged(_losses(state)):
            return
        yield batches


def _has_diverged(losses: Floats) -> bool:
    if not len(losses):
        return False
    last = losses[-1]
    is_worse = last > max(_DIVERGED * losses.min(), losses[0])
    return bool(is_worse) or not np.isfinite(last)


def _losses(state: TrainingState) -> Floats:
    """Return the mean loss per image of every step so far."""
    if not state.loss_sums:
        return np.empty(0)
    sums = torch.stack(state.loss_sums).double().cpu().numpy()
    losses: Floats = sums[:, 0] / sums[:, 1]
    return losses
