"""What a user may want to run next, in words that a shell takes as they stand."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlcli.config import DataConfig, ModelConfig

_TRAINED = "last:1"
"""What `finetune` is proposed to train beside the head."""


def next_after_head(record: Mapping[str, Any], *, run: Path) -> str:
    """Return the command that goes on from a solved head.

    Args:
        record: `run.json` of the head.
        run: Its folder.

    Returns:
        `finetune --init-head` on the same images, split, network and weights; `evaluate` where
        `--init-head` would refuse the head.
    """
    options = record["config"]
    if options["head"] == "knn" or record["features"]["layers"]:
        return shlex.join(["tlcli", "evaluate", str(run)])
    start = ["--init-head", str(run), "--unfreeze", _TRAINED]
    return shlex.join(["tlcli", "finetune", *_same_start(options), *start])


def next_after_features(record: Mapping[str, Any], *, store: Path) -> str:
    """Return the command that goes on from features without a head.

    Args:
        record: `run.json` of the features.
        store: Their folder.

    Returns:
        `probe`, or an export where no head can be solved on them.
    """
    has_vectors = record["features"]["pool"] != "none"
    if has_vectors and {"train", "val"} <= {*record["data"]["counts"]}:
        return shlex.join(["tlcli", "probe", str(store)])
    return shlex.join(["tlcli", "cache", "export", str(store), "--output", "embeddings"])


def _same_start(options: Mapping[str, Any]) -> list[str]:
    """Return the options that decide images, split, network and weights, but for defaults."""
    words = ["--data", options["data"], "--model", options["model"]]
    defaults = {**vars(DataConfig()), **vars(ModelConfig()), "seed": 0}
    for name, default in defaults.items():
        value = options.get(name, default)
        if name in ("data", "model") or value == default:
            continue
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else [str(value)]
    return words
