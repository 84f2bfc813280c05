import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.data.label_sets import join_labels, label_matrix, labels_in_words, split_labels

CLASSES = ["b", "a", "c d", "é"]
SETS = st.lists(st.lists(st.sampled_from(CLASSES), max_size=6), max_size=12)


def test_join_labels__each_once_in_the_order_of_the_classes() -> None:
    assert join_labels([["a", "b", "a"], [], ["é"]], classes=CLASSES) == ["b|a", "", "é"]


def test_join_labels__unknown_label() -> None:
    with pytest.raises(KeyError, match="dog"):
        join_labels([["dog", "a"]], classes=CLASSES)


@given(sets=SETS)
def test_label_matrix__says_what_was_joined(sets: list[list[str]]) -> None:
    texts = join_labels(sets, classes=CLASSES)

    matrix = label_matrix(texts, classes=CLASSES)

    assert matrix.dtype == np.bool_
    assert matrix.shape == (len(sets), len(CLASSES))
    assert matrix.tolist() == [[name in names for name in CLASSES] for names in sets]
    assert [set(split_labels(text)) for text in texts] == [set(names) for names in sets]


def test_label_matrix__unknown_label() -> None:
    with pytest.raises(KeyError, match="dog"):
        label_matrix(["a|dog"], classes=CLASSES)


def test_labels_in_words() -> None:
    words = "An image has 0.75 classes on average; 2 images of none."
    assert labels_in_words(["a|b", "", "a", ""]) == words
    assert labels_in_words(["", "a"]) == "An image has 0.50 classes on average; 1 image of none."
