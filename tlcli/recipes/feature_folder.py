"""The folder of extracted features: a tensor store with all that heads need beside it."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlcli.data.cache_folder import cache_folder
from tlcli.data.store.tensor_store import TensorStore
from tlcli.engine.extraction import PLAIN
from tlcli.errors import ConfigError, DataError
from tlcli.models.saved_model import ModelDescription, read_description
from tlcli.results.atomic import machine_errors
from tlcli.results.run_dir import RunDirectory

HEAD = "head"
"""Name of the run folder, in the folder of features, with the head that was solved first."""
BACKBONE = "backbone"
"""Name of the folder with the network whose features these are, under a head of zeros."""


@dataclass(frozen=True, kw_only=True)
class FeatureFolder:
    """A finished extraction; get one from `open_features`."""

    path: Path
    store: TensorStore
    items: pd.DataFrame
    """A row per view: path, label, split, group, view (`PLAIN` or a number), shard, row."""
    record: dict[str, Any]
    """`run.json` of the extraction."""

    @property
    def description(self) -> ModelDescription:
        """The network with a linear head, of zeros, on these features."""
        features = self.record["features"]
        return replace(
            read_description(self.path / BACKBONE / "model.json"),
            layers=tuple(features["layers"]),
            pool=features["pool"],
        )

    @property
    def backbone_weights(self) -> Path:
        """The pretrained weights, with the source library's own key names."""
        return self.path / BACKBONE / "model.safetensors"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stored tensors: `embedding`, or stages."""
        return tuple(self.record["features"]["dims"])

    @property
    def splits_path(self) -> Path:
        """`splits.csv` as a run on these images would write it."""
        return self.path / "splits.csv"

    @property
    def classes(self) -> tuple[str, ...]:
        """The class index of all targets."""
        return tuple(self.record["classes"])

    def positions(self, split: str, *, with_views: bool) -> NDArray[np.intp]:
        """Return the rows of `items` of one split, with or without the random views."""
        chosen = (self.items["split"] == split).to_numpy()
        if not with_views:
            chosen = chosen & (self.items["view"] == PLAIN).to_numpy()
        return np.flatnonzero(chosen)

    def targets(self, positions: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the class index of rows of `items`."""
        labels = pd.Index(self.items["label"].iloc[positions])
        return pd.Index(self.classes).get_indexer(labels).astype(np.int64)


def default_features_path(name: str, *, data: str, key_digest: str) -> Path:
    """Return where features go without --output: the same place for the same model and data."""
    mark = hashlib.sha256(f"{key_digest}\n{data}".encode()).hexdigest()[:8]
    return cached_features_root() / f"{name}-{Path(data.rpartition(':')[2]).stem}-{mark}"


def cached_features_root() -> Path:
    """Return the folder of all features that were given no --output."""
    return cache_folder() / "features"


def check_free_for_features(path: Path) -> None:
    """Make sure that features may be written to `path`: it is new, empty or holds such already.

    Raises:
        ConfigError: If something else lies there.
        MachineError: If the folder cannot be read.
    """
    with machine_errors(path, action="look into the folder of features"):
        if path.exists() and not path.is_dir():
            raise ConfigError(f"'{path}' is a file, not a folder: choose another --output.")
        # what a process leaves that was killed in its first moments begins with a dot
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    is_free = all(name.startswith(".") for name in names)
    if not is_free and "manifest.json" not in names and _kind_of(path) != "features":
        raise ConfigError(
            f"'{path}' is not empty and holds no features: choose another --output "
            "(--overwrite works on folders of features only)."
        )


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
        f"There are no features at '{text}': give the folder that 'tlcli extract-features' "
        "printed, or a name from 'tlcli cache list'."
    )


def open_features(text: str) -> FeatureFolder:
    """Open a finished extraction.

    Raises:
        DataError: If there is none, or it is unfinished or damaged.
    """
    path = find_features(text)
    store = TensorStore.open(path)
    if not (path / "run.json").is_file():
        raise DataError(
            f"The features in '{path}' are not finished: run the same extract-features command "
            "again, it goes on where it stopped."
        )
    record = RunDirectory.open(path).read_record()
    return FeatureFolder(path=path, store=store, items=store.read_items(), record=record)


def head_run_of(path: Path) -> Path:
    """Return the run folder of the head where `path` holds features, else `path` itself."""
    return path / HEAD if _kind_of(path) == "features" else path


def _kind_of(path: Path) -> str | None:
    """Return the kind in `run.json`; None without one, whoever opens it says what is wrong."""
    try:
        kind = json.loads((path / "run.json").read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        return None
    return kind if isinstance(kind, str) else None
