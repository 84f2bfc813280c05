import pytest

from tlcli.results.counted import counted, size_text


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


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1 KB"),
        (20_480, "20.5 KB"),
        (99_949, "99.9 KB"),
        (99_950, "100 KB"),
        (999_999, "1,000 KB"),
        (1_000_000, "1 MB"),
        (20 * 10**9, "20 GB"),
        (1_500 * 10**9, "1,500 GB"),
    ],
)
def test_size_text__largest_unit(size: int, text: str) -> None:
    assert size_text(size) == text
