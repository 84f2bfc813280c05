"""What L-BFGS remembers, as matrices."""

from collections.abc import Callable

import torch
from torch import Tensor

_LEAST_COSINE = 1e-10


class LimitedMemory:
    """The last movements s and the changes y of the gradient that they caused.

    The two loops of L-BFGS (Nocedal & Wright 2006, "Numerical Optimization", algorithm 7.4) are
    solved as two triangular systems, so that the movements are read four times in all and not
    one dot product at a time (Byrd, Nocedal & Schnabel 1994, "Representations of quasi-Newton
    matrices and their use in limited memory methods").

    Args:
        capacity: Movements to remember; then the oldest is forgotten.
        shape: Of the parameters.
        like: Tensor whose dtype and device to use.
    """

    def __init__(self, capacity: int, *, shape: torch.Size, like: Tensor) -> None:
        self._shape = shape
        self._moved = like.new_zeros(capacity, shape.numel())
        self._turned = like.new_zeros(capacity, shape.numel())
        self._products = like.new_zeros(capacity, capacity)
        """s_i . y_j, in the order of the slots."""
        self._slots: list[int] = []
        """From the oldest movement to the newest."""

    def __len__(self) -> int:
        return len(self._slots)

    def clear(self) -> None:
        """Forget all."""
        self._slots = []

    def add(self, moved: Tensor, turned: Tensor) -> None:
        """Remember a movement, unless rounding hides the curvature along it."""
        moved, turned = moved.flatten(), turned.flatten()
        if not float(moved @ turned) > _LEAST_COSINE * float(moved.norm() * turned.norm()):
            return
        full = len(self._slots) == len(self._moved)
        slot = self._slots.pop(0) if full else len(self._slots)
        self._slots.append(slot)
        self._moved[slot] = moved
        self._turned[slot] = turned
        self._products[slot] = self._turned @ moved
        self._products[:, slot] = self._moved @ turned

    def with_curvature(self, added: Tensor) -> "LimitedMemory":
        """Return the memory of the same movements on a function that has more curvature.

        Args:
            added: Second derivative to add, along each parameter; broadcasts to their shape.
        """
        other = LimitedMemory(len(self._moved), shape=self._shape, like=self._moved)
        other._moved.copy_(self._moved)
        other._turned.copy_(self._turned)
        other._turned += self._moved * added.expand(self._shape).flatten()
        other._products.copy_(other._moved @ other._turned.T)
        other._slots = [slot for slot in self._slots if float(other._products[slot, slot]) > 0]
        return other

    def newest_change(self) -> tuple[Tensor, float]:
        """Return y of the newest movement, and s . y."""
        slot = self._slots[-1]
        change = self._turned[slot].view(self._shape)
        return change, float(self._products[slot, slot])

    def times_inverse(self, gradient: Tensor, precondition: Callable[[Tensor], Tensor]) -> Tensor:
        """Multiply a gradient with the inverse Hessian that the movements suggest.

        Args:
            gradient: Of the shape of the parameters.
            precondition: Multiplies with the inverse Hessian that is assumed before them.
        """
        if not self._slots:
            return precondition(gradient)
        products = self._products[self._slots][:, self._slots].triu()
        alpha = torch.linalg.solve_triangular(
            products, self._dots(self._moved, gradient), upper=True
        )
        result = precondition(gradient - self._combine(self._turned, alpha))
        rest = products.diagonal()[:, None] * alpha - self._dots(self._turned, result)
        delta = torch.linalg.solve_triangular(products.T, rest, upper=False)
        return result + self._combine(self._moved, delta)

    def _dots(self, vectors: Tensor, parameters: Tensor) -> Tensor:
        return (vectors @ parameters.flatten())[self._slots][:, None]

    def _combine(self, vectors: Tensor, factors: Tensor) -> Tensor:
        by_slot = factors.new_zeros(len(vectors))
        by_slot[self._slots] = factors[:, 0]
        return (by_slot @ vectors).view(self._shape)
