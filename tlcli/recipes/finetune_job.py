"""A fine-tuning before its first step: images, network, plan and optimizer put together."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import (
    NO_WEIGHTS,
    WeightsChoice,
    build_untrained,
    create_backbone,
)
from tlcli.backbones.protocol import Backbone
from tlcli.config import FinetuneConfig, ModelConfig, OptimConfig, TrainConfig, options_of
from tlcli.engine.ema import averaged_copy
from tlcli.engine.optim import build_optimizer, build_scheduler, learning_rate_factor
from tlcli.engine.runtime import Runtime, choose_runtime
from tlcli.engine.training_state import TrainingState
from tlcli.errors import ConfigError, DataError, MachineError
from tlcli.models.head import parse_head, replace_heads
from tlcli.models.saved_model import ModelDescription, read_description
from tlcli.models.staged import StagedModel, norms_of
from tlcli.models.stochastic_layers import set_drop_path, set_head_dropout
from tlcli.recipes.batch_reader import BatchReader, default_workers
from tlcli.recipes.head_in_network import start_from_head
from tlcli.recipes.image_data import (
    RunImages,
    load_images,
    require_parts,
    tell_of_channels,
)
from tlcli.recipes.memory_format import place_for_training
from tlcli.recipes.seen_images import check_held_out
from tlcli.recipes.talk import Talk
from tlcli.recipes.training_plan import (
    DEFAULT_UNFREEZE,
    TrainingPlan,
    decided_options,
    hole_warning,
    plan_training,
)
from tlcli.results.run_dir import RunDirectory

_LAST_STAGES = 3
"""Trained beside the head of a pretrained network where the user does not say what."""
FROZEN_INPUT = (
    "is frozen, with the weights of red, green and blue repeated for all channels: what a fourth "
    "one means it has not learnt."
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run before its first step."""

    config: FinetuneConfig
    runtime: Runtime
    images: RunImages
    backbone: Backbone
    model: StagedModel
    plan: TrainingPlan
    reader: BatchReader
    seconds_prepare: float
    seconds_search: float = 0.0
    """That `--lr auto` took, which count for `--max-time`."""

    @property
    def description(self) -> ModelDescription:
        """What `model.json` will hold."""
        return ModelDescription(
            model=self.backbone.name,
            weights=self.backbone.weights.tag,
            weights_sha256=self.backbone.weights.sha256,
            shape_tag=self.backbone.shape_tag,
            input_size=self.backbone.input_size,
            head=parse_head(self.config.freezing.head),
            classes=self.images.table.classes,
            is_multi_label=self.images.table.is_multi_label,
            class_titles=dict(self.images.table.class_titles),
            preprocessing=self.backbone.preprocessing,
            feature_dim=self.backbone.feature_dim,
        )


def prepare_job(config: FinetuneConfig, *, former: RunDirectory | None, talk: Talk) -> Job:
    """Load images and weights and decide what is trained."""
    started = time.perf_counter()
    runtime = choose_runtime(
        config.runtime.device,
        amp=config.runtime.amp,
        amp_dtype=config.runtime.amp_dtype,
        channels_last=config.runtime.channels_last,
        seed=config.train.seed,
    )
    runtime.seed_step(0, 0)  # for random weights, and the layers of a new head
    backbone = _backbone_of(former) if former else load_backbone(config.model, talk=talk)
    config = with_default_stages(config, backbone=backbone, former=former, talk=talk)
    images = _load_parts(config, former=former, runtime=runtime, talk=talk)
    classes = images.table.classes
    model = with_new_head(backbone, config, num_classes=len(classes))
    if config.freezing.init_head and former is None:
        start = Path(config.freezing.init_head)
        head = start_from_head(model.network, start, backbone=backbone, classes=classes, talk=talk)
        check_held_out(head, images.whole, config=config)
    plan = plan_job(model, config, backbone=backbone, talk=talk)
    if former is None:
        warn_of_frozen_input(plan, model=model, backbone=backbone, talk=talk)
        tell_of_channels(images.table, channels=backbone.preprocessing.channels, talk=talk)
    runtime = place_for_training(runtime, model, phases=plan.phases, talk=talk)
    reader = BatchReader(
        table=images.table,
        preprocessing=backbone.preprocessing,
        batch_size=config.train.batch_size,
        num_workers=default_workers(config.runtime.num_workers, runtime=runtime),
        runtime=runtime,
        talk=talk,
    )
    return Job(
        config=config,
        runtime=runtime,
        images=images,
        backbone=backbone,
        model=model,
        plan=plan,
        reader=reader,
        seconds_prepare=time.perf_counter() - started,
    )


def _load_parts(
    config: FinetuneConfig, *, former: RunDirectory | None, runtime: Runtime, talk: Talk
) -> RunImages:
    """Load images to train on and images to choose by: those of a run that goes on, unchanged."""
    images = load_images(
        config.data,
        seed=config.train.seed,
        former=former,
        offline=config.model.offline,
        talk=talk,
    )
    require_parts(images.table)
    if former:
        check_unchanged(
            images.whole.fingerprint,
            former.read_record(),
            spec=images.table.spec,
            runtime=runtime,
        )
    return images


def with_default_stages(
    config: FinetuneConfig, *, backbone: Backbone, former: RunDirectory | None, talk: Talk
) -> FinetuneConfig:
    """Say what is trained where neither `--unfreeze` nor `--schedule` was given.

    Few images spoil the first stages of a pretrained network more than they improve them
    (docs/results.md). What is not pretrained is trained as a whole. A run that goes on
    does as it began.
    """
    freezing = config.freezing
    if freezing.unfreeze is not None or freezing.schedule is not None:
        return config
    if former:
        unfreeze = former.read_record()["config"]["unfreeze"]
    elif not _has_learnt_stages(backbone) or len(backbone.stages) <= _LAST_STAGES + 1:
        unfreeze = DEFAULT_UNFREEZE
    else:
        unfreeze = f"last:{_LAST_STAGES}"
        talk.note(
            f"No --unfreeze given: {unfreeze} and the head are trained, as the weights are "
            "pretrained; --unfreeze all trains everything."
        )
    return replace(config, freezing=replace(freezing, unfreeze=unfreeze))


def _has_learnt_stages(backbone: Backbone) -> bool:
    """Say whether the first stages know the pictures that they will be shown."""
    is_adapted = bool(backbone.weights.adapted_layers) and backbone.preprocessing.channels > 1
    return backbone.weights.tag != NO_WEIGHTS and not is_adapted


def plan_job(
    model: StagedModel, config: FinetuneConfig, *, backbone: Backbone, talk: Talk
) -> TrainingPlan:
    """Decide what of a network is trained and what is left out of it at random, in place.

    Raises:
        ConfigError: If a stage does not exist, or an option could have no effect.
    """
    plan = plan_training(
        model,
        no_weight_decay=backbone.no_weight_decay,
        freezing=config.freezing,
        train=config.train,
    )
    leave_out_at_random(model, plan, backbone=backbone, train=config.train)
    if config.freezing.freeze_norm:
        _check_freeze_norm(model, plan, name=backbone.name)
    warn_of_holes(plan, model=model, talk=talk)
    return plan


def check_unchanged(
    fingerprint: str, record: Mapping[str, Any], *, spec: str, runtime: Runtime
) -> None:
    """Make sure that a run can go on as it began.

    Args:
        fingerprint: Of the data as it is now.
        record: `run.json` of the run.
        spec: What the user calls the data.
        runtime: Of this machine.

    Raises:
        DataError: If image files were replaced since.
        MachineError: If this machine would compute with another device or precision.
    """
    if fingerprint != record["data"]["fingerprint"]:
        raise DataError(
            f"{spec} changed since the run began: some image files have another size. "
            "Restore them, or start a new run."
        )
    kept = record["environment"]
    before = (kept["device"].partition(":")[0], kept["amp_dtype"])
    now = (runtime.device.type, str(runtime.amp_dtype) if runtime.amp_dtype else None)
    if before != now:
        raise MachineError(
            f"The run began on {before[0]} with mixed precision {before[1]}, here it would go on "
            f"with {now[0]} and {now[1]} and give other numbers. Use such a machine, or start anew."
        )


def load_backbone(model: ModelConfig, *, talk: Talk) -> Backbone:
    """Build a network with its weights and tell where they came from."""
    backbone = create_backbone(
        model.model,
        weights=model.weights,
        offline=model.offline,
        mean=model.means,
        std=model.stds,
        input_size=model.input_size,
        in_channels=model.in_channels,
    )
    origin = f" from {backbone.weights.path}" if backbone.weights.path else ""
    talk.note(f"Model: {backbone.name}, weights {backbone.weights.tag}{origin}.")
    for remark in backbone.weights.remarks:
        talk.note(f"Weights: {remark}")
    return backbone


def _backbone_of(former: RunDirectory) -> Backbone:
    """Build the network of a run to go on with; its checkpoint brings the weights."""
    description = read_description(former.model_json_path)
    choice = WeightsChoice(kind="none", tag=description.shape_tag)
    backbone = build_untrained(
        parse_backbone_name(description.model),
        weights=choice,
        input_size=description.input_size,
        in_channels=description.preprocessing.channels,
    )
    return replace(backbone, preprocessing=description.preprocessing)


def with_new_head(backbone: Backbone, config: FinetuneConfig, *, num_classes: int) -> StagedModel:
    """Put the head of `--head` on a network, in place, and make its stages freezable."""
    replace_heads(
        backbone.network,
        head_names=backbone.head_names,
        num_classes=num_classes,
        spec=parse_head(config.freezing.head),
    )
    kept_norms = norms_of(backbone.network) if config.freezing.freeze_norm else frozenset()
    return StagedModel(backbone.network, stages=backbone.stages, kept_norms=kept_norms)


def leave_out_at_random(
    model: StagedModel, plan: TrainingPlan, *, backbone: Backbone, train: TrainConfig
) -> None:
    """Give a network the drop path and the head dropout that are asked for, in place.

    Raises:
        ConfigError: If no block is trained that could be skipped.
    """
    if train.head_dropout is not None:
        set_head_dropout(model.network, head_names=backbone.head_names, rate=train.head_dropout)
    if train.drop_path is None:
        return
    blocks = set_drop_path(model.network, rate=train.drop_path)
    trained = plan.phases[-1].trained
    if blocks and not any(model.stage_of(block).name in trained for block in blocks):
        raise ConfigError(
            f"--drop-path {train.drop_path:g} has no effect: the blocks that it would skip are "
            "frozen, and frozen stages are never changed at random."
        )


def _check_freeze_norm(model: StagedModel, plan: TrainingPlan, *, name: str) -> None:
    """Make sure that there is a layer whose statistics would move without `--freeze-norm`."""
    if not model.kept_norms:
        raise ConfigError(
            f"--freeze-norm has no effect: {name} has no layers that keep statistics, such as "
            "BatchNorm. Leave it out."
        )
    trained = plan.phases[-1].trained
    if not any(model.stage_of(norm).name in trained for norm in model.kept_norms):
        raise ConfigError(
            f"--freeze-norm has no effect: what is trained ({', '.join(trained)}) has no layers "
            "that keep statistics, and frozen stages keep theirs anyway. Leave it out."
        )


def warn_of_holes(plan: TrainingPlan, *, model: StagedModel, talk: Talk) -> None:
    """Warn of stages that stay frozen between trained ones and the head."""
    if warning := hole_warning(plan.phases, stages=model.stages):
        talk.warn(warning)


def warn_of_frozen_input(
    plan: TrainingPlan, *, model: StagedModel, backbone: Backbone, talk: Talk
) -> None:
    """Warn of a first layer that was adapted to more channels than it was trained on and stays so.

    One channel is another matter: gray gives what it gave in RGB.
    """
    first, channels = model.stages[0], backbone.preprocessing.channels
    is_adapted = bool(backbone.weights.adapted_layers) and channels > 1
    if is_adapted and first.name not in plan.phases[-1].trained:
        talk.warn(f"{first.label} {FROZEN_INPUT} --unfreeze all would train it too.")


def resolved_options(job: Job) -> dict[str, Any]:
    """Return every option with the value that was used where none was given."""
    decided = decided_options(job.plan, train=job.config.train, freezing=job.config.freezing)
    of_the_task = {"loss": job.config.loss, "monitor": job.config.monitor}
    return options_of(job.config) | of_the_task | decided


def first_state(
    model: StagedModel,
    plan: TrainingPlan,
    *,
    train: OptimConfig,
    runtime: Runtime,
    steps_per_epoch: int,
) -> TrainingState:
    """Return the state before the first step: optimizer, schedule, moving average."""
    optimizer = build_optimizer(model.network, plan.groups, name=train.opt)
    factor = learning_rate_factor(
        train.lr_schedule,
        total_steps=train.epochs * steps_per_epoch,
        warmup_steps=round(train.warmup_epochs * steps_per_epoch),
    )
    return TrainingState(
        model=model,
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, factor),
        phases=plan.phases,
        ema=averaged_copy(model, decay=train.ema) if train.ema else None,
        scaler=runtime.grad_scaler(),
    )
