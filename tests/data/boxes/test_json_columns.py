import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.data.boxes.json_columns import numbers_or_nan, quadruples, whole_numbers
from tlcli.errors import DataError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=6,
)


def test_whole_numbers__floats_without_fraction_count() -> None:
    assert whole_numbers([1, 640.0, -3], what="id").tolist() == [1, 640, -3]
    assert whole_numbers([], what="id").tolist() == []


@pytest.mark.parametrize("value", ["1", True, None, 1.5, [1], float("nan")])
def test_whole_numbers__refuses_others(value: object) -> None:
    with pytest.raises(DataError, match=r"The id of X is .*; it must be a whole number"):
        whole_numbers([1, value], what="id of X")


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400])
def test_whole_numbers__refuses_what_int64_cannot_hold(value: int) -> None:
    with pytest.raises(DataError, match="it must fit 63 bits"):
        whole_numbers([1, value], what="id")


@given(st.lists(JSON_VALUES, max_size=4))
def test_quadruples__equal_a_plain_loop(values: list[object]) -> None:
    expected = [
        value
        if isinstance(value, list)
        and len(value) == 4
        and all(type(number) in (int, float) for number in value)
        else [np.nan] * 4
        for value in values
    ]
    found = quadruples(values)
    assert found.shape == (len(values), 4)
    np.testing.assert_array_equal(found, np.array(expected, dtype=float).reshape(-1, 4))


def test_quadruples__huge_integers_are_infinite_not_an_error() -> None:
    assert quadruples([[10**400, 0, 1, 1]]).tolist() == [[np.inf, 0, 1, 1]]
    assert quadruples([["1", 0, 1, 1]]).shape == (1, 4)
    assert np.isnan(quadruples([["1", 0, 1, 1]])).all()


def test_numbers_or_nan__only_numbers_count() -> None:
    found = numbers_or_nan([1, 2.5, "3", None, True])
    np.testing.assert_array_equal(found, [1, 2.5, np.nan, np.nan, np.nan])
