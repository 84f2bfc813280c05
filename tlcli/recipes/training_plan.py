"""What will be trained, how fast, and from when on: the answer to `--dry-run`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tlcli.backbones.stages import HEAD, Stage
from tlcli.config import OptimConfig, UnfreezeConfig
from tlcli.engine.optim import ParamGroup, param_groups, stage_learning_rates
from tlcli.errors import ConfigError
from tlcli.models.staged import StagedModel, norms_of
from tlcli.models.unfreezing import Phase, holes, parse_schedule, parse_unfreeze
from tlcli.results.records import SCHEMA_VERSION

DEFAULT_UNFREEZE = "all"


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Phases, learning rates and parameter groups of one model."""

    phases: tuple[Phase, ...]
    learning_rates: dict[str, float]
    groups: list[ParamGroup]

    def trained_from(self, stage: str) -> int | None:
        """Return the epochs done before a stage is trained, None if it stays frozen."""
        return next((phase.start for phase in self.phases if stage in phase.trained), None)


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One stage of the plan."""

    stage: str
    label: str
    parameters: int
    lr: float | None
    """Peak learning rate, None if it stays frozen."""
    weight_decay: float | None
    """Of its weight matrices, None if it stays frozen."""
    trained_from: int | None
    """Epochs done before it is trained, None if it stays frozen."""
    batch_norm: str
    """Mode of its BatchNorm layers: `train`, `eval`, `eval, then train`, or `-` without any."""


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """What `--dry-run` prints."""

    model: str
    weights: str
    classes: int
    rows: tuple[PlanRow, ...]
    phases: tuple[Phase, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the document of `finetune --dry-run --json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "weights": self.weights,
            "classes": self.classes,
            "stages": [vars(row) for row in self.rows],
            "phases": [{"start": p.start, "trained": list(p.trained)} for p in self.phases],
        }


def plan_training(
    model: StagedModel,
    *,
    no_weight_decay: frozenset[str],
    freezing: UnfreezeConfig,
    train: OptimConfig,
) -> TrainingPlan:
    """Turn the user's words into phases and parameter groups.

    Raises:
        ConfigError: If a stage does not exist, or an option could have no effect.
    """
    phases = read_phases(freezing, stages=model.stages, epochs=train.epochs)
    if phases[-1].trained == (HEAD,):
        for option, is_set in (
            ("--backbone-lr", train.backbone_lr is not None),
            ("--layer-decay", train.layer_decay != 1),
        ):
            if is_set:
                raise ConfigError(f"{option} has no effect: only the head is trained.")
    rates = stage_learning_rates(
        [stage.name for stage in model.stages],
        lr=train.head_lr,
        backbone_lr=train.last_stage_lr,
        layer_decay=train.layer_decay,
    )
    groups = param_groups(
        model,
        learning_rates=rates,
        weight_decay=train.matrix_decay,
        no_weight_decay=no_weight_decay,
    )
    return TrainingPlan(phases=phases, learning_rates=rates, groups=groups)


def read_phases(
    freezing: UnfreezeConfig, *, stages: Sequence[Stage], epochs: int
) -> tuple[Phase, ...]:
    """Return the phases that `--unfreeze` or `--schedule` asks for."""
    names = [stage.name for stage in stages]
    if freezing.schedule is not None:
        return parse_schedule(freezing.schedule, stages=names, epochs=epochs)
    return parse_unfreeze(freezing.unfreeze or DEFAULT_UNFREEZE, stages=names)


def decided_options(
    plan: TrainingPlan, *, train: OptimConfig, freezing: UnfreezeConfig
) -> dict[str, Any]:
    """Return the values that were used for options of the training that were not given."""
    options: dict[str, Any] = {"lr": train.head_lr, "weight_decay": train.matrix_decay}
    if plan.phases[-1].trained != (HEAD,):
        options["backbone_lr"] = train.last_stage_lr
    if freezing.schedule is None:
        options["unfreeze"] = freezing.unfreeze or DEFAULT_UNFREEZE
    return options


def hole_warning(phases: Sequence[Phase], *, stages: Sequence[Stage]) -> str | None:
    """Return what to tell a user who leaves a stage frozen between trained ones and the head."""
    names = [stage.name for stage in stages]
    left = [name for name in holes(phases[-1].trained, stages=names) if name != HEAD]
    if not left:
        return None
    return (
        f"{', '.join(left)} stays frozen although an earlier stage is trained; "
        "last:N trains everything from a stage up to the head."
    )


def describe_plan(
    plan: TrainingPlan,
    *,
    model: StagedModel,
    train: OptimConfig,
    name: str,
    weights: str,
    classes: int,
) -> PlanReport:
    """Return the plan stage by stage."""
    return PlanReport(
        model=name,
        weights=weights,
        classes=classes,
        rows=tuple(_row(plan, stage, model=model, train=train) for stage in model.stages),
        phases=plan.phases,
    )


def _row(plan: TrainingPlan, stage: Stage, *, model: StagedModel, train: OptimConfig) -> PlanRow:
    start = plan.trained_from(stage.name)
    frozen = start is None
    named = model.network.named_parameters()
    return PlanRow(
        stage=stage.name,
        label=stage.label,
        parameters=sum(p.numel() for key, p in named if stage.owns(key)),
        lr=None if frozen else plan.learning_rates[stage.name],
        weight_decay=None if frozen else train.matrix_decay,
        trained_from=start,
        batch_norm=_batch_norm_mode(model, stage, start=start),
    )


def _batch_norm_mode(model: StagedModel, stage: Stage, *, start: int | None) -> str:
    norms = {name for name in norms_of(model.network) if stage.owns(name)}
    if not norms:
        return "-"
    if start is None or norms <= model.kept_norms:
        return "eval"
    return "train" if start == 0 else "eval, then train"
