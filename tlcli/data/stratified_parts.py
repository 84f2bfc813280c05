"""Parts of a data set whose images have any number of classes: every class in its share.

Iterative stratification (Sechidis, Tsoumakas & Vlahavas, "On the Stratification of Multi-Label
Data", 2011): the class with the fewest images left is dealt first, each of its images to the part
that lacks most of that class. Two things are added: a part that is full gets no more, and one part
may be promised an image of every class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

KEPT = -1
"""The fold of what is never held out."""
_OPEN = -1


@dataclass(frozen=True, kw_only=True)
class Units:
    """Images, or groups of images, that are dealt as they are; U of them."""

    of_row: Integers
    """The unit of each image, shape (N,)."""
    counts: npt.NDArray[np.int32]
    """Images of each class in each unit, shape (U, C)."""

    @property
    def sizes(self) -> Integers:
        """Images in each unit, shape (U,)."""
        return np.bincount(self.of_row, minlength=len(self.counts)).astype(np.int64)

    @property
    def holders(self) -> Integers:
        """Units with images of each class, shape (C,)."""
        holders: Integers = (self.counts > 0).sum(axis=0).astype(np.int64)
        return holders


def units_of(
    labels: npt.NDArray[np.bool_], *, groups: npt.NDArray[np.object_] | None = None
) -> Units:
    """Return what is dealt: single images, or whole groups.

    Args:
        labels: Which classes each image has, shape (N, C).
        groups: Of each image, shape (N,); None where none stay together.
    """
    if groups is None:
        return Units(of_row=np.arange(len(labels)), counts=labels.astype(np.int32))
    names, of_row = np.unique(groups.astype(str), return_inverse=True)
    counts = np.zeros((len(names), labels.shape[1]), dtype=np.int32)
    np.add.at(counts, of_row, labels)
    return Units(of_row=of_row.astype(np.int64), counts=counts)


def stratified_parts(
    units: Units, *, sizes: Sequence[int], generator: np.random.Generator
) -> Integers:
    """Deal units to S parts and return the part (0..S-1) of each, shape (U,).

    The first part gets every class that there is, the others those of which there are enough
    units. Sizes are met exactly where a unit is one image, unless the first part needs more for
    that.

    Args:
        units: What is dealt.
        sizes: Images for each part.
        generator: Decides between equals.
    """
    wanted = _shares(units, sizes)
    for part in range(1, len(sizes)):
        is_scarce = (units.holders > part) & (sizes[part] > 0)
        wanted[is_scarce, part] = np.maximum(wanted[is_scarce, part], 1)
    wanted[:, 0] = units.counts.sum(axis=0) - wanted[:, 1:].sum(axis=1)
    dealing = _Dealing(units, wanted=wanted, sizes=sizes, generator=generator)
    dealing.cover(0)
    parts = dealing.finish()
    for part in range(1, len(sizes)):
        if sizes[part] and not (parts == part).any():
            _fill(parts, part, units=units)
    return parts


def stratified_folds(units: Units, *, folds: int, generator: np.random.Generator) -> Integers:
    """Deal units to k folds and return the fold of each, shape (U,), `KEPT` for some.

    Kept is what holds all there is of a class, and what has to stay so that no fold does.

    Args:
        units: What is dealt.
        folds: k.
        generator: Decides between equals.
    """
    is_only = ((units.counts > 0) & (units.holders == 1)).any(axis=1)
    dealt = np.flatnonzero(~is_only)
    numbers = np.full(len(units.counts), KEPT, dtype=np.int64)
    if not len(dealt):
        return numbers
    some = Units(
        of_row=np.repeat(np.arange(len(dealt)), units.sizes[dealt]), counts=units.counts[dealt]
    )
    wanted = _shares(some, [1] * folds)
    # whole numbers: two folds that lack part of an image would both get one, at a third's expense
    sizes = [(len(some.of_row) + fold) // folds for fold in range(folds)]
    numbers[dealt] = _Dealing(some, wanted=wanted, sizes=sizes, generator=generator).finish()
    for column in range(units.counts.shape[1]):
        members = np.flatnonzero(units.counts[:, column])
        if len(members) and len(set(numbers[members])) == 1 and numbers[members[0]] != KEPT:
            numbers[members[units.counts[members].sum(axis=1).argmin()]] = KEPT
    return numbers


def _shares(units: Units, sizes: Sequence[float]) -> Floats:
    """Return how many images of each class each part should have, shape (C, S)."""
    totals = units.counts.sum(axis=0).astype(np.float64)
    shares: Floats = totals[:, None] * (np.array(sizes, dtype=np.float64) / sum(sizes))
    return shares


def _fill(parts: Integers, part: int, *, units: Units) -> None:
    """Move the smallest unit of the first part that it can spare, if there is one, to another."""
    own = np.flatnonzero(parts == 0)
    holders = (units.counts[own] > 0).sum(axis=0)
    for unit in own[np.argsort(units.sizes[own], kind="stable")]:
        if (holders - (units.counts[unit] > 0) >= (holders > 0)).all() and len(own) > 1:
            parts[unit] = part
            return


class _Dealing:
    """Units on their way to parts."""

    def __init__(
        self,
        units: Units,
        *,
        wanted: Floats,
        sizes: Sequence[float],
        generator: np.random.Generator,
    ) -> None:
        order = generator.permutation(len(units.counts))
        self._counts, self._sizes = units.counts, units.sizes
        self._wanted = wanted.copy()  # lowered as units are dealt
        self._room = np.array(sizes, dtype=np.float64)
        self._left = units.counts.sum(axis=0).astype(np.int64)
        self._parts = np.full(len(units.counts), _OPEN, dtype=np.int64)
        self._order = order
        self._members = [order[units.counts[order, c] > 0] for c in range(units.counts.shape[1])]
        self._generator = generator

    def cover(self, part: int) -> None:
        """Give one unit of every class to a part, rare classes first."""
        for column in np.argsort(self._left, kind="stable"):
            members = self._members[column]
            if len(members) and not (self._parts[members] == part).any():
                self._give(int(members[self._parts[members] == _OPEN][0]), part)

    def finish(self) -> Integers:
        """Deal all that is left and return the part of each unit."""
        while (self._left > 0).any():
            column = int(np.where(self._left > 0, self._left, np.iinfo(np.int64).max).argmin())
            for unit in self._members[column]:
                if self._parts[unit] == _OPEN:
                    self._give(int(unit), self._neediest(column))
        for unit in self._order[self._parts[self._order] == _OPEN]:
            self._give(int(unit), self._roomiest(np.ones(len(self._room), dtype=np.bool_)))
        return self._parts

    def _give(self, unit: int, part: int) -> None:
        self._parts[unit] = part
        self._wanted[:, part] -= self._counts[unit]
        self._left -= self._counts[unit]
        self._room[part] -= self._sizes[unit]

    def _neediest(self, column: int) -> int:
        """Return the part that lacks most of a class, among those that are not full."""
        is_open = self._room > 0
        if not is_open.any():
            is_open[:] = True
        wanted = np.where(is_open, self._wanted[column], -np.inf)
        return self._roomiest(wanted >= wanted.max() - 1e-9)

    def _roomiest(self, among: npt.NDArray[np.bool_]) -> int:
        """Return the part with most room among some, by chance between equals."""
        room = np.where(among, self._room, -np.inf)
        best = np.flatnonzero(room >= room.max() - 1e-9)
        return int(best[0] if len(best) == 1 else self._generator.choice(best))
