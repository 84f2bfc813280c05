"""Images that equal others byte for byte, by name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class ExactCopy(NamedTuple):
    """An image that equals an earlier one."""

    path: str
    split: str
    same_as: str
    """The first image of these bytes."""
    same_as_split: str


@dataclass(frozen=True, kw_only=True)
class ExactCopies:
    """All exact copies among some images."""

    rows: tuple[ExactCopy, ...] = ()
    crossing: int = 0
    """Sets of equal images that lie in more than one split."""

    def examples(self, *, most: int) -> list[ExactCopy]:
        """Return some copies, those that cross splits first."""
        return sorted(self.rows, key=lambda copy: copy.split == copy.same_as_split)[:most]


NO_COPIES = ExactCopies()


def copies_in(
    groups: Iterable[Sequence[int]], *, paths: Sequence[str], splits: Sequence[str]
) -> ExactCopies:
    """Name the copies in groups of equal images.

    Args:
        groups: Positions of images that are equal, two or more in each.
        paths: Of all images.
        splits: Which split each lies in.
    """
    rows, crossing = [], 0
    for first, *others in groups:
        rows += [ExactCopy(paths[i], splits[i], paths[first], splits[first]) for i in others]
        crossing += any(splits[i] != splits[first] for i in others)
    return ExactCopies(rows=tuple(rows), crossing=crossing)
