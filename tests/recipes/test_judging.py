import pytest

from tlcli.errors import DataError
from tlcli.recipes.judging import match_classes


def test_match_classes__by_name_not_by_position() -> None:
    assert match_classes(["ant", "cat"], model_classes=["cat", "bee", "ant"]) == [2, 0]


def test_match_classes__unknown_ones_are_told_with_the_known() -> None:
    with pytest.raises(
        DataError,
        match=r"^2 of 3 classes of the data are unknown to the model: 'Ant', 'dog'\. "
        r"The model's 2 classes begin with 'ant', 'bee'\. Rename the folders or labels",
    ):
        match_classes(["Ant", "bee", "dog"], model_classes=["ant", "bee"])


def test_match_classes__lists_five_of_many() -> None:
    data = [f"class{n}" for n in range(9)]

    with pytest.raises(DataError, match=r"^9 of 9 .*'class4'\. ") as caught:
        match_classes(data, model_classes=["ant"])
    assert "class5" not in str(caught.value)
