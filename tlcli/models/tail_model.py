"""A staged network that takes images, or what crosses the boundary behind its frozen part."""

from typing import Any

from torch import nn

from tlcli.models.boundary import SplitNetwork
from tlcli.models.staged import StagedModel


class TailModel(nn.Module):
    """What is trained and judged where the frozen part is computed elsewhere.

    Modes, weights and stages are those of the staged model, whose layers the tail calls.

    Args:
        staged: The whole network.
    """

    def __init__(self, staged: StagedModel) -> None:
        super().__init__()
        self.staged = staged
        self._split: SplitNetwork | None = None

    @property
    def split(self) -> SplitNetwork | None:
        """The halves, of which the second is run; None runs the whole on images."""
        return self._split

    def enter(self, split: SplitNetwork | None) -> None:
        """Take the values that cross this boundary from now on; images again for None."""
        self._split = split

    def forward(self, *inputs: Any) -> Any:
        """Return logits (B, C) of images, or of what crosses the boundary."""
        return (self.staged if self._split is None else self._split.tail)(*inputs)
