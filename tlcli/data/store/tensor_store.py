"""Tensors of many items on disk, computed once, found by what they were computed from.

A store is a folder:

    manifest.json            what the rows were computed with, and the shards that count
    items.parquet            what the rows belong to
    shards/NAME.safetensors  the rows, with the id of each

Rows are only added. A shard that is written counts for those who compute, so a killed run loses
no more than what it was computing; a shard that the manifest lists counts for readers. Which
shards there will be follows from the ids alone. So any number of processes, started and killed at
any time, make the same files, and two that write the same shard write the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from tlcli.data.store import store_items
from tlcli.data.store.checked_cast import cast_checked
from tlcli.data.store.row_ids import NOWHERE, Locations, RowIds, RowIndex, first_appearances
from tlcli.data.store.row_reader import RowReader
from tlcli.data.store.shard_files import ShardPlan, read_shard, shard_name, specs_of, write_shard
from tlcli.data.store.shard_header import IDS, TensorSpec
from tlcli.data.store.store_folder import StoreFolder, items_path
from tlcli.data.store.store_manifest import digest_of_key, key_differences, plain_key
from tlcli.data.store.stored_rows import StoredRows
from tlcli.errors import ConfigError, DataError
from tlcli.results.counted import counted

__all__ = [
    "RowReader",
    "ShardPlan",
    "StoredRows",
    "TensorSpec",
    "TensorStore",
    "cast_checked",
    "digest_of_key",
]


class TensorStore:
    """Rows of named tensors; get one from `open` or `open_or_create`."""

    def __init__(self, folder: StoreFolder, *, remarks: Sequence[str] = ()) -> None:
        self._folder = folder
        self._known_rows: RowIndex | None = None
        self.remarks = tuple(remarks)
        """Sentences to warn the user with: what was damaged and is computed again."""

    @classmethod
    def open(cls, path: Path) -> "TensorStore":
        """Open a store as it is; shards are checked when they are read.

        Raises:
            DataError: there is none, it is damaged, or another version of tlcli wrote it.
        """
        return cls(StoreFolder(path))

    @classmethod
    def open_or_create(cls, path: Path, *, key: Mapping[str, Any]) -> "TensorStore":
        """Open a store to add rows, or start one.

        Listed shards that are missing or damaged are struck from the manifest, so that `plan`
        has their rows computed again; `remarks` says so.

        Args:
            path: The folder; other files in it are left alone.
            key: All that decides what a row holds, but for the item: plain JSON values.

        Raises:
            ConfigError: the rows there were computed with another key.
            DataError: the manifest there is damaged, or another version of tlcli wrote it.
            MachineError: the folder cannot be written to.
        """
        here = plain_key(key)
        StoreFolder.start(path, key=here)
        folder = StoreFolder(path)
        if folder.manifest.key_digest != digest_of_key(here):
            differences = "; ".join(key_differences(folder.manifest.key, here))
            raise ConfigError(
                f"'{path}' was computed with other settings: {differences}. Choose another"
                " --output, or start it anew with --overwrite."
            )
        damaged = folder.strike_damaged()
        rows, names = sum(e.rows for e in damaged), ", ".join(e.name for e in damaged)
        remark = (
            f"Missing or damaged in '{path}': {counted(len(damaged), 'shard')} ({names}) with"
            f" {counted(rows, 'row')}, computed again where asked for."
        )
        return cls(folder, remarks=[remark] if damaged else [])

    @staticmethod
    def delete(path: Path) -> None:
        """Delete the store in a folder, if there is one, and nothing else that lies there.

        Raises:
            MachineError: the disk refuses.
        """
        StoreFolder.delete(path)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def items_path(self) -> Path:
        """The file of the items."""
        return items_path(self.path)

    @property
    def key(self) -> Mapping[str, Any]:
        """What the rows were computed with."""
        return self._folder.manifest.key

    @property
    def key_digest(self) -> str:
        """SHA-256 of the key in hex."""
        return self._folder.manifest.key_digest

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """Type and shape of a row by name; empty until the first shard is listed."""
        return self._folder.manifest.tensors

    def __len__(self) -> int:
        """Rows in listed shards."""
        return self._folder.num_rows

    def size(self) -> int:
        """Return the bytes on disk of all files of the store."""
        return self._folder.size()

    def plan(self, ids: RowIds, *, rows_per_shard: int) -> tuple[ShardPlan, ...]:
        """Cut the ids that are in no listed shard into shards, fixed by the ids alone.

        Shards that are written but not listed are part of the plan; see `is_written`.

        Args:
            ids: Shape (N, 32); of equal ones the first counts.
            rows_per_shard: All shards but the last have as many rows.

        Returns:
            The shards in the order of first appearance; their `positions` index `ids`.

        Raises:
            DataError: a listed shard is damaged.
        """
        if rows_per_shard < 1:
            raise ValueError(f"A shard has 1 row or more, not {rows_per_shard}.")
        first = first_appearances(ids)
        fresh = first[self._row_index.locate(ids)[first, 0] == NOWHERE]
        parts = np.split(fresh, range(rows_per_shard, len(fresh), rows_per_shard))
        return tuple(self._plan_of(ids[part], positions=part) for part in parts if len(part))

    def adopt(self, plans: Sequence[ShardPlan]) -> tuple[ShardPlan, ...]:
        """List the written shards that are not in the plan, and plan anew.

        They come from a run that was killed before the list of ids changed. Written shards of
        the plan stay unlisted until `seal`, so that processes which start later plan the same.

        Args:
            plans: All that `plan` returned, not a share of it.

        Returns:
            What `plan` returns from now on, in every process that opens the store.

        Raises:
            DataError: a shard holds other tensors than the rest.
            MachineError: the folder cannot be written to.
        """
        while True:
            # Files first, manifest second: what another process wrote after it had adopted must
            # not pass for a stray under the manifest of before.
            written = self._folder.written_names()
            if self._folder.refresh():
                self._known_rows = None
            plans = self._plan_again(plans)
            known = {e.name for e in self._folder.manifest.shards} | {p.name for p in plans}
            strays = [name for name in written - known if self._folder.header_of(name)]
            if not strays:
                return tuple(plans)
            self._list_shards(strays)

    def is_written(self, plan: ShardPlan) -> bool:
        """Tell whether a shard of the plan is there, whole and of this key.

        Raises:
            MachineError: the file is there but cannot be read.
        """
        header = self._folder.header_of(plan.name)
        return header is not None and header.rows == len(plan)

    def write(self, plan: ShardPlan, tensors: Mapping[str, Tensor]) -> None:
        """Write a shard in one step; when this returns, a power cut cannot undo it.

        Args:
            plan: One of `plan`.
            tensors: By name, each (len(plan), ...): float16, bfloat16, float32 or uint8.

        Raises:
            ValueError: tensors that do not fit the plan or the rows that are there.
            MachineError: the disk is full or the folder cannot be written to.
        """
        specs = specs_of(tensors)
        if self.tensors and specs != self.tensors:
            raise ValueError(f"The store holds {self.tensors}, not {specs}.")
        path = self._folder.file_of(plan.name)
        write_shard(path, ids=plan.ids, tensors=tensors, key_digest=self.key_digest)

    def seal(self, plans: Sequence[ShardPlan]) -> None:
        """List the shards of the plan for readers, and tidy up what killed runs left.

        Locations from before do not hold after: shards are numbered in the order of their names.

        Args:
            plans: All that `plan` returned.

        Raises:
            DataError: not all of them are written yet.
            MachineError: the folder cannot be written to.
        """
        missing = [plan for plan in plans if not self.is_written(plan)]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(plans)} shards of '{self.path}' are not computed yet:"
                " wait for the other processes, or run the command again."
            )
        self._list_shards([plan.name for plan in plans])
        self._folder.tidy()

    def locate(self, ids: RowIds) -> Locations:
        """Return where rows lie in listed shards, shape (N, 2): number of the shard, row in it.

        Raises:
            DataError: some are not there, or a shard is damaged.
        """
        locations = self._row_index.locate(ids)
        absent = int((locations[:, 0] == NOWHERE).sum())
        if absent:
            raise DataError(
                f"{absent} of {len(ids)} rows are not in '{self.path}': run the command that"
                " computed it again, it adds what is missing."
            )
        return locations

    def rows(self, locations: Locations, names: Sequence[str] | None = None) -> StoredRows:
        """Choose rows to be read block by block, as often as needed.

        Args:
            locations: Shape (N, 2), from `locate`.
            names: Tensors, in this order; all by default.

        Raises:
            DataError: the store has no tensor of some name.
        """
        return StoredRows(self._folder.listed_files(), locations, specs=self._specs_of(names))

    def reader(self, names: Sequence[str] | None = None) -> RowReader:
        """Read rows at random, as often as needed; it knows the shards that are listed now.

        Args:
            names: Tensors, in this order; all by default.

        Raises:
            DataError: the store has no tensor of some name.
        """
        chosen, shards = tuple(self._specs_of(names)), self._folder.listed_files()
        return RowReader(
            lambda number: read_shard(
                shards[number].path, expected=shards[number].header, names=chosen
            )
        )

    def read(self, ids: RowIds, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Read rows into memory: by name, (N, ...) in the stored type, in the order of `ids`.

        Raises:
            DataError: some rows or names are not there, or a shard is damaged.
        """
        return self.rows(self.locate(ids), names).load()

    def write_items(self, items: pd.DataFrame, *, ids: RowIds) -> None:
        """Write what the rows belong to; see `store_items.write_items`."""
        store_items.write_items(self.items_path, items, ids=ids)

    def read_items(self) -> pd.DataFrame:
        """Return the items, with the columns `shard` and `row` saying where their tensors are.

        Raises:
            DataError: there are none, they are damaged, or some have no tensors.
        """
        table = store_items.read_items(self.items_path)
        places = self.locate(store_items.ids_of(table))
        items: pd.DataFrame = table.drop_columns([store_items.ID]).to_pandas()
        return items.assign(shard=places[:, 0], row=places[:, 1])

    @property
    def _row_index(self) -> RowIndex:
        if self._known_rows is None:
            files = self._folder.listed_files()
            tensors = (read_shard(f.path, expected=f.header, names=(IDS,))[IDS] for f in files)
            self._known_rows = RowIndex((ids.numpy() for ids in tensors), total=len(self))
        return self._known_rows

    def _specs_of(self, names: Sequence[str] | None) -> dict[str, TensorSpec]:
        chosen = tuple(self.tensors if names is None else names)
        unknown = [name for name in chosen if name not in self.tensors]
        if unknown:
            has = ", ".join(self.tensors) or "none yet"
            raise DataError(f"'{self.path}' has no tensor '{unknown[0]}'; it has: {has}.")
        return {name: self.tensors[name] for name in chosen}

    def _plan_of(self, ids: RowIds, *, positions: npt.NDArray[np.int64]) -> ShardPlan:
        name = shard_name(ids, key_digest=self.key_digest)
        return ShardPlan(name=name, ids=ids, positions=positions)

    def _holds_any(self, ids: RowIds) -> bool:
        return bool((self._row_index.locate(ids)[:, 0] != NOWHERE).any())

    def _plan_again(self, plans: Sequence[ShardPlan]) -> Sequence[ShardPlan]:
        if not any(self._holds_any(plan.ids) for plan in plans):
            return plans
        ids = np.concatenate([plan.ids for plan in plans])
        positions = np.concatenate([plan.positions for plan in plans])
        # All but the last have as many rows, so that shards which stay get their names again.
        fresh = self.plan(ids, rows_per_shard=len(plans[0]))
        return [replace(plan, positions=positions[plan.positions]) for plan in fresh]

    def _list_shards(self, names: Sequence[str]) -> None:
        self._folder.list_shards(names)
        self._known_rows = None
