"""Where values of trunks, and pixels, lie in the cache, and how room is made; without torch."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tlcli.data.cache_folder import cache_folder
from tlcli.data.store.store_manifest import is_store
from tlcli.results.atomic import hold, is_held, machine_errors

PIXELS = "pixels"
"""In place of the model's name where a store holds what any model is shown."""
_IN_USE = "in-use"
"""File of a store that running processes hold, and whose date says when it was last used."""


@dataclass(frozen=True, kw_only=True)
class TrunkFolder:
    """A store of what one trunk made of images, or of their pixels."""

    path: Path
    bytes: int
    used: float
    """When a run last began to use it, in seconds since 1970."""
    is_in_use: bool


def trunks_root() -> Path:
    """Return the folder of all such stores."""
    return cache_folder() / "trunks"


def trunk_path(model: str, *, key_digest: str) -> Path:
    """Return where the values of a trunk lie: the same place for the same trunk and pixels."""
    return trunks_root() / f"{model.rpartition('/')[2]}-{key_digest[:12]}"


def list_trunks() -> list[TrunkFolder]:
    """Return all stores, the least recently used first."""
    root = trunks_root()
    folders = [path for path in root.iterdir() if is_store(path)] if root.is_dir() else []
    return sorted(map(_describe, folders), key=lambda folder: (folder.used, folder.path))


def begin_use(path: Path) -> Callable[[], None]:
    """Mark a store as used now, until what is returned is called or this process ends.

    Raises:
        MachineError: If the folder cannot be written to.
    """
    end_use = hold(path / _IN_USE)
    os.utime(path / _IN_USE)
    return end_use


def is_in_use(path: Path) -> bool:
    """Say whether a process uses a store; see `begin_use`."""
    return is_held(path / _IN_USE)


def make_room(needed: int, *, limit: int, keep: Path) -> list[TrunkFolder]:
    """Delete stores that were not used for longest, until `needed` more bytes fit the limit.

    Args:
        needed: Bytes that will be written.
        limit: Of all stores together.
        keep: A store that stays, as do those that a running process uses.

    Returns:
        What was deleted; nothing is where that would not make enough room.

    Raises:
        MachineError: If the disk refuses.
    """
    folders = list_trunks()
    excess = sum(folder.bytes for folder in folders) + needed - limit
    victims: list[TrunkFolder] = []
    for folder in folders:
        if excess <= sum(victim.bytes for victim in victims):
            break
        if folder.path != keep and not folder.is_in_use:
            victims.append(folder)
    if excess > sum(victim.bytes for victim in victims):
        return []
    for victim in victims:
        with machine_errors(victim.path, action="delete"):
            shutil.rmtree(victim.path)
    return victims


def fits(needed: int, *, limit: int, keep: Path) -> bool:
    """Say whether `needed` bytes fit the limit and the disk once `make_room` did what it can."""
    stay = sum(f.bytes for f in list_trunks() if f.path == keep or f.is_in_use)
    folder = trunks_root()
    while not folder.exists():
        folder = folder.parent
    gone = sum(f.bytes for f in list_trunks()) - stay
    return stay + needed <= limit and needed <= shutil.disk_usage(folder).free + gone


def bytes_of_store(path: Path) -> int:
    """Return the size of all files of a store; 0 where there is none."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _describe(path: Path) -> TrunkFolder:
    mark = path / _IN_USE
    used = mark.stat().st_mtime if mark.exists() else path.stat().st_mtime
    return TrunkFolder(
        path=path,
        bytes=bytes_of_store(path),
        used=min(used, time.time()),
        is_in_use=is_in_use(path),
    )
