import pytest

from tlcli.results.counted import counted


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("row",), "0 rows"),
        (1, ("row",), "1 row"),
        (2, ("row",), "2 rows"),
        (1234, ("row",), "1,234 rows"),
        (1, ("entry", "entries"), "1 entry"),
        (3, ("entry", "entries"), "3 entries"),
    ],
)
def test_counted__one_is_singular(number: int, words: tuple[str, ...], text: str) -> None:
    assert counted(number, *words) == text
