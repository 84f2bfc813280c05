"""Whether it pays to keep what the frozen part makes of the images: decided by arithmetic.

Nothing is timed: the same command on the same data decides the same way, so that its numbers are
the same again.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from tlcli.config.trunk import TrunkCache
from tlcli.results.counted import counted, size_text

Tier = Literal["off", "ram", "disk"]

DEFAULT_VIEWS = 4
"""Of every train image where they are kept and --views is not given."""
_LEAST_USES = 1.5
"""Times that a value has to be used, on average, to be worth keeping."""
_HEADROOM = 16
"""How much larger the values of other pictures may be than those of the first ones."""
_LEAST_SHARE = 0.1
"""Of the arithmetic of a step on fresh images that the trunk has to have."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a phase needs of its trunk."""

    train: int
    """Train images."""
    judged: int
    """Images that are judged after every epoch."""
    tested: int
    """Images that are judged once, at the end."""
    epochs: int
    views: int
    """Of every train image over all epochs, at most one per epoch."""
    row_bytes: int
    """Of one view, as it is kept."""
    trunk_share: float
    """Of the arithmetic of a step on fresh images, T / (T + 3t)."""

    @property
    def rows(self) -> int:
        """Views that differ."""
        return self.train * self.views + self.judged + self.tested

    @property
    def uses(self) -> float:
        """How often each of them is used, on average."""
        return ((self.train + self.judged) * self.epochs + self.tested) / self.rows

    @property
    def bytes(self) -> int:
        """Room that they take."""
        return self.rows * self.row_bytes


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Where values are kept, and why there."""

    tier: Tier
    why: str


def views_of(epochs: int, *, views: int | None, is_random: bool) -> int:
    """Return how many views of every train image a phase has that keeps them.

    Args:
        epochs: Of the phase.
        views: What the user wants; 0 is a fresh one in each epoch.
        is_random: Views differ at all.
    """
    if not is_random:
        return 1
    wanted = DEFAULT_VIEWS if views is None else views
    return min(epochs, wanted or epochs)


def storage_dtype(largest: float, *, computed: torch.dtype | None) -> torch.dtype:
    """Return the type that keeps values with little loss, and in range.

    Args:
        largest: Size of the largest value of the first pictures.
        computed: The type of autocast in which values are computed, of which nothing more than
            its digits can be lost; None is float32.
    """
    if computed == torch.bfloat16:
        return torch.bfloat16
    fits = largest * _HEADROOM <= torch.finfo(torch.float16).max
    return torch.float16 if fits else torch.float32


def choose_tier(
    asked: TrunkCache, *, demand: Demand, fits: bool, is_stored: bool, limit: str
) -> Choice:
    """Decide where the values of a phase are kept.

    What other runs left in the cache is no reason: the same command gives the same numbers with it
    and without.

    Args:
        asked: `auto` keeps them on disk where that pays and fits.
        demand: Of the phase.
        fits: Whether `--cache-limit` and the disk have room.
        is_stored: Whether all values are in the cache already.
        limit: As the user wrote it.
    """
    size = size_text(demand.bytes)
    what = f"{demand.uses:.1f} uses of each of {counted(demand.rows, 'view')}, {size}"
    if asked == "off":
        return Choice(tier="off", why="--trunk-cache off")
    if asked != "auto":
        return Choice(tier=asked, why=what)
    if demand.uses < _LEAST_USES:
        there = (
            "; --trunk-cache disk takes them from the cache, where they are" if is_stored else ""
        )
        return Choice(tier="off", why=f"nothing to gain from {what}{there}")
    if demand.trunk_share < _LEAST_SHARE:
        share = f"{100 * demand.trunk_share:.0f} %"
        return Choice(tier="off", why=f"the frozen part is {share} of the arithmetic of a step")
    if not fits:
        return Choice(tier="off", why=f"{size} do not fit --cache-limit {limit} or the disk")
    return Choice(tier="disk", why=what)
