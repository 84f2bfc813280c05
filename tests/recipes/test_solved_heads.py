"""Penalties read, heads solved for each, one chosen."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tlcli.config import HeadKind, ProbeHeadConfig
from tlcli.errors import ConfigError
from tlcli.recipes.feature_part import FeaturePart, ResidentRows
from tlcli.recipes.solved_heads import (
    DEFAULT_PENALTIES,
    SolvedHead,
    calibrated,
    choose_head,
    judge_heads,
    parse_penalties,
    solve_heads,
)


def part(count: int, *, seed: int) -> FeaturePart:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    rows = 2 * torch.eye(3, 5)[targets] + 1.5 * torch.randn(count, 5, generator=generator)
    return FeaturePart(rows=ResidentRows(rows), targets=targets.numpy())


@pytest.mark.parametrize(
    ("head", "text", "values"),
    [
        ("linear", "0.1,1,10", (0.1, 1, 10)),
        ("linear", "10, 0.1 ,10", (0.1, 10)),
        ("linear", "1e-5:10:7", (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10)),
        ("ridge", "1:100:3", (1, 10, 100)),
        ("knn", "20,5", (5, 20)),
        ("knn", "3:48:5", (3, 6, 12, 24, 48)),
        ("linear", None, DEFAULT_PENALTIES["linear"]),
        ("knn", None, (1, 3, 5, 10, 20, 50, 100)),
    ],
)
def test_parse_penalties__values(head: HeadKind, text: str | None, values: list[float]) -> None:
    assert parse_penalties(ProbeHeadConfig(head=head, penalties=text)) == tuple(values)


@given(low=st.floats(1e-8, 1e3), factor=st.floats(1.01, 1e6), count=st.integers(2, 30))
def test_parse_penalties__spaced_evenly_in_logarithm(low: float, factor: float, count: int) -> None:
    text = f"{low!r}:{low * factor!r}:{count}"
    values = parse_penalties(ProbeHeadConfig(penalties=text))

    wanted = [low * factor ** (step / (count - 1)) for step in range(count)]
    assert values == pytest.approx(wanted, rel=1e-9)


def test_parse_penalties__thirteen_half_decades_by_default() -> None:
    values = DEFAULT_PENALTIES["linear"]
    assert (len(values), values[0], values[-1]) == (13, pytest.approx(1e-5), 10)
    assert np.diff(np.log10(values)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "0", "-1", "nan", "inf", "1,,2", "1;2", "1,0"),
        *("1:2", "1:2:3:4", "2:1:5", "0:1:5", "1:10:1", "1:10:x", "1:10:2.5", "a:b:3", "1:inf:3"),
    ],
)
def test_parse_penalties__nonsense(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not understood: write values of C above 0") as error:
        parse_penalties(ProbeHeadConfig(penalties=text))
    assert str(error.value).startswith(f"--penalties '{text}' ")


def test_parse_penalties__neighbours_are_whole() -> None:
    with pytest.raises(ConfigError, match="for knn these are whole numbers of neighbours"):
        parse_penalties(ProbeHeadConfig(head="knn", penalties="1,2.5"))
    with pytest.raises(ConfigError, match="write values of neighbours above 0"):
        parse_penalties(ProbeHeadConfig(head="knn", penalties="0"))


def judged(penalty: float, *, top1: float, loss: float) -> SolvedHead:
    return SolvedHead(penalty=penalty, module=nn.Identity(), metrics={"top1": top1, "loss": loss})


def test_choose_head__best_then_lower_loss_then_first() -> None:
    heads = [
        judged(1, top1=0.5, loss=0.1),
        judged(2, top1=0.7, loss=0.9),
        judged(3, top1=0.7, loss=0.4),
        judged(4, top1=0.7, loss=0.4),
    ]
    assert choose_head(heads, monitor="top1").penalty == 3
    assert choose_head(heads, monitor="loss").penalty == 1


@pytest.mark.parametrize("kind", ["linear", "ridge"])
def test_solve_heads__one_for_every_penalty_in_order(kind: HeadKind) -> None:
    heads = solve_heads(
        kind, part(60, seed=0), num_classes=3, penalties=(0.01, 1.0, 100.0), memory_limit=1 << 30
    )
    norms = [float(head.module.weight.norm()) for head in heads]

    assert [head.penalty for head in heads] == [0.01, 1.0, 100.0]
    assert all(head.is_converged for head in heads)
    # C lets weights grow, alpha makes them shrink
    assert norms == sorted(norms, reverse=kind == "ridge")
    assert not any(p.requires_grad for head in heads for p in head.module.parameters())


def test_solve_heads__a_head_that_did_not_converge_says_so() -> None:
    assert not SolvedHead(penalty=1, module=nn.Identity(), facts={"converged": False}).is_converged
    assert SolvedHead(penalty=1, module=nn.Identity()).is_converged


def test_solve_heads__neighbours_beyond_the_rows_are_left_out() -> None:
    heads = solve_heads("knn", part(9, seed=0), num_classes=3, penalties=(1, 9, 10), memory_limit=1)
    assert [(head.penalty, head.module.neighbours) for head in heads] == [(1, 1), (9, 9)]
    with pytest.raises(ConfigError, match="--penalties: 10 neighbours are more than the 9 train"):
        solve_heads("knn", part(9, seed=0), num_classes=3, penalties=(10, 20), memory_limit=1)


def test_judge_heads__metrics_on_the_part() -> None:
    train, val = part(60, seed=0), part(90, seed=1)
    heads = solve_heads("linear", train, num_classes=3, penalties=(1.0,), memory_limit=1 << 30)

    (head,) = judge_heads(heads, val)

    ((rows, targets),) = val.blocks()
    logits = head.module(rows)
    assert head.metrics["top1"] == pytest.approx(
        float((logits.argmax(dim=1) == targets).double().mean())
    )
    assert head.metrics["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(logits, targets)), rel=1e-5
    )


def test_calibrated__decisions_stay_and_the_loss_is_the_least() -> None:
    val = part(90, seed=1)
    heads = solve_heads(
        "ridge", part(60, seed=0), num_classes=3, penalties=(1.0, 1000.0), memory_limit=1 << 30
    )

    for before, after in zip(heads, calibrated(heads, val), strict=True):
        scores = torch.from_numpy(val.scores(before.module))
        scaled = torch.from_numpy(val.scores(after.module))
        scale = after.facts["scale"]
        assert scale is not None
        torch.testing.assert_close(scaled, scores * scale, rtol=1e-4, atol=1e-5)
        assert torch.equal(scaled.argmax(dim=1), scores.argmax(dim=1))
        targets = torch.from_numpy(val.targets)
        losses = [
            float(nn.functional.cross_entropy(scores * scale * math.exp(step), targets))
            for step in (-1.0, -0.01, 0.0, 0.01, 1.0)
        ]
        assert min(losses) == losses[2]
        assert losses[0] > losses[2] < losses[4]
