import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from toy import image_batch, tiny_model

from tlcli.engine.optim import (
    ParamGroup,
    build_optimizer,
    build_scheduler,
    current_rates,
    learning_rate_factor,
    param_groups,
    stage_learning_rates,
)
from tlcli.models.staged import StagedModel

HEAD_LR, BACKBONE_LR, DECAY = 1e-2, 1e-3, 0.1
STAGES = ("stem", "blocks.0", "blocks.1", "head")


def groups_of(model: StagedModel, *, layer_decay: float = 1.0) -> list[ParamGroup]:
    rates = stage_learning_rates(
        STAGES, lr=HEAD_LR, backbone_lr=BACKBONE_LR, layer_decay=layer_decay
    )
    return param_groups(
        model, learning_rates=rates, weight_decay=DECAY, no_weight_decay=frozenset({"scale"})
    )


def backward(model: nn.Module, seed: int = 0) -> None:
    batch = image_batch(range(seed, seed + 6))
    F.cross_entropy(model(batch.images / 255), batch.targets).backward()


def test_stage_learning_rates__decay_counts_stages_from_the_head() -> None:
    rates = stage_learning_rates(STAGES, lr=0.4, backbone_lr=0.08, layer_decay=0.5)

    assert rates == {"head": 0.4, "blocks.1": 0.08, "blocks.0": 0.04, "stem": 0.02}


def test_stage_learning_rates__no_decay_gives_all_stages_one_rate() -> None:
    rates = stage_learning_rates(STAGES, lr=0.4, backbone_lr=0.08, layer_decay=1.0)

    assert rates == {"head": 0.4, "blocks.1": 0.08, "blocks.0": 0.08, "stem": 0.08}


def test_param_groups__equal_a_list_made_by_hand() -> None:
    groups = groups_of(tiny_model(), layer_decay=0.5)

    found = {name: (g.part, g.lr, g.weight_decay) for g in groups for name in g.names}
    assert found == {
        "stem.weight": ("backbone", 0.25e-3, DECAY),
        "stem.bias": ("backbone", 0.25e-3, 0.0),
        "norm.weight": ("backbone", 0.25e-3, 0.0),
        "norm.bias": ("backbone", 0.25e-3, 0.0),
        "blocks.0.weight": ("backbone", 0.5e-3, DECAY),
        "blocks.0.bias": ("backbone", 0.5e-3, 0.0),
        "blocks.1.weight": ("backbone", 1e-3, DECAY),
        "blocks.1.bias": ("backbone", 1e-3, 0.0),
        "blocks.2.weight": ("backbone", 1e-3, 0.0),
        "blocks.2.bias": ("backbone", 1e-3, 0.0),
        "scale": ("backbone", 1e-3, 0.0),  # three dimensions, but the model exempts it
        "fc.weight": ("head", HEAD_LR, DECAY),
        "fc.bias": ("head", HEAD_LR, 0.0),
    }


def test_param_groups__hold_every_parameter_once_whatever_is_frozen() -> None:
    model = tiny_model()
    model.open_stages(["head"])

    names = [name for group in groups_of(model) for name in group.names]

    assert sorted(names) == sorted(dict(model.network.named_parameters()))


def test_param_groups__head_stays_apart_at_the_rate_of_the_backbone() -> None:
    rates = dict.fromkeys(STAGES, 1e-3)
    groups = param_groups(
        tiny_model(), learning_rates=rates, weight_decay=0.0, no_weight_decay=frozenset()
    )

    assert [(g.part, len(g.names)) for g in groups] == [("backbone", 11), ("head", 2)]


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamW), ("sgd", SGD)])
def test_build_optimizer__has_the_groups_and_their_tensors(
    name: str, kind: type[Optimizer]
) -> None:
    model = tiny_model()
    groups = groups_of(model)
    parameters = dict(model.network.named_parameters())

    optimizer = build_optimizer(model.network, groups, name=name)  # type: ignore[arg-type]

    assert type(optimizer) is kind
    for entry, group in zip(optimizer.param_groups, groups, strict=True):
        assert all(a is parameters[b] for a, b in zip(entry["params"], group.names, strict=True))
        assert (entry["part"], entry["lr"], entry["weight_decay"]) == (
            group.part,
            group.lr,
            group.weight_decay,
        )


def test_build_optimizer__sgd_has_nesterov_momentum() -> None:
    model = tiny_model()
    optimizer = build_optimizer(model.network, groups_of(model), name="sgd")

    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.9, True)}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_build_optimizer__late_stage_starts_like_a_fresh_optimizer(name: str) -> None:
    model = tiny_model()
    model.open_stages(["head"])
    optimizer = build_optimizer(model.network, groups_of(model), name=name)  # type: ignore[arg-type]
    for step in range(5):
        backward(model, seed=step)
        optimizer.step()
        optimizer.zero_grad()
    assert not [p for p in model.network.blocks.parameters() if optimizer.state[p]]

    model.open_stages(["blocks.0", "head"])
    twin = copy.deepcopy(model)
    fresh = build_optimizer(twin.network, groups_of(twin), name=name)  # type: ignore[arg-type]
    for network, stepper in ((model, optimizer), (twin, fresh)):
        backward(network, seed=9)
        stepper.step()

    late = dict(model.network.blocks[0].named_parameters())
    expected = dict(twin.network.blocks[0].named_parameters())
    for key, parameter in late.items():
        assert torch.equal(parameter, expected[key])
    assert not torch.equal(model.network.fc.weight, twin.network.fc.weight)  # old momentum


def test_build_optimizer__first_step_of_adamw_by_hand() -> None:
    model = tiny_model()
    optimizer = build_optimizer(model.network, groups_of(model), name="adamw")
    before = model.network.fc.weight.detach().clone()
    backward(model)
    gradient = model.network.fc.weight.grad
    assert gradient is not None

    optimizer.step()

    # Loshchilov & Hutter 2019: decay, then a step of lr * g / (|g| + eps), both moments being new
    expected = before * (1 - HEAD_LR * DECAY) - HEAD_LR * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(model.network.fc.weight.detach(), expected)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_build_optimizer__frozen_weights_keep_every_bit_in_spite_of_weight_decay(name: str) -> None:
    model = tiny_model()
    optimizer = build_optimizer(model.network, groups_of(model), name=name)  # type: ignore[arg-type]
    backward(model)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)  # stale zeros, on which decoupled decay would act
    model.open_stages(["blocks.1", "head"])
    model.train()
    before = {key: tensor.clone() for key, tensor in model.frozen_tensors()}

    for step in range(4):
        backward(model, seed=step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    assert {"stem.weight", "norm.running_mean", "norm.num_batches_tracked"} <= set(before)
    for key, tensor in model.frozen_tensors():
        assert torch.equal(tensor, before[key]), key


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1, 1]),
        ("linear", [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("step", [1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("cosine", [0.5 + 0.5 * math.cos(math.pi * k / 6) for k in range(6)]),
    ],
)
def test_learning_rate_factor__without_warm_up(name: str, expected: list[float]) -> None:
    factor = learning_rate_factor(name, total_steps=6, warmup_steps=0)  # type: ignore[arg-type]

    assert [factor(step) for step in range(6)] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]),
        ("step", [0.25, 0.5, 0.75, 1, 1, 0.1, 0.01]),
        (
            "cosine",
            [0.25, 0.5, 0.75, 1, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4],
        ),
    ],
)
def test_learning_rate_factor__warm_up_then_schedule(name: str, expected: list[float]) -> None:
    factor = learning_rate_factor(name, total_steps=7, warmup_steps=3)  # type: ignore[arg-type]

    assert [factor(step) for step in range(7)] == pytest.approx(expected, abs=1e-15)


@given(
    name=st.sampled_from(["cosine", "linear", "step", "constant"]),
    total=st.integers(1, 300),
    warmup=st.integers(0, 300),
)
def test_learning_rate_factor__rises_then_falls_within_0_and_1(
    name: str, total: int, warmup: int
) -> None:
    warmup = min(warmup, total - 1)
    factor = learning_rate_factor(name, total_steps=total, warmup_steps=warmup)  # type: ignore[arg-type]
    values = [factor(step) for step in range(total)]

    assert all(0 < value <= 1 for value in values)
    assert values[warmup] == 1
    assert values[: warmup + 1] == sorted(values[: warmup + 1])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)


def test_build_scheduler__one_factor_on_the_peak_of_every_group() -> None:
    model = tiny_model()
    optimizer = build_optimizer(model.network, groups_of(model), name="adamw")
    factor = learning_rate_factor("cosine", total_steps=4, warmup_steps=1)
    scheduler = build_scheduler(optimizer, factor)

    for step in range(4):
        for entry, group in zip(optimizer.param_groups, groups_of(model), strict=True):
            assert entry["lr"] == pytest.approx(group.lr * factor(step))
        optimizer.step()
        scheduler.step()


def test_current_rates__highest_of_trained_parameters_only() -> None:
    model = tiny_model()
    optimizer = build_optimizer(model.network, groups_of(model, layer_decay=0.5), name="adamw")

    model.open_stages(["head"])
    assert current_rates(optimizer) == {"head": HEAD_LR, "backbone": None}
    model.open_stages(["stem", "blocks.0", "head"])
    assert current_rates(optimizer) == {"head": HEAD_LR, "backbone": 0.5e-3}


def test_current_rates__a_rate_that_fell_to_zero_is_not_frozen() -> None:
    model = tiny_model()
    optimizer = build_optimizer(model.network, groups_of(model), name="adamw")
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    assert current_rates(optimizer) == {"head": 0.0, "backbone": 0.0}
