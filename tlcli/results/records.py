"""What training and evaluation report: frozen values that JSON and CSV can hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tlcli.results.json_text import without_nan

SCHEMA_VERSION = 1
"""Of `run.json`, `metrics.json` and what `--json` prints."""

EvalKind = Literal["classification", "multi-label", "detection"]
Row = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """One pass over the training images and the validation after it."""

    epoch: int
    """Counted from 1."""
    phase: int
    """Which step of the unfreezing schedule the epoch belongs to."""
    lr: Mapping[str, float | None]
    """Highest learning rate in `head` and `backbone` when the epoch began; None where frozen."""
    train_loss: float
    """Mean over the images of the epoch."""
    metrics: Mapping[str, float]
    """Of the validation part, such as `loss` and `top1`; fractions in 0..1."""
    seconds_train: float
    seconds_eval: float
    images_per_second: float
    """Of the training pass."""

    def to_row(self) -> Row:
        """Return the columns of `metrics.csv`, in their order."""
        return {
            "epoch": self.epoch,
            "phase": self.phase,
            **{f"lr/{part}": lr for part, lr in self.lr.items()},
            "train/loss": self.train_loss,
            **{f"val/{name}": value for name, value in self.metrics.items()},
            "seconds/train": self.seconds_train,
            "seconds/eval": self.seconds_eval,
        }


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """How good a model is on one split, with the uncertainty of each number."""

    kind: EvalKind
    split: str
    num_images: int
    metrics: Mapping[str, float]
    """Fractions in 0..1, and `loss` in nats."""
    intervals: Mapping[str, tuple[float, float]]
    """95 % interval (low, high) of each metric."""
    per_class: Sequence[Mapping[str, str | float | None]]
    """One row per class: `class`, its metrics (None where not defined) and `support`."""
    remarks: tuple[str, ...] = ()
    """Sentences for the user that belong to the numbers; not part of the JSON."""

    def summary(self) -> dict[str, Any]:
        """Return what `results` of `run.json` says of a split."""
        return {
            "num_images": self.num_images,
            "num_classes": len(self.per_class),
            "metrics": dict(self.metrics),
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
        }

    def to_json(self) -> dict[str, Any]:
        """Return the document of `evaluate --json`; a number that is not finite is None."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "split": self.split,
            "num_images": self.num_images,
            "metrics": self.metrics,
            "intervals": self.intervals,
            "per_class": self.per_class,
        }
        plain: dict[str, Any] = without_nan(document)
        return plain
