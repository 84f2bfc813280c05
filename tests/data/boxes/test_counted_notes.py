from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tlcli.data.boxes.counted_notes import counted_note, moved_notes, summed_notes

PATHS = np.array(["a.png", "b.png", "{c}.png", "d.png"], dtype=object)
ROWS = st.lists(st.integers(0, 3), max_size=8)


def text(*rows: int) -> str:
    return counted_note("1 is odd: {names}.", "{number} are odd: {names}.", rows).text(PATHS)


def test_text__one_more_and_many() -> None:
    assert text(2) == "1 is odd: '{c}.png'."
    assert text(2, 2) == "2 are odd: '{c}.png'."
    assert text(3, 0, 3) == "3 are odd: 'd.png', 'a.png'."
    assert text(3, 0, 1, 2) == "4 are odd: 'd.png', 'a.png' and 2 more."
    assert text(*[1] * 1234) == "1,234 are odd: 'b.png'."


def test_summed_notes__by_sentences() -> None:
    first, second = counted_note("1 a", "{number} a", [0]), counted_note("1 b", "{number} b", [1])
    more, none = counted_note("1 a", "{number} a", [3, 1]), counted_note("1 c", "{number} c", [])
    summed = summed_notes([first, none, second, more])
    assert [(note.many, note.rows.tolist()) for note in summed] == [
        ("{number} a", [0, 3, 1]),
        ("{number} b", [1]),
    ]


@given(ROWS, st.sets(st.integers(0, 3)))
def test_moved_notes__count_what_is_left(rows: list[int], left: set[int]) -> None:
    new_row = np.full(4, -1, dtype=np.int64)
    new_row[sorted(left)] = np.arange(len(left))
    found = moved_notes([counted_note("1 a", "{number} a", rows)], new_row)
    names = Counter(PATHS[sorted(left)][row] for note in found for row in note.rows)
    assert names == Counter(PATHS[row] for row in rows if row in left)
    assert len(found) == bool(names)
