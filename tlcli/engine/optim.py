"""Learning rates, weight decay and the optimizer that applies them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tlcli.backbones.stages import HEAD
from tlcli.models.staged import StagedModel

OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["cosine", "linear", "step", "constant"]

_SGD_MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class ParamGroup:
    """Parameters that share a peak learning rate and a weight decay."""

    part: Literal["head", "backbone"]
    lr: float
    weight_decay: float
    names: tuple[str, ...]


def stage_learning_rates(
    stages: Sequence[str], *, lr: float, backbone_lr: float, layer_decay: float
) -> dict[str, float]:
    """Return the peak learning rate of every stage.

    The head has `lr`, the stage before it `backbone_lr`, and every stage further from the head
    `layer_decay` times that of its neighbour (Clark et al. 2020, ELECTRA, layer-wise decay).

    Args:
        stages: Names from the input to the head.
        lr: Of the head.
        backbone_lr: Of the last stage before the head.
        layer_decay: Factor in (0, 1]; 1 gives all stages `backbone_lr`.
    """
    body = [name for name in stages if name != HEAD]
    rates = {
        name: backbone_lr * layer_decay**distance for distance, name in enumerate(reversed(body))
    }
    return {HEAD: lr, **rates}


def param_groups(
    model: StagedModel,
    *,
    learning_rates: dict[str, float],
    weight_decay: float,
    no_weight_decay: frozenset[str],
) -> list[ParamGroup]:
    """Group all parameters, frozen ones too, by learning rate and weight decay.

    Groups are complete from the start: a frozen parameter has no gradient, so the optimizer skips
    it (no decay, no state), and when its stage opens it begins with fresh state at the learning
    rate that the schedule gives then.

    Args:
        model: The model in training.
        learning_rates: Peak learning rate of every stage.
        weight_decay: For weight matrices; norms, biases and other vectors have none.
        no_weight_decay: Further names without weight decay, as the bare network knows them.
    """
    names: dict[tuple[bool, float, float], list[str]] = {}
    for name, parameter in model.network.named_parameters():
        stage = model.stage_of(name).name
        exempt = parameter.ndim <= 1 or name in no_weight_decay
        key = (stage == HEAD, learning_rates[stage], 0.0 if exempt else weight_decay)
        names.setdefault(key, []).append(name)
    return [
        ParamGroup(
            part="head" if is_head else "backbone", lr=lr, weight_decay=decay, names=tuple(group)
        )
        for (is_head, lr, decay), group in names.items()
    ]


def build_optimizer(
    network: nn.Module, groups: Sequence[ParamGroup], *, name: OptimizerName
) -> Optimizer:
    """Build the optimizer over all groups; names and parts travel in its `param_groups`."""
    parameters = dict(network.named_parameters())
    entries: list[dict[str, Any]] = [
        {
            "params": [parameters[key] for key in group.names],
            "lr": group.lr,
            "weight_decay": group.weight_decay,
            "part": group.part,
            "names": list(group.names),
        }
        for group in groups
    ]
    if name == "adamw":
        return AdamW(entries, fused=True)  # one pass over the memory instead of ten
    return SGD(entries, momentum=_SGD_MOMENTUM, nesterov=True)


def learning_rate_factor(
    name: ScheduleName, *, total_steps: int, warmup_steps: int
) -> Callable[[int], float]:
    """Return the factor on every peak learning rate at a step (0-based).

    Warm-up rises linearly and reaches 1 at its end. Then `cosine` and `linear` fall to 0 at the end
    of the run, `step` divides by ten after each third of what is left, `constant` stays.
    """
    after_warmup = max(1, total_steps - warmup_steps)

    def factor(step: int) -> float:
        """Return the factor at a step."""
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / after_warmup)
        return _decay(name, progress)

    return factor


def _decay(name: ScheduleName, progress: float) -> float:
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if name == "linear":
        return 1 - progress
    if name == "step":
        return float(0.1 ** min(2, int(progress * 3)))
    return 1.0


def build_scheduler(optimizer: Optimizer, factor: Callable[[int], float]) -> LambdaLR:
    """Return a scheduler that applies one factor to the peak learning rate of every group."""
    return LambdaLR(optimizer, factor)


def current_rates(optimizer: Optimizer) -> dict[str, float | None]:
    """Return the highest learning rate now in the head and among trained backbone parameters."""
    rates: dict[str, float | None] = {"head": None, "backbone": None}
    for group in optimizer.param_groups:
        if any(parameter.requires_grad for parameter in group["params"]):
            rates[group["part"]] = max(group["lr"], rates[group["part"]] or 0.0)
    return rates
