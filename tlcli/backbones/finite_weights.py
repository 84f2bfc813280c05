"""Weights are numbers: a file in which a training left NaN or infinity is refused."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tlcli.errors import WeightsError
from tlcli.results.counted import counted

_SHOWN = 3


def check_finite(tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Refuse tensors with values that no training can go on from.

    Values are judged in float32, in which networks hold them. Single numbers may be infinite:
    bounds that clamp nothing are saved so (timm's Gemma 4 has them).

    Args:
        tensors: By name; whole numbers are not looked at.
        origin: What they are called in messages, such as the file's path.

    Raises:
        WeightsError: If one holds NaN or infinity.
    """
    counts = {key: _num_bad(tensor) for key, tensor in tensors.items()}
    bad = [key for key, count in counts.items() if count]
    if not bad:
        return
    shown = [
        f"'{key}' ({counts[key]:,} of {counted(tensors[key].numel(), 'value')})"
        for key in bad[:_SHOWN]
    ]
    rest = f" and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
    holds = counted(len(bad), "tensor holds", "tensors hold")
    raise WeightsError(
        f"{origin} cannot be used: {holds} NaN or infinity: {', '.join(shown)}{rest}. The training "
        "that wrote it diverged, or the file is damaged: take an earlier checkpoint, or get it "
        "again."
    )


def _num_bad(tensor: Tensor) -> int:
    if not tensor.is_floating_point():
        return 0
    values = tensor.float()
    is_bad = values.isnan() if tensor.ndim == 0 else ~values.isfinite()
    return int(torch.count_nonzero(is_bad))
