from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tlcli.engine.limited_memory import LimitedMemory

SHAPE = torch.Size([3, 5])


def movements(count: int, *, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Movements on a random quadratic and the gradient's changes."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(15, 15, dtype=torch.float64, generator=generator)
    hessian = root @ root.T + torch.eye(15, dtype=torch.float64)
    moves = torch.randn(count, 15, dtype=torch.float64, generator=generator)
    return [(move.view(SHAPE), (hessian @ move).view(SHAPE)) for move in moves]


def two_loops(
    gradient: Tensor,
    pairs: list[tuple[Tensor, Tensor]],
    precondition: Callable[[Tensor], Tensor],
) -> Tensor:
    """Algorithm 7.4 of Nocedal & Wright, line by line."""
    rest = gradient.clone()
    alphas = []
    for moved, turned in reversed(pairs):
        alphas.append((moved * rest).sum() / (moved * turned).sum())
        rest = rest - alphas[-1] * turned
    result = precondition(rest)
    for (moved, turned), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = (turned * result).sum() / (moved * turned).sum()
        result = result + (alpha - beta) * moved
    return result


def halve(gradient: Tensor) -> Tensor:
    return gradient / torch.arange(2.0, 17.0, dtype=torch.float64).view(SHAPE)


def memory_of(pairs: list[tuple[Tensor, Tensor]], *, capacity: int) -> LimitedMemory:
    memory = LimitedMemory(capacity, shape=SHAPE, like=torch.zeros(1, dtype=torch.float64))
    for moved, turned in pairs:
        memory.add(moved, turned)
    return memory


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9, 14])
def test_times_inverse__equals_the_two_loops(count: int) -> None:
    pairs = movements(count)
    memory = memory_of(pairs, capacity=4)
    gradient = torch.linspace(-1, 1, 15, dtype=torch.float64).view(SHAPE)
    assert len(memory) == min(count, 4)
    torch.testing.assert_close(
        memory.times_inverse(gradient, halve),
        two_loops(gradient, pairs[-4:], halve),
        rtol=1e-9,
        atol=1e-9,
    )


def test_add__movement_without_curvature_is_not_remembered() -> None:
    memory = memory_of(movements(2), capacity=4)
    moved = torch.ones(SHAPE, dtype=torch.float64)
    for turned in (-moved, 0 * moved, torch.full(SHAPE, float("nan"), dtype=torch.float64)):
        memory.add(moved, turned)
    assert len(memory) == 2


def test_with_curvature__is_the_memory_of_the_other_function() -> None:
    added = torch.tensor([0.5, 0.5, 2.0, 0.5, 0.0], dtype=torch.float64)
    pairs = movements(6)
    other = memory_of(pairs, capacity=4).with_curvature(added)
    expected = [(moved, turned + added * moved) for moved, turned in pairs[-4:]]
    gradient = torch.linspace(-1, 1, 15, dtype=torch.float64).view(SHAPE)
    torch.testing.assert_close(
        other.times_inverse(gradient, halve), two_loops(gradient, expected, halve)
    )
    change, product = other.newest_change()
    torch.testing.assert_close(change, expected[-1][1])
    assert product == pytest.approx(float((expected[-1][0] * expected[-1][1]).sum()))


def test_with_curvature__movements_that_lose_theirs_are_forgotten() -> None:
    memory = memory_of(movements(3), capacity=4)
    assert len(memory.with_curvature(torch.tensor(-1e6, dtype=torch.float64))) == 0
    assert len(memory) == 3


def test_clear__leaves_the_preconditioner() -> None:
    memory = memory_of(movements(3), capacity=4)
    memory.clear()
    gradient = torch.ones(SHAPE, dtype=torch.float64)
    assert torch.equal(memory.times_inverse(gradient, halve), halve(gradient))
