import math

import pytest
import torch

from tlcli.data.store.checked_cast import cast_checked
from tlcli.errors import DataError

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize("dtype", [HALF, BRAIN, SINGLE])
def test_cast_checked__rounds_as_torch_does(dtype: torch.dtype) -> None:
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 100
    cast = cast_checked(values, dtype)
    assert cast.dtype == dtype
    assert torch.equal(cast, values.to(dtype))


def test_cast_checked__largest_that_fits() -> None:
    assert cast_checked(torch.tensor([-65504.0]), HALF).item() == -65504
    assert cast_checked(torch.tensor([65519.0]), HALF).item() == 65504


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (65520.0, HALF, "size 65520 exceeds float16: use --dtype bfloat16 or float32."),
        (-7e4, HALF, "size 70000 exceeds float16: use --dtype bfloat16 or float32."),
        (3.4e38, BRAIN, r"size 3.4e\+38 exceeds bfloat16: use --dtype float32."),
        (256.0, torch.uint8, "size 256 or a fraction does not fit uint8"),
        (-1.0, torch.uint8, "size 1 or a fraction does not fit uint8"),
        (0.5, torch.uint8, "size 0.5 or a fraction does not fit uint8"),
    ],
)
def test_cast_checked__beyond_the_range(value: float, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cast_checked(torch.tensor([0.0, value]), dtype)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1.0, math.nan, math.nan], "Of 3 values to store, 2 NaN: the network"),
        ([math.inf, -math.inf], "Of 2 values to store, 2 infinite: the network"),
        ([math.inf, math.nan], "Of 2 values to store, 1 NaN and 1 infinite: the network"),
    ],
)
@pytest.mark.parametrize("dtype", [HALF, SINGLE, torch.uint8])
def test_cast_checked__not_finite(values: list[float], found: str, dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match=found):
        cast_checked(torch.tensor(values), dtype)


def test_cast_checked__whole_numbers_to_bytes() -> None:
    assert cast_checked(torch.tensor([0.0, 255.0]), torch.uint8).tolist() == [0, 255]
    assert cast_checked(torch.tensor([0, 255]), torch.uint8).tolist() == [0, 255]


def test_cast_checked__nothing() -> None:
    assert cast_checked(torch.empty(0, 4), HALF).shape == (0, 4)
