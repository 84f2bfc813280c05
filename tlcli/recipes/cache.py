"""`tlcli cache`: what can be made again, how much room it takes, and taking it away.

Nothing here loads torch, which would take longer than all the rest.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlcli.data.boxes.digit_scenes import is_scene_folder
from tlcli.data.cache_folder import cache_folder
from tlcli.data.digits import is_sample_folder
from tlcli.data.store.store_folder import StoreFolder, items_path
from tlcli.errors import ConfigError, DataError, MachineError
from tlcli.recipes.feature_places import (
    cached_features_root,
    find_finished_features,
    holds_features,
)
from tlcli.recipes.trunk_places import PIXELS, TrunkFolder, list_trunks
from tlcli.results.atomic import machine_errors
from tlcli.results.records import SCHEMA_VERSION
from tlcli.results.run_dir import RunDirectory

IN_USE = "in use"


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """One folder of the cache."""

    name: str
    kind: str
    """`features`, `trunk` (what a frozen part made of images), `images` (pixels) or `sample`."""
    state: str
    """`finished`, `unfinished`, `damaged`, or `in use` by a process that runs; `kept` where there
    are as many rows as were ever asked for."""
    model: str | None
    data: str | None
    holds: str | None = None
    """What a row of a frozen part or of an image is."""
    rows: int
    bytes: int
    used: float
    """When it was last written to, in seconds since 1970."""
    path: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def list_cache() -> list[CacheEntry]:
    """Return everything that `tlcli` keeps in its cache folder, last used first.

    Raises:
        MachineError: If something that is no folder lies there, or above it.
    """
    _check_folder(cache_folder())
    stores = [path for path in _folders(cached_features_root()) if holds_features(path)]
    samples = [
        path
        for path in _folders(cache_folder())
        if is_sample_folder(path.name) or is_scene_folder(path.name)
    ]
    entries = [
        *map(_features_entry, stores),
        *map(_trunk_entry, list_trunks()),
        *map(_sample_entry, samples),
    ]
    return sorted(entries, key=lambda entry: -entry.used)


def _check_folder(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise MachineError(
            f"The cache cannot lie in '{folder}': '{there}' is not a folder. Move what lies there, "
            "or set TLCLI_CACHE_DIR to another place."
        )


def show_store(text: str) -> dict[str, Any]:
    """Return what is known of one folder of features: its key, its rows, its results.

    Of a frozen part or of images, key and rows.
    """
    for trunk in list_trunks():
        if trunk.path.name == text:
            store = StoreFolder(trunk.path)
            return {
                "schema_version": SCHEMA_VERSION,
                "path": str(trunk.path),
                "bytes": trunk.bytes,
                "key": dict(store.manifest.key),
                "rows": store.num_rows,
            }
    path = find_finished_features(text)
    record = RunDirectory.open(path).read_record()
    return {
        "schema_version": SCHEMA_VERSION,
        "path": str(path),
        "bytes": _size(path),
        "key": dict(StoreFolder(path).manifest.key),
        "features": record["features"],
        "data": record["data"],
        "runs": [str(run.parent) for run in sorted(path.glob("*/run.json"))],
    }


def clear_cache(names: Sequence[str], *, everything: bool) -> list[CacheEntry]:
    """Delete entries of the cache and return what they were.

    Args:
        names: As in `list_cache`.
        everything: Delete all instead.

    Raises:
        ConfigError: If neither or both are given.
        DataError: If there is no such entry, or one is in use; nothing is deleted then.
    """
    if everything == bool(names):
        raise ConfigError("Name entries of 'tlcli cache list', or give --all.")
    entries = {entry.name: entry for entry in list_cache()}
    unknown = [name for name in names if name not in entries]
    if unknown:
        known = ", ".join(entries) or "nothing"
        raise DataError(f"The cache has no '{unknown[0]}'. It has: {known}.")
    chosen = (
        list(entries.values()) if everything else [entries[name] for name in dict.fromkeys(names)]
    )
    if used := [entry.name for entry in chosen if entry.state == IN_USE]:
        raise DataError(f"'{used[0]}' is in use by a run; wait for its end. Nothing was deleted.")
    for entry in chosen:
        with machine_errors(Path(entry.path), action="delete"):
            shutil.rmtree(entry.path)
    return chosen


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _features_entry(path: Path) -> CacheEntry:
    is_complete = all(file.exists() for file in (path / "run.json", items_path(path)))
    state, model, data, rows = "finished" if is_complete else "unfinished", None, None, 0
    try:
        store = StoreFolder(path)
        model, rows = str(store.manifest.key["model"]), store.num_rows
        if is_complete:
            data = RunDirectory.open(path).read_record()["data"]["spec"]
            is_whole = all(file.is_whole for file in store.listed_files())
            state = "finished" if is_whole else "damaged"
    except DataError:
        state = "damaged" if is_complete else "unfinished"
    return CacheEntry(
        name=path.name,
        kind="features",
        state=state,
        model=model,
        data=data,
        rows=rows,
        bytes=_size(path),
        used=_last_used(path),
        path=str(path),
    )


def _trunk_entry(folder: TrunkFolder) -> CacheEntry:
    state, model, rows, holds = "kept", None, 0, None
    try:
        store = StoreFolder(folder.path)
        key = store.manifest.key
        model, rows, holds = str(key["model"]), store.num_rows, _row_text(key)
    except DataError:
        state = "damaged"
    is_pixels = model == PIXELS
    return CacheEntry(
        name=folder.path.name,
        kind="images" if is_pixels else "trunk",
        state=IN_USE if folder.is_in_use else state,
        model=None if is_pixels else model,
        data=None,
        holds=holds,
        rows=rows,
        bytes=folder.bytes,
        used=folder.used,
        path=str(folder.path),
    )


def _row_text(key: Mapping[str, Any]) -> str:
    """Return what a row is: of which values, of images of which size, in which dtype."""
    values = ", ".join(key.get("values", []))
    size = key.get("preprocessing", {}).get("input_size")
    of = f"of {size[0]} x {size[1]}" if size else "whole pictures"
    return " ".join(part for part in (values, of, str(key["dtype"])) if part)


def _sample_entry(path: Path) -> CacheEntry:
    return CacheEntry(
        name=path.name,
        kind="sample",
        state="finished",
        model=None,
        data=None,
        rows=0,
        bytes=_size(path),
        used=_last_used(path),
        path=str(path),
    )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _last_used(path: Path) -> float:
    return max([path.stat().st_mtime, *(entry.stat().st_mtime for entry in path.iterdir())])
