"""Reading rows of tensors at random, many times, without loading all of them."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from tlcli.data.store.row_ids import Locations


class RowReader:
    """Rows of some tensors in any order; every shard is opened once.

    Args:
        open_shard: From the number of a shard to its tensors (n, ...) by name, often mapped into
            memory; they are not written to.
    """

    def __init__(self, open_shard: Callable[[int], Mapping[str, Tensor]]) -> None:
        self._open_shard = open_shard
        self._opened: dict[int, Mapping[str, Tensor]] = {}

    def take(self, locations: Locations) -> dict[str, Tensor]:
        """Copy rows: by name, (n, ...) in the stored type, in the order of `locations`.

        Args:
            locations: Shape (n, 2), number of the shard and row in it; at least one, may repeat.

        Raises:
            DataError: a shard is missing or damaged.
        """
        numbers = np.unique(locations[:, 0]).tolist()
        taken = {
            name: values.new_empty((len(locations), *values.shape[1:]))
            for name, values in self._shard(numbers[0]).items()
        }
        for number in numbers:
            places = np.flatnonzero(locations[:, 0] == number)
            rows = torch.from_numpy(locations[places, 1].astype(np.int64))
            for name, values in self._shard(number).items():
                taken[name][torch.from_numpy(places)] = values[rows]
        return taken

    def _shard(self, number: int) -> Mapping[str, Tensor]:
        if number not in self._opened:
            self._opened[number] = self._open_shard(number)
        return self._opened[number]
