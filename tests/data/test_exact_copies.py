from hypothesis import given
from hypothesis import strategies as st

from tlcli.data.exact_copies import ExactCopies, copies_in

SPLITS = ("train", "val", "test")


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(SPLITS)), max_size=12))
def test_copies_in__every_image_but_the_first_of_its_content(images: list[tuple[int, str]]) -> None:
    contents = [content for content, _ in images]
    groups = [[i for i, c in enumerate(contents) if c == content] for content in range(5)]
    found = copies_in(
        [group for group in groups if len(group) > 1],
        paths=[f"{i}.png" for i in range(len(images))],
        splits=[split for _, split in images],
    )
    expected = {f"{i}.png": contents.index(c) for i, c in enumerate(contents) if c in contents[:i]}
    assert {copy.path: copy.same_as for copy in found.rows} == {
        path: f"{first}.png" for path, first in expected.items()
    }
    for copy in found.rows:
        assert copy.split == images[int(copy.path.removesuffix(".png"))][1]
        assert copy.same_as_split == images[int(copy.same_as.removesuffix(".png"))][1]
    splits_of = [{images[i][1] for i in group} for group in groups]
    assert found.crossing == sum(len(splits) > 1 for splits in splits_of)


def test_examples__those_across_splits_first() -> None:
    found = copies_in(
        [[0, 1, 2], [3, 4]], paths="abcde", splits=["train", "train", "train", "train", "val"]
    )
    assert [copy.path for copy in found.examples(most=2)] == ["e", "b"]
    assert [copy.path for copy in found.rows] == ["b", "c", "e"]
    assert ExactCopies().examples(most=3) == []
