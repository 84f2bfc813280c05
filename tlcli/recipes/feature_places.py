"""Where features lie, found without torch: that takes seconds to load."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tlcli.data.cache_folder import cache_folder
from tlcli.data.store.store_manifest import is_store, read_manifest
from tlcli.errors import DataError


def default_features_path(name: str, *, data: str, key_digest: str) -> Path:
    """Return where features go without --output: the same place for the same model and data."""
    mark = hashlib.sha256(f"{key_digest}\n{data}".encode()).hexdigest()[:8]
    return cached_features_root() / f"{name}-{Path(data.rpartition(':')[2]).stem}-{mark}"


def cached_features_root() -> Path:
    """Return the folder of all features that were given no --output."""
    return cache_folder() / "features"


def holds_features(path: Path) -> bool:
    """Say whether a folder was made by an extraction, finished, begun or damaged since."""
    return is_store(path) or known_of(path).get("kind") == "features"


def find_features(text: str) -> Path:
    """Return the folder that a user means by a path, or by a name from `tlcli cache list`.

    Raises:
        DataError: If there is none.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    cached = cached_features_root() / text
    if "/" not in text and cached.is_dir():
        return cached
    raise DataError(
        f"There is no folder '{text}': give the one that 'tlcli extract-features' printed, or a "
        "name from 'tlcli cache list'."
    )


def find_finished_features(text: str) -> Path:
    """Return the folder of a finished extraction.

    Raises:
        DataError: If there is none, or it is unfinished or damaged.
    """
    path = find_features(text)
    known = known_of(path)
    if not is_store(path) and "store" in known:
        raise DataError(
            f"'{text}' is a head that was solved on features: give their folder, "
            f"'{known['store']}'."
        )
    read_manifest(path)
    if not (path / "run.json").is_file():
        raise DataError(
            f"The features in '{path}' are not finished: run the same extract-features command "
            "again, it goes on where it stopped."
        )
    return path


def known_of(path: Path) -> dict[str, Any]:
    """Return `run.json`; empty without a sound one, whoever opens it says what is wrong."""
    try:
        record = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
