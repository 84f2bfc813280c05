"""Casting that never loses a number in silence."""

import torch
from torch import Tensor

from tlcli.errors import DataError


def cast_checked(tensor: Tensor, dtype: torch.dtype, *, option: str = "--dtype") -> Tensor:
    """Cast values for storage; floating types round, everything else must stay what it is.

    Args:
        tensor: Any shape, any device.
        dtype: A floating type, or uint8 for whole numbers from 0 to 255.
        option: With which the user chooses the type.

    Raises:
        DataError: NaN or infinite values, values beyond the range of `dtype`, or values that an
            integer type would change.
    """
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise DataError(_not_finite(tensor))
    cast = tensor.to(dtype)
    if not dtype.is_floating_point:
        if not torch.equal(cast.to(tensor.dtype), tensor):
            raise DataError(f"{_largest(tensor)} or a fraction does not fit {_name(dtype)}.")
    elif not bool(torch.isfinite(cast).all()):
        raise DataError(f"{_largest(tensor)} exceeds {_name(dtype)}: use {option} {_wider(dtype)}.")
    return cast


def _not_finite(tensor: Tensor) -> str:
    nans, infinities = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    found = [f"{nans} NaN" if nans else "", f"{infinities} infinite" if infinities else ""]
    return (
        f"Of {tensor.numel()} values to store, {' and '.join(filter(None, found))}: the network"
        " overflows or its weights are damaged. Compute in float32, or use other weights."
    )


def _largest(tensor: Tensor) -> str:
    size = tensor.double().abs()
    return f"A value of size {size.max().item():.6g}"


def _wider(dtype: torch.dtype) -> str:
    return "bfloat16 or float32" if dtype == torch.float16 else "float32"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
