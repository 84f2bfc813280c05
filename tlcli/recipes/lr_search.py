"""`--lr auto`: a learning rate range test before the first step, and what it leaves behind."""

import copy
import time
from collections.abc import Callable
from dataclasses import replace

from torch.optim.lr_scheduler import LambdaLR

from tlcli.config import TrainConfig
from tlcli.engine.interrupts import StopRequested, StopSignals
from tlcli.engine.loop import NonFiniteLoss
from tlcli.engine.lr_range import Floats, RangeCurve, rates_around, try_rates
from tlcli.engine.optim import ParamGroup, build_optimizer
from tlcli.engine.training_state import TrainingState
from tlcli.errors import InterruptedRunError
from tlcli.recipes.classifier_training import task_of, training_batches_of
from tlcli.recipes.finetune_job import Job
from tlcli.recipes.talk import Talk
from tlcli.recipes.training_plan import plan_training
from tlcli.recipes.training_run import not_finite
from tlcli.results.atomic import write_csv
from tlcli.results.figures import draw_lr_range
from tlcli.results.run_dir import RunDirectory

LR_RANGE_CSV = "lr_range.csv"


def with_found_rate(folder: RunDirectory, job: Job, *, talk: Talk) -> Job:
    """Return a job with the learning rate that a range test finds, if `--lr auto` asks for one.

    The test works on a copy of the model, with what is trained in the first phase. The learning
    rates of the backbone grow with that of the head, unless `--backbone-lr` says what they are.

    Raises:
        InterruptedRunError: If the test is asked to stop.
        NonFiniteLossError: If the loss is not finite at the lowest rate.
    """
    train = job.config.train
    if train.lr != "auto":
        return job
    talk.note("--lr auto: trying learning rates on a copy of the model.")
    started = time.perf_counter()
    with StopSignals() as signals:
        try:
            curve = _range_curve(job, check_stop=signals.check)
            signals.check()
        except StopRequested as error:
            raise InterruptedRunError(
                "Stopped while learning rates were tried, before the first step. Start the run "
                "anew with --overwrite.",
                signal_number=signals.received or 0,
            ) from error
        except NonFiniteLoss as error:
            paths = job.images.table.part("train")["path"]
            raise not_finite(error, file_of=lambda index: str(paths[index])) from error
    found = curve.steepest()
    _write(folder, curve, found=found)
    talk.note(f"The curve is in {folder.path / 'lr_range.png'}.")
    if found is None:
        talk.warn(
            f"--lr auto: no learning rate lowered the loss in {len(curve.rates)} steps; going on "
            f"with the default of {train.head_lr:g}."
        )
    else:
        talk.note(f"--lr auto: {found:g}, where the loss falls fastest.")
    config = replace(job.config, train=replace(train, lr=found or train.head_lr))
    plan = plan_training(
        job.model,
        no_weight_decay=job.backbone.no_weight_decay,
        freezing=config.freezing,
        train=config.train,
    )
    seconds = time.perf_counter() - started
    return replace(
        job,
        config=config,
        plan=plan,
        seconds_prepare=job.seconds_prepare + seconds,
        seconds_search=seconds,
    )


def _range_curve(job: Job, *, check_stop: Callable[[], None]) -> RangeCurve:
    train = job.config.train
    rates = rates_around(train.head_lr)
    model = copy.deepcopy(job.model)
    optimizer = build_optimizer(model.network, job.plan.groups, name=train.opt)
    factors = [_factor(group, rates, train=train) for group in job.plan.groups]
    state = TrainingState(
        model=model,
        optimizer=optimizer,
        scheduler=LambdaLR(optimizer, factors),
        phases=job.plan.phases,
        scaler=job.runtime.grad_scaler(),
    )
    _, train_steps = training_batches_of(job)
    return try_rates(
        task_of(job, model),
        state,
        rates=rates,
        train_steps=train_steps,
        runtime=job.runtime,
        clip_grad=train.clip_grad,
        check_stop=check_stop,
    )


def _factor(group: ParamGroup, rates: Floats, *, train: TrainConfig) -> Callable[[int], float]:
    """Return the factor on the learning rate that a group has where the head has its default."""
    if group.part == "backbone" and train.backbone_lr is not None:
        return lambda _: 1.0
    return lambda step: float(rates[min(step, len(rates) - 1)]) / train.head_lr


def _write(folder: RunDirectory, curve: RangeCurve, *, found: float | None) -> None:
    smoothed = curve.smoothed
    write_csv(
        folder.path / LR_RANGE_CSV,
        header=["step", "lr", "loss", "smoothed"],
        rows=[
            (step, *(float(value) for value in values))
            for step, values in enumerate(
                zip(curve.rates, curve.losses, smoothed, strict=True), start=1
            )
        ],
    )
    draw_lr_range(
        folder.path / "lr_range.png",
        rates=list(curve.rates),
        losses=list(curve.losses),
        smoothed=list(smoothed),
        chosen=found,
    )
    folder.update(lr_range={"lr": found, "steps": len(curve.rates), "file": LR_RANGE_CSV})
