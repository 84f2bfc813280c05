"""The training of a classifier, put together from its job: batches, task, optimizer, schedule."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, from_numpy, nn

from tlcli.config import FinetuneConfig
from tlcli.data.augment import TrainTransform, train_transform
from tlcli.data.loaders import ImageBatch
from tlcli.engine.class_losses import balanced_positive_weights, balanced_weights
from tlcli.engine.classification import ClassificationTask
from tlcli.engine.interrupts import StopSignals
from tlcli.engine.loop import evaluate
from tlcli.engine.mixing import Mixing, with_mixing
from tlcli.engine.multi_label import MultiLabelTask
from tlcli.engine.tasks import Batch
from tlcli.recipes.finetune_job import Job, first_state
from tlcli.recipes.judging import plain_task
from tlcli.recipes.talk import Talk
from tlcli.recipes.training_run import Training
from tlcli.recipes.trunk_training import TrunkTraining
from tlcli.results.run_dir import RunDirectory

Steps = Callable[[int, int], Iterable[Sequence[Batch]]]
"""From epochs done and steps done to the remaining steps of the epoch."""


def prepare_training(
    folder: RunDirectory, job: Job, *, signals: StopSignals, talk: Talk
) -> tuple[Training, TrunkTraining]:
    """Put the model, the optimizer and the data together."""
    train, runtime = job.config.train, job.runtime
    steps_per_epoch, _ = training_batches_of(job)
    state = first_state(
        job.model, job.plan, train=train, runtime=runtime, steps_per_epoch=steps_per_epoch
    )
    images = TrunkTraining(
        job, state, transform=train_transform_of(job), check_stop=signals.check, talk=talk
    )
    judged = plain_task(
        images.judged,
        preprocessing=images.preprocessing,
        runtime=runtime,
        is_multi_label=job.images.table.is_multi_label,
    )
    paths = job.images.table.part("train")["path"]
    _tell_of_the_loss(job.config, talk=talk)
    training = Training(
        command="finetune",
        task=task_of(job, images.model),
        state=state,
        run=folder,
        runtime=runtime,
        epochs=train.epochs,
        steps_per_epoch=steps_per_epoch,
        patience=train.patience,
        max_seconds=train.max_seconds,
        monitor=job.config.monitor,
        clip_grad=train.clip_grad,
        train_steps=_mixed(images.steps, job),
        validate=lambda: evaluate(
            judged.model,
            images.evaluation("val"),
            evaluator=judged.evaluator(),
            check_stop=signals.check,
        ).compute(),
        file_of=lambda index: str(paths[index]),
        talk=talk,
    )
    return training, images


def training_batches_of(job: Job) -> tuple[int, Steps]:
    """Return the steps of an epoch, and batches of images for each as the options want them."""
    train = job.config.train
    steps_per_epoch, train_steps = job.reader.training(
        transform=train_transform_of(job),
        grad_accum_steps=train.grad_accum_steps,
        is_balanced=train.sampler == "balanced",
        view_seed=job.config.trunk.view_seed,
    )
    return steps_per_epoch, _mixed(train_steps, job)


def train_transform_of(job: Job) -> TrainTransform:
    """Return what makes the views of train images."""
    train = job.config.train
    return train_transform(
        job.backbone.preprocessing,
        level=train.augment,
        crop_scale=train.crop_scale,
        color_jitter=train.color_jitter,
        random_erasing=train.random_erasing,
    )


def _mixed(train_steps: Callable[[int, int], Iterable[Sequence[ImageBatch]]], job: Job) -> Steps:
    train = job.config.train
    if not train.mixup and not train.cutmix:
        return train_steps
    mixing = Mixing(mixup=train.mixup, cutmix=train.cutmix)
    return with_mixing(train_steps, mixing=mixing, seed=job.runtime.seed)


def task_of(job: Job, model: nn.Module) -> ClassificationTask | MultiLabelTask:
    """Return what a model is trained on."""
    train, loss = job.config.train, job.config.loss
    if job.images.table.is_multi_label:
        assert loss != "cross-entropy"  # refused by the config
        return MultiLabelTask(
            model,
            preprocessing=job.backbone.preprocessing,
            runtime=job.runtime,
            loss=loss,
            focal_gamma=train.focal_gamma,
            label_smoothing=train.label_smoothing,
            positive_weights=_class_weights(job),
        )
    assert loss != "bce"
    return ClassificationTask(
        model,
        preprocessing=job.backbone.preprocessing,
        runtime=job.runtime,
        loss=loss,
        focal_gamma=train.focal_gamma,
        label_smoothing=train.label_smoothing,
        class_weights=_class_weights(job),
    )


def _class_weights(job: Job) -> Tensor | None:
    if job.config.train.class_weights == "none":
        return None
    table = job.images.table
    if table.is_multi_label:
        weights = balanced_positive_weights(table.label_matrix("train"))
    else:
        weights = balanced_weights(table.targets("train"), num_classes=len(table.classes))
    return from_numpy(weights).float()


def train_loss_differences(config: FinetuneConfig) -> tuple[str, ...]:
    """Return why the train loss is not comparable with the val loss, if it is not."""
    train = config.train
    return tuple(
        reason
        for reason, is_so in (
            ("on mixed images (--mixup, --cutmix)", train.mixup or train.cutmix),
            ("with focal loss", train.loss == "focal"),
            ("with weighted classes", train.class_weights == "balanced"),
            ("on balanced classes", train.sampler == "balanced"),
            ("with smoothed labels", train.label_smoothing),
        )
        if is_so
    )


def _tell_of_the_loss(config: FinetuneConfig, *, talk: Talk) -> None:
    """Say where the train loss is not comparable with the val loss."""
    if reasons := train_loss_differences(config):
        kind = "binary cross-entropy" if config.data.multi_label else "cross-entropy"
        talk.note(
            f"The train loss is measured {' and '.join(reasons)}; the val loss is plain "
            f"{kind} on the images as they are."
        )
