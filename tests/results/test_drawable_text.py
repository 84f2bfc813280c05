import pytest

from tlcli.results.drawable_text import legible, shortened


@pytest.mark.parametrize("text", ["cat", "Großer Bär", "кошка", "γάτα"])
def test_legible__the_font_has_it(text: str) -> None:
    assert legible(text) == text


def test_legible__question_marks() -> None:
    assert legible("a猫b") == "a?b"


def test_shortened__cut_in_the_middle() -> None:
    assert shortened("abcdefghij", limit=10) == "abcdefghij"
    assert shortened("abcdefghij", limit=7) == "abc…hij"
    assert shortened("abcdefghij", limit=6) == "abc…ij"
