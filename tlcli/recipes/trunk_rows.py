"""Values of images, by image and view: computed each time, or once and kept."""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlcli.data.content_ids import Ids
from tlcli.data.store.row_access import RowsInMemory, RowsInStore
from tlcli.data.store.row_ids import NOWHERE, RowIndex, first_appearances
from tlcli.data.store.row_reader import RowReader
from tlcli.data.store.tensor_store import ShardPlan, TensorStore, cast_checked
from tlcli.engine.cpu_memory import free_memory
from tlcli.engine.extraction import Features, ViewRequest, joined, single_threaded_operators
from tlcli.engine.view_pass import ValueBatch, ViewPass
from tlcli.errors import MachineError
from tlcli.recipes.row_costs import add_row_seconds, read_row_seconds
from tlcli.recipes.talk import Talk
from tlcli.recipes.trunk_places import PIXELS
from tlcli.results.counted import size_text

SHARD_BYTES = 64 << 20
"""Of a stored shard at most: what is lost when a process is killed."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """N views of image files."""

    requests: Sequence[ViewRequest]
    ids: Ids
    """Of content and view, shape (N, 32)."""

    def part(self, positions: NDArray[np.int64]) -> "Views":
        """Return some of them."""
        return Views(
            requests=[self.requests[position] for position in positions.tolist()],
            ids=self.ids[positions],
        )

    def __len__(self) -> int:
        return len(self.requests)


@dataclass(kw_only=True)
class RowCounts:
    """What a run found and what it computed."""

    uses: int = 0
    """How often a view was asked for."""
    misses: int = 0
    """How often one was computed."""
    bytes: int = 0
    """Of what was computed, as it is kept."""
    row_seconds: float | None = None
    """What computing a view took on average, here or in the run that kept it, where known."""

    @property
    def hits(self) -> int:
        """How often a view was asked for that needed not be computed."""
        return max(0, self.uses - self.misses)

    @property
    def saved_seconds(self) -> float | None:
        """How long it would have taken to compute the hits; None where that is not known."""
        if not self.hits:
            return 0.0
        return None if self.row_seconds is None else self.hits * self.row_seconds


class TrunkRows(Protocol):
    """Where the values of views come from."""

    @property
    def counts(self) -> RowCounts:
        """What was found and what was computed."""

    def prepare(self, views: Views, *, label: str) -> None:
        """Make sure that the values of these views are there, where they are kept."""

    def take(self, views: Views) -> Features:
        """Return values by name, (N, ...), on the CPU, the caller's to change."""

    def release(self) -> None:
        """Give back memory; they are not asked for any more."""


@dataclass(kw_only=True)
class FreshRows:
    """Values that are computed whenever they are needed."""

    source: ViewPass
    counts: RowCounts = field(default_factory=RowCounts)

    def prepare(self, views: Views, *, label: str) -> None:
        """Do nothing."""

    def take(self, views: Views) -> Features:
        """Compute values."""
        self.counts.uses += len(views)
        self.counts.misses += len(views)
        return self.source.values(views.requests)

    def release(self) -> None:
        """Do nothing."""


@dataclass(kw_only=True)
class FedRows:
    """Values that are computed whenever they are needed, of pixels that are kept."""

    source: ViewPass
    """Its way of reading is not used."""
    pixels: "TrunkRows"
    """Rows of one value, `PIXELS`."""

    @property
    def counts(self) -> RowCounts:
        """What was found of the pixels."""
        return self.pixels.counts

    def prepare(self, views: Views, *, label: str) -> None:
        """Read the pixels that are not kept yet."""
        self.pixels.prepare(views, label=label)

    def take(self, views: Views) -> Features:
        """Compute values, as `FreshRows` would."""
        rows = self.pixels.take(views)[PIXELS].contiguous(memory_format=torch.channels_last)
        fed = replace(self.source, read=lambda places: rows[[int(place) for place in places]])
        return fed.values(range(len(views)))

    def release(self) -> None:
        """Give back the pixels."""
        self.pixels.release()


@dataclass(kw_only=True)
class KeptRows:
    """Values in memory, as long as the run takes."""

    source: ViewPass
    dtype: torch.dtype
    row_bytes: int
    most_bytes: int
    """Beyond this an error ends the run."""
    option: str
    """That asked for it."""
    remedy: str
    """What else makes less of them."""
    talk: Talk
    counts: RowCounts = field(default_factory=RowCounts)
    _ids: list[Ids] = field(default_factory=list)
    _blocks: list[dict[str, Tensor]] = field(default_factory=list)
    _index: RowIndex | None = None

    def prepare(self, views: Views, *, label: str) -> None:
        """Compute the values that are not in memory yet.

        Raises:
            MachineError: before any is computed, if they take more than `most_bytes` or than is
                free.
        """
        missing = _missing(views, self._index)
        if not len(missing):
            return
        wanted = views.part(missing)
        self.check_room(len(wanted) * self.row_bytes)
        started = time.perf_counter()
        computed = self.source.batches(wanted.requests)
        with single_threaded_operators():
            tracked = self.talk.track(computed, label=label, num_images=len(wanted))
            block = self._block(tracked, rows=len(wanted))
        before = self.counts.misses * (self.counts.row_seconds or 0.0)
        self.counts.misses += len(wanted)
        seconds = before + time.perf_counter() - started
        self.counts.row_seconds = seconds / self.counts.misses
        self.counts.bytes += bytes_of(block)
        self._blocks.append(block)
        self._ids.append(wanted.ids)
        total = sum(len(ids) for ids in self._ids)
        self._index = RowIndex(iter(self._ids), total=total)

    def check_room(self, needed: int) -> None:
        """Make sure that so many bytes more may be held.

        Raises:
            MachineError: If not.
        """
        total = self.counts.bytes + needed
        if total > self.most_bytes:
            raise MachineError(
                f"{self.option} ram holds more than --cache-limit allows ({size_text(total)} of "
                f"{size_text(self.most_bytes)}). Use {self.option} disk, {self.remedy}, or a "
                "larger --cache-limit."
            )
        if needed > (free := free_memory()):
            raise MachineError(
                f"{self.option} ram: {size_text(needed)} do not fit the free memory "
                f"({size_text(free)}). Use {self.option} disk, or {self.remedy}."
            )

    def _block(self, batches: Iterable[ValueBatch], *, rows: int) -> dict[str, Tensor]:
        """Put values behind each other, without a second copy of all."""
        block: dict[str, Tensor] = {}
        done = 0
        for batch in batches:
            for name, values in _cast(batch.values, self.dtype).items():
                if name not in block:
                    block[name] = values.new_empty((rows, *values.shape[1:]))
                block[name][done : done + len(values)] = values
            done += len(batch.indices)
        return block

    def access(self, views: Views) -> RowsInMemory:
        """Return access to single rows, those of views that are there."""
        assert self._index is not None, "prepare() comes first"
        return RowsInMemory(self._blocks, self._index.locate(views.ids))

    def take(self, views: Views) -> Features:
        """Copy values, in the dtype they are kept in."""
        assert self._index is not None, "prepare() comes first"
        self.counts.uses += len(views)
        return RowReader(self._blocks.__getitem__).take(self._index.locate(views.ids))

    def release(self) -> None:
        """Forget all values."""
        self._blocks, self._ids, self._index = [], [], None


@dataclass(kw_only=True)
class StoredTrunkRows:
    """Values in a tensor store, for this run and all that follow."""

    source: ViewPass
    store: TensorStore
    end_use: Callable[[], None]
    """Lets other runs delete the store."""
    dtype: torch.dtype
    row_bytes: int
    talk: Talk
    counts: RowCounts = field(init=False)
    _reader: RowReader | None = None

    def __post_init__(self) -> None:
        self.counts = RowCounts(row_seconds=read_row_seconds(self.store.path))

    def prepare(self, views: Views, *, label: str) -> None:
        """Compute the values that are not stored yet, shard by shard.

        Raises:
            DataError: an image cannot be read, or a value does not fit the dtype.
            MachineError: the disk refuses.
        """
        batch_size = self.source.batch_size  # a whole number of batches in a shard
        rows = max(1, SHARD_BYTES // self.row_bytes // batch_size) * batch_size
        plans = self.store.adopt(self.store.plan(views.ids, rows_per_shard=rows))
        left = [plan for plan in plans if not self.store.is_written(plan)]
        self._compute(left, views, label=label)
        if plans:
            self.store.seal(plans)
            self._reader = None

    def _compute(self, plans: Sequence[ShardPlan], views: Views, *, label: str) -> None:
        if not plans:
            return
        started = time.perf_counter()
        wanted = views.part(np.concatenate([plan.positions for plan in plans]))
        computed = self.source.batches(wanted.requests)
        with single_threaded_operators():
            tracked = self.talk.track(computed, label=label, num_images=len(wanted))
            for plan in plans:
                batches = itertools.islice(tracked, -(-len(plan) // self.source.batch_size))
                parts = [_cast(batch.values, self.dtype) for batch in batches]
                self.store.write(plan, joined(parts))
                written = time.perf_counter()
                self.counts.row_seconds = add_row_seconds(
                    self.store.path, rows=len(plan), seconds=written - started
                )
                started = written
        self.counts.misses += len(wanted)
        self.counts.bytes += len(wanted) * self.row_bytes

    def access(self, views: Views) -> RowsInStore:
        """Return access to single rows, those of views that are there."""
        return RowsInStore(self.store.path, views.ids)

    def take(self, views: Views) -> Features:
        """Copy values, in the dtype they are stored in."""
        if self._reader is None:
            self._reader = self.store.reader()
        self.counts.uses += len(views)
        return self._reader.take(self.store.locate(views.ids))

    def release(self) -> None:
        """Close the shards, and let go of the store."""
        self._reader = None
        self.end_use()


def bytes_of(features: Features) -> int:
    """Return how much room some values take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in features.values())


def _missing(views: Views, index: RowIndex | None) -> NDArray[np.int64]:
    """Return the positions of views that are not known, of equal ones the first."""
    first = first_appearances(views.ids)
    if index is None:
        return first
    is_missing = index.locate(views.ids)[first, 0] == NOWHERE
    missing: NDArray[np.int64] = first[is_missing]
    return missing


def _cast(features: Features, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name: cast_checked(tensor, dtype, option="--cache-dtype")
        for name, tensor in features.items()
    }
