from pathlib import Path

import pytest

from tlcli.data.class_file import ClassName, choose_classes, read_class_file
from tlcli.data.folders import read_class_folders
from tlcli.data.table import ImageTable
from tlcli.errors import DataError


@pytest.fixture
def table(tmp_path: Path, write_images) -> ImageTable:
    names = [f"{name}/{i}.png" for name in ("ant", "bee", "cat", "dog") for i in range(3)]
    return read_class_folders(write_images(tmp_path / "set", [*names, "dog/3.png"]))


def write(folder: Path, text: str) -> Path:
    path = folder / "classes.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_read_class_file__names_renames_and_quotes(tmp_path: Path) -> None:
    text = '\ufeffcat\r\n\r\n bee , insect \r\n"Smith, John",j\r\n猫,"a ""b"""\r\nNA\r\n'
    assert read_class_file(write(tmp_path, text)) == (
        ("cat", "cat"),
        ("bee", "insect"),
        ("Smith, John", "j"),
        ("猫", 'a "b"'),
        ("NA", "NA"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"classes\.txt names no class; write one per line"),
        ("\n , \n", "names no class"),
        ("a\nb,c,d\n", "line 2: write 'name' or 'old,new', not 'b,c,d'"),
        ("# a, b, c\n", "line 1: write .* double quotes. A line with '#' is a class too: take"),
        ("a\n\nb,\n", "line 3: write 'name' or 'old,new', not 'b,'"),
        ("a\nb,c\na,d\n", "line 3: 'a' stands there twice"),
        ('"a\nb', r"Cannot read --classes .*classes\.txt: unexpected end of data"),
    ],
)
def test_read_class_file__refuses(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_class_file(write(tmp_path, text))


def test_read_class_file__cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read --classes .*no: No such file or directory\."):
        read_class_file(tmp_path / "no")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"Cannot read --classes .*latin: 'utf-8' codec"):
        read_class_file(tmp_path / "latin")


def test_choose_classes__subset_in_the_order_of_the_file(table: ImageTable) -> None:
    chosen = choose_classes(table, [ClassName("dog", "dog"), ClassName("ant", "ant")])

    assert chosen.classes == ("dog", "ant")
    assert chosen.counts() == {"unsplit": {"dog": 4, "ant": 3}}
    assert sorted(set(chosen.targets("unsplit")[:3])) == [1]  # rows are sorted by name
    assert chosen.remarks == ("--classes leaves out 6 images of 2 classes: 'bee', 'cat'.",)


def test_choose_classes__several_become_one(table: ImageTable) -> None:
    pairs = [("cat", "pet"), ("ant", "insect"), ("dog", "pet"), ("bee", "insect")]
    chosen = choose_classes(table, [ClassName(*pair) for pair in pairs])

    assert chosen.classes == ("pet", "insect")
    assert chosen.counts() == {"unsplit": {"pet": 7, "insect": 6}}
    assert chosen.remarks == ()
    labels = dict(zip(chosen.items["path"], chosen.items["label"], strict=True))
    assert (labels["dog/3.png"], labels["bee/0.png"]) == ("pet", "insect")


def test_choose_classes__all_become_one(table: ImageTable) -> None:
    pairs = [ClassName(name, "pet") for name in ("cat", "dog")]
    with pytest.raises(DataError, match="--classes leaves one class only, 'pet'"):
        choose_classes(table, pairs)


def test_choose_classes__a_class_may_begin_like_a_comment(tmp_path: Path, write_images) -> None:
    names = [f"{name}/{i}.png" for name in ("#1", "b") for i in range(2)]
    table = read_class_folders(write_images(tmp_path / "set", names))
    chosen = choose_classes(table, read_class_file(write(tmp_path, "b\n#1,one\n")))
    assert chosen.classes == ("b", "one")


def test_choose_classes__names_may_change_places(table: ImageTable) -> None:
    chosen = choose_classes(table, [ClassName("ant", "dog"), ClassName("dog", "ant")])
    assert chosen.counts() == {"unsplit": {"dog": 3, "ant": 4}}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ant", "bea"], r"names 'bea', which .* does not have\. Did you mean 'bee' for 'bea'\?"),
        (["x1", "x2"], r"names 'x1', 'x2', which .* It has 'ant', 'bee', 'cat', 'dog'\."),
        (["ant"], r"--classes leaves one class only, 'ant': .* has 'ant', 'bee', 'cat', 'dog'\."),
        (["ant", "# my pets"], r"names '# my pets', .* A line with '#' is a class too: take com"),
    ],
)
def test_choose_classes__refuses(table: ImageTable, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose_classes(table, [ClassName(name, name) for name in names])


def test_choose_classes__titles_stay_with_unchanged_names(shared_data: Path) -> None:
    from tlcli.data.catalog import load_table

    whole = load_table(str(shared_data / "imagenet_kaggle_mini"))
    old, other = whole.classes[:2]
    chosen = choose_classes(whole, [ClassName(other, other), ClassName(old, "mine")])

    assert chosen.classes == (other, "mine")
    assert chosen.class_titles == {other: whole.class_titles[other]}
