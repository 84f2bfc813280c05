"""The files of a tensor store: which shards are written, and which of them count."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tlcli.data.store.durable_files import sweep, sync_folder
from tlcli.data.store.shard_header import SUFFIX, ShardFile, ShardHeader, find_header
from tlcli.data.store.store_manifest import (
    ShardEntry,
    StoreManifest,
    manifest_path,
    read_manifest,
    write_manifest,
)
from tlcli.errors import ConfigError, DataError
from tlcli.results.atomic import machine_errors, make_folder

_SHARD_FILE = re.compile(r"[0-9a-f]{32}\.safetensors")


class StoreFolder:
    """A folder and what its manifest said when it was last read."""

    def __init__(self, path: Path) -> None:
        """Read the manifest.

        Raises:
            DataError: there is none, it is damaged, or another version of tlcli wrote it.
        """
        self.path = path
        self.manifest = read_manifest(path)

    @staticmethod
    def start(path: Path, *, key: Mapping[str, Any]) -> None:
        """Make the folder of a store without rows; leave one that is there as it is.

        Raises:
            MachineError: the disk refuses.
        """
        make_folder(path)
        if not manifest_path(path).exists():
            write_manifest(StoreManifest(key=key), path)
        make_folder(_shards_path(path))
        sync_folder(path)

    @staticmethod
    def delete(path: Path) -> None:
        """Delete the files of a store, if there is one, and nothing else that lies there.

        Raises:
            MachineError: the disk refuses.
        """
        if not manifest_path(path).exists():
            return
        with machine_errors(path, action="delete the store in"):
            items_path(path).unlink(missing_ok=True)
            for file in _shard_files(path):
                file.unlink(missing_ok=True)
            _sweep_all(path)
            # Last, so that a deletion that was killed can be finished.
            manifest_path(path).unlink()

    def file_of(self, name: str) -> Path:
        """Return where a shard lies, or will lie."""
        return _shards_path(self.path) / f"{name}{SUFFIX}"

    def listed_files(self) -> list[ShardFile]:
        """Return the shards that count, in the order of their numbers."""
        entries = self.manifest.shards
        return [ShardFile(path=self.file_of(e.name), header=self._expected(e)) for e in entries]

    @property
    def num_rows(self) -> int:
        """Rows in listed shards."""
        return sum(entry.rows for entry in self.manifest.shards)

    def written_names(self) -> set[str]:
        """Return the names of all shard files, whole or damaged, listed or not."""
        return {file.stem for file in _shard_files(self.path)}

    def header_of(self, name: str) -> ShardHeader | None:
        """Return the header of a shard; None unless it is there, whole and of this store's key.

        Raises:
            MachineError: the file is there but cannot be read.
        """
        header = find_header(self.file_of(name))
        is_ours = header is not None and header.key_digest == self.manifest.key_digest
        return header if is_ours else None

    def refresh(self) -> bool:
        """Read the manifest again, since another process may have listed shards.

        Returns:
            Whether it changed.

        Raises:
            ConfigError: the store was started anew with another key.
            DataError: the manifest is gone.
        """
        manifest = read_manifest(self.path)
        if manifest.key_digest != self.manifest.key_digest:
            raise ConfigError(
                f"'{self.path}' was started anew with other settings while this process worked"
                " on it: choose another --output."
            )
        is_changed = manifest != self.manifest
        self.manifest = manifest
        return is_changed

    def list_shards(self, names: Iterable[str]) -> None:
        """Let written shards count, beside those that do; the order is that of the names.

        Raises:
            DataError: a shard is gone or holds other tensors than the rest.
            MachineError: the folder cannot be written to.
        """
        self.refresh()
        tensors, entries = self.manifest.tensors, {*self.manifest.shards}
        for name in sorted({*names} - {entry.name for entry in entries}):
            header = self.header_of(name)
            if header is None or header.tensors != (tensors or header.tensors):
                raise DataError(
                    f"The shard '{self.file_of(name)}' does not fit the others: delete it and run"
                    " the command again."
                )
            tensors = header.tensors
            entries.add(ShardEntry(name=name, rows=header.rows))
        self._replace(replace(self.manifest, tensors=tensors, shards=tuple(sorted(entries))))

    def strike_damaged(self) -> list[ShardEntry]:
        """Take missing and damaged shards from the manifest and return them.

        Raises:
            MachineError: the folder cannot be written to.
        """
        entries = self.manifest.shards
        damaged = [e for e in entries if find_header(self.file_of(e.name)) != self._expected(e)]
        whole = tuple(entry for entry in entries if entry not in damaged)
        self._replace(replace(self.manifest, shards=whole))
        return damaged

    def tidy(self) -> None:
        """Delete what killed runs and damage left: temporary files, broken unlisted shards.

        Raises:
            MachineError: the disk refuses.
        """
        listed = {entry.name for entry in self.manifest.shards}
        with machine_errors(self.path, action="tidy up"):
            _sweep_all(self.path)
            for name in self.written_names() - listed:
                if find_header(self.file_of(name)) is None:
                    self.file_of(name).unlink(missing_ok=True)

    def size(self) -> int:
        """Return the bytes on disk of all files of the store."""
        files = [manifest_path(self.path), items_path(self.path), *_shard_files(self.path)]
        with machine_errors(self.path, action="measure"):
            return sum(file.stat().st_size for file in files if file.exists())

    def _expected(self, entry: ShardEntry) -> ShardHeader:
        manifest = self.manifest
        return ShardHeader(
            key_digest=manifest.key_digest, rows=entry.rows, tensors=manifest.tensors
        )

    def _replace(self, manifest: StoreManifest) -> None:
        if manifest != self.manifest:
            write_manifest(manifest, self.path)
            self.manifest = manifest


def items_path(path: Path) -> Path:
    """Return where the items of a store lie."""
    return path / "items.parquet"


def _shards_path(path: Path) -> Path:
    return path / "shards"


def _sweep_all(path: Path) -> None:
    for folder in (path, _shards_path(path)):
        if folder.is_dir():
            sweep(folder)


def _shard_files(path: Path) -> Collection[Path]:
    folder = _shards_path(path)
    if not folder.is_dir():
        return []
    with machine_errors(folder, action="list"):
        return [file for file in folder.iterdir() if _SHARD_FILE.fullmatch(file.name)]
