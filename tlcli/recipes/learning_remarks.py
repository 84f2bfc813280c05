"""What the losses of a training say of it: learned by heart, or not learned."""

import math
from collections.abc import Sequence

from tlcli.results.records import Row

_RISE = 0.1
"""How far val loss is above its lowest when train images are learned by heart, as a share of it."""
_LEAST_RISE = 0.05
"""And in nats, below which losses of well separated images move about."""
_EPOCHS_SINCE = 2
_CHANCE_SHARE = 0.5
"""Of the loss of guessing that a training which fits its images gets below."""
_GAP = 1.1
"""How far val loss may be above train loss where more training helps."""

_UNFREEZE = (
    ", or, if pretrained features do not fit these pictures, train more of the network (--unfreeze "
    "all, --schedule gradual:2)"
)


def learning_remark(
    rows: Sequence[Row], *, num_classes: int, is_plain_loss: bool, is_partly_frozen: bool
) -> str | None:
    """Return what the user should know of how training went, if anything.

    Args:
        rows: Of `metrics.csv`, one per epoch.
        num_classes: Of which an image has one; 0 where it may have several.
        is_plain_loss: Whether the train loss is the cross-entropy of single classes, as that of
            val is.
        is_partly_frozen: Whether more of the network could be trained.
    """
    known = [row for row in rows if row["train/loss"] is not None and row["val/loss"] is not None]
    if not known:
        return None
    train, val = ([row[name] or 0.0 for row in known] for name in ("train/loss", "val/loss"))
    lowest = val.index(min(val))
    rise = val[-1] - val[lowest]
    is_trend = len(val) - 1 - lowest >= _EPOCHS_SINCE and train[-1] < train[lowest]
    if is_trend and rise > max(_LEAST_RISE, _RISE * val[lowest]):
        epoch = known[lowest]["epoch"]
        return (
            f"Overfitting: val loss rose from {val[lowest]:.3g} (epoch {epoch:.0f}) to "
            f"{val[-1]:.3g} while train loss fell on. The best epoch is kept; stronger --augment, "
            "a smaller --backbone-lr, fewer trained stages, --label-smoothing 0.1 or more images "
            "may make it better."
        )
    if not num_classes or not is_plain_loss:
        return None
    chance = math.log(num_classes)
    if train[-1] <= _CHANCE_SHARE * chance or val[-1] >= _GAP * train[-1]:
        return None
    return (
        f"Underfitting: the train loss is {train[-1]:.2f} in the end, where guessing costs "
        f"{chance:.2f}. Give more --epochs or a larger --lr{_UNFREEZE if is_partly_frozen else ''}."
    )
