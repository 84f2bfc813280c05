"""The training loop of all tasks, one page, top to bottom."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.engine.interrupts import StopRequested
from tlcli.engine.optim import current_rates
from tlcli.engine.runtime import Runtime
from tlcli.engine.tasks import Batch, Evaluator, Task
from tlcli.engine.training_state import TrainingState
from tlcli.results.records import EpochReport

FINITE_CHECK_STEPS = 50
"""Steps between two looks at whether the loss is finite; a look waits for the device."""


class NonFiniteLoss(Exception):  # noqa: N818 (the recipe turns it into the user's error)
    """The loss of a step is NaN or infinite; `indices` are the rows of its images."""

    def __init__(self, *, epoch: int, step: int, indices: Sequence[int]) -> None:
        super().__init__(f"loss not finite in epoch {epoch}, step {step}")
        self.epoch = epoch
        self.step = step
        self.indices = tuple(indices)


def fit(
    task: Task,
    state: TrainingState,
    *,
    epochs: int,
    train_steps: Callable[[int, int], Iterable[Sequence[Batch]]],
    validate: Callable[[], Mapping[str, float]],
    runtime: Runtime,
    clip_grad: float,
    check_stop: Callable[[], None],
) -> Iterator[EpochReport]:
    """Train from where `state` is to the end of `epochs`, yielding a report after each.

    Whoever consumes the reports decides on logs, checkpoints and stopping early. After an
    interruption (`check_stop` raises) the state is consistent and can be saved.

    Args:
        task: Gives the losses of a batch.
        state: Is moved along in place.
        epochs: To be done in all.
        train_steps: From epochs done and steps done to the remaining steps of the epoch; a step is
            one or more batches whose gradients are accumulated.
        validate: Returns the metrics of the judged model.
        runtime: Device, precision and seed.
        clip_grad: Largest norm of all gradients together; 0 does not clip.
        check_stop: Called between steps.

    Raises:
        NonFiniteLoss: As soon as one is noticed, at the latest at the end of the epoch.
    """
    while state.epoch < epochs:
        state.enter_phase()
        if state.step == 0:
            state.rates = current_rates(state.optimizer)
        started = time.perf_counter()
        loss, num_images = train_one_epoch(
            task,
            state,
            steps=train_steps(state.epoch, state.step),
            runtime=runtime,
            clip_grad=clip_grad,
            check_stop=check_stop,
        )
        trained = time.perf_counter()
        metrics = validate()
        seconds_train = trained - started
        report = EpochReport(
            epoch=state.epoch + 1,
            phase=state.phase or 0,
            lr=state.rates,
            train_loss=loss,
            metrics=metrics,
            seconds_train=seconds_train,
            seconds_eval=time.perf_counter() - trained,
            images_per_second=num_images / seconds_train,
        )
        state.epoch, state.step, state.loss_sums = state.epoch + 1, 0, []
        yield report


def train_one_epoch(
    task: Task,
    state: TrainingState,
    *,
    steps: Iterable[Sequence[Batch]],
    runtime: Runtime,
    clip_grad: float,
    check_stop: Callable[[], None],
) -> tuple[float, int]:
    """Do the remaining steps of an epoch; return the mean loss per image and the images seen."""
    state.model.train()
    recent: list[tuple[int, list[Tensor]]] = []
    num_images = 0
    try:
        for batches in steps:
            runtime.seed_step(state.epoch, state.step)
            loss_sum, count = _step(task, state, batches, runtime=runtime, clip_grad=clip_grad)
            num_images += count
            state.loss_sums.append(loss_sum)
            state.step += 1
            recent.append((state.step, [batch.indices for batch in batches]))
            if len(recent) == FINITE_CHECK_STEPS:
                _check_finite(state, recent)
                recent.clear()
            check_stop()
    except StopRequested:  # here, or while the next batch was made
        _check_finite(state, recent)  # what is saved now must be worth going on from
        raise
    _check_finite(state, recent)
    sums = torch.stack(state.loss_sums)
    return float(sums[:, 0].sum() / sums[:, 1].sum()), num_images


def _step(
    task: Task,
    state: TrainingState,
    batches: Sequence[Batch],
    *,
    runtime: Runtime,
    clip_grad: float,
) -> tuple[Tensor, int]:
    """Do one optimizer step; return (sum of the losses of its images, images) on the device."""
    count = sum(len(batch.indices) for batch in batches)
    total = torch.zeros((), device=runtime.device)
    for batch in batches:
        loss = torch.stack(tuple(task.losses(batch).values())).sum()
        share = len(batch.indices) / count  # gradients add up to the mean over all images
        state.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
        total += loss.detach() * len(batch.indices)
    if clip_grad:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), clip_grad)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.scheduler.step()
    if state.ema is not None:
        state.ema.update_parameters(state.model)
    return torch.stack((total, total.new_full((), count))), count  # filled there, not copied


def _check_finite(state: TrainingState, recent: Sequence[tuple[int, list[Tensor]]]) -> None:
    """Look at the losses of the recent steps; the only place that waits for the device."""
    if not recent:
        return
    finite = torch.stack(state.loss_sums[-len(recent) :])[:, 0].isfinite().tolist()
    for is_finite, (step, indices) in zip(finite, recent, strict=True):
        if not is_finite:
            raise NonFiniteLoss(
                epoch=state.epoch + 1, step=step, indices=torch.cat(indices).tolist()
            )


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    evaluator: Evaluator,
    check_stop: Callable[[], None] = lambda: None,
) -> Evaluator:
    """Let an evaluator see all batches with its model in eval mode; return the evaluator."""
    model.eval()
    for batch in batches:
        check_stop()
        evaluator.update(batch)
    return evaluator
