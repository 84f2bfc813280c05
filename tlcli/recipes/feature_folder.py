"""The folder of extracted features: a tensor store with all that heads need beside it."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlcli.config import ProbeHeadConfig
from tlcli.data.store.tensor_store import TensorStore
from tlcli.engine.extraction import PLAIN
from tlcli.errors import ConfigError, DataError
from tlcli.models.saved_model import ModelDescription, read_description
from tlcli.recipes.feature_places import find_finished_features, holds_features, known_of
from tlcli.recipes.talk import Talk
from tlcli.results.atomic import TEXT_ERRORS, machine_errors
from tlcli.results.run_dir import RunDirectory

HEAD = "head"
"""Name of the run folder, in the folder of features, with the head that was solved first."""
_TELLING_OPTIONS = (
    *("data", "val_split", "test_split", "limit", "on_bad_image", "views", "augment", "seed"),
    *("fold", "path_column", "label_column", "split_column", "group_column"),
    *("head", "penalties", "shots", "repeats", "monitor"),
)
"""What decides which head comes of the same rows."""
BACKBONE = "backbone"
"""Name of the folder with the network whose features these are, under a head of zeros."""


@dataclass(frozen=True, kw_only=True)
class FeatureFolder:
    """A finished extraction; get one from `open_features`."""

    path: Path
    store: TensorStore
    items: pd.DataFrame
    """A row per view: path, label, split, group, view (`PLAIN` or a number), shard, row."""
    splits: str
    """`splits.csv` as a run on these images would write it."""
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
    if not is_free and not holds_features(path):
        raise ConfigError(
            f"'{path}' is not empty and holds no features: choose another --output "
            "(--overwrite works on folders of features only)."
        )


def open_features(text: str) -> FeatureFolder:
    """Open a finished extraction.

    Raises:
        DataError: If there is none, or it is unfinished or damaged.
    """
    path = find_finished_features(text)
    store = TensorStore.open(path)
    run = RunDirectory.open(path)
    with machine_errors(run.splits_path, action="read"):
        splits = run.splits_path.read_text(encoding="utf-8", errors=TEXT_ERRORS)
    return FeatureFolder(
        path=path, store=store, items=store.read_items(), splits=splits, record=run.read_record()
    )


def head_path(folder: FeatureFolder, probe: ProbeHeadConfig) -> Path:
    """Return where the head of some options goes: `head`, or `head-2` beside one of others.

    The head of the same options is solved anew in its place, and so is one that did not finish.
    """
    wanted = {**folder.record["config"], **vars(probe)}
    for number in itertools.count(1):
        path = folder.path / (HEAD if number == 1 else f"{HEAD}-{number}")
        if not path.exists():
            return path
        record = RunDirectory.open(path).read_record()
        is_of_these = _labels(record) == _labels(folder.record) and all(
            record["config"].get(name) == wanted.get(name) for name in _TELLING_OPTIONS
        )
        if record["status"] != "finished" or is_of_these:
            return path
    raise AssertionError("itertools.count ended")


def _labels(record: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the classes, and what `--classes` made them of: images may have moved between them."""
    return record["classes"], record["data"].get("class_names")


def head_run_of(path: Path, *, talk: Talk) -> Path:
    """Return the run folder of a head where `path` holds features, else `path` itself.

    Of several heads that is the one which extract-features solved last; `talk` is told which.

    Raises:
        DataError: If the features have no such head.
    """
    record = known_of(path)
    if record.get("kind") != "features":
        return path
    head = path / str(record.get("head", HEAD))
    others = [run.parent.name for run in sorted(path.glob("*/run.json")) if run.parent != head]
    if not (head / "run.json").is_file():
        named = f", or name one of its runs: {path / others[0]}" if others else ""
        raise DataError(
            f"The features in '{path}' have no head: solve one with 'tlcli probe {path}'{named}."
        )
    talk.note(f"Head: {head}." + (f" Others there: {', '.join(others)}." if others else ""))
    return head
