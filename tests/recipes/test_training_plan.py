from typing import Any

import pytest
import timm

from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import WeightsChoice, build_untrained
from tlcli.backbones.protocol import Backbone
from tlcli.config import FreezingConfig, TrainConfig
from tlcli.errors import ConfigError
from tlcli.models.staged import StagedModel
from tlcli.recipes.training_plan import (
    PlanReport,
    describe_plan,
    hole_warning,
    plan_training,
    read_phases,
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_untrained(
        parse_backbone_name("timm/test_resnet"), weights=WeightsChoice(kind="none")
    )


def plan_of(
    backbone: Backbone, *, train: dict[str, Any] | None = None, **freezing: Any
) -> PlanReport:
    model = StagedModel(backbone.network, stages=backbone.stages)
    config = TrainConfig(**(train or {}))
    plan = plan_training(
        model,
        no_weight_decay=backbone.no_weight_decay,
        freezing=FreezingConfig(**freezing),
        train=config,
    )
    return describe_plan(
        plan, model=model, train=config, name="timm/test_resnet", weights="none", classes=5
    )


def test_describe_plan__row_per_stage_with_timm_counts(backbone: Backbone) -> None:
    plan = plan_of(
        backbone, schedule="0:head,2:layer4,4:layer3", train={"lr": 0.1, "layer_decay": 0.5}
    )
    network = timm.create_model("test_resnet")

    rows = {row.stage: row for row in plan.rows}
    assert list(rows)[-5:] == ["layer1", "layer2", "layer3", "layer4", "head"]
    for name, module in (
        ("layer3", network.layer3),
        ("layer4", network.layer4),
        ("head", network.fc),
    ):
        assert rows[name].parameters == sum(p.numel() for p in module.parameters())
    assert sum(row.parameters for row in plan.rows) == sum(p.numel() for p in network.parameters())
    assert [(r.lr, r.trained_from, r.weight_decay, r.batch_norm) for r in plan.rows[-4:]] == [
        (None, None, None, "eval"),
        (pytest.approx(0.005), 4, 0.05, "eval, then train"),
        (pytest.approx(0.01), 2, 0.05, "eval, then train"),
        (pytest.approx(0.1), 0, 0.05, "-"),
    ]
    assert plan.to_json()["phases"] == [
        {"start": 0, "trained": ["head"]},
        {"start": 2, "trained": ["layer4", "head"]},
        {"start": 4, "trained": ["layer3", "layer4", "head"]},
    ]


def test_describe_plan__without_words_everything_is_trained(backbone: Backbone) -> None:
    rows = plan_of(backbone).rows

    assert {row.trained_from for row in rows} == {0}
    assert [row.lr for row in rows] == pytest.approx([1e-4] * 7 + [1e-3])
    assert {row.batch_norm for row in rows} == {"train", "-"}


def test_plan_training__backbone_lr_that_nothing_uses(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="--backbone-lr has no effect: only the head is trained"):
        plan_of(backbone, schedule="0:head", train={"backbone_lr": 1e-3})


def test_read_phases__gradual(backbone: Backbone) -> None:
    phases = read_phases(FreezingConfig(schedule="gradual:2"), stages=backbone.stages, epochs=5)

    assert [(p.start, p.trained[0]) for p in phases] == [(0, "head"), (2, "layer4"), (4, "layer3")]


def test_hole_warning__names_the_stages_between(backbone: Backbone) -> None:
    phases = read_phases(FreezingConfig(unfreeze="layer2"), stages=backbone.stages, epochs=1)

    assert hole_warning(phases, stages=backbone.stages) == (
        "layer3, layer4 stays frozen although an earlier stage is trained; "
        "last:N trains everything from a stage up to the head."
    )


@pytest.mark.parametrize("unfreeze", ["head", "layer4", "last:3", "all"])
def test_hole_warning__none_without_a_hole(backbone: Backbone, unfreeze: str) -> None:
    phases = read_phases(FreezingConfig(unfreeze=unfreeze), stages=backbone.stages, epochs=1)

    assert hole_warning(phases, stages=backbone.stages) is None
