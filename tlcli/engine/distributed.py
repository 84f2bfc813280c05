"""Sharing work between the processes that torchrun started, and the jobs of an array."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

_PATIENCE = datetime.timedelta(days=7)
"""How long a process waits for the others: shares of work may differ by hours."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes of this run; without torchrun there is one."""

    rank: int = 0
    count: int = 1
    on_this_machine: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """Return the device of this process: each takes a GPU of its own where there are some."""
        has_gpus = torch.cuda.is_available()
        if self.on_this_machine == 1 or wanted not in ("auto", "cuda") or not has_gpus:
            return wanted
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"

    def share(self, threads: int) -> int:
        """Return how many of the machine's threads this process may use, at least one."""
        return max(1, threads // self.on_this_machine)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def gather_rows(self, rows: npt.NDArray[np.uint8], *, total: int) -> npt.NDArray[np.uint8]:
        """Put together rows `rank, rank + count, ...` of every process.

        Args:
            rows: Those of this process, shape (n, width).
            total: N, the number of all rows.

        Returns:
            Shape (N, width), the same in every process.
        """
        if self.count == 1:
            return rows
        longest = -(-total // self.count)
        padded = torch.zeros((longest, rows.shape[1]), dtype=torch.uint8)
        padded[: len(rows)] = torch.from_numpy(rows.copy())
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(parts, padded)
        gathered: npt.NDArray[np.uint8] = torch.stack(parts, dim=1).flatten(0, 1)[:total].numpy()
        return gathered


def workers_of_torchrun() -> Workers:
    """Read what torchrun tells each process in its environment."""
    return Workers(
        rank=int(os.environ.get("RANK", "0")),
        count=int(os.environ.get("WORLD_SIZE", "1")),
        on_this_machine=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )


@contextmanager
def together(workers: Workers) -> Iterator[None]:
    """Connect the processes while the context is open; nothing to do for a single one."""
    if workers.count == 1:
        yield
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()
